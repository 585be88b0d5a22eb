//! The rules of bind() and listen() beside the kernel's: thousands of combinations of sockets that hold a
//! port and one that asks for it, all of them performed.
//!
//! What the rules are told comes from what the test has done, never from a trace. The ordinary run takes
//! some of each kind. `TCPTRACE_BIND_CASES=all` runs all, and `TCPTRACE_BIND_CASES=several/17` runs that
//! one case and prints it.

mod cache;
mod case;
mod device;
mod generate;
mod holder;
mod judge;
mod perform;
mod prechecks;
mod stage;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::case::Case;
use self::generate::Extent;
use self::judge::{Judge, Tally};
use self::stage::Stage;
use crate::{Needs, Scenario, netns};

const VARIABLE: &str = "TCPTRACE_BIND_CASES";
/// Each needs a few ports of its own.
const CASES_PER_NAMESPACE: usize = 500;

/// A set of cases: its name, and how they are enumerated.
type Set = (&'static str, fn(Extent) -> Vec<Case>);

const SETS: [Set; 4] = [
    ("options", generate::options),
    ("addresses", generate::addresses),
    ("circumstances", generate::circumstances),
    ("several", generate::several),
];

pub(crate) fn scenarios() -> Vec<Scenario> {
    let scenario = |(name, cases): Set| {
        Scenario::new(format!("bind rules: {name}"), move || run(name, cases)).needing(Needs::Root)
    };
    let mut scenarios: Vec<_> = SETS.into_iter().map(scenario).collect();
    scenarios.push(Scenario::new("bind rules: prechecks", prechecks).needing(Needs::Root));
    scenarios
}

fn prechecks() -> Result<()> {
    let (extent, which) = wanted("prechecks")?;
    let began = Instant::now();
    let mut judge = Judge::default();
    if which != Wanted::Nothing {
        prechecks::run(&mut judge, extent, which)?;
    }
    tell("prechecks", &judge.tally, began.elapsed());
    judge.tally.verdict()
}

fn run(name: &str, enumerate: fn(Extent) -> Vec<Case>) -> Result<()> {
    let (extent, which) = wanted(name)?;
    let mut numbered: Vec<_> = enumerate(extent).into_iter().enumerate().collect();
    numbered.retain(|(number, _)| which.includes(*number));
    let began = Instant::now();
    let mut judge = Judge::default();
    for some in numbered.chunks(CASES_PER_NAMESPACE) {
        judge = netns::with_new(|_| {
            let mut stage = Stage::set_up()?;
            for (number, case) in some {
                judge.case = format!("{name}/{number}: {case}");
                perform::case(&mut stage, &mut judge, case).with_context(|| judge.case.clone())?;
            }
            Ok(judge)
        })?;
    }
    tell(name, &judge.tally, began.elapsed());
    judge.tally.verdict()
}

/// Which cases of a set are to be performed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Each,
    Only(usize),
    Nothing,
}

impl Wanted {
    fn includes(self, number: usize) -> bool {
        match self {
            Self::Each => true,
            Self::Only(one) => one == number,
            Self::Nothing => false,
        }
    }
}

/// What the environment asks for, of this set.
fn wanted(name: &str) -> Result<(Extent, Wanted)> {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    match text.split_once('/') {
        None if text.is_empty() => Ok((Extent::Some, Wanted::Each)),
        None if text == "all" => Ok((Extent::All, Wanted::Each)),
        None => bail!("{VARIABLE}={text}: it is all, or a set and a number"),
        Some((set, number)) if set == name => {
            let number = number
                .parse()
                .with_context(|| format!("{VARIABLE}={text}: no number"))?;
            Ok((Extent::All, Wanted::Only(number)))
        }
        Some(_) => Ok((Extent::All, Wanted::Nothing)),
    }
}

fn tell(name: &str, tally: &Tally, took: Duration) {
    eprintln!("bind rules: {name}, {:.1} s: {tally}", took.as_secs_f64());
}
