//! Owns the search for connections that stay in a state for long that they should pass through.

use alloc::{boxed::Box, vec::Vec};

use TcpState::{
    BoundInactive, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen,
    NewSynRecv, SynRecv, SynSent, TimeWait,
};

use crate::{Certainty, Finding, Stuck, TcpState, Tracker, connection::End};

/// How often it is looked for, at most, in ns.
const EVERY_NS: u64 = 1_000_000_000;

impl Tracker {
    /// Tells the connections that have been in a passing state for too long by now, each once.
    pub(crate) fn tell_stuck(&mut self, now_ns: u64) {
        let Some(limit_ns) = self.settings.stuck_after_ns else {
            return;
        };
        if now_ns < self.stuck_due_ns {
            return;
        }
        // Whatever enters a state from now on is not stuck before the limit has passed.
        let mut due_ns = now_ns.saturating_add(limit_ns);
        let losses = self.losses;
        let mut stuck: Vec<Stuck> = Vec::new();
        for end in self.ends.values_mut() {
            if end.stuck_told || end.has_closed() || !should_pass(end.state()) {
                continue;
            }
            let since_ns = end.state_ns;
            if now_ns.saturating_sub(since_ns) < limit_ns {
                due_ns = due_ns.min(since_ns.saturating_add(limit_ns));
                continue;
            }
            end.stuck_told = true;
            stuck.push(end.stuck(now_ns, since_ns, losses));
        }
        self.stuck_due_ns = due_ns.max(now_ns.saturating_add(EVERY_NS));
        // The one that has been stuck for longest first.
        stuck.sort_by_key(|told| (u64::MAX - told.for_ns, told.socket.sk));
        for told in stuck {
            self.tally.stuck += 1;
            self.tell(Finding::Stuck(Box::new(told)));
        }
    }
}

impl End {
    fn stuck(&self, now_ns: u64, since_ns: u64, losses: u32) -> Stuck {
        let doubts = self.doubts(losses);
        Stuck {
            ts_ns: now_ns,
            socket: self.socket,
            state: self.state(),
            for_ns: now_ns.saturating_sub(since_ns),
            role: self.role,
            owner: self.owner,
            certainty: if doubts.is_empty() {
                Certainty::Exact
            } else {
                Certainty::Inferred
            },
            doubts,
        }
    }
}

/// Whether a connection is in this state only while something is under way.
const fn should_pass(state: TcpState) -> bool {
    match state {
        SynSent | SynRecv | FinWait1 | FinWait2 | CloseWait | LastAck | Closing => true,
        Established | TimeWait | Close | Listen | NewSynRecv | BoundInactive => false,
    }
}
