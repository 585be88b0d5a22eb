//! Owns how long things may take, and how an experiment is told to end.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;

/// How long anything may take that takes milliseconds on an idle machine: an emulated one is twenty
/// times slower, and a busy one slower again.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Whether the lab is to end.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// The lab was told to end.
#[derive(Clone, Copy, Debug)]
pub struct Cancelled;

/// What an experiment needs is not there: it is skipped, and why.
#[derive(Clone, Debug)]
pub struct Skip(pub String);

impl Cancel {
    /// Ends all experiments.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether they are to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails when they are to end.
    ///
    /// # Errors
    /// [`Cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Cancelled.into());
        }
        Ok(())
    }
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Cancelled {}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}
