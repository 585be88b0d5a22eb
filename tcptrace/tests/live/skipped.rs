//! What a kernel skips with preemptible tracepoints, and the tracer tells that it did.
//!
//! From 7.0 on a task can lose its CPU in the few instructions before a program forbids that, and until it is
//! back the kernel skips the program for all other tasks there (docs/limitations.md). It counts what it skips,
//! and the tracer tells it as lost: what is not told is no such event.

use std::cell::Cell;

use tcptrace::host::kernel_version::KernelVersion;

thread_local! {
    /// How many lines have told this thread's test of what was skipped.
    static TOLD: Cell<usize> = const { Cell::new(0) };
}

/// Notes what the line of a tracer tells.
pub(crate) fn note(line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    if line.starts_with(r#"{"kind":"lost""#) && line.contains(r#""reason":"recursion""#) {
        TOLD.set(TOLD.get() + 1);
    }
}

/// How many such lines there were since the last call; 0 on a kernel whose tracepoints are not preemptible,
/// where nothing excuses them.
pub(crate) fn take() -> usize {
    let told = TOLD.replace(0);
    if has_preemptible_tracepoints() {
        told
    } else {
        0
    }
}

fn has_preemptible_tracepoints() -> bool {
    KernelVersion::running().is_ok_and(|kernel| kernel.is_at_least(7, 0))
}
