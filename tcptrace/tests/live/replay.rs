//! A recording, shown again: every byte of it is what the trace itself has shown.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::endings::ENDINGS;
use crate::lines::Report;
use crate::sockets::Family;
use crate::tracer::{self, Ended, Tracer};
use crate::{Scenario, kernel_table, netns, ports, sys};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("replay: the same lines, byte for byte", same_lines),
        Scenario::new(
            "replay: of what was recorded without being shown",
            recorded_only,
        ),
    ]
}

/// A recording that goes with its test.
struct Recording(PathBuf);

impl Recording {
    fn new(port: u16) -> Self {
        let name = format!("tcptrace-test-{}-{port}.recording", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn path(&self) -> Result<&str> {
        self.0
            .to_str()
            .context("a temporary folder that is not UTF-8")
    }

    /// What `replay` prints of it.
    fn replayed(&self) -> Result<Vec<Vec<u8>>> {
        let Ended {
            status,
            lines,
            stderr,
        } = Tracer::json_command(tracer::command(&["replay", self.path()?, "--json"], &[]))?
            .wait()?;
        ensure!(
            status.success(),
            "a whole recording must be shown, but: {status}; it said: {stderr}"
        );
        Ok(lines)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // It may never have come to be.
        let _ = fs::remove_file(&self.0);
    }
}

fn every_ending(port: u16) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let listener = family.listener(port)?;
        for ending in ENDINGS {
            (ending.run)(family.pair(&listener, port)?).context(ending.name)?;
        }
    }
    kernel_table::wait_until_closed(&[port])
}

fn same_lines() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let recording = Recording::new(port);
        let tracer = Tracer::json(&["--record", recording.path()?])?;
        every_ending(port)?;
        sys::signal(tracer.pid(), libc::SIGINT)?;
        let shown = tracer.wait()?;
        ensure!(shown.status.success(), "{}: {}", shown.status, shown.stderr);
        let replayed = recording.replayed()?;
        for (index, (first, second)) in shown.lines.iter().zip(&replayed).enumerate() {
            ensure!(
                first == second,
                "line {} was\n{}\nand is now\n{}",
                index + 1,
                String::from_utf8_lossy(first),
                String::from_utf8_lossy(second)
            );
        }
        ensure!(
            shown.lines.len() == replayed.len(),
            "{} lines were shown, and {} are now",
            shown.lines.len(),
            replayed.len()
        );
        let kinds = ["\"transition\"", "\"connection\"", "\"time_wait_entered\""];
        for kind in kinds {
            let kind = format!("{{\"kind\":{kind}");
            ensure!(
                replayed
                    .iter()
                    .any(|line| line.starts_with(kind.as_bytes())),
                "nothing in it is {kind}, so this shows too little"
            );
        }
        Ok(())
    })
}

fn recorded_only() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let recording = Recording::new(port);
        let flags = ["record", "-o", recording.path()?, "-N", "/proc/self/ns/net"];
        let mut recorder = tracer::Process::start(tracer::command(&flags, &[]))?;
        // It does not say when it is ready; the file has its beginning by then.
        let began = || fs::metadata(&recording.0).is_ok_and(|file| file.len() > 0);
        sys::wait_until(began, "the recording to begin")?;
        every_ending(port)?;
        sys::signal(recorder.0.pid(), libc::SIGINT)?;
        let status = recorder.0.wait(crate::PATIENCE)?;
        ensure!(status.success(), "{status}: {}", recorder.0.stderr());
        let lines = recording.replayed()?.into_iter().map(String::from_utf8);
        let report = Report::parse(&lines.collect::<Result<Vec<_>, _>>()?)?;
        let ends = 2 * 2 * ENDINGS.len();
        ensure!(
            report.connections.len() == ends,
            "{ends} ends of connections were recorded, not {}",
            report.connections.len()
        );
        Ok(())
    })
}
