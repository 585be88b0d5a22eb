//! What the tracers of a test tell as lost, and what of that a kernel with preemptible tracepoints skips.
//!
//! From 7.0 on a task can lose its CPU in the few instructions before a program forbids that, and until it is
//! back the kernel skips the program for all other tasks there (docs/limitations.md). It counts what it skips,
//! and the tracer tells it as lost: what is not told is no such event.

use std::{
    cell::RefCell,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Error, Result, ensure};
use tcptrace::host::kernel_version::KernelVersion;

use crate::{Needs, Scenario, netns};

thread_local! {
    /// Those of the test that this thread belongs to.
    static TOLD: RefCell<Told> = RefCell::default();
}

/// The lines in which tracers told of losses, shared by the threads of one test.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    /// Those of the calling thread's test.
    pub(crate) fn here() -> Self {
        TOLD.with_borrow(Clone::clone)
    }

    /// Makes the calling thread one of that test.
    pub(crate) fn share(self) {
        TOLD.set(self);
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn scenarios() -> Vec<Scenario> {
    let name = "losses: what a thread of a test is told is told to the test";
    vec![Scenario::new(name, shared).needing(Needs::Root)]
}

/// Notes what the line of a tracer tells.
pub(crate) fn note(line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    if line.starts_with(r#"{"kind":"lost""#) {
        Told::here().lines().push(line.trim_end().to_owned());
    }
}

/// The lines since the last call.
pub(crate) fn take() -> Vec<String> {
    mem::take(&mut Told::here().lines())
}

/// How many of the lines tell of what the kernel skipped; 0 on one whose tracepoints are not preemptible, where
/// nothing excuses that.
pub(crate) fn excused(lines: &[String]) -> usize {
    if !KernelVersion::running().is_ok_and(|kernel| kernel.is_at_least(7, 0)) {
        return 0;
    }
    let skips = |line: &&String| line.contains(r#""reason":"recursion""#);
    lines.iter().filter(skips).count()
}

/// The failure of a test, with what its tracers told as lost meanwhile.
pub(crate) fn with_losses(error: Error, lines: &[String]) -> Error {
    if lines.is_empty() {
        return error;
    }
    error.context(format!(
        "while tracers told of losses ({})",
        lines.join(", ")
    ))
}

fn shared() -> Result<()> {
    take();
    netns::with_new(|_| {
        note(br#"{"kind":"lost","reason":"recursion"}"#);
        note(br#"{"kind":"transition"}"#);
        Ok(())
    })?;
    let lines = take();
    ensure!(lines.len() == 1, "one line tells of a loss: {lines:?}");
    ensure!(take().is_empty(), "it is told once");
    Ok(())
}
