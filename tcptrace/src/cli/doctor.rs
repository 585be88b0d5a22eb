//! Owns `tcptrace doctor`: what this kernel supports, what is missing and how to get it.

mod features;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use serde::Serialize;

use self::features::{Found, Support};
use super::{args::DoctorArgs, session};
use crate::{
    bpf::{
        calls::{Calls, CallsBackend},
        filters::Filters,
        hooks::{Backend, TimeWaitBackend},
        preflight::{Check, Machine, Status, demand},
    },
    failure::Failure,
    host::ftrace,
    source::{
        abilities::Abilities,
        live::{Live, Request},
    },
};

/// The exit status when tracing is not possible, as for the trace itself.
const CANNOT_TRACE: u8 = 3;

/// Which backend serves which need.
type Backends = BTreeMap<&'static str, &'static str>;

#[derive(Serialize)]
struct Report<'a> {
    kind: &'static str,
    version: &'static str,
    can_trace: bool,
    backends: Backends,
    checks: &'a [Check],
    features: &'a [Found],
}

/// What came of really loading and attaching.
#[derive(Default)]
struct Attempt {
    checks: Vec<Check>,
    backends: Backends,
    /// `None` when there was nothing to ask.
    abilities: Option<Abilities>,
}

/// Looks at everything, and then really loads and attaches.
pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let machine = Machine::probe().with_types(args.types.btf.as_deref());
    let mut checks = machine.checks(session::default_buffer_bytes());
    let Attempt {
        checks: tried,
        backends,
        abilities,
    } = attempt(&checks, args.types.btf.clone());
    checks.extend(tried);
    let can_trace = demand(&checks).is_ok();
    let features = features::all(abilities.as_ref(), args.types.btf.as_deref());
    let report = Report {
        kind: "doctor",
        version: env!("CARGO_PKG_VERSION"),
        can_trace,
        backends,
        checks: &checks,
        features: &features,
    };
    let written = if args.json {
        json(&report)
    } else {
        table(&report)
    };
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("cannot write the report")?;
        }
        _ => {}
    }
    Ok(if can_trace {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(CANNOT_TRACE)
    })
}

/// What counts in the end: the programs are loaded, attached, and report a socket that is known.
fn attempt(checks: &[Check], btf: Option<PathBuf>) -> Attempt {
    const NAME: &str = "trace";
    let failed = |found: &str, remedy: &str| Attempt {
        checks: vec![Check::missing(NAME, found, remedy)],
        ..Attempt::default()
    };
    if demand(checks).is_err() {
        return failed("not tried", "first get what is MISSING above");
    }
    let request = Request {
        filters: Filters::default(),
        buffer_bytes: session::default_buffer_bytes(),
        log_level: None,
        backend: Backend::Auto,
        calls: Calls::Auto,
        btf,
    };
    match Live::open(&request) {
        Ok(live) => {
            let attached = if live.degraded().is_empty() {
                Check::ok(NAME, "all programs attached")
            } else {
                Check::degraded(
                    NAME,
                    live.degraded().join("; "),
                    "what that means for what you see is in docs/limitations.md",
                )
            };
            let abilities = Abilities::of(&live);
            Attempt {
                checks: vec![
                    attached,
                    self_check(&live),
                    time_wait(&abilities),
                    calls(&abilities),
                ],
                backends: live.backends(),
                abilities: Some(abilities),
            }
        }
        Err(failure) => {
            let sentence = failure.to_string();
            let (found, remedy) = sentence
                .split_once("; ")
                .unwrap_or((&sentence, "please report it"));
            failed(found, remedy)
        }
    }
}

/// What the tracer has compared with what it knows.
fn self_check(live: &Live) -> Check {
    const NAME: &str = "self-check";
    if live.unchecked().is_empty() {
        Check::ok(
            NAME,
            "test sockets, connections and a TIME_WAIT are reported as they are",
        )
    } else {
        Check::degraded(
            NAME,
            live.unchecked().join("; "),
            "tracing works; where the network allows it, every start checks more",
        )
    }
}

/// How TIME_WAIT is seen.
fn time_wait(can: &Abilities) -> Check {
    const NAME: &str = "TIME_WAIT";
    match &can.time_wait {
        Ok(TimeWaitBackend::Fentry) => Check::ok(
            NAME,
            "by the kernel's functions (fentry): every date is exact",
        ),
        Ok(TimeWaitBackend::Timer) => Check::degraded(
            NAME,
            format!(
                "by the timers' tracepoints, because {}",
                can.no_fentry.as_deref().unwrap_or("that was asked for")
            ),
            if ftrace::is_switched_off() {
                "some dates are inferred and marked so (docs/limitations.md); for fentry see ftrace above"
            } else {
                "some dates are inferred and marked so (docs/limitations.md); for fentry boot a kernel that allows it"
            },
        ),
        Err(_) => Check::degraded(
            NAME,
            "not seen, neither its beginning nor its end",
            "see the check before this one",
        ),
    }
}

/// How bind(), listen() and connect() are seen.
fn calls(can: &Abilities) -> Check {
    const NAME: &str = "calls";
    match &can.calls {
        Ok(CallsBackend::Fentry) => Check::ok(
            NAME,
            "bind(), listen() and connect() by the kernel's functions (fentry)",
        ),
        Ok(CallsBackend::Syscalls) => Check::degraded(
            NAME,
            format!(
                "bind(), listen() and connect() by the tracepoints of system calls, because {}",
                can.calls_no_fentry
                    .as_deref()
                    .unwrap_or("that was asked for")
            ),
            "while tcptrace runs they slow every system call of this machine (docs/performance.md); to trace without them: --calls off",
        ),
        Err(why) => Check::degraded(
            NAME,
            format!("bind(), listen() and connect() are not seen: {why}"),
            "what that means for what you see is in docs/limitations.md",
        ),
    }
}

fn json(report: &Report<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, report)?;
    writeln!(out)
}

fn table(report: &Report<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let width = report
        .checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    for check in report.checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Degraded => "degraded",
            Status::Missing => "MISSING",
        };
        writeln!(out, "{:width$}  {status:8}  {}", check.name, check.found)?;
        if let Some(remedy) = &check.remedy {
            writeln!(out, "{:width$}            -> {remedy}", "")?;
        }
    }
    feature_table(report.features, &mut out)?;
    let verdict = if report.can_trace {
        "This machine can trace."
    } else {
        "This machine cannot trace as it is: see what is MISSING."
    };
    writeln!(out, "{verdict}")
}

/// What of tcptrace this kernel allows, and what that means where it is not all.
fn feature_table(features: &[Found], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "\nWhat can be seen on this kernel (docs/kernel-support.md has the others):"
    )?;
    let widest = features.iter().map(|found| found.feature.name.len()).max();
    let width = widest.unwrap_or(0);
    for Found {
        feature,
        support,
        by,
        why,
    } in features
    {
        let word = match support {
            Support::Full => "yes",
            Support::Partial => "partly",
            Support::None => "no",
        };
        let by = by.map_or_else(String::new, |by| format!(" (by {by})"));
        writeln!(
            out,
            "{:width$}  {word:8}  {}{by}",
            feature.name, feature.shows
        )?;
        if let Some(why) = why {
            writeln!(out, "{:width$}            -> {why}", "")?;
            writeln!(out, "{:width$}            -> so {}", "", feature.without)?;
        }
    }
    writeln!(out)
}
