//! Owns `cargo xtask test`: every suite that this machine can run, one after the other, and the table
//! at the end.

pub(crate) mod libtest;
pub(crate) mod suites;

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::Result;

use self::{
    libtest::Tally,
    suites::{Live, Suites},
};
use crate::{bench::cost, build_ebpf, process, run, say::say, statics::Linkage, vm, workspace};

/// Where the results of the kernel matrix go.
const MATRIX: &str = "target/vm/matrix.json";
/// The live suite waits long before it gives a test up, and an emulated machine is slow.
const VM_LIMIT: Duration = Duration::from_secs(3600);

/// Run every test that this machine can run: unit, command line, live on this kernel, what an event costs (`cargo
/// xtask bench cost`), and in virtual machines under the kernels of the matrix (`cargo xtask vm --matrix`).
///
/// Suites that cannot run here are counted as skipped, with the reason. The last line of the output
/// is `N passed, N failed, N skipped`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask test                    everything, under stock kernels 5.10, 6.1, 6.12 and 7.2 as well
  cargo xtask test --full             under every kernel of the matrix, for two hours or three
  cargo xtask test --no-vm --no-live  what needs neither root nor a kernel: the quick ones
  cargo xtask test ipv6               the tests with ipv6 in their name, in every suite")]
pub(crate) struct Args {
    /// Without the tests in virtual machines
    #[arg(long)]
    no_vm: bool,
    /// The whole matrix of kernels, not the default one
    #[arg(long, conflicts_with = "no_vm")]
    full: bool,
    /// Without the tests against this machine's kernel
    #[arg(long)]
    no_live: bool,
    /// Only tests whose names contain this; of the kernels in virtual machines, under 6.1 only
    #[arg(value_name = "FILTER", num_args = 0..=1)]
    filters: Vec<String>,
}

/// One line of the table.
struct Row {
    suite: String,
    tally: Tally,
    time: Duration,
}

/// Runs the verb.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    build_ebpf::ensure()?;
    let suites = suites::build()?;
    let mut table = Table { rows: Vec::new() };
    for test in &suites.ordinary {
        let kind = if test.kind == "test" {
            test.target.as_str()
        } else {
            "unit"
        };
        let mut command = suites::command(test, &args.filters);
        table.run(&format!("{} {kind}", test.package_name()), || {
            libtest::run(&mut command)
        });
    }
    for package in suites::packages_with_examples()? {
        let mut command = workspace::cargo("test");
        command.args(["--doc", "--package", &package]);
        suites.linkage.apply(&mut command);
        command.arg("--").args(&args.filters);
        table.run(&format!("{package} examples"), || {
            libtest::run(&mut command)
        });
    }
    if let Some(live) = &suites.live {
        if !args.no_live {
            table.run("live, this kernel", || live_here(live, &args.filters));
        }
        if args.filters.is_empty() {
            table.run("cost of an event", || cost::as_suite(!args.no_live));
        }
        if !args.no_vm && !args.filters.is_empty() {
            let suite = format!("live, VM {}", vm::DEFAULT_SUITE);
            table.run(&suite, || live_in_vm(&suites, live, &args.filters));
        } else if !args.no_vm {
            table.matrix(&suites.linkage, args.full);
        }
    } else {
        say("package tcptrace has no test target `live`: nothing to run against a kernel");
    }
    table.finish(&args.filters)
}

/// The live suite against the kernel of this machine. The suite itself decides what it can do there.
fn live_here(live: &Live, filters: &[String]) -> Result<Tally> {
    let mut command = suites::command(&live.harness, filters);
    if !run::is_root()? {
        // Not a password prompt in the middle of a test run.
        let reason = match process::on_path("sudo") {
            None => "not root, and there is no sudo",
            Some(_) if !process::succeeds(Command::new("sudo").args(["-n", "true"])) => {
                "not root, and sudo asks for a password (run `sudo -v` first)"
            }
            Some(_) => {
                let mut tracer = std::ffi::OsString::from("TCPTRACE_BIN=");
                tracer.push(&live.tracer);
                let mut elevated = Command::new("sudo");
                elevated
                    .args(["-n", "env"])
                    .arg(tracer)
                    .arg(command.get_program());
                elevated.args(filters).current_dir(&live.harness.package);
                return libtest::run(&mut elevated);
            }
        };
        say(format_args!("skipped: {reason}"));
        return Ok(Tally::SKIPPED);
    }
    libtest::run(command.env("TCPTRACE_BIN", &live.tracer))
}

/// The live suite, the same programs, against a stock kernel.
fn live_in_vm(suites: &Suites, live: &Live, filters: &[String]) -> Result<Tally> {
    if let Linkage::Dynamic(reason) = &suites.linkage {
        say(format_args!("skipped: {reason}"));
        return Ok(Tally::SKIPPED);
    }
    let machine = match vm::Machine::provision(vm::DEFAULT_SUITE) {
        Ok(machine) => machine,
        Err(error) => {
            say(format_args!("skipped: no virtual machine here: {error:#}"));
            return Ok(Tally::SKIPPED);
        }
    };
    let command = ["/bin/live".to_owned()]
        .iter()
        .chain(filters)
        .cloned()
        .collect::<Vec<_>>();
    let guest = vm::Guest {
        programs: vec![
            ("tcptrace", live.tracer.clone()),
            ("live", live.harness.executable.clone()),
        ],
        command,
        timeout: VM_LIMIT,
        ..vm::Guest::default()
    };
    let mut output = Vec::new();
    let status = machine.run(&guest, &mut vm::Tee { copy: &mut output })?;
    let mut tally = libtest::judge(
        libtest::count_in(&String::from_utf8_lossy(&output)),
        status == 0,
    );
    if tally.skipped > 0 {
        // A stock kernel and root lack nothing: what does not run there is broken, not missing.
        say("tests were skipped in the VM, where nothing may be missing: they count as failed");
        tally.failed += tally.skipped;
        tally.skipped = 0;
    }
    Ok(tally)
}

struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Runs one suite; one that cannot even be run is a failure, and the others still run.
    fn run(&mut self, suite: &str, run: impl FnOnce() -> Result<Tally>) {
        say(format_args!("── {suite}"));
        let start = Instant::now();
        let tally = run().unwrap_or_else(|error| {
            say(format_args!("FAILED: {error:#}"));
            Tally::FAILED
        });
        self.rows.push(Row {
            suite: suite.to_owned(),
            tally,
            time: start.elapsed(),
        });
    }

    /// Runs the kernel matrix, a suite for each kernel.
    fn matrix(&mut self, linkage: &Linkage, full: bool) {
        const SUITE: &str = "kernel matrix";
        say(format_args!("── {SUITE}"));
        let obstacle = match linkage {
            Linkage::Dynamic(reason) => Some(reason.clone()),
            Linkage::Static { .. } | Linkage::Cross(_) => vm::matrix::obstacle(),
        };
        if let Some(reason) = obstacle {
            say(format_args!("skipped: no virtual machine here: {reason}"));
            self.run(SUITE, || Ok(Tally::SKIPPED));
            return;
        }
        match vm::matrix::as_suites(full, workspace::root().join(MATRIX)) {
            Ok(kernels) => {
                say(format_args!("every test of it is in {MATRIX}"));
                self.rows
                    .extend(kernels.into_iter().map(|(kernel, tally, time)| Row {
                        suite: format!("matrix, Linux {kernel}"),
                        tally,
                        time,
                    }));
            }
            Err(error) => self.run(SUITE, || Err(error)),
        }
    }

    /// Prints the table, and the tally as the last line.
    fn finish(&self, filters: &[String]) -> Result<ExitCode> {
        let rows = self
            .rows
            .iter()
            .filter(|row| !row.tally.is_empty())
            .collect::<Vec<_>>();
        let mut sum = Tally::default();
        for row in &rows {
            sum += row.tally;
        }
        if !filters.is_empty() && sum.is_empty() {
            anyhow::bail!("no test has {} in its name", filters.join(" or "));
        }
        let width = rows
            .iter()
            .map(|row| row.suite.chars().count())
            .max()
            .unwrap_or(0)
            .max(5);
        println!(
            "\n{:width$} {:>8} {:>8} {:>8} {:>9}",
            "suite", "passed", "failed", "skipped", "time"
        );
        for Row { suite, tally, time } in rows {
            let Tally {
                passed,
                failed,
                skipped,
            } = tally;
            let seconds = time.as_secs_f64();
            println!("{suite:width$} {passed:>8} {failed:>8} {skipped:>8} {seconds:>7.1} s");
        }
        println!(
            "\n{} passed, {} failed, {} skipped",
            sum.passed, sum.failed, sum.skipped
        );
        Ok(if sum.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
