//! Owns what the tracker does with snapshots of existing sockets: it learns of those that are older
//! than the trace, and finds out after losses what is gone.
//!
//! A snapshot runs ahead: it shows what records say that have not been read yet. So it never takes
//! back what those will say: it adds what nobody knew, and what it does not list is gone only once
//! all records from before its end have been read.

use alloc::vec::Vec;
use core::net::SocketAddr;

use hashbrown::{HashMap, HashSet};

use crate::{
    Existing, Minisocket, OwnerSource, Phase, Role, Socket, TcpState, Tracker,
    connection::{End, differ},
    table::Key,
    time_wait::Wait,
    tuple::Tuple,
};

/// What ends while a snapshot is taken is remembered up to this number.
const MOST_ENDED: usize = 1 << 16;

/// The snapshots so far.
#[derive(Debug)]
pub(crate) struct Snapshots {
    /// How many have begun.
    number: u32,
    /// Whether the last has not ended yet.
    running: bool,
    /// When the last began.
    begun_ns: u64,
    /// When it ended, while it is not known yet what it shows to be gone.
    ended_ns: Option<u64>,
    /// What ended since it began, and when: it may list it though it is gone.
    ended: HashMap<(Tuple, Kind), u64>,
    /// Where sockets of which it listed are connecting to.
    connecting: HashSet<(u32, SocketAddr)>,
}

/// What a tuple belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Connection,
    Minisocket,
}

impl Snapshots {
    pub(crate) fn new() -> Self {
        Self {
            number: 0,
            running: false,
            begun_ns: 0,
            ended_ns: None,
            ended: HashMap::new(),
            connecting: HashSet::new(),
        }
    }

    /// Whether all records from before the end of the last one have been read.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        self.ended_ns.is_some_and(|ended_ns| now_ns > ended_ns)
    }

    /// Whether there has been none.
    pub(crate) const fn none_yet(&self) -> bool {
        self.number == 0
    }

    /// Something has ended.
    pub(crate) fn note_end(&mut self, tuple: Option<Tuple>, kind: Kind, ts_ns: u64) {
        if self.running
            && self.ended.len() < MOST_ENDED
            && let Some(tuple) = tuple
        {
            self.ended.insert((tuple, kind), ts_ns);
        }
    }

    /// Whether what was read at `read_ns` had not ended by then, as far as known.
    fn is_news(&self, tuple: Tuple, kind: Kind, read_ns: u64) -> bool {
        self.ended
            .get(&(tuple, kind))
            .is_none_or(|ended_ns| *ended_ns <= read_ns)
    }

    fn begin(&mut self, ts_ns: u64) {
        self.number = self.number.wrapping_add(1).max(1);
        self.running = true;
        self.begun_ns = ts_ns;
        self.ended.clear();
        self.connecting.clear();
    }
}

impl Tracker {
    /// A snapshot begins.
    pub(crate) fn snapshot_begins(&mut self, ts_ns: u64) {
        self.settle_snapshot();
        self.snapshots.begin(ts_ns);
        self.waits.all_by_tuple(true);
    }

    /// A snapshot shows a socket.
    pub(crate) fn exists(&mut self, existing: &Existing) {
        if !self.snapshots.running {
            self.snapshot_begins(existing.ts_ns);
        }
        let number = self.snapshots.number;
        match existing.state {
            TcpState::Listen => self.listeners.show(
                existing.netns,
                existing.local,
                existing.process,
                number,
                self.losses,
            ),
            TcpState::FinWait2 | TcpState::TimeWait
                if existing.minisocket_expires_in_ns.is_some() =>
            {
                self.minisocket_exists(existing);
            }
            TcpState::Established
            | TcpState::SynSent
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing => self.connection_exists(existing),
            TcpState::BoundInactive => self.bound_exists(existing),
            // Requests, which are not sockets yet, and sockets that are nobody's connection.
            TcpState::SynRecv | TcpState::NewSynRecv | TcpState::Close | TcpState::TimeWait => {}
        }
    }

    /// A snapshot ends.
    pub(crate) fn snapshot_ends(&mut self, ts_ns: u64, complete: bool) {
        if !self.snapshots.running {
            return;
        }
        self.snapshots.running = false;
        self.snapshots.ended.clear();
        self.waits.all_by_tuple(false);
        let Self {
            ends, listeners, ..
        } = self;
        for end in ends.values_mut() {
            if end.role == Role::Unknown && listeners.any_for(end.socket.netns, end.socket.local) {
                end.role = Role::Server;
            }
        }
        self.snapshots.ended_ns = complete.then_some(ts_ns);
    }

    /// Tells what a complete snapshot shows to be gone.
    pub(crate) fn settle_snapshot(&mut self) {
        let Some(ended_ns) = self.snapshots.ended_ns.take() else {
            return;
        };
        let losses = self.losses;
        let Snapshots {
            number,
            begun_ns,
            connecting,
            ..
        } = &self.snapshots;
        // Without a loss its end would have been reported: its namespace cannot be looked into.
        let is_gone = |listed: u32, last_ns: u64, losses_at_birth: u32| {
            listed != *number && last_ns < *begun_ns && losses_at_birth != losses
        };
        let still_connecting = |end: &End| {
            let socket = &end.socket;
            end.tuple().is_none()
                && socket
                    .netns
                    .is_some_and(|netns| connecting.contains(&(netns, socket.remote)))
        };
        let ends: Vec<Key> = self
            .ends
            .by_age()
            .into_iter()
            .filter(|key| {
                self.ends.get(*key).is_some_and(|end| {
                    is_gone(end.listed, end.last_ns, end.losses_at_birth)
                        && !end.has_closed()
                        && !still_connecting(end)
                })
            })
            .collect();
        let waits: Vec<Key> = self
            .waits
            .by_age()
            .into_iter()
            .filter(|key| {
                self.waits
                    .get(*key)
                    .is_some_and(|wait| is_gone(wait.listed, wait.last_ns, wait.losses_at_birth))
            })
            .collect();
        self.listeners.settle(self.snapshots.number, losses);
        for key in ends {
            self.vanish(key.index(), ended_ns);
        }
        for key in waits {
            self.wait_vanished(key.index(), ended_ns);
        }
    }

    fn connection_exists(&mut self, existing: &Existing) {
        let &Existing {
            ts_ns,
            cookie,
            netns,
            local,
            remote,
            state,
            ..
        } = existing;
        let Some(tuple) = Tuple::of(local, remote) else {
            return;
        };
        if state == TcpState::SynSent {
            self.snapshots.connecting.insert((netns, remote));
        }
        let (number, begun_ns, losses) =
            (self.snapshots.number, self.snapshots.begun_ns, self.losses);
        if let Some(index) = self.ends.with_tuple(tuple, Some(netns))
            && let Some(end) = self.ends.at_mut(index)
        {
            if !differ(end.socket.cookie, cookie) {
                end.listed = number;
                end.socket.cookie = end.socket.cookie.or(cookie);
                if let Some(process) = existing.process {
                    end.offer_owner(process, OwnerSource::Proc);
                }
                if end.socket.sk == 0 {
                    end.last_ns = ts_ns;
                    end.is_found_in(state, ts_ns);
                } else if end.losses_at_state != losses
                    && end.last_ns < begun_ns
                    && !end.has_closed()
                {
                    end.is_found_in(state, ts_ns);
                }
                return;
            }
            if end.last_ns >= begun_ns {
                return;
            }
            self.vanish(index, ts_ns);
        }
        if !self.snapshots.is_news(tuple, Kind::Connection, ts_ns) {
            return;
        }
        let socket = Socket {
            sk: 0,
            cookie,
            netns: Some(netns),
            cgroup_id: None,
            uid: 0,
            local,
            remote,
            reuseaddr: false,
            reuseport: false,
        };
        self.make_room();
        let mut end = End::found(socket, state, ts_ns, losses);
        end.doubts = self.doubts_of_unknown(self.evicted_ends);
        end.listed = number;
        if let Some(process) = existing.process {
            end.offer_owner(process, OwnerSource::Proc);
        }
        let index = self.ends.insert(end).index();
        self.index_by_tuple(index, ts_ns);
    }

    fn minisocket_exists(&mut self, existing: &Existing) {
        let &Existing {
            ts_ns,
            cookie,
            netns,
            local,
            remote,
            state,
            minisocket_expires_in_ns,
            ..
        } = existing;
        let Some(tuple) = Tuple::of(local, remote) else {
            return;
        };
        let phase = if state == TcpState::FinWait2 {
            Phase::FinWait2
        } else {
            Phase::TimeWait
        };
        let expires_ns = minisocket_expires_in_ns.map(|left_ns| ts_ns.saturating_add(left_ns));
        if let Some(index) = self.waits.with_tuple(tuple, Some(netns))
            && let Some(wait) = self.waits.at_mut(index)
        {
            if !differ(wait.minisocket.cookie, cookie) {
                wait.listed = self.snapshots.number;
                if wait.minisocket.tw == 0 {
                    wait.phase = phase;
                    wait.expires_ns = expires_ns;
                    wait.last_ns = ts_ns;
                }
                return;
            }
            if wait.last_ns >= self.snapshots.begun_ns {
                return;
            }
            self.wait_vanished(index, ts_ns);
        }
        if !self.snapshots.is_news(tuple, Kind::Minisocket, ts_ns) {
            return;
        }
        let minisocket = Minisocket {
            tw: 0,
            cookie,
            netns: Some(netns),
            local,
            remote,
            reuseaddr: false,
            reuseport: false,
        };
        let mut wait = Wait::found(minisocket, phase, ts_ns, self.losses);
        wait.doubts = self.doubts_of_unknown(self.evicted_waits);
        wait.expires_ns = expires_ns;
        wait.listed = self.snapshots.number;
        wait.known = true;
        self.insert_wait(wait);
    }
}
