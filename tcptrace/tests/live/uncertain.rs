//! What the tracer cannot know, it says; and it is right about the rest.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::endings::{ENDINGS, expect_fin, expect_reset};
use crate::event::{Event, Life, State};
use crate::kernel_trace::KernelTrace;
use crate::losses::Dam;
use crate::puppet::Puppet;
use crate::sockets::{Family, Pair, Socket};
use crate::told::Connection;
use crate::tracer::{self, Tracer};
use crate::{Scenario, hidden, kernel_table, netns, ports, sys};

/// Connections while nobody reads.
const BURST: usize = 300;
/// Connections before and after it.
const AROUND: usize = 8;
/// Time in which the tracer catches up: it looks every 40 ms, and an emulated one is slow.
const PAUSE: Duration = Duration::from_millis(200);
/// The tracer stamps its lines where the kernel's trace does, or the machine takes the CPU away between
/// the two.
const TOLERANCE_NS: u64 = 20_000_000;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "uncertain: a connection older than the trace",
            older_connection,
        ),
        Scenario::new(
            "uncertain: a TIME_WAIT older than the trace",
            older_time_wait,
        ),
        Scenario::new("uncertain: connections touched by a loss", touched_by_loss),
    ]
}

/// Its end is seen, its beginning is not; who owns it is found in /proc.
fn older_connection() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut puppet = Puppet::start()?;
        let listener = Family::V4.listener(port)?;
        puppet.connect(Family::V4.connects_to(port))?;
        let server = listener.accept()?;
        let tracer = Tracer::json(&["--port", &port.to_string()])?;
        // Ours first, so that nothing of the puppet's end happens in a system call of the puppet.
        drop(server);
        let waits = |rows: &[kernel_table::Row]| {
            rows.iter()
                .any(|row| row.rport == port && row.state == State::CLOSE_WAIT)
        };
        kernel_table::wait_for(&[port], waits, "the FIN to reach the puppet")?;
        puppet.close_all()?;
        // One that is seen from its beginning.
        let Pair { client, server } = Family::V4.pair(&listener, port)?;
        let young = client.local_port()?;
        client.reset_on_close()?;
        drop(client);
        expect_reset(&server)?;
        drop(listener);
        kernel_table::wait_until_closed(&[port])?;
        let report = tracer.stop_settled()?;
        let (new, old): (Vec<_>, Vec<_>) = report
            .connections
            .iter()
            .partition(|line| line.ends.lport == young || line.ends.rport == young);
        ensure!(
            old.len() == 2,
            "two ends are older than the trace, not {old:#?}"
        );
        for line in &old {
            ensure!(
                !line.complete && line.sure.doubts("before_trace"),
                "its beginning was not seen: {line:?}"
            );
            ensure!(
                line.established_ns.is_none(),
                "nobody saw it become ESTABLISHED: {line:?}"
            );
            let (close, pid) = if line.ends.lport == port {
                ("local_first", std::process::id())
            } else {
                ("remote_first", puppet.pid())
            };
            ensure!(
                line.close == close && line.cause == "close",
                "its end was seen: {line:?}"
            );
            let owner = line.owner.as_ref().map(|owner| owner.process.pid);
            ensure!(owner == Some(pid), "it is process {pid}'s: {line:?}");
        }
        let theirs = old.iter().find(|line| line.ends.rport == port);
        let source = theirs
            .and_then(|line| line.owner.as_ref())
            .map(|owner| owner.source.as_str());
        ensure!(
            source == Some("proc"),
            "the puppet was found in /proc: {theirs:?}"
        );
        ensure!(
            new.len() == 2,
            "two ends are younger than the trace, not {new:#?}"
        );
        for line in new {
            ensure!(
                line.complete && !line.sure.doubts("before_trace"),
                "all of it was seen: {line:?}"
            );
        }
        Ok(())
    })
}

/// Its end is seen, and nothing is made up of its beginning.
fn older_time_wait() -> Result<()> {
    netns::with_new(|_| {
        let [local, port] = [ports::next(), ports::next()];
        let listener = Family::V4.listener(port)?;
        let server = connect_from(local, port, &listener)?;
        kernel_table::wait_for_state(local, port, State::FIN_WAIT2)?;
        drop(server);
        kernel_table::wait_for_state(local, port, State::TIME_WAIT)?;
        let tracer = Tracer::json(&["--port", &port.to_string()])?;
        // From the same port, and so in its place.
        let server = connect_from(local, port, &listener)?;
        drop((server, listener));
        kernel_table::wait_until_closed(&[port])?;
        let report = tracer.stop_settled()?;
        let old: Vec<_> = report
            .time_waits
            .iter()
            .filter(|line| line.end == "reused_by_connect")
            .collect();
        ensure!(old.len() == 1, "one was replaced: {:#?}", report.time_waits);
        let line = old[0];
        ensure!(
            (line.ends.lport, line.ends.rport) == (local, port),
            "another one: {line:?}"
        );
        ensure!(
            line.entered_ns.is_none()
                && line.sure.doubts("before_trace")
                && line.sure.certainty != "exact",
            "nobody saw it begin: {line:?}"
        );
        let by = line.by.as_ref().map(|process| process.pid);
        ensure!(
            by == Some(std::process::id()),
            "we have replaced it: {line:?}"
        );
        for entered in &report.entered {
            ensure!(
                entered.ts_ns > line.ts_ns && entered.sure.is_exact().is_ok(),
                "only the new one was seen to begin: {entered:?}"
            );
        }
        ensure!(
            report.entered.len() == 1,
            "the new one began, too: {:?}",
            report.entered
        );
        Ok(())
    })
}

/// A connection whose client closes first, from this port; returns the other end.
fn connect_from(local: u16, port: u16, listener: &Socket) -> Result<Socket> {
    let client = Socket::new(false)?;
    client.set_reuse_address(true)?;
    client.bind(Family::V4.connects_to(local))?;
    client.connect(Family::V4.connects_to(port))?;
    let server = listener.accept()?;
    drop(client);
    expect_fin(&server)?;
    Ok(server)
}

/// What is told as certain and whole is what the kernel itself has recorded, loss or not.
fn touched_by_loss() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let dam = Dam::new(port);
        let mut kernel = KernelTrace::start()?;
        let mut command = tracer::command(&["--json", "-N", "/proc/self/ns/net"], &[]);
        command.args(["--port", &port.to_string(), "--buffer-size", "4K"]);
        let tracer = Tracer::json_command(dam.stops_reading(command))?;
        let listener = Family::V4.listener(port)?;
        around(port, &listener)?;
        let began = sys::boottime_ns()?;
        dam.close()?;
        for ending in ENDINGS.iter().cycle().take(BURST) {
            (ending.run)(Family::V4.pair(&listener, port)?)?;
        }
        dam.open()?;
        std::thread::sleep(5 * PAUSE);
        let opened = sys::boottime_ns()?;
        around(port, &listener)?;
        drop(listener);
        let lives = kernel.wait_until_over(&[port])?;
        let report = tracer.stop_settled()?;
        ensure!(
            report.lost > 0,
            "the buffer must overflow: this shows nothing"
        );
        let mut certain = [0; 3];
        for line in &report.connections {
            // Before 6.12 the kernel gives no reason for a RST, and a cause may be inferred.
            let whole = line.complete && line.sure.doubts.is_empty();
            if !whole {
                ensure!(
                    !line.complete || line.sure.doubts("records_lost"),
                    "it does not say that records were lost: {line:?}"
                );
                // Where its end was lost, it is dated by when that was found out.
                let ended = |life: &Life| life.last().is_some_and(|end| ended_before(line, end));
                ensure!(
                    lives.iter().any(ended),
                    "the kernel knows nothing of {line:?}"
                );
                continue;
            }
            let life = life_of(line, &lives);
            let life = life.with_context(|| format!("the kernel knows nothing of {line:?}"))?;
            agrees(line, life)?;
            let first = life.first().map_or(0, |event| event.ts_ns);
            let when = if line.ts_ns < began {
                0
            } else if first > opened {
                2
            } else {
                1
            };
            certain[when] += 1;
        }
        let all = lives.iter().flatten().count() == hidden::visible(&lives).len();
        ensure!(
            !all || (certain[0] == 2 * AROUND && certain[2] == 2 * AROUND),
            "before and after the loss {} ends each are told whole and for certain, not {certain:?}",
            2 * AROUND
        );
        Ok(())
    })
}

fn around(port: u16, listener: &Socket) -> Result<()> {
    for _ in 0..AROUND {
        (ENDINGS[0].run)(Family::V4.pair(listener, port)?)?;
        // A page holds only some connections' worth of records.
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Whether the event is of the connection's ports, and not younger than what is told of it.
fn ended_before(line: &Connection, end: &Event) -> bool {
    // One whose first record alone was seen had a port of 0 yet.
    [0, end.step.lport].contains(&line.ends.lport)
        && [0, end.step.rport].contains(&line.ends.rport)
        && end.ts_ns <= line.ts_ns + TOLERANCE_NS
}

/// The socket that ended where the line says so, with its ports.
fn life_of<'a>(line: &Connection, lives: &'a [Life]) -> Option<&'a Life> {
    let gap = |life: &Life| {
        let last = life.last()?;
        let ports = (last.step.lport, last.step.rport) == (line.ends.lport, line.ends.rport);
        ports.then(|| last.ts_ns.abs_diff(line.ts_ns))
    };
    let nearest = lives
        .iter()
        .min_by_key(|life| gap(life).unwrap_or(u64::MAX))?;
    gap(nearest)
        .is_some_and(|gap| gap < TOLERANCE_NS)
        .then_some(nearest)
}

/// Fails unless the states are the kernel's, and the verdict is one that they allow.
fn agrees(line: &Connection, socket: &Life) -> Result<()> {
    let mut states: Vec<String> = socket
        .iter()
        .map(|event| event.step.new)
        .filter(|state| *state != State::CLOSE)
        .map(|state| state.to_string())
        .collect();
    states.dedup();
    let told: Vec<&str> = line.states.iter().map(|span| span.state.as_str()).collect();
    ensure!(
        states == told,
        "the kernel recorded the states {states:?}: {line:?}"
    );
    let went_through = |state: &str| states.iter().any(|one| one == state);
    let allowed = match line.close.as_str() {
        "local_first" => went_through("FIN_WAIT1"),
        "remote_first" => went_through("LAST_ACK"),
        "simultaneous" => went_through("CLOSING"),
        "reset_sent" | "reset_received" => !went_through("LAST_ACK"),
        _ => false,
    };
    ensure!(
        allowed,
        "the states {states:?} are no {}: {line:?}",
        line.close
    );
    Ok(())
}
