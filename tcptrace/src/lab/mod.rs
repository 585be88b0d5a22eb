//! The lab: experiments that make the kernel show how connections close, each in a network namespace of its own,
//! with real processes and real sockets, watched by the same trace that `tcptrace` is.
//!
//! An [`experiment`] plays on a [`stage`]: it lets [`actor`]s open and close sockets, waits for states, and takes
//! readings. A [`reading`] is what was measured, beside what a claim says and what this kernel is expected to do; the
//! verdict on the claim follows from them. [`watch`] is the trace, [`run`] plays many side by side, [`report`] tells
//! of them. A [`script`] is an experiment from a file.

pub mod actor;
pub mod claims;
pub mod experiment;
pub mod experiments;
pub mod limits;
pub mod log;
pub mod observed;
pub mod reading;
pub mod report;
pub mod run;
pub mod script;
pub mod session;
pub mod stage;
mod sys;
pub mod tuple;
pub mod value;
pub mod watch;
pub mod wire;
