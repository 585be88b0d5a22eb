//! Owns what the tracker does with bind(), listen() and connect(): it collects what belongs to a call,
//! learns who owns its socket, and tells what came of it. Why one failed is in `call_failed`.

use alloc::{boxed::Box, vec::Vec};
use core::num::NonZeroU64;

use crate::{
    CallSucceeded, FailedBind, File, Finding, ListedHolder, OwnerSource, Process, Role, Socket,
    SocketCall, Surroundings, TcpState, Tracker, Transition,
    bound::{Bound, bound_by},
    by_address::ByAddress,
    conflict::{
        Call,
        errno::{EINPROGRESS, ERESTARTSYS},
    },
    connection::differ,
};

/// Holders that wait for their call, at most, of all calls together. They come a moment before it.
const MOST_HOLDERS: usize = 1 << 15;

/// Calls of which something waits, at most: as many as there may be CPUs, and more.
const MOST_WAITING: usize = 1 << 12;

/// bind()s that failed, remembered at once, at most: each until its socket is used or seen to be gone.
const MOST_FAILED: usize = 1 << 12;

/// What has come for calls that have not, and what is remembered of earlier ones.
#[derive(Debug)]
pub(crate) struct Calls {
    waiting: ByAddress<Waiting>,
    /// Holders in `waiting`.
    holders: usize,
    failed: ByAddress<Failed>,
    /// The first record after the last gap, or the last that was forgotten: CLOCK_BOOTTIME ns.
    gap_ns: Option<u64>,
}

/// What has come for a call.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) holders: Vec<ListedHolder>,
    pub(crate) surroundings: Option<Surroundings>,
}

/// A bind() that failed, and whose.
#[derive(Clone, Copy, Debug)]
struct Failed {
    bind: FailedBind,
    cookie: Option<NonZeroU64>,
    pid: u32,
}

impl Calls {
    pub(crate) fn new() -> Self {
        Self {
            waiting: ByAddress::new(),
            holders: 0,
            failed: ByAddress::new(),
            gap_ns: None,
        }
    }

    /// Records are missing before the one of `ts_ns`, or it is itself.
    pub(crate) fn gap(&mut self, ts_ns: u64) {
        self.gap_ns = self.gap_ns.max(Some(ts_ns));
    }

    /// Whether records may be missing of those that came for `call`: they are made within it.
    pub(crate) fn may_lack(&self, call: &SocketCall) -> bool {
        /// When it began is not known: it has not listed for longer.
        const AT_MOST_NS: u64 = 1_000_000_000;
        let began_ns = call
            .began_ns
            .unwrap_or_else(|| call.ts_ns.saturating_sub(AT_MOST_NS));
        self.gap_ns.is_some_and(|gap_ns| gap_ns >= began_ns)
    }

    /// A transition may show that the socket is not the one any more whose bind() has failed: it came
    /// from a listener, or it is closed for good.
    pub(crate) fn passes(&mut self, transition: &Transition) {
        if self.failed.is_empty() {
            return;
        }
        let gone = match transition.newstate {
            TcpState::SynRecv => transition.oldstate == TcpState::Listen,
            TcpState::Close => transition
                .evidence
                .is_some_and(|evidence| evidence.file != File::Open),
            TcpState::Established
            | TcpState::SynSent
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::TimeWait
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Listen
            | TcpState::Closing
            | TcpState::NewSynRecv
            | TcpState::BoundInactive => false,
        };
        if gone {
            self.failed.remove(transition.socket.sk);
        }
    }

    fn waiting(&mut self, asker: u64) -> &mut Waiting {
        if self.waiting.len() >= MOST_WAITING && self.waiting.get(asker).is_none() {
            self.forget_oldest();
        }
        self.waiting.get_or_default(asker)
    }

    fn take(&mut self, asker: u64) -> Waiting {
        let waiting = self.waiting.remove(asker).unwrap_or_default();
        self.holders -= waiting.holders.len();
        waiting
    }

    /// Forgets what has waited longest: its call was lost.
    fn forget_oldest(&mut self) {
        if let Some((_, waiting)) = self.waiting.take_oldest() {
            self.holders -= waiting.holders.len();
            // Or it is still to come.
            if let Some(last) = waiting.holders.last() {
                self.gap(last.ts_ns);
            }
        }
    }

    /// The bind() of the same socket that failed before, as far as is known that it is the same.
    ///
    /// The next socket of a process often has the address of its last one, and most sockets have no
    /// cookie. So without cookies only what a new socket would hardly do tells: a listen() without a
    /// bind(), by the same process.
    fn failed_before(&self, call: &SocketCall) -> Option<FailedBind> {
        let failed = self.failed.get(call.sk)?;
        let same = match (failed.cookie, call.cookie) {
            (Some(known), Some(shown)) => known == shown,
            (None, _) | (_, None) => {
                failed.pid == call.task.pid
                    && call.call == Call::Listen
                    && call.asker.local.port() == 0
            }
        };
        (same && failed.bind.ts_ns <= call.began_ns.unwrap_or(call.ts_ns)).then_some(failed.bind)
    }

    fn note_failed(&mut self, call: &SocketCall) {
        let bind = FailedBind {
            ts_ns: call.ts_ns,
            error: call.error,
            asked: call.asked.map(|asked| asked.addr),
        };
        if self.failed.len() >= MOST_FAILED {
            self.failed.take_oldest();
        }
        let failed = Failed {
            bind,
            cookie: call.cookie,
            pid: call.task.pid,
        };
        self.failed.insert(call.sk, failed);
    }
}

impl Tracker {
    /// A socket that holds the port of a call that is to come.
    pub(crate) fn holder(&mut self, listed: &ListedHolder) {
        if self.calls.holders >= MOST_HOLDERS {
            self.calls.forget_oldest();
        }
        self.calls.waiting(listed.asker).holders.push(*listed);
        self.calls.holders += 1;
    }

    /// What user space has found out about a call that is to come.
    pub(crate) fn surroundings(&mut self, surroundings: &Surroundings) {
        self.calls.waiting(surroundings.sk).surroundings = Some(*surroundings);
    }

    /// A call has returned.
    pub(crate) fn called(&mut self, call: &SocketCall) {
        let waiting = self.calls.take(call.sk);
        let failed_before = self.calls.failed_before(call);
        if call.asker.local.port() == 0 && call.asker.state == TcpState::Close {
            // Whoever was bound at this address is gone.
            self.bound.leaves(call.sk);
        }
        if call.error == 0 {
            self.succeeded(call, failed_before);
        } else if call.error != EINPROGRESS && call.error < ERESTARTSYS {
            // From ERESTARTSYS on they are the kernel's own: no application sees one of them. The
            // call starts again, or becomes EINTR.
            self.failed(call, &waiting, failed_before);
        }
    }

    fn succeeded(&mut self, call: &SocketCall, failed_before: Option<FailedBind>) {
        let process = Process::from(&call.task);
        match call.call {
            Call::Bind => {
                self.is_bound(Bound::by_call(call, bound_by(process), self.losses));
            }
            Call::Listen => self.listens_by_call(call, process),
            Call::Connect => {
                if let Some(index) = self.ends.with_address(call.sk)
                    && let Some(end) = self.ends.at_mut(index)
                    && end.role != Role::Server
                    && !end.has_closed()
                    && !differ(end.socket.cookie, call.cookie)
                {
                    end.offer_owner(process, OwnerSource::Connect);
                }
                self.calls.failed.remove(call.sk);
                return;
            }
        }
        self.calls.failed.remove(call.sk);
        self.tell(Finding::CallSucceeded(Box::new(CallSucceeded {
            call: *call,
            autobound: call.call == Call::Listen
                && call.asker.state == TcpState::Close
                && call.asker.local.port() == 0,
            after_failed_bind: failed_before,
        })));
    }

    fn failed(&mut self, call: &SocketCall, waiting: &Waiting, before: Option<FailedBind>) {
        let had_port = call.asker.state == TcpState::Close && call.asker.local.port() != 0;
        if had_port && call.local.port() == call.asker.local.port() {
            // Whoever bound it, or else the caller, who has it.
            let caller = bound_by(Process::from(&call.task));
            let owner = self.bound.owner(call.sk).unwrap_or(caller);
            self.is_bound(Bound::by_call(call, owner, self.losses));
        }
        let failed = self.explained(call, waiting, before);
        if call.call == Call::Bind {
            self.calls.note_failed(call);
        }
        self.tally.call_failed(&failed);
        self.tell(Finding::CallFailed(Box::new(failed)));
    }

    /// listen() returned: the transition to LISTEN came before, unless it was lost or the socket
    /// listened already.
    fn listens_by_call(&mut self, call: &SocketCall, process: Process) {
        self.bound.leaves(call.sk);
        if self.listeners.at(call.sk).is_none() && call.asker.state == TcpState::Close {
            let socket = Socket {
                sk: call.sk,
                cookie: call.cookie,
                netns: call.netns,
                cgroup_id: call.cgroup_id,
                uid: call.asker.uid,
                local: call.asker.local,
                remote: call.remote,
                reuseaddr: call.asker.reuseaddr,
                reuseport: call.asker.reuseport,
            };
            self.listeners
                .begin(&socket, process, call.ts_ns, self.losses);
        }
        self.listeners.is_at(call.sk, call.local, self.losses);
    }
}
