//! Owns two tracers of the same workload, one for each backend, and what each has told.

use std::fmt;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::lines::{self, Report};
use crate::netns::{self, Netns};
use crate::puppet::Puppet;
use crate::tracer::{self, RESET_MAY_FOLLOW, Tracer};

/// The hooks that a tracer is made to use: `--backend`, and `--calls`.
const HOOKS: [[&str; 2]; 2] = [["fentry", "fentry"], ["timer", "syscalls"]];

/// Records were lost because the kernel skipped a program: there is nothing to compare.
#[derive(Debug)]
pub(super) struct Void(String);

impl fmt::Display for Void {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Void {}

/// The tracers.
pub(super) struct Both {
    tracers: [Tracer; 2],
    /// Lives in the network namespace that is traced: the tracers find it through its processes.
    _resident: Puppet,
}

/// What one of them has told: its lines as they are.
pub(super) struct Told {
    pub(super) start: Value,
    pub(super) lines: Vec<Value>,
    pub(super) summary: Value,
}

/// What both have told.
pub(super) struct ToldByBoth {
    pub(super) fentry: Told,
    pub(super) timer: Told,
}

impl Both {
    /// Traces this network namespace from another one, so that neither sees the sockets with which the other
    /// one checks itself.
    pub(super) fn of(here: &Netns) -> Result<Self> {
        let path = here.path.to_str().context("a path of /proc is UTF-8")?;
        Self::start(&["-N", path])
    }

    /// Traces these ports in all network namespaces.
    pub(super) fn of_ports(ports: &str) -> Result<Self> {
        Self::start(&["--port", ports])
    }

    fn start(what: &[&str]) -> Result<Self> {
        let resident = Puppet::start()?;
        netns::with_new(|_| {
            let [fentry, timer] = HOOKS.map(|[backend, calls]| {
                // -v: the calls that succeed, too.
                let flags = ["--json", "-v", "--backend", backend, "--calls", calls];
                Tracer::json_command(tracer::command(&flags, what))
                    .with_context(|| format!("--backend {backend}"))
            });
            Ok(Self {
                tracers: [fentry?, timer?],
                _resident: resident,
            })
        })
    }

    /// Waits until each has printed a line with all of these words.
    pub(super) fn wait_for(&mut self, words: &[&str]) -> Result<()> {
        let mut tracers = self.tracers.iter_mut();
        tracers.try_for_each(|tracer| tracer.wait_for_line_with(words))
    }

    /// Stops both. Fails if one of them traced by other hooks, or has lost something: then there is nothing to
    /// compare.
    pub(super) fn stop(self) -> Result<ToldByBoth> {
        // A trace that stops before all is decided is in doubt.
        std::thread::sleep(RESET_MAY_FOLLOW);
        // Both at once: what happens while one is read is nothing that the other one should tell.
        for tracer in &self.tracers {
            tracer.interrupt()?;
        }
        let [fentry, timer] = self.tracers;
        Ok(ToldByBoth {
            fentry: Told::by(fentry, HOOKS[0])?,
            timer: Told::by(timer, HOOKS[1])?,
        })
    }
}

impl Told {
    fn by(tracer: Tracer, [backend, calls]: [&str; 2]) -> Result<Self> {
        let ended = tracer.wait()?;
        ensure!(
            ended.status.success(),
            "--backend {backend}: the tracer must end with status 0, but: {}; it said: {}",
            ended.status,
            ended.stderr
        );
        let mut texts = Vec::new();
        for line in ended.lines {
            texts.push(String::from_utf8(line).context("a JSON line that is not UTF-8")?);
        }
        // Read strictly, and with a summary that adds up.
        let report = Report::parse(&texts)?;
        report.check_counts()?;
        let mut lines = Vec::new();
        for text in &texts {
            lines.push(serde_json::from_str::<Value>(text)?);
        }
        let summary = lines.pop().context("a trace ends with its summary")?;
        let evicted = lines::number(&summary, "evicted")?;
        if !report.lost_lines.is_empty() || evicted != 0 {
            let lost = &report.lost_lines;
            let void = format!(
                "--backend {backend}: records were lost, so the comparison is void: {lost:?}, {summary}"
            );
            let is_skip = |line: &String| line.contains(r#""reason":"recursion""#);
            return Err(if evicted == 0 && lost.iter().all(is_skip) {
                Void(void).into()
            } else {
                anyhow!(void)
            });
        }
        let start = lines.remove(0);
        let used = lines::field(&start, "backends")?;
        ensure!(
            used["time_wait"] == backend && used["calls"] == calls && used["accept"] == calls,
            "--backend {backend} --calls {calls} traced by other hooks: {used}"
        );
        Ok(Self {
            start,
            lines,
            summary,
        })
    }
}
