//! Owns the switch by which the kernel times eBPF programs.

use std::{fs::File, io::Read as _, os::unix::fs::FileExt as _};

use anyhow::{Context as _, Result};

/// Where the kernel is told to time every run of every eBPF program.
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Makes the kernel time eBPF programs until dropped.
pub(super) struct BpfStats {
    switch: File,
    before: String,
}

impl BpfStats {
    pub(super) fn enable() -> Result<Self> {
        let mut switch = (File::options().read(true).write(true).open(SWITCH))
            .with_context(|| format!("this kernel does not time eBPF programs: no {SWITCH}"))?;
        let mut before = String::new();
        (switch.read_to_string(&mut before)).with_context(|| format!("cannot read {SWITCH}"))?;
        let stats = Self { switch, before };
        stats.set("1")?;
        Ok(stats)
    }

    /// Does something while programs run as they do at a user's, untimed: two looks at the clock are as much as an
    /// empty program takes.
    pub(super) fn without<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.set("0")?;
        let acted = act();
        self.set("1")?;
        acted
    }

    fn set(&self, value: &str) -> Result<()> {
        (self.switch.write_all_at(value.as_bytes(), 0))
            .with_context(|| format!("cannot write {SWITCH}"))
    }
}

impl Drop for BpfStats {
    fn drop(&mut self) {
        // Back to what it was; there is nothing to do about a refusal.
        let _ = self.set(&self.before);
    }
}
