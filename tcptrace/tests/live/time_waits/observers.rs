//! A tracer for each backend, all at the same time.

use anyhow::{Context, Result};

use crate::lines::{self, Report};
use crate::tracer::{self, RESET_MAY_FOLLOW, Tracer};

/// The tracers.
pub(super) struct Observers {
    tracers: Vec<(&'static str, Tracer)>,
}

/// What one of them has told.
pub(super) struct Observed {
    pub(super) report: Report,
    /// `fentry` or `timer`.
    pub(super) backend: String,
}

impl Observers {
    /// Traces this network namespace with the backend that the tracer chooses, and also with the
    /// timer's if it has not chosen that.
    pub(super) fn here() -> Result<Self> {
        Self::start(&["--json", "-N", "/proc/self/ns/net"])
    }

    /// Likewise these ports in all network namespaces.
    pub(super) fn everywhere(ports: &str) -> Result<Self> {
        Self::start(&["--json", "--port", ports])
    }

    fn start(flags: &[&str]) -> Result<Self> {
        let chosen = Tracer::json_command(tracer::command(flags, &[]))?;
        let backend = backend_of(&chosen.start_line()?)?;
        let mut tracers = vec![("auto", chosen)];
        if backend != "timer" {
            let forced = tracer::command(flags, &["--backend", "timer"]);
            tracers.push(("timer", Tracer::json_command(forced)?));
        }
        Ok(Self { tracers })
    }

    /// Waits until each has printed a line with all of these words.
    pub(super) fn wait_for(&mut self, words: &[&str]) -> Result<()> {
        for (_, tracer) in &mut self.tracers {
            tracer.wait_for_line_with(words)?;
        }
        Ok(())
    }

    /// Stops all, checks what each has told, and says whose check has failed.
    pub(super) fn check(self, check: impl Fn(&Observed) -> Result<()>) -> Result<()> {
        // A trace that stops before all is decided is in doubt.
        std::thread::sleep(RESET_MAY_FOLLOW);
        // All at once: what happens while one is read is nothing that the others should tell.
        for (_, tracer) in &self.tracers {
            tracer.interrupt()?;
        }
        for (choice, tracer) in self.tracers {
            let report = tracer.report()?;
            let backend = backend_of(&report.start)?;
            let observed = Observed { report, backend };
            check(&observed)
                .and_then(|()| observed.report.check_counts())
                .with_context(|| format!("with --backend {choice}"))?;
        }
        Ok(())
    }
}

impl Observed {
    pub(super) fn is_fentry(&self) -> bool {
        self.backend == "fentry"
    }
}

fn backend_of(start: &serde_json::Value) -> Result<String> {
    let backends = lines::field(start, "backends")?;
    lines::text(backends, "time_wait").map(str::to_owned)
}
