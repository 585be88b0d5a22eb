//! What is to be told of one minisocket, and how the lines differ from it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::observers::Observed;
use crate::sys;
use crate::told::Minisocket;

/// Where the timer's tracepoints do not date the real TIME_WAIT, it is computed from the timer, within
/// a tick of the kernel: 10 ms at 100 Hz, and the clocks' own steps.
const TICK: Duration = Duration::from_millis(12);
/// What a backend without the exact date or reason may say against itself.
const ALLOWED_DOUBTS: [&str; 3] = ["date_from_stamp", "date_from_timer", "end_not_shown"];

/// A duration between two bounds.
pub(super) type Bounds = (Duration, Duration);

/// One minisocket.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) name: String,
    pub(super) lport: u16,
    pub(super) rport: u16,
    pub(super) end: &'static str,
    pub(super) last_phase: &'static str,
    /// The system call of this process that ended it.
    pub(super) by_us: bool,
    /// How often its timer was set anew in the real TIME_WAIT.
    pub(super) rearmed: u64,
    /// How long it waited for the peer's FIN.
    pub(super) fin_wait2: Bounds,
    /// How long the real TIME_WAIT lasted.
    pub(super) time_wait: Bounds,
    pub(super) timeout: Duration,
}

/// The moments between which the phases begin and end, by the test's own clock.
pub(super) struct Phases {
    /// Before and after the minisocket was made.
    made: (Instant, Instant),
    /// Before and after the real TIME_WAIT began; the same as above if that came first.
    waited: Option<(Instant, Instant)>,
}

impl Phases {
    /// The minisocket has been made since `began`.
    pub(super) fn made_since(began: Instant) -> Self {
        Self {
            made: (began, Instant::now()),
            waited: None,
        }
    }

    /// The peer's FIN has come since `began`.
    pub(super) fn waits_since(&mut self, began: Instant) {
        self.waited = Some((began, Instant::now()));
    }

    /// What is to be told of a minisocket with these phases that was ended since `ending`.
    pub(super) fn ended(
        self,
        name: &str,
        ports: (u16, u16),
        end: &'static str,
        ending: Instant,
    ) -> Expected {
        let ended = (ending, Instant::now());
        let between = |from: (Instant, Instant), to: (Instant, Instant)| {
            (
                to.0.saturating_duration_since(from.1),
                to.1.saturating_duration_since(from.0),
            )
        };
        let none = (Duration::ZERO, Duration::ZERO);
        let (last_phase, fin_wait2, time_wait) = match self.waited {
            Some(waited) => (
                "time_wait",
                between(self.made, waited),
                between(waited, ended),
            ),
            None => ("fin_wait2", between(self.made, ended), none),
        };
        Expected {
            name: name.to_owned(),
            lport: ports.0,
            rport: ports.1,
            end,
            last_phase,
            by_us: false,
            rearmed: 0,
            fin_wait2,
            time_wait,
            timeout: Duration::from_secs(60),
        }
    }
}

impl Expected {
    pub(super) fn by_us(self) -> Self {
        Self {
            by_us: true,
            ..self
        }
    }

    /// The minisocket was made when the peer's FIN had come already.
    pub(super) fn without_fin_wait2(self) -> Self {
        let most = self.time_wait.1 + self.fin_wait2.1;
        Self {
            fin_wait2: (Duration::ZERO, Duration::ZERO),
            time_wait: (self.time_wait.0, most),
            ..self
        }
    }

    /// Fails unless that is what the lines say.
    pub(super) fn check(&self, observed: &Observed) -> Result<()> {
        let report = &observed.report;
        let mine = |line: &&Minisocket| {
            (line.ends.lport, line.ends.rport) == (self.lport, self.rport)
                && (line.end == self.end || self.cannot_be_told(line, observed))
        };
        let lines: Vec<&Minisocket> = report.time_waits.iter().filter(mine).collect();
        let all: Vec<&Minisocket> = report
            .time_waits
            .iter()
            .filter(|line| (line.ends.lport, line.ends.rport) == (self.lport, self.rport))
            .collect();
        ensure!(
            lines.len() == 1,
            "one line must say that {} -> {} ended as {}, but there are {all:#?}",
            self.lport,
            self.rport,
            self.end
        );
        let line = lines[0];
        let problems = self.problems(line, observed);
        ensure!(
            problems.is_empty(),
            "{}\n    in {line:?}",
            problems.join("\n    ")
        );
        self.check_entry(line, observed)
    }

    /// Whether a SYN cannot be told from data: no function shows it, and before 6.10 the kernel has no
    /// event for the RST that a minisocket sends.
    fn cannot_be_told(&self, line: &Minisocket, observed: &Observed) -> bool {
        ["reused_by_syn", "data_after_close"].contains(&self.end)
            && !observed.is_fentry()
            && !sys::kernel_is_at_least(6, 10)
            && line.end == "unknown"
            && line.sure.doubts("end_not_shown")
    }

    fn problems(&self, line: &Minisocket, observed: &Observed) -> Vec<String> {
        let mut problems = Vec::new();
        let mut must = |holds: bool, what: String| {
            if !holds {
                problems.push(what);
            }
        };
        must(
            line.last_phase == self.last_phase,
            format!("it ended in {}", self.last_phase),
        );
        let us = std::process::id();
        let by = line.by.as_ref().map(|process| process.pid);
        must(
            by == self.by_us.then_some(us),
            format!("ended by us: {}", self.by_us),
        );
        let owner = line.owner.as_ref().map(|owner| owner.process.pid);
        must(owner == Some(us), format!("it was owned by us, {us}"));
        if observed.is_fentry() {
            must(
                line.sure.is_exact().is_ok(),
                "with fentry all of it is seen".to_owned(),
            );
            must(
                line.rearmed == self.rearmed && !line.rearmed_at_least,
                format!("its timer was set anew {} times", self.rearmed),
            );
        } else {
            let allowed = |doubt: &String| ALLOWED_DOUBTS.contains(&doubt.as_str());
            must(
                line.sure.doubts.iter().all(allowed),
                "there are doubts without need".to_owned(),
            );
            must(
                line.sure.certainty != "unknown" || line.end == "unknown",
                "what is known is certain or inferred".to_owned(),
            );
            must(
                line.rearmed <= self.rearmed
                    && (line.rearmed == self.rearmed || line.rearmed_at_least),
                format!("its timer was set anew {} times", self.rearmed),
            );
        }
        // A timer that was set again says nothing of when it was set first.
        if self.rearmed == 0 || !line.sure.doubts("date_from_timer") {
            let slack = if observed.is_fentry() {
                Duration::ZERO
            } else {
                TICK
            };
            for (what, (least, most), told) in [
                ("FIN_WAIT2", self.fin_wait2, line.fin_wait2_ns),
                ("TIME_WAIT", self.time_wait, line.time_wait_ns),
            ] {
                // A phase that never was lasted exactly nothing.
                let slack = if most.is_zero() {
                    Duration::ZERO
                } else {
                    slack
                };
                let told = told.map(Duration::from_nanos);
                must(
                    told.is_some_and(|told| {
                        least.saturating_sub(slack) <= told && told <= most + slack
                    }),
                    format!("{what} lasted {least:?} to {most:?}, not {told:?}"),
                );
            }
        }
        problems
    }

    /// The line that told of its beginning.
    fn check_entry(&self, line: &Minisocket, observed: &Observed) -> Result<()> {
        let mine = |entered: &&crate::told::Entered| {
            entered.ends == line.ends && Some(entered.ts_ns) == line.entered_ns
        };
        let entered: Vec<_> = observed.report.entered.iter().filter(mine).collect();
        ensure!(
            entered.len() == 1,
            "its beginning is told {} times: {line:?}",
            entered.len()
        );
        let entered = entered[0];
        let begins_with_fin_wait2 = !self.fin_wait2.1.is_zero();
        ensure!(
            entered.fin_wait2 == begins_with_fin_wait2,
            "it began with FIN_WAIT2: {begins_with_fin_wait2}, but {entered:?}"
        );
        let timeout = Duration::from_millis(entered.timeout_ms);
        ensure!(
            timeout.abs_diff(self.timeout) <= TICK,
            "its timer was set to {:?}, not {entered:?}",
            self.timeout
        );
        let owner = entered.owner.as_ref().map(|owner| owner.process.pid);
        ensure!(owner == Some(std::process::id()), "it is ours: {entered:?}");
        let span = line
            .fin_wait2_ns
            .zip(line.time_wait_ns)
            .map(|(first, second)| first + second);
        ensure!(
            span == Some(line.ts_ns - entered.ts_ns),
            "the phases add up to {span:?}, but it lasted {} ns: {line:?}",
            line.ts_ns - entered.ts_ns
        );
        Ok(())
    }
}

/// Fails with all that is wrong, not only the first.
pub(super) fn check_all(expected: &[Expected], observed: &Observed) -> Result<()> {
    let wrong: Vec<String> = expected
        .iter()
        .filter_map(|one| {
            let error = one.check(observed).err()?;
            Some(format!("{}: {error:#}", one.name))
        })
        .collect();
    ensure!(
        wrong.is_empty(),
        "{} of {} minisockets are told wrong ({} backend):\n{}",
        wrong.len(),
        expected.len(),
        observed.backend,
        wrong.join("\n")
    );
    Ok(())
}
