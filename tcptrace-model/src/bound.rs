//! Owns the sockets that are bound and do nothing else: a bind() shows them, a snapshot, or a connection
//! that left its port behind; nothing shows their end.

use alloc::{collections::BTreeSet, vec::Vec};

use hashbrown::HashMap;

use crate::{
    Doubt, Existing, File, ListedHolder, OptionsSource, Owner, OwnerSource, Process, Socket,
    SocketCall, TcpState, Tracker, Transition,
    conflict::Holder,
    connection::differ,
    ports::{Known, any, lost_since, of_snapshot, of_socket},
    table::Table,
    tuple::may_be_same,
};

/// Sockets that are only bound, remembered at once, at most: a host has few, but nothing shows when
/// one is closed.
const MOST_BOUND: usize = 1 << 14;

/// A socket that is bound and does nothing else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) holder: Holder,
    pub(crate) netns: Option<u32>,
    owner: Option<Owner>,
    since_ns: Option<u64>,
    options: OptionsSource,
    losses: u32,
}

/// All sockets that are only bound, as far as known. Their end is not shown, so each may be gone.
#[derive(Debug)]
pub(crate) struct BoundOnly {
    sockets: Table<Bound>,
    by_sk: HashMap<u64, u32>,
    by_port: BTreeSet<(u16, u32)>,
    /// How many were forgotten because the table was full.
    pub(crate) evicted: u64,
}

impl Bound {
    /// One that a call has bound, or left bound.
    pub(crate) fn by_call(call: &SocketCall, owner: Owner, losses: u32) -> Self {
        let asker = &call.asker;
        let specific_v6 = call.local.is_ipv6() && !call.local.ip().is_unspecified();
        Self {
            holder: Holder {
                sk: call.sk,
                cookie: call.cookie,
                state: TcpState::Close,
                minisocket: None,
                local: call.local,
                remote: any(call.local),
                reuseaddr: Some(asker.reuseaddr),
                reuseport: Some(asker.reuseport),
                force_reuse: asker.force_reuse,
                // net/ipv6/af_inet6.c `__inet6_bind` (v6.18): a specific IPv6 address sets it.
                v6only: Some(asker.v6only || specific_v6),
                uid: Some(asker.uid),
                device: asker.device,
                port_bound: Some(true),
                timestamps: None,
            },
            netns: call.netns,
            owner: Some(owner),
            since_ns: Some(call.ts_ns),
            options: OptionsSource::Event,
            losses,
        }
    }

    /// One that is left of a socket that listened or was connected.
    pub(crate) fn left_by(socket: &Socket, owner: Option<Owner>, ts_ns: u64, losses: u32) -> Self {
        Self {
            holder: Holder {
                remote: any(socket.local),
                port_bound: Some(true),
                ..of_socket(socket, TcpState::Close)
            },
            netns: socket.netns,
            owner,
            since_ns: Some(ts_ns),
            options: OptionsSource::Event,
            losses,
        }
    }

    /// One that a snapshot has shown.
    fn shown(existing: &Existing, losses: u32) -> Self {
        Self {
            holder: Holder {
                port_bound: Some(true),
                ..of_snapshot(existing.local, TcpState::Close)
            },
            netns: Some(existing.netns),
            owner: existing.process.map(|process| Owner {
                process,
                source: OwnerSource::Proc,
            }),
            since_ns: None,
            options: OptionsSource::Unknown,
            losses,
        }
    }

    pub(crate) fn known(&self, losses: u32) -> Known {
        Known {
            holder: self.holder,
            owner: self.owner,
            since_ns: self.since_ns,
            expires_ns: None,
            options: self.options,
            doubts: lost_since(self.losses, losses).with(Doubt::CloseNotShown),
        }
    }
}

impl BoundOnly {
    pub(crate) fn new() -> Self {
        Self {
            sockets: Table::new(),
            by_sk: HashMap::new(),
            by_port: BTreeSet::new(),
            evicted: 0,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.sockets.len() == 0
    }

    /// Puts a socket in, in place of what was known at its address; returns how many had to go.
    pub(crate) fn insert(&mut self, bound: Bound) -> u64 {
        let (sk, port) = (bound.holder.sk, bound.holder.local.port());
        self.leaves(sk);
        if port == 0 {
            return 0;
        }
        let mut gone = 0;
        while self.sockets.len() >= MOST_BOUND {
            let Some(oldest) = self.sockets.oldest() else {
                break;
            };
            self.remove(oldest);
            gone += 1;
        }
        self.evicted += gone;
        let index = self.sockets.insert(bound).index();
        if sk != 0 {
            self.by_sk.insert(sk, index);
        }
        self.by_port.insert((port, index));
        gone
    }

    /// The socket at this address is bound no more, or does more than that.
    pub(crate) fn leaves(&mut self, sk: u64) -> Option<Bound> {
        let index = *self.by_sk.get(&sk)?;
        self.remove(index)
    }

    /// Who is known to own the socket at this address.
    pub(crate) fn owner(&self, sk: u64) -> Option<Owner> {
        self.at(sk)?.owner
    }

    /// The socket at this address.
    pub(crate) fn at(&self, sk: u64) -> Option<&Bound> {
        self.sockets.at(*self.by_sk.get(&sk)?)
    }

    fn remove(&mut self, index: u32) -> Option<Bound> {
        let bound = self.sockets.remove(index)?;
        if bound.holder.sk != 0 {
            self.by_sk.remove(&bound.holder.sk);
        }
        self.by_port.remove(&(bound.holder.local.port(), index));
        Some(bound)
    }

    /// Those with this port, and where they stand.
    pub(crate) fn with_port(&self, port: u16) -> impl Iterator<Item = (u32, &Bound)> {
        self.by_port
            .range((port, 0)..=(port, u32::MAX))
            .filter_map(|(_, index)| Some((*index, self.sockets.at(*index)?)))
    }
}

impl Tracker {
    /// A socket is bound and does nothing else.
    pub(crate) fn is_bound(&mut self, bound: Bound) {
        self.tally.evicted += self.bound.insert(bound);
    }

    /// A snapshot shows a socket that is only bound (`TCP_BOUND_INACTIVE`, 6.8 and later).
    pub(crate) fn bound_exists(&mut self, existing: &Existing) {
        let known = self
            .bound
            .with_port(existing.local.port())
            .find(|(_, bound)| {
                let same = bound.holder.cookie.is_some() && bound.holder.cookie == existing.cookie;
                let may_be = bound.holder.local == existing.local
                    && !differ(bound.holder.cookie, existing.cookie);
                (same || may_be) && may_be_same(bound.netns, Some(existing.netns))
            });
        if known.is_none() {
            let mut bound = Bound::shown(existing, self.losses);
            bound.holder.cookie = existing.cookie;
            self.is_bound(bound);
        }
    }

    /// A listener or a connection closes, and its socket keeps the port that bind() gave it for as
    /// long as a descriptor is open: net/ipv4/tcp.c `tcp_set_state` (v6.18) lets go of a port only
    /// without `SOCK_BINDPORT_LOCK`.
    pub(crate) fn keeps_its_port(&mut self, transition: &Transition, owner: Option<Owner>) {
        let open = transition
            .evidence
            .is_some_and(|evidence| evidence.file == File::Open && !evidence.orphan);
        if open {
            let socket = &transition.socket;
            let bound = Bound::left_by(socket, owner, transition.ts_ns, self.losses);
            self.is_bound(bound);
        }
    }

    /// The kernel has listed everyone who holds `port`: who is not among them has let go of it.
    pub(crate) fn only_these_hold(
        &mut self,
        netns: Option<u32>,
        port: u16,
        listed: &[ListedHolder],
        asker: u64,
    ) {
        let is_listed = |bound: &Bound| {
            let mine = &bound.holder;
            mine.sk == asker
                || listed.iter().any(|listed| {
                    let theirs = &listed.holder;
                    mine.sk == theirs.sk || mine.cookie.is_some() && mine.cookie == theirs.cookie
                })
        };
        let gone: Vec<u32> = self
            .bound
            .with_port(port)
            .filter(|(_, bound)| bound.netns.is_some() && bound.netns == netns)
            .filter(|(_, bound)| !is_listed(bound))
            .map(|(index, _)| index)
            .collect();
        for index in gone {
            self.bound.remove(index);
        }
    }
}

/// The owner of a socket that `process` has bound.
pub(crate) const fn bound_by(process: Process) -> Owner {
    Owner {
        process,
        source: OwnerSource::Bind,
    }
}
