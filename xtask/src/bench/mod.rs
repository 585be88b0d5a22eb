//! Owns `cargo xtask bench`: what tracing costs, beside its peer and beside nothing, in one run.

mod churn;
mod contender;
mod floor;
mod stats;

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{build, run, say::say};
use churn::Close;
use contender::{Contender, Programs, Runs};
use stats::Spread;

/// Where the kernel is told to time every run of every eBPF program.
const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Measure what tracing costs, beside libbpf-tools' tcpstates, an empty program and no tracing.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench              kernel time per transition, connections per second
  cargo xtask bench --rounds 9   with more rounds, on a busy machine

One process opens and closes connections over loopback in a network namespace of its own. Every
round measures every contender once, so that a machine that gets slower meanwhile is slower for all.
The kernel time is that of all programs of a contender, whatever their hooks, for each transition.")]
pub(crate) struct Args {
    /// How often each is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections for each measurement
    #[arg(long, default_value_t = 10_000)]
    connections: u32,
    /// How each is closed
    #[arg(long, value_enum, default_value_t = Close::Reset)]
    close: Close,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is done for each measurement.
#[derive(Clone, Copy)]
struct Work {
    connections: u32,
    close: Close,
}

/// One measurement of one contender.
struct Sample {
    /// What the kernel counts of its programs; none without a program.
    kernel: Option<Runs>,
    connections_per_second: f64,
}

/// Runs the verb.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    if !run::is_root()? {
        bail!(
            "measuring eBPF programs needs root; type: sudo -E env PATH=\"$PATH\" cargo xtask bench"
        );
    }
    if args.rounds == 0 || args.connections == 0 {
        bail!("nothing to measure: --rounds and --connections must be at least 1");
    }
    let programs = Programs::find(build::tracer(true)?);
    if let Err(why) = &programs.tcpstates {
        say(format_args!("tcpstates is left out: {why:#}"));
    }
    let contenders: Vec<Contender> = Contender::ALL
        .into_iter()
        .filter(|contender| *contender != Contender::Tcpstates || programs.tcpstates.is_ok())
        .collect();
    let work = Work {
        connections: args.connections,
        close: args.close,
    };
    let _stats = BpfStats::enable()?;
    churn::enter_namespace()?;
    let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 1..=args.rounds {
        say(format_args!("round {round} of {}", args.rounds));
        for (contender, samples) in contenders.iter().zip(&mut samples) {
            samples.push(contender.measure(&programs, work)?);
        }
    }
    report(args, &contenders, &samples);
    Ok(ExitCode::SUCCESS)
}

fn report(args: &Args, contenders: &[Contender], samples: &[Vec<Sample>]) {
    let rate =
        |samples: &[Sample]| Spread::of(samples.iter().map(|sample| sample.connections_per_second));
    // The empty program runs once for each transition, and does nothing else.
    let transitions = contenders
        .iter()
        .zip(samples)
        .find(|(contender, _)| **contender == Contender::Floor)
        .and_then(|(_, samples)| counts(samples))
        .map_or(f64::NAN, |spread| spread.median);
    let kernel = |samples: &[Sample]| {
        Spread::of(
            samples
                .iter()
                .filter_map(|sample| sample.kernel)
                .map(|runs| as_f64(runs.time_ns) / transitions),
        )
    };
    let untraced = rate(&samples[0]).map_or(f64::NAN, |spread| spread.median);
    if args.json {
        let rows: Vec<_> = contenders
            .iter()
            .zip(samples)
            .map(|(contender, samples)| {
                json!({
                    "contender": contender.name(),
                    "kernel_ns_per_transition": kernel(samples).map(Value::from),
                    "connections_per_second": rate(samples).map(Value::from),
                    "of_untraced": rate(samples).map(|spread| spread.median / untraced),
                })
            })
            .collect();
        println!(
            "{}",
            json!({ "kind": "bench", "rounds": args.rounds, "connections": args.connections, "transitions": transitions, "close": format!("{:?}", args.close).to_lowercase(), "rows": rows })
        );
        return;
    }
    println!(
        "{} rounds of {} connections (connect, accept, {}), one driver; medians (min to max)\n",
        args.rounds,
        args.connections,
        match args.close {
            Close::Reset => "reset",
            Close::Orderly => "close, TIME_WAIT",
        }
    );
    println!(
        "{:24} {:>26} {:>30} {:>11}",
        "", "kernel ns per transition", "connections/s", "of untraced"
    );
    for (contender, samples) in contenders.iter().zip(samples) {
        let rate = rate(samples);
        let share = rate.map_or(f64::NAN, |spread| spread.median / untraced);
        println!(
            "{:24} {:>26} {:>30} {share:>11.3}",
            contender.name(),
            kernel(samples).map_or_else(|| "-".to_owned(), |spread| spread.to_string()),
            rate.map_or_else(|| "-".to_owned(), |spread| spread.to_string()),
        );
    }
}

/// How often the busiest program of each sample ran.
fn counts(samples: &[Sample]) -> Option<Spread> {
    let runs = samples.iter().filter_map(|sample| sample.kernel);
    Spread::of(runs.map(|runs| as_f64(runs.count)))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

/// Makes the kernel time eBPF programs until dropped.
struct BpfStats {
    before: String,
}

impl BpfStats {
    fn enable() -> Result<Self> {
        let before = fs::read_to_string(BPF_STATS).with_context(|| {
            format!("this kernel does not time eBPF programs: cannot read {BPF_STATS}")
        })?;
        fs::write(BPF_STATS, "1").with_context(|| format!("cannot write {BPF_STATS}"))?;
        Ok(Self { before })
    }
}

impl Drop for BpfStats {
    fn drop(&mut self) {
        // Back to what it was; there is nothing to do about a refusal.
        let _ = fs::write(BPF_STATS, &self.before);
    }
}
