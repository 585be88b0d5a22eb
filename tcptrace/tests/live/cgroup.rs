//! A control group of its own for a test, in the cgroup2 hierarchy, removed when the test ends.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::ports;

/// A group below the root of the hierarchy.
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes an empty group.
    pub(crate) fn new() -> Result<Self> {
        // A port is as good a unique number as any.
        let name = format!("tcptrace-test-{}-{}", std::process::id(), ports::next());
        let path = mount_point()?.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Moves a process into the group.
    pub(crate) fn take(&self, pid: u32) -> Result<()> {
        let procs = self.path.join("cgroup.procs");
        fs::write(&procs, pid.to_string())
            .with_context(|| format!("cannot move {pid} into {}", self.path.display()))
    }

    /// The group's id in the kernel, which is the inode of its directory.
    pub(crate) fn id(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// The group's directory, as the tracer's `--cgroup` takes it.
    pub(crate) fn path(&self) -> Result<&str> {
        self.path
            .to_str()
            .context("a cgroup path that is not UTF-8")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel needs a moment to let go of a process that has just ended.
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.path).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Where the cgroup2 hierarchy is mounted.
pub(crate) fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?))
        })
        .find(|(_, kind)| *kind == "cgroup2")
        .map(|(path, _)| PathBuf::from(path))
        .context("no cgroup2 hierarchy is mounted")
}
