//! Owns `cargo xtask bench cost`: whether an event costs more than it did, in instructions and ratios, which a
//! busy machine does not change.

mod base;
mod kernel;
mod user;

use std::process::ExitCode;

use anyhow::Result;

use self::base::Base;
use super::table::Table;
use crate::{say::say, test::libtest::Tally, workspace};

/// Where the base figures are, from the root of the workspace.
const BASE: &str = "xtask/src/bench/cost/base.json";

/// Compare what an event costs with the base figures, in instructions and ratios instead of seconds.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench cost            fails if a cost has grown by more than a tenth
  cargo xtask bench cost --renew    makes what there is now the base

In user space: instructions for each record of a fixed set, on its way through decoding, the model and each
output, counted by valgrind's callgrind. In the kernel, with --backend timer --calls syscalls: the instructions and the
calls of helpers in each program as the kernel runs it, what can never be reached left out (by the first 15 bytes of its
name; those that share them are added up). These counts are the same every time, also on a busy machine; they
depend on the compilers and the kernel, and are compared with a base of the same only.

For information, the time that the programs take for two connections is shown, in times of a program of 1,200
plain instructions that sees the same events, each the fastest of many short batches: a busy machine changes it
by more than a tenth. What cannot be counted here is skipped with its reason.")]
pub(crate) struct Args {
    /// Make the figures of this machine the base
    #[arg(long)]
    renew: bool,
    /// Only what user space takes: needs no root
    #[arg(long, conflicts_with = "renew")]
    no_kernel: bool,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    User,
    Programs,
    Time,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::User => "user space, instructions per record",
            Self::Programs => "kernel, instructions and calls in a program",
            Self::Time => "kernel, time of a reference program (for information)",
        }
    }

    /// Whether it is repeatable enough to fail for: of time, runs on a busy machine were up to a fifth apart,
    /// while the counts were the same to the last instruction.
    const fn is_judged(self) -> bool {
        match self {
            Self::User | Self::Programs => true,
            Self::Time => false,
        }
    }

    const fn decimals(self) -> usize {
        match self {
            Self::User | Self::Programs => 0,
            Self::Time => 3,
        }
    }
}

/// Runs the verb.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let parts: &[Part] = if args.no_kernel {
        &[Part::User]
    } else {
        &[Part::User, Part::Programs, Part::Time]
    };
    let tally = compare(parts, args.renew)?;
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// As a suite of a test run: each judged figure is a test, and what cannot be counted or compared is skipped.
pub(crate) fn as_suite(kernel: bool) -> Result<Tally> {
    let parts: &[Part] = if kernel {
        &[Part::User, Part::Programs]
    } else {
        &[Part::User]
    };
    compare(parts, false)
}

fn compare(parts: &[Part], renew: bool) -> Result<Tally> {
    let path = workspace::root().join(BASE);
    let mut base = Base::read(&path)?;
    let mut table = Table::new(&["", "now", "base", "change"]);
    let mut tally = Tally::default();
    let mut worse = Vec::new();
    for part in parts.iter().copied() {
        let counted = match part {
            Part::User => user::count(),
            Part::Programs => kernel::count(),
            Part::Time => kernel::measure(),
        };
        let figures = match counted {
            Ok(figures) => figures,
            Err(error) => {
                let why = error.downcast::<super::tracer::Refused>()?;
                say(format_args!("{}: skipped: {why}", part.name()));
                tally.skipped += u32::from(part.is_judged());
                continue;
            }
        };
        let machine = base::machine(part)?;
        if renew {
            base.put(part, &machine, &figures);
        }
        let verdict = base.judge(part, &machine);
        if let Some(why) = verdict.not_compared() {
            say(format_args!(
                "{}: not compared: {why}, this is {machine}; make one with: cargo xtask bench cost --renew",
                part.name()
            ));
        }
        table.row(vec![format!("{}:", part.name())]);
        for (name, now) in &figures {
            table.row(verdict.row(part, name, *now));
        }
        if part.is_judged() {
            let sentences = verdict.worse(part, &figures);
            let judged = u32::try_from(figures.len())?;
            if verdict.not_compared().is_some() {
                tally.skipped += 1;
            } else {
                let failed = u32::try_from(sentences.len())?;
                tally.failed += failed;
                tally.passed += judged.saturating_sub(failed);
            }
            worse.extend(sentences);
        }
    }
    println!("{table}");
    if renew {
        base.write(&path)?;
        say(format_args!("wrote {BASE}"));
    }
    for sentence in &worse {
        say(format_args!("FAILED: {sentence}"));
    }
    if !worse.is_empty() {
        say("if that is as it should be, type: cargo xtask bench cost --renew");
    }
    Ok(tally)
}
