//! Owns `Listeners`: who listens where, so that a connection that nobody has accepted has an owner.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hashbrown::{HashMap, hash_map::Entry};

use crate::{Owner, OwnerSource, Process, Socket, by_address::ByAddress, tuple};

/// Listeners remembered at once, at most: a host has as many as it has services.
const MOST: usize = 1 << 16;

/// All listeners that are known.
#[derive(Debug)]
pub(crate) struct Listeners {
    by_sk: ByAddress<Listener>,
    by_place: HashMap<Place, Holders>,
}

/// A listener that was seen to begin.
#[derive(Clone, Copy, Debug)]
struct Listener {
    socket: Socket,
    place: Option<Place>,
    /// It had its port before it began to listen: bind() gave it.
    port_bound: bool,
    since_ns: u64,
    losses: u32,
    owner: Owner,
}

/// Where somebody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    netns: u32,
    address: u128,
    port: u16,
}

/// Who listens at one place: with SO_REUSEPORT several may.
#[derive(Clone, Copy, Debug)]
struct Holders {
    process: Holder,
    /// Sockets that were seen to begin to listen there.
    sockets: u32,
    /// How many more the last snapshot has shown there.
    shown: u32,
    /// How many losses there had been when all this was last sure.
    losses: u32,
    /// The last snapshot that listed one, and how many it has listed.
    listed: (u32, u32),
    /// All of this is from that snapshot.
    from_snapshot: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Unknown,
    One(Process),
    Several,
}

/// A listener, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenerAt {
    /// The socket when it began to listen; `None` where only a snapshot has shown it.
    pub(crate) socket: Option<Socket>,
    pub(crate) local: SocketAddr,
    pub(crate) owner: Option<Owner>,
    /// Since when it listens, CLOCK_BOOTTIME ns; `None` when that was not seen.
    pub(crate) since_ns: Option<u64>,
    /// How many losses there had been when all this was sure.
    pub(crate) losses: u32,
}

impl Place {
    fn of(netns: Option<u32>, local: SocketAddr) -> Option<Self> {
        // An automatic port is chosen after the event: net/ipv4/inet_connection_sock.c
        // `inet_csk_listen_start` (v6.18).
        (local.port() != 0).then_some(Self {
            netns: netns?,
            address: tuple::bits(local.ip()),
            port: local.port(),
        })
    }
}

impl Place {
    fn local(self) -> SocketAddr {
        let address = IpAddr::V6(Ipv6Addr::from_bits(self.address)).to_canonical();
        SocketAddr::new(address, self.port)
    }
}

impl Listener {
    fn at(&self) -> ListenerAt {
        ListenerAt {
            socket: Some(self.socket),
            local: self.socket.local,
            owner: Some(self.owner),
            since_ns: Some(self.since_ns),
            losses: self.losses,
        }
    }
}

impl Holders {
    /// As far as only snapshots have shown them.
    fn at(&self, place: Place) -> Option<ListenerAt> {
        let owner = match self.process {
            Holder::One(process) => Some(Owner {
                process,
                source: OwnerSource::Proc,
            }),
            Holder::Unknown | Holder::Several => None,
        };
        (self.shown > 0).then(|| ListenerAt {
            socket: None,
            local: place.local(),
            owner,
            since_ns: None,
            losses: self.losses,
        })
    }
}

impl Holder {
    fn and(self, other: Option<Process>) -> Self {
        match (self, other) {
            (known, None) => known,
            (Self::Unknown, Some(process)) => Self::One(process),
            // Threads of a process may have other names.
            (Self::One(known), Some(process)) if known.pid == process.pid => self,
            (Self::One(_) | Self::Several, Some(_)) => Self::Several,
        }
    }
}

impl Listeners {
    pub(crate) fn new() -> Self {
        Self {
            by_sk: ByAddress::new(),
            by_place: HashMap::new(),
        }
    }

    /// A process began to listen.
    pub(crate) fn begin(&mut self, socket: &Socket, process: Process, ts_ns: u64, losses: u32) {
        self.forget(socket.sk);
        if self.by_sk.len() >= MOST
            && let Some((_, oldest)) = self.by_sk.take_oldest()
        {
            self.leaves(&oldest);
        }
        let place = Place::of(socket.netns, socket.local);
        let listener = Listener {
            socket: *socket,
            place,
            port_bound: place.is_some(),
            since_ns: ts_ns,
            losses,
            owner: Owner {
                process,
                source: OwnerSource::Listen,
            },
        };
        self.by_sk.insert(socket.sk, listener);
        if let Some(place) = place {
            self.stands_at(place, process, losses);
        }
    }

    /// The kernel has chosen an address and a port for a listener that had none.
    pub(crate) fn is_at(&mut self, sk: u64, local: SocketAddr, losses: u32) {
        if let Some(listener) = self.by_sk.get_mut(sk)
            && listener.place.is_none()
            && let Some(place) = Place::of(listener.socket.netns, local)
        {
            listener.socket.local = local;
            listener.place = Some(place);
            let process = listener.owner.process;
            self.stands_at(place, process, losses);
        }
    }

    fn stands_at(&mut self, place: Place, process: Process, losses: u32) {
        let holders = self.by_place.entry(place).or_insert(Holders {
            process: Holder::Unknown,
            sockets: 0,
            shown: 0,
            losses,
            listed: (0, 0),
            from_snapshot: false,
        });
        holders.sockets = holders.sockets.saturating_add(1);
        holders.process = holders.process.and(Some(process));
    }

    /// Whether bind() had given the listener with this address its port; `None` for an unknown one.
    pub(crate) fn port_bound(&self, sk: u64) -> Option<bool> {
        Some(self.by_sk.get(sk)?.port_bound)
    }

    /// The listener with this address.
    pub(crate) fn at(&self, sk: u64) -> Option<ListenerAt> {
        Some(self.by_sk.get(sk)?.at())
    }

    /// The listener with this address, which is at `local`, or what a snapshot has shown there.
    pub(crate) fn of(&self, sk: u64, netns: Option<u32>, local: SocketAddr) -> Option<ListenerAt> {
        let is_there = |listener: &ListenerAt| {
            let port = listener.local.port();
            port == 0 || port == local.port()
        };
        let place = Place::of(netns, local)?;
        self.at(sk)
            .filter(is_there)
            .or_else(|| self.by_place.get(&place)?.at(place))
    }

    /// All that listen on `port`, in the order of their addresses.
    pub(crate) fn at_port(&self, netns: Option<u32>, port: u16) -> Vec<ListenerAt> {
        let seen = self
            .by_sk
            .values()
            .map(Listener::at)
            .filter(|listener| listener.local.port() == port)
            .filter(|listener| {
                let its = listener.socket.and_then(|socket| socket.netns);
                tuple::may_be_same(its, netns)
            });
        let shown = self
            .by_place
            .iter()
            .filter(|(place, _)| place.port == port)
            .filter(|(place, _)| tuple::may_be_same(Some(place.netns), netns))
            .filter_map(|(place, holders)| holders.at(*place));
        let mut all: Vec<ListenerAt> = seen.chain(shown).collect();
        all.sort_by_key(|listener| {
            let sk = listener.socket.map_or(0, |socket| socket.sk);
            (listener.local, sk)
        });
        all
    }

    /// The socket listens no more.
    pub(crate) fn end(&mut self, socket: &Socket) {
        if self.forget(socket.sk) {
            return;
        }
        // It may be one that only a snapshot has shown.
        if let Some(place) = Place::of(socket.netns, socket.local)
            && let Entry::Occupied(mut known) = self.by_place.entry(place)
        {
            let holders = known.get_mut();
            holders.shown = holders.shown.saturating_sub(1);
            if holders.shown == 0 && holders.sockets == 0 {
                known.remove();
            }
        }
    }

    /// Who owns the listener with this address, as it began itself.
    pub(crate) fn owner(&self, sk: u64) -> Option<Owner> {
        self.by_sk.get(sk).map(|listener| listener.owner)
    }

    /// How long the socket has been listening; `None` when that is not known.
    pub(crate) fn in_state_ns(&self, sk: u64, now_ns: u64, losses: u32) -> Option<u64> {
        let listener = self.by_sk.get(sk)?;
        (listener.losses == losses)
            .then(|| now_ns.checked_sub(listener.since_ns))
            .flatten()
    }

    /// The process behind a child with this local address, when it is sure.
    pub(crate) fn process_for(
        &self,
        netns: Option<u32>,
        local: SocketAddr,
        losses: u32,
    ) -> Option<Process> {
        let holders = self.holders_for(netns, local)?;
        match holders.process {
            Holder::One(process) if holders.losses == losses => Some(process),
            Holder::Unknown | Holder::One(_) | Holder::Several => None,
        }
    }

    /// Whether anybody is known to listen for this local address.
    pub(crate) fn any_for(&self, netns: Option<u32>, local: SocketAddr) -> bool {
        self.holders_for(netns, local).is_some()
    }

    /// A snapshot, the `snapshot`th, has shown a listener.
    pub(crate) fn show(
        &mut self,
        netns: u32,
        local: SocketAddr,
        process: Option<Process>,
        snapshot: u32,
        losses: u32,
    ) {
        let Some(place) = Place::of(Some(netns), local) else {
            return;
        };
        let room = self.by_place.len() < 2 * MOST;
        let holders = match self.by_place.entry(place) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) if room => vacant.insert(Holders {
                process: Holder::Unknown,
                sockets: 0,
                shown: 0,
                losses,
                listed: (snapshot, 0),
                from_snapshot: true,
            }),
            Entry::Vacant(_) => return,
        };
        if holders.listed.0 != snapshot {
            holders.listed = (snapshot, 0);
        }
        if holders.losses != losses {
            // What was known is not sure any more: this snapshot says what is.
            holders.process = Holder::Unknown;
            holders.losses = losses;
            holders.from_snapshot = true;
        }
        holders.listed.1 += 1;
        holders.shown = holders.listed.1.saturating_sub(holders.sockets);
        if holders.from_snapshot || holders.shown > 0 {
            holders.process = holders.process.and(process);
        }
    }

    /// The snapshot is complete: what it did not list and is not sure any more is gone.
    pub(crate) fn settle(&mut self, snapshot: u32, losses: u32) {
        self.by_place
            .retain(|_, holders| holders.listed.0 == snapshot || holders.losses == losses);
    }

    /// Who listens for a local address: at exactly this one, else at the wildcard of its family, else
    /// at `::` for both families. So does the kernel look it up: net/ipv4/inet_hashtables.c
    /// `__inet_lookup_listener`, net/ipv6/inet6_hashtables.c `inet6_lookup_listener` (v6.18).
    fn holders_for(&self, netns: Option<u32>, local: SocketAddr) -> Option<&Holders> {
        const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let at = |address| {
            self.by_place
                .get(&Place::of(netns, SocketAddr::new(address, local.port()))?)
        };
        let exact = local.ip().to_canonical();
        at(exact)
            .or_else(|| exact.is_ipv4().then(|| at(ANY_V4)).flatten())
            .or_else(|| at(ANY_V6))
    }

    /// Forgets the listener with this address; `false` when there is none.
    fn forget(&mut self, sk: u64) -> bool {
        let Some(listener) = self.by_sk.remove(sk) else {
            return false;
        };
        self.leaves(&listener);
        true
    }

    /// A listener that was seen to begin is not at its place any more.
    fn leaves(&mut self, listener: &Listener) {
        if let Some(place) = listener.place
            && let Entry::Occupied(mut known) = self.by_place.entry(place)
        {
            let holders = known.get_mut();
            holders.sockets = holders.sockets.saturating_sub(1);
            if holders.sockets == 0 && holders.shown == 0 {
                known.remove();
            }
        }
    }
}
