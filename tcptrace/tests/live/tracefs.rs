//! The kernel's own tracing: instances of it, each with a buffer of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use crate::sys;

pub(crate) const TRACEFS: &str = "/sys/kernel/tracing";
/// The event of every change of TCP state.
pub(crate) const TRANSITIONS: &str = "events/sock/inet_sock_set_state";
const PREFIX: &str = "tcptrace-test";

/// Makes tracefs available, mounting it if need be.
///
/// Returns a sentence if it had to do something, and an error with the reason if it cannot.
pub(crate) fn prepare() -> Result<Option<String>> {
    let instances = Path::new(TRACEFS).join("instances");
    let mut said = None;
    if !instances.exists() {
        sys::mount("tracefs", TRACEFS, "tracefs", 0)?;
        said = Some(format!(
            "mounted tracefs on {TRACEFS}, where it was not mounted"
        ));
    }
    let event = Path::new(TRACEFS).join(TRANSITIONS);
    ensure!(event.exists(), "this kernel has no {}", event.display());
    remove_abandoned(&instances)?;
    Ok(said)
}

/// A trace buffer of its own. It is gone with this.
pub(crate) struct Instance {
    path: PathBuf,
}

impl Instance {
    /// One that records nothing yet.
    pub(crate) fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{PREFIX}-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = Path::new(TRACEFS).join("instances").join(name);
        fs::create_dir(&path)
            .with_context(|| format!("cannot make the trace instance {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one of its files.
    pub(crate) fn write(&self, name: &str, value: &str) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, value)
            .with_context(|| format!("cannot write {value} to {}", path.display()))
    }

    /// CLOCK_BOOTTIME ns of each event called `event` in its buffer, to a microsecond.
    pub(crate) fn dates(&self, event: &str) -> Result<Vec<u64>> {
        let text = fs::read_to_string(self.path.join("trace"))?;
        let mark = format!(": {event}:");
        text.lines()
            .filter_map(|line| Some((line, line.split_once(&mark)?.0)))
            .map(|(line, before)| date(before).with_context(|| format!("in {line:?}")))
            .collect()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the next run removes what is left. An instance
        // cannot be removed while one of its files is open.
        let _ = self.write("events/enable", "0");
        let _ = fs::remove_dir(&self.path);
    }
}

/// The time at the end of `  <idle>-0  [001] ..s1.   12345.678901`.
fn date(before: &str) -> Result<u64> {
    let written = before.split_whitespace().last().context("no time")?;
    let (seconds, micros) = written.split_once('.').context("no point in the time")?;
    ensure!(micros.len() == 6, "microseconds, not {micros}");
    Ok(seconds.parse::<u64>()? * 1_000_000_000 + micros.parse::<u64>()? * 1000)
}

/// Removes instances of runs that were killed before they could.
fn remove_abandoned(instances: &Path) -> Result<()> {
    for entry in fs::read_dir(instances)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').nth(1));
        if let Some(pid) = owner
            && !Path::new("/proc").join(pid).exists()
        {
            // Another run may be doing the same; either may be the one that succeeds.
            let _ = fs::remove_dir(&path);
        }
    }
    Ok(())
}
