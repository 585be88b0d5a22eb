//! Owns files that go away with the measurement that needed them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

/// A path among the temporary files; what is there is removed when dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A path that nothing else has; nothing is there yet.
    pub(super) fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tcptrace-bench-{}-{count}-{name}", process::id());
        Self(env::temp_dir().join(name))
    }

    /// A new folder.
    pub(super) fn folder(name: &str) -> Result<Self> {
        let scratch = Self::new(name);
        fs::create_dir(&scratch.0)
            .with_context(|| format!("cannot create {}", scratch.0.display()))?;
        Ok(scratch)
    }

    /// A new file.
    pub(super) fn file(name: &str) -> Result<(Self, fs::File)> {
        let scratch = Self::new(name);
        let file = fs::File::create(&scratch.0)
            .with_context(|| format!("cannot write {}", scratch.0.display()))?;
        Ok((scratch, file))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may be either, or never have come to be.
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}
