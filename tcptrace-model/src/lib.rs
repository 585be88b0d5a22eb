//! The analysis: decoded facts in ([`Input`]), things worth telling a person out ([`Finding`]).
//!
//! Pure: no clock, no I/O, no BPF. Time comes with the inputs, in ns of CLOCK_BOOTTIME, so every
//! behaviour can be tested without privileges. The whole surface is [`Tracker`]: call
//! [`Tracker::handle`] with each input in the order of the ring buffer, and after it
//! [`Tracker::poll`] until it has nothing more to say.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod finding;
mod input;
mod tracker;

pub use finding::{Finding, Summary};
pub use input::{Comm, Input, Loss, LossReason, Socket, Task, Transition};
pub use tcptrace_common::{RecordKind, TcpState};
pub use tracker::Tracker;
