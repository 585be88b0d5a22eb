//! Owns what is told of an experiment that has been played, as text for people and as JSON.

pub mod json;
pub mod text;

use std::{sync::Arc, time::Duration};

use tcptrace_model::Finding;

use super::{
    experiment::Task,
    log::Step,
    reading::{self, Reading, Verdict},
};

/// How the playing of an experiment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All of it was tried.
    Played,
    /// Something could not be tried: what.
    Failed(String),
    /// It needs something that is not there: what.
    Skipped(String),
    /// The lab was told to end.
    Interrupted,
}

/// An experiment that has been played.
pub struct Report {
    /// Which one.
    pub task: Arc<Task>,
    /// The kernel, as `uname -r`.
    pub kernel: String,
    /// How it ended.
    pub ending: Ending,
    /// What was measured.
    pub readings: Vec<Reading>,
    /// What was done.
    pub steps: Vec<Step>,
    /// What the trace told that the experiment relies on.
    pub evidence: Vec<Finding>,
    /// How often it was played: again, when the trace did not show everything.
    pub attempts: u32,
    /// How long it took, without earlier attempts.
    pub took: Duration,
    /// What is not whole, a sentence each.
    pub notes: Vec<String>,
    /// Records are missing from the trace.
    pub has_lost: bool,
}

impl Report {
    /// What was measured makes this of the claim.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        match self.ending {
            Ending::Played => reading::verdict(&self.readings, self.task.condition.as_deref()),
            Ending::Failed(_) | Ending::Skipped(_) | Ending::Interrupted => None,
        }
    }

    /// What was expected of this kernel makes this of it.
    #[must_use]
    pub fn expected_verdict(&self) -> Option<Verdict> {
        reading::expected_verdict(&self.readings, self.task.condition.as_deref())
    }

    /// Whether the kernel did what was expected of it. Not if it could not be tried.
    #[must_use]
    pub fn is_as_expected(&self) -> bool {
        self.ending == Ending::Played
            && !self.readings.is_empty()
            && self.readings.iter().all(|reading| reading.met)
            && self.verdict() == self.expected_verdict()
    }
}
