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
        filters::Filters,
        preflight::{Check, Machine, Status, demand},
    },
    failure::Failure,
    source::live::{Live, Request},
};

/// The size of buffer to try: the default one.
const BUFFER_BYTES: u32 = 8 << 20;
/// The exit status when tracing is not possible, as for the trace itself.
const CANNOT_TRACE: u8 = 3;

#[derive(Serialize)]
struct Report<'a> {
    kind: &'static str,
    version: &'static str,
    can_trace: bool,
    backends: BTreeMap<&'static str, &'static str>,
    checks: &'a [Check],
}

/// Looks at everything, and then really loads and attaches.
pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let mut checks = Machine::probe().checks(BUFFER_BYTES);
    checks.push(attempt(&checks));
    let can_trace = demand(&checks).is_ok();
    let report = Report {
        kind: "doctor",
        version: env!("CARGO_PKG_VERSION"),
        can_trace,
        backends: if can_trace {
            Live::backends()
        } else {
            BTreeMap::new()
        },
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

/// What counts in the end: the program is loaded, attached, and reports a socket that is known.
fn attempt(checks: &[Check]) -> Check {
    const NAME: &str = "trace";
    if demand(checks).is_err() {
        return Check::missing(NAME, "not tried", "first get what is MISSING above");
    }
    let request = Request {
        filters: Filters::default(),
        buffer_bytes: BUFFER_BYTES,
        log_level: None,
    };
    match Live::open(&request) {
        Ok(live) => match live.degraded().first() {
            Some(sentence) => Check::degraded(
                NAME,
                *sentence,
                "for a complete trace boot a kernel whose struct bpf_prog_aux has no field init_owned",
            ),
            None => Check::ok(
                NAME,
                "raw tracepoint inet_sock_set_state attached; the records about a test socket are right",
            ),
        },
        Err(failure) => {
            let sentence = failure.to_string();
            let (found, remedy) = sentence
                .split_once("; ")
                .unwrap_or((&sentence, "please report it"));
            Check::missing(NAME, found, remedy)
        }
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
    for (need, backend) in &report.backends {
        writeln!(out, "\n{need}: by {backend}")?;
    }
    let verdict = if report.can_trace {
        "This machine can trace."
    } else {
        "This machine cannot trace as it is: see what is MISSING."
    };
    writeln!(out, "\n{verdict}")
}
