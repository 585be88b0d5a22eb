//! Findings into words: one renderer per format, each over writers that the caller chooses.

mod endpoint;
mod escape;
pub mod json;
pub(crate) mod names;
pub mod notice;
pub mod text;
pub mod time;

use std::{collections::BTreeMap, io};

use tcptrace_model::{Finding, Summary};

/// What a trace starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Version of the tcptrace that traced.
    pub version: String,
    /// CLOCK_BOOTTIME ns.
    pub ts_ns: u64,
    /// `uname -r`.
    pub kernel: String,
    /// The kernel's ticks per second; `None` when it does not tell.
    pub hz: Option<u32>,
    /// Which backend serves which need.
    pub backends: BTreeMap<String, String>,
    /// What cannot be seen on this kernel, a sentence each.
    pub degraded: Vec<String>,
    /// Inode of the network namespace that the sysctls are from.
    pub netns: Option<u32>,
    /// Sysctls by name, values as the kernel writes them.
    pub sysctls: BTreeMap<String, String>,
    /// What to add to CLOCK_BOOTTIME ns to get ns since 1970 UTC.
    pub clock_offset_ns: i64,
}

/// What a trace ends with.
#[derive(Clone, Debug)]
pub struct End {
    /// CLOCK_BOOTTIME ns.
    pub ts_ns: u64,
    /// How long the trace lasted, in ns.
    pub duration_ns: u64,
    /// Transitions that were written; fewer than those handled when `--state` leaves some out.
    pub shown: u64,
    /// What it amounts to.
    pub summary: Summary,
}

/// A format of output.
pub trait Render {
    /// Writes what stands before the first finding.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn start(&mut self, start: &Start) -> io::Result<()>;

    /// Writes one finding.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn finding(&mut self, finding: &Finding) -> io::Result<()>;

    /// Writes what stands after the last finding.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn end(&mut self, end: &End) -> io::Result<()>;

    /// Hands everything written so far to the reader.
    ///
    /// # Errors
    /// When the output cannot be written.
    fn flush(&mut self) -> io::Result<()>;
}
