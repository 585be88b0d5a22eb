//! Owns the comparison: every contender once in every round, in an order that differs by round.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::{
    bpf_stats::BpfStats,
    contender::{Contender, Entrant, Kind},
    floor::Floor,
    procfs::Runs,
    stage::{Over, Stage},
    stats::{self, Spread},
    tracer::{self, Refused, Tracer},
    work::{Done, Load, Prepared},
};
use crate::say::say;

/// How often the time to the first event is measured.
const FIRST_EVENTS: usize = 3;

/// One measurement of one contender.
pub(super) struct Sample {
    pub(super) done: Done,
    /// What the kernel counts of its programs; none without a program.
    pub(super) kernel: Option<Runs>,
    /// Of its process, if it has one.
    pub(super) process: Option<Taken>,
}

/// What a tracer's process took.
pub(super) struct Taken {
    /// CPU time, in user space and in the kernel, until it had nothing more to do.
    pub(super) cpu: Duration,
    /// How much of that was in user space, from 0 to 1, by the kernel's sampling at each tick; none where it
    /// has sampled nothing.
    pub(super) in_user: Option<f64>,
    /// The most resident memory since its start, in bytes.
    pub(super) memory: u64,
    /// Records; none if it does not say.
    pub(super) lost: Option<u64>,
}

/// One contender of a comparison.
pub(super) struct Row {
    pub(super) entrant: Entrant,
    /// One for each round.
    pub(super) samples: Vec<Sample>,
    /// From the command, in ms; none for one that shows no connections.
    pub(super) first_event_ms: Option<Spread>,
}

/// All that was measured with one workload.
pub(super) struct Comparison {
    pub(super) load: Load,
    /// Events for each time that the workload is done; none if there are none to trace.
    pub(super) events: Option<f64>,
    pub(super) rows: Vec<Row>,
    /// Contenders that could not be measured here, and why.
    pub(super) left_out: Vec<(&'static str, String)>,
}

/// What is found of a contender over all rounds.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// ns of all its programs for each event.
    pub(super) kernel_ns: Option<Spread>,
    /// Times a second that the workload was done.
    pub(super) rate: Option<Spread>,
    /// Of what the same round had without tracing.
    pub(super) of_untraced: Option<Spread>,
    /// CPU time of its process, user space and kernel, in us for each event.
    pub(super) cpu_us: Option<Spread>,
    /// What of it was in user space.
    pub(super) user_us: Option<Spread>,
    /// The most memory in any round, in bytes.
    pub(super) memory: Option<u64>,
    /// Records, over all rounds.
    pub(super) lost: Option<u64>,
    /// ns of each unrelated call, the fastest of all rounds.
    pub(super) calls_ns: Vec<f64>,
}

impl Comparison {
    /// Measures `contenders` in so many rounds.
    pub(super) fn run(
        contenders: &[&'static Contender],
        tcptrace: &Path,
        stats: &BpfStats,
        load: Load,
        rounds: usize,
    ) -> Result<Self> {
        let mut comparison = Self {
            load,
            events: None,
            rows: Vec::new(),
            left_out: Vec::new(),
        };
        comparison.events = comparison.events_each()?;
        for contender in contenders {
            comparison.enter(contender, tcptrace)?;
        }
        for round in 0..rounds {
            say(format_args!(
                "{}: round {} of {rounds}",
                load.work.name(),
                round + 1
            ));
            comparison.round(round, tcptrace, stats)?;
        }
        Ok(comparison)
    }

    /// What was found of each contender, in the order of the rows.
    pub(super) fn figures(&self) -> Vec<Figures> {
        let untraced: Vec<f64> = self.rows.first().map_or_else(Vec::new, |row| {
            row.samples
                .iter()
                .map(|sample| sample.done.rate())
                .collect()
        });
        self.rows
            .iter()
            .map(|row| Figures::of(&row.samples, &untraced, self.events))
            .collect()
    }

    /// How many events there are for each time that the workload is done, by an empty program on the hook.
    /// It also warms up.
    fn events_each(&self) -> Result<Option<f64>> {
        let stage = Stage::new(self.load.over)?;
        let prepared = Prepared::new(self.load, &stage)?;
        let floor = Floor::attach(self.load.work.hook())?;
        let before = floor.runs()?;
        let done = prepared.drive(self.load)?;
        let runs = floor.runs()?.since(before);
        if self.load.work.event().is_none() {
            return Ok(None);
        }
        if runs.count == 0 {
            bail!("the empty program saw nothing of the workload");
        }
        Ok(Some(stats::as_f64(runs.count) / stats::as_f64(done.times)))
    }

    /// Takes a contender in, or says why not.
    fn enter(&mut self, contender: &'static Contender, tcptrace: &Path) -> Result<()> {
        if let Some(why) = contender.misses(self.load.work) {
            self.leave_out(contender, why);
            return Ok(());
        }
        let entrant = match Entrant::find(contender) {
            Ok(entrant) => entrant,
            Err(error) => {
                self.leave_out(contender, &format!("{error:#}"));
                return Ok(());
            }
        };
        let mut times = Vec::new();
        if contender.shows_connections() {
            for _ in 0..FIRST_EVENTS {
                let stage = Stage::new(Over::Loopback)?;
                match tracer::first_event(&entrant, tcptrace, &stage) {
                    Ok(time) => times.push(time.as_secs_f64() * 1e3),
                    Err(error) => match error.downcast::<Refused>() {
                        Ok(why) => {
                            self.leave_out(contender, &why.0);
                            return Ok(());
                        }
                        Err(error) => {
                            return Err(
                                error.context(format!("cannot measure {}", contender.shown))
                            );
                        }
                    },
                }
            }
        }
        self.rows.push(Row {
            entrant,
            samples: Vec::new(),
            first_event_ms: Spread::of(times.into_iter()),
        });
        Ok(())
    }

    fn round(&mut self, round: usize, tcptrace: &Path, stats: &BpfStats) -> Result<()> {
        let mut refused = Vec::new();
        for index in order(self.rows.len(), round) {
            let row = &mut self.rows[index];
            let measured = measure(&row.entrant, tcptrace, stats, self.load);
            match measured.map_err(anyhow::Error::downcast::<Refused>) {
                Ok(sample) => row.samples.push(sample),
                Err(Ok(why)) => refused.push((index, why)),
                Err(Err(error)) => {
                    let name = row.entrant.contender.shown;
                    return Err(error.context(format!("cannot measure {name}")));
                }
            }
        }
        refused.sort_by_key(|(index, _)| usize::MAX - index);
        for (index, why) in refused {
            let row = self.rows.remove(index);
            self.leave_out(row.entrant.contender, &why.0);
        }
        Ok(())
    }

    fn leave_out(&mut self, contender: &'static Contender, why: &str) {
        say(format_args!("{} is left out: {why}", contender.shown));
        self.left_out.push((contender.shown, why.to_owned()));
    }
}

impl Figures {
    fn of(samples: &[Sample], untraced: &[f64], events: Option<f64>) -> Self {
        let each = |sample: &Sample| events.map(|events| events * stats::as_f64(sample.done.times));
        let processes = || samples.iter().filter_map(|sample| sample.process.as_ref());
        let lost: Option<Vec<u64>> = processes().map(|process| process.lost).collect();
        let mut calls_ns: Vec<f64> = Vec::new();
        for sample in samples {
            let known = calls_ns
                .iter()
                .copied()
                .chain(std::iter::repeat(f64::INFINITY));
            let fastest = sample.done.calls_ns.iter().zip(known);
            calls_ns = fastest.map(|(ns, known)| ns.min(known)).collect();
        }
        Self {
            kernel_ns: Spread::of(
                samples.iter().filter_map(|sample| {
                    Some(stats::as_f64(sample.kernel?.time_ns) / each(sample)?)
                }),
            ),
            rate: Spread::of(samples.iter().map(|sample| sample.done.rate())),
            of_untraced: Spread::of(
                samples
                    .iter()
                    .zip(untraced)
                    .map(|(sample, untraced)| sample.done.rate() / untraced),
            ),
            cpu_us: Spread::of(samples.iter().filter_map(|sample| {
                Some(sample.process.as_ref()?.cpu.as_secs_f64() * 1e6 / each(sample)?)
            })),
            user_us: Spread::of(samples.iter().filter_map(|sample| {
                let process = sample.process.as_ref()?;
                Some(process.cpu.as_secs_f64() * 1e6 * process.in_user? / each(sample)?)
            })),
            memory: processes().map(|process| process.memory).max(),
            lost: lost
                .filter(|lost| !lost.is_empty())
                .map(|lost| lost.iter().sum()),
            calls_ns,
        }
    }
}

/// One measurement, with nothing else attached. What programs take, and what all takes with them, are two passes.
fn measure(entrant: &Entrant, tcptrace: &Path, stats: &BpfStats, load: Load) -> Result<Sample> {
    let stage = Stage::new(load.over)?;
    let prepared = Prepared::new(load, &stage)?;
    // A kernel without one of these hooks, or that keeps it from us.
    let refused = |why: anyhow::Error| Refused(format!("{why:#}"));
    let floor = match entrant.contender.kind {
        Kind::Empty => Some(Floor::attach(load.work.hook())?),
        Kind::Everywhere => Some(Floor::everywhere().map_err(refused)?),
        Kind::BareEverywhere => Some(Floor::everywhere_that_records().map_err(refused)?),
        Kind::Bare => Some(Floor::that_records()?),
        Kind::Untraced | Kind::Tcptrace(_) | Kind::Peer { .. } => None,
    };
    let tracer = Tracer::start(entrant, tcptrace, &stage)?;
    let runs = || match (&floor, &tracer) {
        (Some(floor), _) => floor.runs().map(Some),
        (None, Some(tracer)) => tracer.runs(),
        (None, None) => Ok(None),
    };
    let cpu_before = match &tracer {
        None => None,
        Some(tracer) => Some((tracer.cpu_time()?, tracer.ticks()?)),
    };
    let done = stats.without(|| prepared.drive(load))?;
    let cpu = match (&tracer, cpu_before) {
        (Some(tracer), Some((before, ticks_before))) => {
            tracer.settle()?;
            let cpu = tracer.cpu_time()?.saturating_sub(before);
            Some((cpu, share(ticks_before, tracer.ticks()?)))
        }
        _ => None,
    };
    let before = runs()?;
    if before.is_some() {
        prepared.drive(load)?;
    }
    let after = runs()?;
    let kernel = before.zip(after).map(|(before, after)| after.since(before));
    let ran = kernel.is_none_or(|kernel| kernel.count > 0) || load.work.is_of_calls();
    if !ran {
        return Err(Refused(format!(
            "its programs did not run during {} {}",
            done.times,
            load.work.unit()
        ))
        .into());
    }
    let process = match tracer.zip(cpu) {
        None => None,
        Some((mut tracer, (cpu, in_user))) => {
            tracer.settle()?;
            let memory = tracer.memory()?.most;
            let lost = tracer.stop().context("cannot end the tracer")?;
            Some(Taken {
                cpu,
                in_user,
                memory,
                lost,
            })
        }
    };
    Ok(Sample {
        done,
        kernel,
        process,
    })
}

/// How much of the ticks between was of the first kind, from 0 to 1.
fn share(before: [u64; 2], after: [u64; 2]) -> Option<f64> {
    let [user, kernel] = [0, 1].map(|kind| stats::as_f64(after[kind].saturating_sub(before[kind])));
    (user + kernel > 0.0).then(|| user / (user + kernel))
}

/// The order of a round: another one begins each time, so that none always comes first.
fn order(contenders: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..contenders).map(move |index| (index + round) % contenders)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: f64, time_ns: u64) -> Sample {
        Sample {
            done: Done {
                times: 100,
                seconds,
                calls_ns: vec![seconds],
            },
            kernel: Some(Runs { time_ns, count: 9 }),
            process: Some(Taken {
                cpu: Duration::from_micros(600),
                in_user: share([1, 1], [4, 2]),
                memory: time_ns,
                lost: Some(1),
            }),
        }
    }

    #[test]
    fn every_round_has_all_and_begins_with_another() {
        assert_eq!(order(3, 0).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(order(3, 4).collect::<Vec<_>>(), [1, 2, 0]);
    }

    #[test]
    fn ratios_are_taken_within_the_round() {
        let samples = [sample(2.0, 60_000), sample(4.0, 120_000)];
        // The machine was half as fast in the second round, for both.
        let figures = Figures::of(&samples, &[100.0, 50.0], Some(6.0));
        let ratio = figures.of_untraced.unwrap();
        assert!((ratio.median - 0.5).abs() < 1e-9 && (ratio.max - 0.5).abs() < 1e-9);
        assert!((figures.kernel_ns.unwrap().median - 150.0).abs() < 1e-9);
        assert!((figures.cpu_us.unwrap().median - 1.0).abs() < 1e-9);
        assert!((figures.user_us.unwrap().median - 0.75).abs() < 1e-9);
        assert_eq!(share([1, 1], [1, 1]), None);
        assert_eq!((figures.memory, figures.lost), (Some(120_000), Some(2)));
        assert!((figures.calls_ns[0] - 2.0).abs() < 1e-9);
    }

    #[test]
    fn what_nobody_says_is_unknown() {
        let mut silent = sample(1.0, 1);
        silent.process = silent.process.map(|process| Taken {
            lost: None,
            ..process
        });
        let figures = Figures::of(&[sample(1.0, 1), silent], &[100.0, 100.0], None);
        assert_eq!(figures.lost, None);
        assert!(figures.kernel_ns.is_none() && figures.cpu_us.is_none());
    }
}
