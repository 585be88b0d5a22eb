//! The other fields of a transition, each against what the test itself knows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::cgroup::Cgroup;
use crate::event::{self, State};
use crate::kernel_trace::KernelTrace;
use crate::lines::{Report, Transition};
use crate::puppet::Puppet;
use crate::sockets::Family;
use crate::tracer::Tracer;
use crate::{Needs, Scenario, netns, ports};

const NOBODY: u32 = 65_534;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "attributes: netns, uid, cpu and current task",
            process_and_place,
        ),
        Scenario::new("attributes: cookie", cookie),
        Scenario::new("attributes: reuseaddr and reuseport", reuse),
        Scenario::new("attributes: time", time),
        Scenario::new("attributes: cgroup_id", cgroup_id).needing(Needs::Cgroup),
    ]
}

/// Traces the ports while `play` uses them, then waits for the end of all its sockets.
fn traced(ports: &[u16], play: impl FnOnce() -> Result<()>) -> Result<Report> {
    let mut kernel = KernelTrace::start()?;
    let tracer = Tracer::json(&["--port", &ports::list(ports)])?;
    play()?;
    kernel.wait_until_over(ports)?;
    tracer.stop()
}

fn find(report: &Report, old: State, new: State) -> Result<&Transition> {
    report
        .transitions
        .iter()
        .find(|one| one.event.step.old == old && one.event.step.new == new)
        .with_context(|| format!("no {old} -> {new} was printed"))
}

fn process_and_place() -> Result<()> {
    netns::with_new(|netns| {
        let port = ports::next();
        let mut puppet = Puppet::start()?;
        puppet.rename(b"marionette")?;
        puppet.become_user(NOBODY)?;
        let pid = puppet.pid();
        let report = traced(&[port], || {
            let listener = Family::V4.listener(port)?;
            puppet.connect(Family::V4.connects_to(port))?;
            let server = listener.accept()?;
            puppet.close_all()?;
            ensure!(server.receive()? == 0, "the puppet's FIN must arrive");
            Ok(())
        })?;
        // SAFETY: sysconf takes an integer and touches no memory of ours.
        let cpus = u32::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) })?;
        for transition in &report.transitions {
            let ours = transition.event.step.lport == port;
            let uid = if ours { 0 } else { NOBODY };
            ensure!(
                transition.netns == netns.inode,
                "not in {}: {transition:?}",
                netns.inode
            );
            ensure!(
                transition.uid == uid,
                "the socket's uid is {uid}: {transition:?}"
            );
            ensure!(
                transition.cpu < cpus,
                "there are {cpus} CPUs: {transition:?}"
            );
        }
        // These two are made by the calling task itself, within its system call.
        for (old, new) in [
            (State::CLOSE, State::SYN_SENT),
            (State::ESTABLISHED, State::FIN_WAIT1),
        ] {
            let current = &find(&report, old, new)?.current;
            ensure!(
                current.pid == pid && current.tid == pid && current.comm == "marionette",
                "{old} -> {new} was made by marionette, {pid}, but current is {current:?}"
            );
        }
        let listen = &find(&report, State::CLOSE, State::LISTEN)?.current;
        ensure!(
            listen.pid == std::process::id() && listen.tid != listen.pid,
            "listen() was called by a thread of {}, but current is {listen:?}",
            std::process::id()
        );
        Ok(())
    })
}

/// A cookie is shown if the socket has one, and it has one once somebody asks.
fn cookie() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut asked = 0;
        let report = traced(&[port], || {
            let listener = Family::V4.listener(port)?;
            let client = Family::V4.client()?;
            asked = client.cookie()?;
            client.connect(Family::V4.connects_to(port))?;
            let server = listener.accept()?;
            drop(client);
            ensure!(server.receive()? == 0, "the client's FIN must arrive");
            Ok(())
        })?;
        ensure!(asked != 0, "the kernel gives no cookie of 0");
        let clients = |one: &&Transition| one.event.step.rport == port;
        ensure!(
            report.transitions.iter().any(|one| clients(&one)),
            "no line of the client"
        );
        for transition in report.transitions.iter().filter(clients) {
            ensure!(
                transition.cookie == Some(asked),
                "SO_COOKIE says {asked}, but the line {transition:?}"
            );
        }
        for transition in report.transitions.iter().filter(|one| !clients(one)) {
            ensure!(
                transition.cookie != Some(asked) && transition.cookie != Some(0),
                "another socket has another cookie, or none: {transition:?}"
            );
        }
        Ok(())
    })
}

fn reuse() -> Result<()> {
    netns::with_new(|_| {
        let settings = [(false, false), (true, false), (false, true), (true, true)];
        let ports = ports::several(settings.len());
        let report = traced(&ports, || {
            for ((address, port_too), port) in settings.into_iter().zip(&ports) {
                let client = Family::V6.client()?;
                client.set_reuse_address(address)?;
                client.set_reuse_port(port_too)?;
                let refused = client.connect(Family::V6.connects_to(*port));
                ensure!(refused.is_err(), "nobody listens on {port}");
            }
            Ok(())
        })?;
        let printed = report.transitions.len();
        ensure!(
            printed == 8,
            "four refused connects are eight transitions, not {printed}"
        );
        for transition in &report.transitions {
            let index = ports
                .iter()
                .position(|port| *port == transition.event.step.rport);
            let (address, port_too) = settings[index.context("a port of the filter")?];
            ensure!(
                transition.reuseaddr == address && transition.reuseport == port_too,
                "SO_REUSEADDR is {address} and SO_REUSEPORT {port_too}, but: {transition:?}"
            );
        }
        Ok(())
    })
}

/// `time` is the wall clock, in UTC, to the nanosecond, and goes with `ts_ns`.
fn time() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let before = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let report = traced(&[port], || {
            let refused = Family::V4.client()?.connect(Family::V4.connects_to(port));
            ensure!(refused.is_err(), "nobody listens there");
            std::thread::sleep(Duration::from_millis(50));
            drop(Family::V4.listener(port)?);
            Ok(())
        })?;
        let after = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let mut offsets = Vec::new();
        for transition in &report.transitions {
            let time = since_epoch(&transition.time)?;
            ensure!(
                before <= time && time <= after,
                "{} is {time:?}, but the test ran from {before:?} to {after:?}",
                transition.time
            );
            offsets.push(time.as_nanos() - u128::from(transition.event.ts_ns));
        }
        let (least, most) = (offsets.iter().min(), offsets.iter().max());
        let drift = least.zip(most).map(|(least, most)| most - least);
        // The wall clock may be steered while the trace runs, but not by this much.
        ensure!(
            drift.is_some_and(|drift| drift < 1_000_000),
            "time and ts_ns must go together, but they drift by {drift:?} ns"
        );
        Ok(())
    })
}

/// Reads `2026-11-21T01:02:03.123456789Z`, and nothing else.
pub(crate) fn since_epoch(text: &str) -> Result<Duration> {
    let shape: String = text
        .chars()
        .map(|one| if one.is_ascii_digit() { '0' } else { one })
        .collect();
    ensure!(
        shape == "0000-00-00T00:00:00.000000000Z",
        "{text} is not RFC 3339, UTC, to the ns"
    );
    let number = |from: usize, to: usize| -> Result<u64> { Ok(text[from..to].parse()?) };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    ensure!(
        (1..=12).contains(&month) && (1..=31).contains(&day),
        "{text} is no date"
    );
    let leap = |year: u64| {
        year.is_multiple_of(400) || (year.is_multiple_of(4) && !year.is_multiple_of(100))
    };
    let mut days = day - 1;
    for earlier in 1970..year {
        days += if leap(earlier) { 366 } else { 365 };
    }
    for earlier in 1..month {
        days += match earlier {
            2 if leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
    }
    let seconds = ((days * 24 + number(11, 13)?) * 60 + number(14, 16)?) * 60 + number(17, 19)?;
    Ok(Duration::new(seconds, text[20..29].parse()?))
}

fn cgroup_id() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let group = Cgroup::new()?;
        let mut puppet = Puppet::start()?;
        group.take(puppet.pid())?;
        let report = traced(&[port], || {
            let listener = Family::V4.listener(port)?;
            puppet.connect(Family::V4.connects_to(port))?;
            drop(listener);
            puppet.close_all()
        })?;
        drop(puppet);
        let id = group.id()?;
        for transition in &report.transitions {
            let of_puppet = event::has_remote(&vec![transition.event.clone()], &[port]);
            ensure!(
                (transition.cgroup_id == id) == of_puppet,
                "the puppet's sockets, and only they, are in cgroup {id}: {transition:?}"
            );
        }
        Ok(())
    })
}
