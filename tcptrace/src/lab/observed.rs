//! Owns what the trace tells of one network namespace: its own tracker, what that has found, and a recording
//! of it if one is wanted.

use std::{
    fs::File,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tcptrace_model::{Finding, Input, Loss, Settings, Tracker};

use super::limits::{Cancel, PATIENCE};
use crate::{
    record::{Step, write::Recorder},
    render::text::loss_sentence,
};

/// How often one who waits looks whether the lab is to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The trace of one namespace, filled by the thread that reads the kernel's buffer and read by the experiment.
pub struct Observed {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    tracker: Tracker,
    findings: Vec<Finding>,
    recorder: Option<Recorder<File>>,
    /// Why the recording is not whole.
    trouble: Option<String>,
    /// Records are missing; how many, the losses say, a moment later.
    has_gap: bool,
    losses: Vec<Loss>,
}

impl Observed {
    pub(super) fn new(settings: Settings, recorder: Option<Recorder<File>>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                tracker: Tracker::new(settings),
                findings: Vec::new(),
                recorder,
                trouble: None,
                has_gap: false,
                losses: Vec::new(),
            }),
            changed: Condvar::new(),
        }
    }

    /// Takes the next step of the trace.
    pub(super) fn step(&self, step: &Step) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let Some(recorder) = &mut inner.recorder
            && let Err(error) = recorder.step(step)
        {
            inner.recorder = None;
            inner.trouble = Some(format!("its recording is not whole: {error}"));
        }
        match step {
            Step::Input(input) => {
                match input {
                    Input::Gap { .. } => inner.has_gap = true,
                    Input::Lost(loss) => inner.losses.push(*loss),
                    Input::Transition(_)
                    | Input::MinisocketEntered(_)
                    | Input::MinisocketRearmed(_)
                    | Input::MinisocketEnded(_)
                    | Input::Reset(_)
                    | Input::Accepted(_)
                    | Input::Holder(_)
                    | Input::Surroundings(_)
                    | Input::Call(_)
                    | Input::Snapshot(_) => {}
                }
                inner.tracker.handle(input);
            }
            Step::Tick { now_ns } => inner.tracker.advance(*now_ns),
            Step::End(ending) => inner.tracker.finish(ending.ts_ns),
        }
        let before = inner.findings.len();
        while let Some(finding) = inner.tracker.poll() {
            inner.findings.push(finding);
        }
        if inner.findings.len() > before {
            self.changed.notify_all();
        }
    }

    /// Ends its recording.
    pub(super) fn end(&self, step: &Step) -> Option<String> {
        self.step(step);
        let mut inner = self.lock();
        if let Some(mut recorder) = inner.recorder.take()
            && let Err(error) = recorder.flush()
        {
            return Some(format!("its recording is not whole: {error}"));
        }
        inner.trouble.take()
    }

    /// What is missing from it, a sentence each.
    pub(super) fn lost(&self) -> Vec<String> {
        let inner = self.lock();
        if inner.losses.is_empty() && inner.has_gap {
            return vec!["records of the trace were lost meanwhile".to_owned()];
        }
        inner.losses.iter().map(loss_sentence).collect()
    }

    /// All that `wanted` takes of what has been found so far.
    pub fn all<T>(&self, wanted: impl FnMut(&Finding) -> Option<T>) -> Vec<T> {
        self.lock().findings.iter().filter_map(wanted).collect()
    }

    /// Waits until the first `count` things that `wanted` takes have been found.
    ///
    /// # Errors
    /// When they are not found in time, or the lab is to end.
    pub fn wait_for<T>(
        &self,
        what: &str,
        count: usize,
        cancel: &Cancel,
        mut wanted: impl FnMut(&Finding) -> Option<T>,
    ) -> Result<Vec<T>> {
        let deadline = Instant::now() + PATIENCE;
        let mut found = Vec::new();
        let mut looked_at = 0;
        let mut inner = self.lock();
        loop {
            let new = inner.findings.get(looked_at..).unwrap_or_default();
            looked_at += new.len();
            found.extend(new.iter().filter_map(&mut wanted));
            if found.len() >= count {
                found.truncate(count);
                return Ok(found);
            }
            cancel.check()?;
            if Instant::now() >= deadline {
                bail!(
                    "the trace was to tell of {what} ({count} times) and did so {} times within {PATIENCE:?}",
                    found.len()
                );
            }
            inner = self
                .changed
                .wait_timeout(inner, LOOK_EVERY)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(inner, _)| inner);
        }
    }

    /// Waits for the first thing that `wanted` takes.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn first<T>(
        &self,
        what: &str,
        cancel: &Cancel,
        wanted: impl FnMut(&Finding) -> Option<T>,
    ) -> Result<T> {
        let found = self.wait_for(what, 1, cancel, wanted)?;
        found.into_iter().next().context("nothing was found")
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a thread that panicked left is still what the trace has told.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
