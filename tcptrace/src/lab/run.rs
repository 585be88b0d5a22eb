//! Owns the playing of many experiments side by side.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc::Sender},
    thread,
    time::Instant,
};

use anyhow::{Context, Result};

use super::{
    experiment::Task,
    limits::{Cancelled, Skip},
    report::{Ending, Report},
    stage::Setting,
};

/// An experiment that takes longer than this mostly waits: it needs no place among those that work.
const LONG_SECONDS: u32 = 15;
/// How often an experiment is played, at most, when the trace may have missed something of it.
const MOST_ATTEMPTS: u32 = 3;

/// What is to be played, and how.
pub struct Plan {
    /// The experiments.
    pub tasks: Vec<Arc<Task>>,
    /// How many short ones at once.
    pub jobs: usize,
    /// Where a recording of each is kept.
    pub recordings: Option<PathBuf>,
    /// This kernel keeps some events from every eBPF program: an experiment that did not go as expected may
    /// not have seen one, and is played again.
    pub keeps_back: bool,
}

/// What happens meanwhile. Experiments are told by their index in the plan.
pub enum Event {
    /// One begins.
    Began(usize),
    /// One has to be played again.
    Again(usize),
    /// One is over.
    Ended(usize, Box<Report>),
}

/// Plays them all, and tells what happens. Returns when all are over.
pub(super) fn play(plan: &Plan, setting: &Setting, tell: &Sender<Event>) {
    let places = Places::new(plan.jobs);
    thread::scope(|scope| {
        let mut order: Vec<usize> = (0..plan.tasks.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(plan.tasks[*index].seconds));
        for index in order {
            let tell = tell.clone();
            let places = &places;
            let task = Arc::clone(&plan.tasks[index]);
            scope.spawn(move || {
                let is_short = task.seconds <= LONG_SECONDS;
                if is_short {
                    places.take();
                }
                // Nobody listens any more only when the lab is over.
                let _ = tell.send(Event::Began(index));
                let report = play_one(plan, setting, &task, || {
                    let _ = tell.send(Event::Again(index));
                });
                let _ = tell.send(Event::Ended(index, Box::new(report)));
                if is_short {
                    places.give_back();
                }
            });
        }
    });
}

/// Plays one, and again when the trace may have missed something of it.
fn play_one(plan: &Plan, setting: &Setting, task: &Arc<Task>, mut again: impl FnMut()) -> Report {
    let mut attempt = 1;
    loop {
        let report = attempt_at(plan, setting, task, attempt);
        let may_be_chance = match report.ending {
            Ending::Played | Ending::Failed(_) => !report.is_as_expected(),
            Ending::Skipped(_) | Ending::Interrupted => false,
        };
        let may_have_missed = plan.keeps_back || report.has_lost;
        // With wrong expectations nothing is as expected.
        if !may_be_chance || setting.contradict || !may_have_missed || attempt == MOST_ATTEMPTS {
            return report;
        }
        again();
        attempt += 1;
    }
}

fn attempt_at(plan: &Plan, setting: &Setting, task: &Arc<Task>, attempts: u32) -> Report {
    let mut report = Report {
        task: Arc::clone(task),
        kernel: setting.kernel.release.clone(),
        ending: Ending::Interrupted,
        readings: Vec::new(),
        steps: Vec::new(),
        evidence: Vec::new(),
        attempts,
        took: std::time::Duration::ZERO,
        notes: Vec::new(),
        has_lost: false,
    };
    if setting.cancel.is_cancelled() {
        return report;
    }
    let recording = match plan
        .recordings
        .as_deref()
        .map(|folder| file_for(folder, task))
    {
        Some(Err(error)) => {
            report.ending = Ending::Failed(format!("{error:#}"));
            return report;
        }
        Some(Ok(file)) => Some(file),
        None => None,
    };
    let began = Instant::now();
    match setting.perform(&task.play, recording) {
        Err(error) => report.ending = ending(&error),
        Ok(performance) => {
            report.ending = match &performance.result {
                Ok(()) => Ending::Played,
                Err(error) => ending(error),
            };
            report.notes = performance.notes;
            report.has_lost = !performance.lost.is_empty();
            report.notes.extend(performance.lost);
            report.readings = performance.played.readings;
            report.steps = performance.played.steps;
            report.evidence = performance.played.shown;
        }
    }
    report.took = began.elapsed();
    report
}

fn ending(error: &anyhow::Error) -> Ending {
    if error.downcast_ref::<Cancelled>().is_some() {
        return Ending::Interrupted;
    }
    match error.downcast_ref::<Skip>() {
        Some(Skip(why)) => Ending::Skipped(why.clone()),
        None => Ending::Failed(format!("{error:#}")),
    }
}

fn file_for(folder: &Path, task: &Task) -> Result<File> {
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let path = folder.join(format!("{}.rec", task.id));
    File::create(&path).with_context(|| format!("cannot write the recording {}", path.display()))
}

/// Places for those that work, not wait.
struct Places {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Places {
    fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count.max(1)),
            changed: Condvar::new(),
        }
    }

    fn take(&self) {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .changed
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
    }

    fn give_back(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_one();
    }
}
