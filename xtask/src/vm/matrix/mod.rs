//! Owns `cargo xtask vm --matrix`: every check under every kernel, side by side, and what came of it.

mod bench;
mod bulk;
mod checks;
mod equipment;
mod fetch;
mod hindrances;
mod judge;
mod recording;
mod table;
mod types;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use self::{
    bench::{Bench, Entrant, Ready},
    checks::{Check, Depth, Judge},
    equipment::Equipment,
    fetch::{Archive, Found},
    table::Row,
};
use super::{
    Machine,
    kernels::{self, Pinned},
};
use crate::{
    arch::Arch,
    build_ebpf, say,
    statics::Linkage,
    test::{
        libtest::Tally,
        suites::{self, Speed},
    },
};

/// How many guests run side by side: more than that gain little, and a guest takes one CPU.
const JOBS: u16 = 2;

/// What is asked of the matrix.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run every check under every kernel of the table, and show what came of it
    #[arg(long)]
    matrix: bool,
    /// More kernels, and what their BTF says of what the tracer needs
    #[arg(long, requires = "matrix")]
    full: bool,
    /// Every live test with each backend, and every case of bind()'s rules: hours for each kernel
    #[arg(long, requires = "matrix")]
    every_test: bool,
    /// How many guests run side by side; each takes one CPU
    #[arg(short, long, value_name = "N", default_value_t = JOBS, requires = "matrix",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Write the results to this file, too, as JSON
    #[arg(long, value_name = "FILE", requires = "matrix")]
    json: Option<PathBuf>,
    /// Only these kernels, as the table calls them: 6.1,7.2
    #[arg(
        long,
        value_name = "KERNEL",
        value_delimiter = ',',
        requires = "matrix"
    )]
    only: Vec<String>,
    /// Only these checks (and the doctor, which says which backends there are): live,lab
    #[arg(
        long = "check",
        value_name = "CHECK",
        value_delimiter = ',',
        requires = "matrix"
    )]
    checks: Vec<String>,
}

impl Options {
    /// Whether it is the matrix that is asked for.
    pub(super) fn wanted(&self) -> bool {
        self.matrix
    }
}

/// Runs the matrix: status 0 if nothing failed, 1 if something did.
pub(super) fn main(args: &Options, memory_mb: u32) -> ExitCode {
    run(args, memory_mb).unwrap_or_else(|error| {
        say::error(&error);
        ExitCode::from(super::NO_MACHINE)
    })
}

/// Why no guest can be run on this machine; `None` when one can.
pub(crate) fn obstacle() -> Option<String> {
    let found = Equipment::machine(Arch::Amd64);
    found.err().map(|error| format!("{error:#}"))
}

/// Runs the matrix as a suite of tests, and shows its table: what each kernel is called, how its tests and
/// checks ended, and how long they took.
///
/// # Errors
/// When there is no machine to run it.
pub(crate) fn as_suites(full: bool, json: PathBuf) -> Result<Vec<(String, Tally, Duration)>> {
    let args = Options {
        matrix: true,
        full,
        every_test: false,
        jobs: JOBS,
        json: Some(json),
        only: Vec::new(),
        checks: Vec::new(),
    };
    let rows = rows(&args, super::MEMORY_MB)?;
    let mut suites: Vec<(String, Tally, Duration)> = Vec::new();
    for row in &rows {
        match suites.iter_mut().find(|(kernel, ..)| *kernel == row.kernel) {
            Some((_, tally, time)) => {
                *tally += row.tally();
                *time += row.time;
            }
            None => suites.push((row.kernel.clone(), row.tally(), row.time)),
        }
    }
    Ok(suites)
}

fn run(args: &Options, memory_mb: u32) -> Result<ExitCode> {
    let sum = table::sum(&rows(args, memory_mb)?);
    ensure!(sum.passed + sum.failed > 0, "no check could be run at all");
    Ok(if sum.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs everything, and shows and writes what came of it.
fn rows(args: &Options, memory_mb: u32) -> Result<Vec<Row>> {
    let kernels = chosen(kernels::all()?, args)?;
    let depth = Depth {
        full: args.full,
        every_test: args.every_test,
    };
    let checks = wanted(checks::all(depth), &args.checks)?;
    if let Some(path) = &args.json {
        // Before the long run, not after it.
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(path, "").with_context(|| format!("cannot write {}", path.display()))?;
    }
    build_ebpf::ensure()?;
    let own = Linkage::for_guests(Arch::Amd64)?;
    let entrants = entrants(kernels, &own)?;
    let of_this_machine = |entrant: &&Entrant| entrant.pinned.arch == Arch::Amd64;
    let mut of_this_machine = entrants.iter().filter(of_this_machine);
    let bench = Bench {
        live: of_this_machine.find_map(Entrant::live).cloned(),
        // This machine replays what guests record, whatever they are.
        tracer: suites::build_tracer(&own, Speed::Optimised)?,
        checks,
        memory_mb,
        rows: Mutex::new(Vec::new()),
    };
    let next = Mutex::new(entrants.iter());
    let unwritten = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                // The lock is not held while the kernel runs.
                while let Some(entrant) = next.lock().ok().and_then(|mut next| next.next()) {
                    bench.run(entrant);
                    if let Err(error) = write(args, &bench, &entrants)
                        && let Ok(mut unwritten) = unwritten.lock()
                    {
                        *unwritten = Some(error);
                    }
                }
            });
        }
    });
    let rows = in_order(bench.rows.into_inner().unwrap_or_default(), &entrants);
    print!("\n{}", table::text(&rows));
    match unwritten.into_inner() {
        Ok(Some(error)) => Err(error),
        Ok(None) | Err(_) => Ok(rows),
    }
}

/// Writes what is known so far, if a file is asked for: after each kernel, so that a run which is stopped
/// has not been for nothing.
fn write(args: &Options, bench: &Bench, entrants: &[Entrant]) -> Result<()> {
    let Some(path) = &args.json else {
        return Ok(());
    };
    // Held until it is written: two threads do not write at once.
    let rows = bench.rows.lock().unwrap_or_else(PoisonError::into_inner);
    let text = format!("{:#}\n", table::json(&in_order(rows.clone(), entrants)));
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The kernels that are asked for. Naming one is enough to have it, whatever set it is in.
fn chosen(all: Vec<Pinned>, args: &Options) -> Result<Vec<Pinned>> {
    for name in &args.only {
        let known = all.iter().any(|kernel| kernel.label() == *name);
        let labels: Vec<String> = all.iter().map(Pinned::label).collect();
        ensure!(
            known,
            "no kernel {name:?} is in the table; there are {}",
            labels.join(", ")
        );
    }
    let is_wanted = |kernel: &Pinned| {
        if args.only.is_empty() {
            args.full || !kernel.only_full
        } else {
            args.only.contains(&kernel.label())
        }
    };
    Ok(all.into_iter().filter(is_wanted).collect())
}

/// The checks of these names, and the doctor.
fn wanted(all: Vec<Check>, names: &[String]) -> Result<Vec<Check>> {
    for name in names {
        let known: Vec<&str> = all.iter().map(|check| check.name).collect();
        ensure!(
            known.contains(&name.as_str()),
            "there is no check {name:?}; there are {}",
            known.join(", ")
        );
    }
    let is_wanted = |check: &Check| {
        let is_named = names.iter().any(|name| name == check.name);
        names.is_empty() || check.judge == Judge::Doctor || is_named
    };
    Ok(all.into_iter().filter(is_wanted).collect())
}

/// A machine for each kernel. One that cannot be had is the reason to skip it, not to give up.
fn entrants(kernels: Vec<Pinned>, own: &Linkage) -> Result<Vec<Entrant>> {
    let mut equipment = BTreeMap::new();
    for arch in kernels.iter().map(|kernel| kernel.arch) {
        if let Entry::Vacant(place) = equipment.entry(arch) {
            place.insert(Equipment::of(arch, own)?);
        }
    }
    let mut archive = Archive::default();
    let suites: Vec<(String, Arch)> = kernels::all()?
        .into_iter()
        .map(|kernel| (kernel.suite, kernel.arch))
        .collect();
    let mut entrants = Vec::new();
    for pinned in kernels {
        let of_suite =
            |(suite, arch): &&(String, Arch)| *suite == pinned.suite && *arch == pinned.arch;
        let alone = suites.iter().filter(of_suite).count() == 1;
        let mut find = |equipment: &Equipment| {
            let found = archive.find(&pinned, alone);
            let Found { kernel, version } = found.map_err(|error| format!("{error:#}"))?;
            let machine = Machine {
                name: format!("matrix-{}", pinned.label().replace(' ', "-")),
                qemu: equipment.qemu.clone(),
                kernel,
                busybox: equipment.busybox.clone(),
            };
            Ok(Ready {
                machine,
                version,
                programs: equipment.programs.clone(),
            })
        };
        let ready = match &equipment[&pinned.arch] {
            Ok(equipment) => find(equipment),
            Err(reason) => Err(reason.clone()),
        };
        entrants.push(Entrant { pinned, ready });
    }
    Ok(entrants)
}

/// The rows in the order of the kernels; those of one kernel are in theirs.
fn in_order(mut rows: Vec<Row>, entrants: &[Entrant]) -> Vec<Row> {
    let labels: Vec<String> = entrants
        .iter()
        .map(|entrant| entrant.pinned.label())
        .collect();
    rows.sort_by_key(|row| labels.iter().position(|label| *label == row.kernel));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Depth = Depth {
        full: false,
        every_test: false,
    };

    fn args(full: bool, only: &[&str]) -> Options {
        Options {
            matrix: true,
            full,
            every_test: false,
            jobs: 1,
            json: None,
            only: only.iter().map(ToString::to_string).collect(),
            checks: Vec::new(),
        }
    }

    fn labels(args: &Options) -> Vec<String> {
        let all = kernels::all().expect("the table can be read");
        let chosen = chosen(all, args).expect("they are known");
        chosen.iter().map(Pinned::label).collect()
    }

    #[test]
    fn the_full_matrix_has_more_kernels() {
        assert_eq!(labels(&args(false, &[])), ["5.10", "6.1", "6.12", "7.2"]);
        assert!(labels(&args(true, &[])).len() > 10);
        assert_eq!(labels(&args(false, &["7.3-rc"])), ["7.3-rc"]);
        let all = kernels::all().expect("the table can be read");
        assert!(chosen(all, &args(false, &["4.19"])).is_err());
    }

    #[test]
    fn the_doctor_is_always_among_the_checks() {
        let names = |wanted_names: &[&str]| -> Vec<&str> {
            let names: Vec<String> = wanted_names.iter().map(ToString::to_string).collect();
            let checks = wanted(checks::all(DEFAULT), &names).expect("they are known");
            checks.iter().map(|check| check.name).collect()
        };
        assert_eq!(names(&["lab"]), ["doctor", "lab", "lab"]);
        assert!(wanted(checks::all(DEFAULT), &["labs".to_owned()]).is_err());
    }
}
