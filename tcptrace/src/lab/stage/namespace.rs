//! Network namespaces, each with a thread of its own: where a stage comes from, and where it goes.

use std::{cell::Cell, fs::File, panic, sync::Arc, thread};

use anyhow::{Context, Result, anyhow};

use super::{Kernel, Played, Stage};
use crate::{
    failure::Failure,
    host::{interface, netns::Namespace},
    lab::{limits::Cancel, log::Log, observed::Observed, sys, watch::Watch},
};

/// What all stages of a run have in common.
#[derive(Clone)]
pub(in crate::lab) struct Setting {
    pub(in crate::lab) kernel: Kernel,
    pub(in crate::lab) watch: Arc<Watch>,
    pub(in crate::lab) cancel: Cancel,
    pub(in crate::lab) contradict: bool,
}

/// What was played in a namespace, and what went wrong beside it.
pub(in crate::lab) struct Performance {
    pub(in crate::lab) result: Result<()>,
    pub(in crate::lab) played: Played,
    /// What is missing from the trace, a sentence each.
    pub(in crate::lab) lost: Vec<String>,
    /// What is not whole, a sentence each.
    pub(in crate::lab) notes: Vec<String>,
}

/// Fails where no network namespace may be made.
pub(in crate::lab) fn demand_namespaces() -> Result<(), Failure> {
    let made = thread::spawn(sys::new_network_namespace)
        .join()
        .unwrap_or_else(|panic| panic::resume_unwind(panic));
    made.map_err(|error| {
        Failure::Unsupported(format!(
            "the lab plays in network namespaces of its own, and the kernel makes none ({error}); run it as root (sudo), and in a container with: --privileged"
        ))
    })
}

impl Setting {
    /// Plays something on a stage of its own, in a new network namespace that nothing outlives.
    ///
    /// # Errors
    /// When there is no such namespace to be had.
    pub(in crate::lab) fn perform(
        &self,
        play: &(dyn Fn(&mut Stage) -> Result<()> + Sync),
        recording: Option<File>,
    ) -> Result<Performance> {
        inside_new(|netns| {
            let mut stage = self.stage(netns, recording, Arc::new(Log::new()))?;
            let result = play(&mut stage);
            let lost = stage.observed.lost();
            Ok(Performance {
                result,
                lost,
                notes: self.watch.forget(netns).into_iter().collect(),
                played: stage.played(),
            })
        })
    }

    fn stage(&self, netns: u32, recording: Option<File>, log: Arc<Log>) -> Result<Stage> {
        Ok(Stage {
            kernel: self.kernel.clone(),
            observed: self.watch.observe(netns, recording)?,
            watch: Arc::clone(&self.watch),
            cancel: self.cancel.clone(),
            log,
            readings: Vec::new(),
            shown: Vec::new(),
            contradict: self.contradict,
            addresses: Cell::new(0),
            wires: Vec::new(),
        })
    }
}

impl Stage {
    /// Plays something in yet another network namespace, which the kernel takes down when `play` is over.
    /// Returns what `play` does, and what the trace tells of that namespace, also from then on.
    ///
    /// # Errors
    /// When there is no such namespace to be had, or `play` fails.
    pub fn elsewhere<T: Send>(
        &self,
        play: impl FnOnce(&mut Self) -> Result<T> + Send,
    ) -> Result<(T, Arc<Observed>)> {
        let setting = Setting {
            kernel: self.kernel.clone(),
            watch: Arc::clone(&self.watch),
            cancel: self.cancel.clone(),
            contradict: self.contradict,
        };
        let log = Arc::clone(&self.log);
        inside_new(move |netns| {
            let mut stage = setting.stage(netns, None, log)?;
            let played = play(&mut stage)?;
            Ok((played, stage.observed))
        })
    }
}

/// Runs `body` on a thread in a new network namespace with loopback up, and tells it the inode number.
fn inside_new<T: Send>(body: impl FnOnce(u32) -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            sys::new_network_namespace().context("cannot make a network namespace")?;
            interface::bring_up("lo").context("cannot bring lo up")?;
            let own = Namespace::own().map_err(|sentence| anyhow!(sentence))?;
            body(own.inode)
        });
        inside
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}
