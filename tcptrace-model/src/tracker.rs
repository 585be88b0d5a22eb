//! Owns the `Tracker`: takes inputs, remembers what it needs of each socket, and tells findings.

use alloc::collections::VecDeque;

use hashbrown::{HashMap, hash_map::Entry};

use crate::{Finding, Input, Summary, TcpState, Transition};

/// Sockets remembered at once, at most: about 40 MB.
const MAX_SOCKETS: usize = 1 << 20;

/// What is remembered of a socket.
#[derive(Clone, Copy, Debug)]
struct InState {
    state: TcpState,
    since_ns: u64,
}

/// The analysis. See the crate's documentation for the order of calls.
#[derive(Debug)]
pub struct Tracker {
    sockets: HashMap<u64, InState>,
    max_sockets: usize,
    findings: VecDeque<Finding>,
    summary: Summary,
}

impl Default for Tracker {
    fn default() -> Self {
        Self::new()
    }
}

impl Tracker {
    /// A tracker that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity_limit(MAX_SOCKETS)
    }

    /// A tracker that remembers at most `max_sockets` sockets at once.
    #[must_use]
    pub fn with_capacity_limit(max_sockets: usize) -> Self {
        Self {
            sockets: HashMap::new(),
            max_sockets,
            findings: VecDeque::new(),
            summary: Summary::default(),
        }
    }

    /// Takes one input. Inputs come in the order in which they were read.
    pub fn handle(&mut self, input: Input) {
        match input {
            Input::Transition(transition) => self.transition(transition),
            // A socket may have changed its state, or its address may belong to another one now.
            Input::Gap { ts_ns: _ } => self.sockets.clear(),
            Input::Lost(loss) => {
                self.sockets.clear();
                self.summary.lost += loss.records;
                self.findings.push_back(Finding::Lost(loss));
            }
        }
    }

    /// The next finding, oldest first; `None` when all have been told.
    pub fn poll(&mut self) -> Option<Finding> {
        self.findings.pop_front()
    }

    /// What the trace amounts to so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    fn transition(&mut self, transition: Transition) {
        self.summary.transitions += 1;
        let in_state_ns = self.leave_and_enter(&transition);
        self.findings.push_back(Finding::Transition {
            transition,
            in_state_ns,
        });
    }

    /// Notes the new state and returns how long the socket was in the old one, if that is known.
    fn leave_and_enter(&mut self, transition: &Transition) -> Option<u64> {
        let &Transition {
            ts_ns,
            socket,
            oldstate,
            newstate,
            current: _,
            cpu: _,
        } = transition;
        let has_room = self.sockets.len() < self.max_sockets;
        let entered = InState {
            state: newstate,
            since_ns: ts_ns,
        };
        match self.sockets.entry(socket.sk) {
            Entry::Occupied(mut known) => {
                let before = *known.get();
                // A state set to itself, as close() does after shutdown(), goes on.
                let goes_on = oldstate == newstate && before.state == oldstate;
                if newstate == TcpState::Close {
                    // The address may be another socket's from now on.
                    known.remove();
                } else if !goes_on {
                    known.insert(entered);
                }
                (before.state == oldstate)
                    .then(|| ts_ns.checked_sub(before.since_ns))
                    .flatten()
            }
            Entry::Vacant(unknown) => {
                // A state set to itself by a socket not seen before: it entered it who knows when.
                if newstate != TcpState::Close && newstate != oldstate {
                    if has_room {
                        unknown.insert(entered);
                    } else {
                        self.summary.untracked += 1;
                    }
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
