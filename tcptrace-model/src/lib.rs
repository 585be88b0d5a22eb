//! The analysis: decoded facts in ([`Input`]), things worth telling a person out ([`Finding`]).
//!
//! Pure: no clock, no I/O, no BPF. Time comes with the inputs, in ns of CLOCK_BOOTTIME, so every
//! behaviour can be tested without privileges. The whole surface is [`Tracker`]: call
//! [`Tracker::handle`] with each input in the order of the ring buffer, [`Tracker::advance`] with the
//! time about once a second and before the end, [`Tracker::finish`] at the end, and after each of
//! them [`Tracker::poll`] until it has nothing more to say.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bound;
mod by_address;
mod call;
mod call_failed;
mod calls;
mod close;
pub mod conflict;
mod connection;
mod durations;
mod endings;
mod ends;
mod finding;
mod index;
mod indexed;
mod input;
mod listeners;
mod minisockets;
mod ports;
mod snapshots;
mod stories;
mod stuck;
mod table;
mod tally;
mod time_wait;
mod tracker;
mod transitions;
mod tuple;
mod verdict;
mod waits;
mod words;

pub use call::{
    CallFailed, CallSucceeded, FailedBind, HolderFound, ListedHolder, Listing, OptionsSource,
    SocketCall, Surroundings,
};
pub use finding::{
    ClosedFirst, Connection, Durations, Finding, Owner, PeerEnd, ResetSeen, StateSpan, Story,
    Stuck, Summary, TimeWait, TimeWaitEntered, TransitionFinding,
};
pub use input::{
    Accepted, Comm, Direction, Evidence, Existing, File, Input, Loss, LossReason, Minisocket,
    MinisocketEnded, MinisocketEntered, MinisocketRearmed, Process, Reset, Snapshot, Socket, Task,
    Transition,
};
pub use tcptrace_common::{RecordKind, TcpState};
pub use tracker::{Settings, Tracker};
pub use words::{
    Certainty, CloseCause, CloseSequence, Doubt, Doubts, EndedBy, OwnerSource, Phase, ResetReason,
    Role, TimeWaitEnd,
};
