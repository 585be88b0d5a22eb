//! How a trace ends: by signals, by its limits, by a reader that goes away; always well and soon.

use std::io::{BufRead, BufReader};
use std::process::ChildStdout;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::endings::ENDINGS;
use crate::sockets::Family;
use crate::tracer::{self, Process, Tracer};
use crate::{Scenario, netns, ports, programs, sys};

/// "At once", on a machine that is twenty times slower than others.
const SOON: Duration = Duration::from_secs(20);

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("ending: SIGINT", || by_signal(libc::SIGINT)),
        Scenario::new("ending: SIGTERM", || by_signal(libc::SIGTERM)),
        Scenario::new("ending: SIGKILL leaves nothing behind", killed),
        Scenario::new("ending: --count", by_count),
        Scenario::new("ending: --duration", by_duration),
        Scenario::new("ending: reader gone, with traffic", || {
            reader_gone(&["--json"], true)
        }),
        Scenario::new("ending: reader gone, without traffic", || {
            reader_gone(&["--json"], false)
        }),
        Scenario::new("ending: reader of text gone, with traffic", || {
            reader_gone(&[], true)
        }),
        Scenario::new("ending: reader of text gone, without traffic", || {
            reader_gone(&[], false)
        }),
    ]
}

fn connect(port: u16) -> Result<()> {
    let listener = Family::V4.listener(port)?;
    (ENDINGS[0].run)(Family::V4.pair(&listener, port)?)
}

/// What happened before the signal is printed, even if it still was in the ring buffer.
fn by_signal(signal: libc::c_int) -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let tracer = Tracer::json(&["--port", &port.to_string()])?;
        connect(port)?;
        let began = Instant::now();
        sys::signal(tracer.pid(), signal)?;
        let report = tracer.report()?;
        let took = began.elapsed();
        ensure!(took < SOON, "the tracer took {took:?} to end");
        // Both ends of the connection reach FIN_WAIT2 and CLOSE_WAIT before connect() returns.
        let printed = report.transitions.len();
        ensure!(
            printed >= 8,
            "only {printed} transitions of a whole connection were printed"
        );
        Ok(())
    })
}

/// Nobody could tell the kernel to take its programs back, so it must do that by itself.
fn killed() -> Result<()> {
    netns::with_new(|_| {
        let tracer = Tracer::json(&[])?;
        connect(ports::next())?;
        let programs = programs::of_process(tracer.pid())?;
        ensure!(!programs.is_empty(), "a tracer has programs");
        sys::signal(tracer.pid(), libc::SIGKILL)?;
        tracer.wait()?;
        let gone = || {
            programs
                .iter()
                .all(|number| programs::exists(*number).is_ok_and(|exists| !exists))
        };
        // The kernel frees them in its own time.
        sys::wait_until(gone, "the programs of a killed tracer to go")
    })
}

fn by_count() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let tracer = Tracer::json(&["--port", &port.to_string(), "-n", "3"])?;
        connect(port)?;
        let report = tracer.report()?;
        let printed = report.transitions.len();
        ensure!(
            printed == 3,
            "three transitions were asked for, {printed} printed"
        );
        Ok(())
    })
}

fn by_duration() -> Result<()> {
    netns::with_new(|_| {
        let tracer = Tracer::json(&["-d", "1"])?;
        let began = Instant::now();
        let report = tracer.report()?;
        let took = began.elapsed();
        // The start line may have been on its way to us for a moment.
        ensure!(
            took > Duration::from_millis(500) && took < SOON,
            "-d 1 took {took:?}"
        );
        ensure!(
            report.transitions.is_empty(),
            "nothing happened in this namespace"
        );
        Ok(())
    })
}

/// As in `tcptrace | head -1`: nobody reads on, so the tracer ends, without complaint.
fn reader_gone(format: &[&str], traffic: bool) -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let filter = port.to_string();
        let flags = ["-N", "/proc/self/ns/net", "--port", &filter];
        let (mut process, stdout) = Process::start(tracer::command(&flags, format))?;
        read_one_line(stdout)?;
        if traffic {
            connect(port)?;
        }
        let began = Instant::now();
        let status = process.wait(SOON)?;
        let said = process.stderr();
        ensure!(
            status.success(),
            "a reader that goes away is no failure, but: {status}, {said}"
        );
        // What the tracer said at its start, of the kernel, is another matter.
        let of_the_end: Vec<&str> = said
            .lines()
            .filter(|line| !line.starts_with("tcptrace: warning: this kernel "))
            .collect();
        ensure!(
            of_the_end.is_empty(),
            "a reader that goes away is not worth a word, but: {said}"
        );
        ensure!(
            began.elapsed() < SOON,
            "the tracer took {:?} to end",
            began.elapsed()
        );
        Ok(())
    })
}

/// Reads the start line, or the header, and closes the pipe.
fn read_one_line(stdout: ChildStdout) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(!line.is_empty(), "the tracer ended before its first line");
    Ok(())
}
