//! Owns `tcptrace doctor`: what this kernel supports, what is missing and how to get it.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use serde::Serialize;

use super::args::DoctorArgs;
use crate::{
    bpf::{
        calls::{Calls, CallsBackend},
        filters::Filters,
        hooks::Backend,
        preflight::{Check, Machine, Status, demand},
    },
    failure::Failure,
    source::live::{Live, Request},
};

/// The size of buffer to try: the default one.
const BUFFER_BYTES: u32 = 8 << 20;
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
}

/// Looks at everything, and then really loads and attaches.
pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let mut checks = Machine::probe().checks(BUFFER_BYTES);
    let (tried, backends) = attempt(&checks);
    checks.extend(tried);
    let can_trace = demand(&checks).is_ok();
    let report = Report {
        kind: "doctor",
        version: env!("CARGO_PKG_VERSION"),
        can_trace,
        backends,
        checks: &checks,
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
fn attempt(checks: &[Check]) -> (Vec<Check>, Backends) {
    const NAME: &str = "trace";
    let none = BTreeMap::new();
    if demand(checks).is_err() {
        let check = Check::missing(NAME, "not tried", "first get what is MISSING above");
        return (vec![check], none);
    }
    let request = Request {
        filters: Filters::default(),
        buffer_bytes: BUFFER_BYTES,
        log_level: None,
        backend: Backend::Auto,
        calls: Calls::Auto,
    };
    match Live::open(&request) {
        Ok(live) => {
            let attached = if live.degraded().is_empty() {
                Check::ok(
                    NAME,
                    "all programs attached; the records about a test socket are right",
                )
            } else {
                Check::degraded(
                    NAME,
                    live.degraded().join("; "),
                    "what that means for what you see is in docs/limitations.md",
                )
            };
            (
                vec![attached, time_wait(&live), calls(&live)],
                live.backends(),
            )
        }
        Err(failure) => {
            let sentence = failure.to_string();
            let (found, remedy) = sentence
                .split_once("; ")
                .unwrap_or((&sentence, "please report it"));
            (vec![Check::missing(NAME, found, remedy)], none)
        }
    }
}

/// How TIME_WAIT is seen.
fn time_wait(live: &Live) -> Check {
    const NAME: &str = "TIME_WAIT";
    let seen_by_timer = live.settings().minisockets;
    match live.no_fentry() {
        None => Check::ok(
            NAME,
            "by the kernel's functions (fentry): every date is exact",
        ),
        Some(why) if seen_by_timer => Check::degraded(
            NAME,
            format!("by the timers' tracepoints, because {why}"),
            "some dates are inferred and marked so (docs/limitations.md); for fentry boot a kernel that allows it, without lockdown",
        ),
        Some(_) => Check::degraded(
            NAME,
            "not seen, neither its beginning nor its end",
            "see the check before this one",
        ),
    }
}

/// How bind(), listen() and connect() are seen.
fn calls(live: &Live) -> Check {
    const NAME: &str = "calls";
    match live.calls() {
        Ok(CallsBackend::Fentry) => Check::ok(
            NAME,
            "bind(), listen() and connect() by the kernel's functions (fentry)",
        ),
        Ok(CallsBackend::Syscalls) => Check::degraded(
            NAME,
            format!(
                "bind(), listen() and connect() by the tracepoints of system calls, because {}",
                live.calls_no_fentry().unwrap_or("that was asked for")
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
    if !report.backends.is_empty() {
        writeln!(out)?;
    }
    for (need, backend) in &report.backends {
        writeln!(out, "{need}: by {backend}")?;
    }
    let verdict = if report.can_trace {
        "This machine can trace."
    } else {
        "This machine cannot trace as it is: see what is MISSING."
    };
    writeln!(out, "\n{verdict}")
}
