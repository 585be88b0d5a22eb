//! Owns `cargo xtask bench`: what tracing costs, beside its peers and beside nothing, in one run.

mod bare;
mod bpf_stats;
mod compare;
mod contender;
pub(crate) mod cost;
mod floor;
mod peers;
mod procfs;
mod programs;
mod report;
mod scratch;
mod soak;
mod stage;
mod stats;
mod svg;
mod sys;
mod table;
mod tracer;
mod work;

use std::{fs, path::PathBuf, process::ExitCode, str::FromStr, thread};

use anyhow::{Context as _, Result, bail};

use crate::{build, run, say::say};
use bpf_stats::BpfStats;
use compare::Comparison;
use stage::Over;
use tracer::Refused;
use work::{Load, Work};

/// Measure what tracing costs, beside its peers, an empty program and no tracing.
///
/// `bench cost` is the check for changes that make an event cost more, `bench soak` a long run at full churn.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  cargo xtask bench                        the usual contenders, reset and orderly closes: some 5 minutes
  cargo xtask bench --rounds 9             with more rounds, on a busy machine
  cargo xtask bench --work nginx,ports --drivers all --over veth
  cargo xtask bench --work failing-binds --contenders json,calls-off
  cargo xtask bench --full --json all.json --svg all.svg
  cargo xtask bench soak                   ten minutes at full churn: all told, memory flat
  cargo xtask bench cost                   fails if an event costs a tenth more than it did

Contenders: untraced, empty (an empty program on the hook of state changes), bare (one that only hands over
a record), everywhere and bare-everywhere (such programs on every hook that tcptrace has by timers
and system calls); of tcptrace json, text, ladder, record,
json-record, the backends timer, fentry, calls-syscalls, calls-fentry, calls-off, and the filters port-match,
port-other; the peers tcpstates and tcplife (libbpf-tools), bpftrace (its tcplife.bt), ss (-E): from PATH, or
from Debian's packages, unpacked and not installed. One that does not run on this kernel is left out, and the
reason is told.

Every round measures every contender once, each time beginning with another one, so that a machine that gets
slower meanwhile is slower for all; `of untraced` is the median of the rounds' ratios. Each measurement has two
passes: one untimed, which tells how fast it goes and what the contender's process takes, and one while the kernel
times programs, which slows them. The kernel time is that of all programs of a contender, whatever their hooks, for
each transition. Its CPU is that of its process, in
user space and in the kernel, by the process's CPU clock; what of it was in user space is what the kernel samples
at each tick. The first event is the first line about a connection on a terminal, counted from the command. Each
measurement has network namespaces of its own.")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// How often each is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections (calls, requests, batches) of each driver for one pass of a measurement
    #[arg(long, default_value_t = 10_000)]
    connections: u32,
    /// What is done: one or several
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Work::Reset, Work::Orderly])]
    work: Vec<Work>,
    /// How many do it at the same time: a number, or all for one for each CPU
    #[arg(long, default_value = "1")]
    drivers: Drivers,
    /// What lies between client and server
    #[arg(long, value_enum, default_value_t = Over::Loopback)]
    over: Over,
    /// Which are measured, by name; untraced always is
    #[arg(long, value_delimiter = ',', conflicts_with = "full")]
    contenders: Vec<String>,
    /// Every contender
    #[arg(long)]
    full: bool,
    /// Write JSON, to a file or instead of the table
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "absent, without a file, with one")]
    json: Option<Option<PathBuf>>,
    /// Draw throughput and kernel time into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Verb {
    Cost(cost::Args),
    Soak(soak::Args),
}

/// How many do the work at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Drivers(u16);

impl FromStr for Drivers {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        if word == "all" {
            let cpus = thread::available_parallelism().map_or(1, usize::from);
            return Ok(Self(u16::try_from(cpus).unwrap_or(u16::MAX)));
        }
        match word.parse() {
            Ok(number) if (1..=1_000).contains(&number) => Ok(Self(number)),
            Ok(_) | Err(_) => Err("a number from 1 to 1000, or all".to_owned()),
        }
    }
}

/// Runs the verb.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        None => {}
        Some(Verb::Cost(args)) => return cost::main(args),
        Some(Verb::Soak(args)) => return soak::main(args),
    }
    require_root("bench")?;
    if args.rounds == 0 || args.connections == 0 {
        bail!("nothing to measure: --rounds and --connections must be at least 1");
    }
    let chosen = args
        .work
        .iter()
        .map(|work| contender::selected(&args.contenders, args.full, *work))
        .collect::<Result<Vec<_>>>()?;
    let tcptrace = build::tracer(true)?;
    sys::make_tracefs_visible().unwrap_or_else(|why| say(format_args!("{why:#}")));
    let stats = BpfStats::enable()?;
    let mut comparisons = Vec::new();
    let mut skipped = Vec::new();
    for (work, contenders) in args.work.iter().zip(chosen) {
        let load = Load {
            work: *work,
            over: args.over,
            drivers: args.drivers.0,
            times: args.connections,
        };
        match Comparison::run(&contenders, &tcptrace, &stats, load, args.rounds) {
            Ok(comparison) => {
                if args.json != Some(None) {
                    println!("{}", report::text(&comparison, args.rounds));
                }
                comparisons.push(comparison);
            }
            // The other workloads are measured all the same.
            Err(error) => {
                let why = error.downcast::<Refused>()?;
                say(format_args!("{} is skipped: {why}", work.name()));
                if args.json != Some(None) {
                    println!("{}: skipped: {why}\n", work.name());
                }
                skipped.push((work.name(), why.0));
            }
        }
    }
    let json = report::json(&comparisons, &skipped, args.rounds);
    match &args.json {
        None => {}
        Some(None) => println!("{json}"),
        Some(Some(path)) => write(path, &format!("{json}\n"))?,
    }
    if let Some(path) = &args.svg {
        write(path, &svg::draw(&svg::panels(&comparisons)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn require_root(verb: &str) -> Result<()> {
    if !run::is_root()? {
        bail!(
            "measuring eBPF programs needs root; type: sudo -E env PATH=\"$PATH\" cargo xtask {verb}"
        );
    }
    Ok(())
}

fn write(path: &PathBuf, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    say(format_args!("wrote {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_a_number_or_all() {
        assert_eq!("3".parse(), Ok(Drivers(3)));
        assert!("all".parse::<Drivers>().is_ok_and(|all| all.0 >= 1));
        assert!("0".parse::<Drivers>().is_err() && "many".parse::<Drivers>().is_err());
    }
}
