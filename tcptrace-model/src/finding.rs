//! Owns the findings: what is worth telling a person.

use crate::{Loss, Transition};

/// One thing to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A state change, and how long the socket had been in the state it leaves.
    Transition {
        /// The event itself.
        transition: Transition,
        /// Time spent in `oldstate`, in ns. `None` when it is not known: the socket was not seen to
        /// enter that state, or records were lost since.
        in_state_ns: Option<u64>,
    },
    /// Records were lost.
    Lost(Loss),
}

/// What a trace amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// State changes handled.
    pub transitions: u64,
    /// Records lost, of all kinds and for all reasons.
    pub lost: u64,
    /// Sockets whose entry into a state was not remembered because the table was full; the time
    /// they spent in it is unknown.
    pub untracked: u64,
}
