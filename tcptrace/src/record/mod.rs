//! Recordings: what a trace took in, in a file. docs/recording.md documents the format and the rule
//! by which versions read each other's files.

pub mod format;
pub mod wire;
pub mod write;

use tcptrace_model::{Input, Settings};

use crate::render::Start;

/// What a recording begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// What the trace started with.
    pub start: Start,
    /// What the model was told of the trace.
    pub settings: Settings,
    /// The command that recorded, word by word, without the program's name.
    pub arguments: Vec<String>,
}

/// What a trace did, one thing after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are inputs")]
pub enum Step {
    /// The model took an input.
    Input(Input),
    /// The model was told the time.
    Tick {
        /// CLOCK_BOOTTIME ns.
        now_ns: u64,
    },
    /// The trace was over.
    End(Ending),
}

/// What a recording ends with, unless the recorder was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// CLOCK_BOOTTIME ns.
    pub ts_ns: u64,
    /// How long the trace lasted, in ns.
    pub duration_ns: u64,
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
