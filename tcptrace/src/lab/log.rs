//! Owns what an experiment did, step by step.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The steps of an experiment.
#[derive(Debug)]
pub struct Log {
    began: Instant,
    steps: Mutex<Vec<Step>>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How long after the beginning of the experiment.
    pub after: Duration,
    /// What happened, in words.
    pub what: String,
}

impl Log {
    /// It begins now.
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            steps: Mutex::default(),
        }
    }

    /// How long ago it began.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// One more.
    pub(super) fn add(&self, what: impl fmt::Display) {
        self.lock().push(Step {
            after: self.began.elapsed(),
            what: what.to_string(),
        });
    }

    /// All so far.
    pub(super) fn steps(&self) -> Vec<Step> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Step>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
