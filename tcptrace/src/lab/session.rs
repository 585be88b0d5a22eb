//! Owns a session of the lab: the trace, the thread that plays the experiments, and how both end.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Result, anyhow};

use super::{
    experiment::Task,
    limits::Cancel,
    run::{self, Event, Plan},
    stage::{self, Kernel, Setting},
    watch::Watch,
};
use crate::{
    failure::Failure,
    host::{clock, kernel_version::KernelVersion},
    render::Start,
    source::live::Request,
};

/// What is to be played, and how.
pub struct Wanted {
    /// The experiments.
    pub tasks: Vec<Arc<Task>>,
    /// How many short ones at once; `None` for four for each CPU.
    pub jobs: Option<usize>,
    /// Where a recording of each is kept.
    pub recordings: Option<PathBuf>,
    /// Every expectation is turned into a wrong one.
    pub contradict: bool,
}

/// Experiments that are being played. All of it has ended when [`Session::end`] returns.
pub struct Session {
    watch: Arc<Watch>,
    cancel: Cancel,
    player: JoinHandle<()>,
    /// What happens. It ends when all experiments are over.
    pub events: Receiver<Event>,
}

impl Session {
    /// Begins to trace, and to play.
    ///
    /// # Errors
    /// As [`crate::source::live::Live::open`].
    pub fn begin(wanted: Wanted, request: Request) -> Result<Self, Failure> {
        stage::demand_namespaces()?;
        let version = KernelVersion::running().map_err(anyhow::Error::from)?;
        let kernel = Kernel {
            version: (&version).into(),
            release: version.release,
            hz: clock::hz().map_err(anyhow::Error::from)?,
        };
        let watch = Arc::new(Watch::begin(request)?);
        let cancel = Cancel::default();
        let setting = Setting {
            kernel,
            watch: Arc::clone(&watch),
            cancel: cancel.clone(),
            contradict: wanted.contradict,
        };
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let plan = Plan {
            tasks: wanted.tasks,
            jobs: wanted.jobs.unwrap_or(4 * cpus),
            recordings: wanted.recordings,
            keeps_back: watch.keeps_back,
        };
        let (tell, events) = mpsc::channel();
        let player = thread::spawn(move || run::play(&plan, &setting, &tell));
        Ok(Self {
            watch,
            cancel,
            player,
            events,
        })
    }

    /// What the trace began with.
    #[must_use]
    pub fn start(&self) -> &Start {
        &self.watch.start
    }

    /// Ends the experiments that are still being played.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Waits for all experiments, and ends the trace. Returns what it has turned out not to show.
    ///
    /// # Errors
    /// When the trace could not be read to its end, or an experiment panicked.
    pub fn end(self) -> Result<Vec<String>> {
        let Self {
            watch,
            cancel: _,
            player,
            events: _,
        } = self;
        player
            .join()
            .map_err(|_| anyhow!("an experiment has panicked"))?;
        let troubles = watch.troubles();
        let watch = Arc::into_inner(watch).ok_or_else(|| anyhow!("an experiment still runs"))?;
        watch.end()?;
        Ok(troubles)
    }
}
