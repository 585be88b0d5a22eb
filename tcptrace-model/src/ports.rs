//! Owns the question who holds a port, as far as the trace knows: across listeners, connections,
//! minisockets and sockets that are only bound, each of which has a table of its own.

use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    Doubt, Doubts, ListedHolder, OptionsSource, Owner, OwnerSource, Phase, Role, Socket, TcpState,
    Tracker,
    conflict::Holder,
    connection::{End, differ},
    listeners::ListenerAt,
    time_wait::Wait,
    tuple::{Tuple, may_be_same},
};

/// Connections and minisockets looked at for one answer, at most, of each. One that is in the way is
/// enough for the reason, and calls may fail by the thousand each second.
const MOST_LOOKED_AT: usize = 512;

/// For how long after the last question connections are found by their port, in ns.
const ASKED_FOR_NS: u64 = 60_000_000_000;

/// A socket that holds a port, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) holder: Holder,
    pub(crate) owner: Option<Owner>,
    /// When it entered its state, CLOCK_BOOTTIME ns; `None` when that was not seen.
    pub(crate) since_ns: Option<u64>,
    /// When the timer of a minisocket runs out, CLOCK_BOOTTIME ns.
    pub(crate) expires_ns: Option<u64>,
    pub(crate) options: OptionsSource,
    /// What is doubtful about its being there.
    pub(crate) doubts: Doubts,
}

/// Until when connections are found by their port.
#[derive(Debug)]
pub(crate) struct Asked {
    /// CLOCK_BOOTTIME ns; `u64::MAX` while they are not.
    pub(crate) until_ns: u64,
}

impl Asked {
    pub(crate) const fn never() -> Self {
        Self { until_ns: u64::MAX }
    }
}

impl Tracker {
    /// Everyone who is known to hold `port`: listeners and sockets that are only bound first.
    pub(crate) fn known_holders(
        &mut self,
        netns: Option<u32>,
        port: u16,
        now_ns: u64,
    ) -> Vec<Known> {
        self.ask_for_ports(now_ns);
        let losses = self.losses;
        let here = |its: Option<u32>| may_be_same(its, netns);
        let mut known: Vec<Known> = self
            .listeners
            .at_port(netns, port)
            .into_iter()
            .map(|listener| listener.known(losses))
            .collect();
        known.extend(
            self.bound
                .with_port(port)
                .filter(|(_, bound)| here(bound.netns))
                .map(|(_, bound)| bound.known(losses)),
        );
        known.extend(
            self.ends
                .with_port(port)
                .filter(|end| here(end.socket.netns) && !end.has_closed())
                .map(|end| end.known(losses))
                .take(MOST_LOOKED_AT),
        );
        known.extend(
            self.waits
                .with_port(port)
                .filter(|wait| here(wait.minisocket.netns))
                .map(|wait| wait.known_holder(losses))
                .take(MOST_LOOKED_AT),
        );
        known
    }

    /// Whoever is known to have this tuple.
    pub(crate) fn known_with_tuple(
        &mut self,
        netns: Option<u32>,
        tuple: Tuple,
        now_ns: u64,
    ) -> Vec<Known> {
        self.ask_for_ports(now_ns);
        let losses = self.losses;
        let end = self
            .ends
            .with_tuple(tuple, netns)
            .and_then(|index| self.ends.at(index))
            .filter(|end| !end.has_closed())
            .map(|end| end.known(losses));
        let wait = self
            .waits
            .with_tuple(tuple, netns)
            .and_then(|index| self.waits.at(index))
            .map(|wait| wait.known_holder(losses));
        end.into_iter().chain(wait).collect()
    }

    /// Nobody has asked for a while: connections need not be found by their port.
    pub(crate) fn nobody_asks(&mut self) {
        self.ends.by_port(false);
        self.waits.all_by_port(false);
        self.asked = Asked::never();
    }

    /// What the trace knows of a socket that the kernel has listed; the listing itself counts more.
    pub(crate) fn joined(&self, listed: &ListedHolder) -> Known {
        let holder = listed.holder;
        let known = if holder.minisocket.is_some() {
            self.wait_listed(listed)
                .map(|wait| wait.known_holder(self.losses))
        } else if holder.state == TcpState::Listen {
            self.listeners
                .of(holder.sk, listed.netns, holder.local)
                .map(|listener| listener.known(self.losses))
        } else if holder.state == TcpState::Close {
            self.bound
                .at(holder.sk)
                .filter(|bound| {
                    bound.holder.local.port() == holder.local.port()
                        && !differ(bound.holder.cookie, holder.cookie)
                })
                .map(|bound| bound.known(self.losses))
        } else {
            self.end_listed(listed).map(|end| end.known(self.losses))
        };
        let same_state = known.is_some_and(|known| known.holder.state == holder.state);
        Known {
            holder,
            owner: known
                .and_then(|known| known.owner)
                .or_else(|| self.owner_of_listener(listed)),
            since_ns: known
                .filter(|_| same_state)
                .and_then(|known| known.since_ns),
            expires_ns: listed
                .expires_ns
                .or_else(|| known.filter(|_| same_state)?.expires_ns),
            options: OptionsSource::Kernel,
            doubts: Doubts::NONE,
        }
    }

    /// What is known at an address that the kernel itself has named: so it is there.
    pub(crate) fn named(&self, sk: u64) -> Option<Known> {
        Some(Known {
            doubts: Doubts::NONE,
            ..self.known_at(sk)?
        })
    }

    fn known_at(&self, sk: u64) -> Option<Known> {
        let losses = self.losses;
        let end = || {
            let end = self.ends.at(self.ends.with_address(sk)?)?;
            (!end.has_closed()).then(|| end.known(losses))
        };
        let wait = || {
            Some(
                self.waits
                    .at(self.waits.with_address(sk)?)?
                    .known_holder(losses),
            )
        };
        let listener = || Some(self.listeners.at(sk)?.known(losses));
        let bound = || Some(self.bound.at(sk)?.known(losses));
        end().or_else(wait).or_else(listener).or_else(bound)
    }

    /// What weakens an answer that rests on what the trace has seen: whether it `explains` the error.
    pub(crate) fn doubts_of_table(&self, explains: bool) -> Doubts {
        let mut doubts = Doubts::NONE.with(Doubt::HoldersNotListed);
        if !explains || self.snapshots.none_yet() {
            doubts = doubts.with(Doubt::BeforeTrace);
        }
        if self.losses > 0 {
            doubts = doubts.with(Doubt::RecordsLost);
        }
        if self.evicted_ends + self.evicted_waits + self.bound.evicted > 0 {
            doubts = doubts.with(Doubt::Evicted);
        }
        doubts
    }

    fn ask_for_ports(&mut self, now_ns: u64) {
        self.ends.by_port(true);
        self.waits.all_by_port(true);
        self.asked.until_ns = now_ns.saturating_add(ASKED_FOR_NS);
    }

    fn wait_listed(&self, listed: &ListedHolder) -> Option<&Wait> {
        let holder = &listed.holder;
        let tuple = Tuple::of(holder.local, holder.remote)?;
        self.waits
            .with_address(holder.sk)
            .or_else(|| self.waits.with_tuple(tuple, listed.netns))
            .and_then(|index| self.waits.at(index))
            .filter(|wait| {
                wait.tuple() == Some(tuple) && !differ(wait.minisocket.cookie, holder.cookie)
            })
    }

    fn end_listed(&self, listed: &ListedHolder) -> Option<&End> {
        let holder = &listed.holder;
        let tuple = Tuple::of(holder.local, holder.remote);
        self.ends
            .with_address(holder.sk)
            .or_else(|| self.ends.with_tuple(tuple?, listed.netns))
            .and_then(|index| self.ends.at(index))
            .filter(|end| {
                let known = end.tuple();
                !end.has_closed()
                    && (known.is_none() || tuple.is_none() || known == tuple)
                    && !differ(end.socket.cookie, holder.cookie)
            })
    }

    /// A connection of which nothing else is known came from whoever listens where it is, unless it
    /// was bound itself.
    fn owner_of_listener(&self, listed: &ListedHolder) -> Option<Owner> {
        let holder = &listed.holder;
        let may_be_child = holder.minisocket.is_none()
            && holder.port_bound == Some(false)
            && holder.remote.port() != 0
            && holder.state != TcpState::SynSent;
        let process = self
            .listeners
            .process_for(listed.netns, holder.local, self.losses)
            .filter(|_| may_be_child)?;
        Some(Owner {
            process,
            source: OwnerSource::Listener,
        })
    }
}

impl End {
    fn known(&self, losses: u32) -> Known {
        let socket = &self.socket;
        let state = self.state();
        let shown = socket.sk != 0;
        let port_bound = match self.role {
            // net/core/sock.c `sk_clone` (v6.18): a child does not inherit the lock of its port.
            Role::Server => Some(false),
            Role::Client if self.from_birth => Some(self.port_bound),
            Role::Client | Role::Unknown => None,
        };
        Known {
            holder: Holder {
                port_bound,
                ..if shown {
                    of_socket(socket, state)
                } else {
                    Holder {
                        cookie: socket.cookie,
                        remote: socket.remote,
                        ..of_snapshot(socket.local, state)
                    }
                }
            },
            owner: self.owner,
            since_ns: self.since_ns(losses),
            expires_ns: None,
            options: OptionsSource::of(shown),
            doubts: lost_since(self.losses_at_state, losses),
        }
    }
}

impl Wait {
    fn known_holder(&self, losses: u32) -> Known {
        let minisocket = &self.minisocket;
        let shown = minisocket.tw != 0;
        Known {
            holder: Holder {
                sk: minisocket.tw,
                cookie: minisocket.cookie,
                state: match self.phase {
                    Phase::FinWait2 => TcpState::FinWait2,
                    Phase::TimeWait => TcpState::TimeWait,
                },
                minisocket: Some(self.phase),
                remote: minisocket.remote,
                reuseaddr: shown.then_some(minisocket.reuseaddr),
                reuseport: shown.then_some(minisocket.reuseport),
                ..of_snapshot(minisocket.local, TcpState::TimeWait)
            },
            owner: self.owner,
            since_ns: self.phase_since_ns(),
            expires_ns: self.expires_ns,
            options: OptionsSource::of(shown),
            doubts: lost_since(self.losses_at_birth, losses),
        }
    }
}

impl ListenerAt {
    fn known(&self, losses: u32) -> Known {
        let Self {
            socket,
            local,
            owner,
            since_ns,
            ..
        } = *self;
        let holder = match &socket {
            Some(socket) => Holder {
                local,
                remote: any(local),
                ..of_socket(socket, TcpState::Listen)
            },
            None => of_snapshot(local, TcpState::Listen),
        };
        let doubts = lost_since(self.losses, losses);
        Known {
            holder,
            owner,
            since_ns: since_ns.filter(|_| doubts.is_empty()),
            expires_ns: None,
            options: OptionsSource::of(socket.is_some()),
            doubts,
        }
    }
}

impl OptionsSource {
    const fn of(event: bool) -> Self {
        if event { Self::Event } else { Self::Unknown }
    }
}

/// The doubt whether something is still there that was sure at `losses`.
pub(crate) const fn lost_since(losses: u32, now: u32) -> Doubts {
    if losses == now {
        Doubts::NONE
    } else {
        Doubts::NONE.with(Doubt::RecordsLost)
    }
}

/// A full socket as its last event has shown it.
pub(crate) fn of_socket(socket: &Socket, state: TcpState) -> Holder {
    Holder {
        sk: socket.sk,
        cookie: socket.cookie,
        remote: socket.remote,
        reuseaddr: Some(socket.reuseaddr),
        reuseport: Some(socket.reuseport),
        uid: Some(socket.uid),
        ..of_snapshot(socket.local, state)
    }
}

/// A full socket without a peer as a snapshot shows it: nothing is known of its options.
pub(crate) fn of_snapshot(local: SocketAddr, state: TcpState) -> Holder {
    Holder {
        sk: 0,
        cookie: None,
        state,
        minisocket: None,
        local,
        remote: any(local),
        reuseaddr: None,
        reuseport: None,
        force_reuse: false,
        v6only: local.is_ipv4().then_some(false),
        uid: None,
        device: 0,
        port_bound: None,
        timestamps: None,
    }
}

/// Any address of the family of `local`, and no port.
pub(crate) fn any(local: SocketAddr) -> SocketAddr {
    let mut any = local;
    any.set_ip(match local {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    });
    any.set_port(0);
    any
}
