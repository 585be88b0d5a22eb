//! Owns what tcptrace's programs cost in the kernel: what is in them, and the time that they take beside a program
//! that does a fixed number of plain instructions for the same events.

use anyhow::{Context as _, Result, ensure};

use super::base::Figures;
use crate::{
    bench::{
        bpf_stats::BpfStats,
        contender::{self, Entrant},
        floor::{Floor, Hook},
        procfs::Runs,
        programs::{self, Program},
        stage::{Over, Stage},
        stats,
        tracer::{Refused, Tracer},
        work::{Load, Prepared, Work},
    },
    build, run,
};

/// Short batches: a busy machine leaves some of them alone.
const BATCHES: usize = 3_000;
/// Round trips of the reference program's loop, three instructions each.
const ROUND_TRIPS: u16 = 400;
/// The program for state changes, by the 15 bytes that the kernel keeps of its name, and the beginning of the
/// names of those that run for every timer of the machine.
const SET_STATE: &str = "inet_sock_set_s";
const TIMERS: &str = "timer_";

/// The instructions and the calls of helpers in the programs of each name.
pub(super) fn count() -> Result<Figures> {
    with_programs(|programs| {
        let mut figures = Figures::new();
        for program in programs {
            let instructions = program.instructions()?;
            ensure!(
                !instructions.is_empty(),
                "the kernel does not show the instructions of programs"
            );
            let calls = programs::helper_calls(&instructions);
            for (what, count) in [("instructions", instructions.len()), ("calls", calls)] {
                let name = format!("{}, {what}", program.name());
                *figures.entry(name).or_default() += f64::from(u32::try_from(count)?);
            }
        }
        Ok(figures)
    })
}

/// The time of the programs for one connection that is reset and one that is closed in order, of that of one run
/// of the reference program.
pub(super) fn measure() -> Result<Figures> {
    with_programs(|programs| {
        // Their servers listen on the same ports.
        let stages = [Stage::new(Over::Loopback)?, Stage::new(Over::Loopback)?];
        let prepared = [Work::Reset, Work::Orderly]
            .into_iter()
            .zip(&stages)
            .map(|(work, stage)| {
                let load = Load {
                    work,
                    over: Over::Loopback,
                    drivers: 1,
                    times: 1,
                };
                Ok((load, Prepared::new(load, stage)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let reference = Floor::that_counts(Hook::SetState, ROUND_TRIPS)?;
        let now = || -> Result<Times> {
            let mut times = Times::default();
            for program in programs {
                times.add(program.name(), program.runs()?);
            }
            times.reference = reference.runs()?;
            Ok(times)
        };
        let mut fastest = Fastest::NONE;
        for _ in 0..BATCHES {
            let before = now()?;
            for (load, prepared) in &prepared {
                prepared.drive(*load)?;
            }
            fastest.take(before, now()?);
        }
        fastest.figures()
    })
}

/// ns so far.
#[derive(Clone, Copy, Default)]
struct Times {
    /// Of the programs for state changes.
    set_state: u64,
    /// Of all that run for these connections only.
    all: u64,
    reference: Runs,
}

impl Times {
    fn add(&mut self, name: &str, runs: Runs) {
        if name == SET_STATE {
            self.set_state += runs.time_ns;
        }
        if !name.starts_with(TIMERS) {
            self.all += runs.time_ns;
        }
    }
}

/// ns in the fastest batch of each, of the reference program for one run.
struct Fastest {
    set_state: f64,
    all: f64,
    reference: f64,
}

impl Fastest {
    const NONE: Self = Self {
        set_state: f64::INFINITY,
        all: f64::INFINITY,
        reference: f64::INFINITY,
    };

    fn take(&mut self, before: Times, after: Times) {
        let runs = after.reference.since(before.reference);
        if runs.count == 0 {
            return;
        }
        let reference = stats::as_f64(runs.time_ns) / stats::as_f64(runs.count);
        self.reference = self.reference.min(reference);
        let set_state = stats::as_f64(after.set_state - before.set_state);
        self.set_state = self.set_state.min(set_state);
        self.all = self.all.min(stats::as_f64(after.all - before.all));
    }

    fn figures(&self) -> Result<Figures> {
        ensure!(
            self.reference.is_finite() && self.set_state > 0.0,
            "the programs for state changes did not run"
        );
        let figures = [
            ("state changes", self.set_state),
            ("all but timers", self.all),
        ];
        Ok(figures
            .into_iter()
            .map(|(name, ns)| (name.to_owned(), ns / self.reference))
            .collect())
    }
}

/// Runs `act` while tcptrace traces, with its programs.
fn with_programs(act: impl FnOnce(&[Program]) -> Result<Figures>) -> Result<Figures> {
    if !run::is_root()? {
        return Err(Refused("programs are looked at by root".to_owned()).into());
    }
    let tcptrace = build::tracer(true)?;
    let _stats = BpfStats::enable()?;
    let stage = Stage::new(Over::Loopback)?;
    let entrant = Entrant::find(&contender::COUNTED)?;
    let tracer = Tracer::start(&entrant, &tcptrace, &stage)?.context("nothing was started")?;
    let figures = act(&Program::all_of(tracer.pid())?)?;
    tracer.stop()?;
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(set_state: u64, all: u64, time_ns: u64, count: u64) -> Times {
        Times {
            set_state,
            all,
            reference: Runs { time_ns, count },
        }
    }

    #[test]
    fn each_counts_by_its_fastest_batch() {
        let mut fastest = Fastest::NONE;
        fastest.take(times(0, 0, 0, 0), times(900, 1_000, 300, 3));
        // A batch that was disturbed, but not in the reference program.
        fastest.take(times(900, 1_000, 300, 3), times(5_000, 6_000, 550, 8));
        let figures = fastest.figures().unwrap();
        assert!((figures["state changes"] - 18.0).abs() < 1e-9);
        assert!((figures["all but timers"] - 20.0).abs() < 1e-9);
    }

    #[test]
    fn programs_of_timers_are_nobodys_connection() {
        let mut times = Times::default();
        let runs = Runs {
            time_ns: 7,
            count: 1,
        };
        for name in [SET_STATE, "timer_start", "tcp_send_reset"] {
            times.add(name, runs);
        }
        assert_eq!((times.set_state, times.all), (7, 14));
    }

    #[test]
    fn nothing_is_made_of_programs_that_did_not_run() {
        assert!(Fastest::NONE.figures().is_err());
    }
}
