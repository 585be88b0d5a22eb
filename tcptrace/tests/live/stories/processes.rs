//! Processes that end with their sockets open: who it was and how it ended is still told.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::verdict::{has_fentry, is, owner_sources, wrong_states};
use crate::endings::expect_fin;
use crate::event::{self, State};
use crate::kernel_trace::KernelTrace;
use crate::lines::Report;
use crate::puppet::Puppet;
use crate::sockets::Family;
use crate::told::Connection;
use crate::tracer::Tracer;
use crate::{hidden, kernel_table, netns, ports};

/// The puppets' name, which they take before they have a socket.
const NAME: &str = "leaves-it-open";

/// How a process ends.
#[derive(Clone, Copy)]
enum End {
    Signal(i32),
    Exit(i32),
}

/// What the process has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

struct Case {
    name: &'static str,
    end: End,
    side: Side,
}

const CASES: &[Case] = &[
    case("kill -9, client", End::Signal(libc::SIGKILL), Side::Client),
    case("kill -9, server", End::Signal(libc::SIGKILL), Side::Server),
    case("Ctrl-C, client", End::Signal(libc::SIGINT), Side::Client),
    case("Ctrl-C, server", End::Signal(libc::SIGINT), Side::Server),
    case("SIGTERM", End::Signal(libc::SIGTERM), Side::Client),
    case("exit(3), client", End::Exit(3), Side::Client),
    case("exit(3), server", End::Exit(3), Side::Server),
    case("exit(0)", End::Exit(0), Side::Client),
];

const fn case(name: &'static str, end: End, side: Side) -> Case {
    Case { name, end, side }
}

/// A case that has been played.
struct Played {
    case: &'static Case,
    port: u16,
    pid: u32,
}

pub(super) fn all() -> Result<()> {
    netns::with_new(|_| {
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&[])?;
        let played = played()?;
        let ports: Vec<u16> = played.iter().map(|one| one.port).collect();
        kernel_table::wait_until_closed(&ports)?;
        let lives = kernel.wait_until_over(&ports)?;
        let report = tracer.stop_settled()?;
        let mut wrong = Vec::new();
        for one in &played {
            let lives: Vec<event::Life> = lives
                .iter()
                .filter(|life| event::touches(life, &[one.port]))
                .cloned()
                .collect();
            if hidden::visible(&lives).len() < lives.iter().map(Vec::len).sum() {
                // Said there; nobody could tell the whole of this one.
                continue;
            }
            let problems = problems(one, &lives, &report);
            if !problems.is_empty() {
                wrong.push(format!("{}:\n  {}", one.case.name, problems.join("\n  ")));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    })
}

/// One process listens, and another one accepts: the connection is the other one's.
pub(super) fn accepted_by_a_child() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut puppet = Puppet::start()?;
        puppet.rename(NAME.as_bytes())?;
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--port", &port.to_string()])?;
        let child = accepts_in_a_child(&mut puppet, port)?;
        kernel_table::wait_until_closed(&[port])?;
        let lives = kernel.wait_until_over(&[port])?;
        let report = tracer.stop_settled()?;
        if hidden::visible(&lives).len() < lives.iter().map(Vec::len).sum() {
            return Ok(());
        }
        let line = report
            .connections
            .iter()
            .find(|line| line.ends.lport == port);
        let line = line.context("nothing is told of the child's connection")?;
        // The child leaves it to the kernel to close what it has accepted.
        ensure!(
            line.close == "remote_first"
                && line.cause == "exit"
                && line.exit_status == Some(0)
                && is(line.closed_by.as_ref(), child, NAME),
            "the child has ended after our FIN: {line:?}"
        );
        let sources = if has_fentry(&report) {
            ["accept"; 2]
        } else {
            ["accept", "closer"]
        };
        let owner = line.owner.as_ref().context("it has an owner")?;
        ensure!(
            is(Some(&owner.process), child, NAME) && sources.contains(&owner.source.as_str()),
            "it was the child's, {child}, not the listener's, {}: {line:?}",
            puppet.pid()
        );
        line.sure.is_exact()
    })
}

/// Plays all of these in the network namespace of this thread; returns their ports.
pub(super) fn play_all() -> Result<Vec<u16>> {
    let played = played()?;
    let mut ports: Vec<u16> = played.iter().map(|one| one.port).collect();
    let port = ports::next();
    let mut puppet = Puppet::start()?;
    puppet.rename(NAME.as_bytes())?;
    accepts_in_a_child(&mut puppet, port)?;
    ports.push(port);
    Ok(ports)
}

fn played() -> Result<Vec<Played>> {
    let mut played = Vec::new();
    for case in CASES {
        played.push(play(case).with_context(|| case.name)?);
    }
    Ok(played)
}

/// Lets the puppet listen, and a child of it accept a connection and end; returns the child's process id.
fn accepts_in_a_child(puppet: &mut Puppet, port: u16) -> Result<u32> {
    puppet.listen(Family::V4.listens_on(port))?;
    let child = puppet.fork_to_accept()?;
    let client = Family::V4.connect(port)?;
    client.shutdown_write()?;
    expect_fin(&client)?;
    drop(client);
    puppet.close_all()?;
    Ok(child)
}

fn play(case: &'static Case) -> Result<Played> {
    let port = ports::next();
    let mut puppet = Puppet::start()?;
    puppet.rename(NAME.as_bytes())?;
    let pid = puppet.pid();
    // What is ours; the listener is the server's.
    let (ours, local, _listener) = match case.side {
        Side::Client => {
            let listener = Family::V4.listener(port)?;
            puppet.connect(Family::V4.connects_to(port))?;
            (listener.accept()?, None, Some(listener))
        }
        Side::Server => {
            puppet.listen(Family::V4.listens_on(port))?;
            let client = Family::V4.connect(port)?;
            puppet.accept()?;
            let local = client.local_port()?;
            (client, Some(local), None)
        }
    };
    let began = Instant::now();
    match case.end {
        End::Signal(signal) => puppet.end_by(signal)?,
        End::Exit(status) => puppet.exit(status)?,
    }
    expect_fin(&ours)?;
    // The puppet is gone now, and its socket is an orphan that waits for our FIN.
    let is_orphan = |row: &kernel_table::Row| {
        row.state == State::FIN_WAIT2 && local.is_none_or(|local| row.rport == local)
    };
    kernel_table::wait_for(
        &[port],
        |rows| rows.iter().any(is_orphan),
        "the orphan's FIN_WAIT2",
    )
    .with_context(|| format!("{:?} after the end", began.elapsed()))?;
    drop(ours);
    Ok(Played { case, port, pid })
}

fn problems(played: &Played, lives: &[event::Life], report: &Report) -> Vec<String> {
    let Played { case, port, pid } = played;
    let is_theirs = |line: &&Connection| match case.side {
        Side::Client => line.ends.rport == *port,
        Side::Server => line.ends.lport == *port,
    };
    let touches = |line: &&Connection| line.ends.rport == *port || line.ends.lport == *port;
    let told: Vec<&Connection> = report.connections.iter().filter(touches).collect();
    let Some(line) = told.iter().copied().find(is_theirs) else {
        return vec![format!("nothing is told of its end: {told:?}")];
    };
    let mut problems = wrong_states(line, lives);
    let mut must = |what: &str, holds: bool| {
        if !holds {
            problems.push(format!("{what}, but: {line:?}"));
        }
    };
    let (cause, signal, status, role) = match (case.end, case.side) {
        (End::Signal(signal), side) => ("signal", u64::try_from(signal).ok(), None, side),
        (End::Exit(status), side) => ("exit", None, u64::try_from(status).ok(), side),
    };
    let role = match role {
        Side::Client => "client",
        Side::Server => "server",
    };
    must("two ends are to be told", told.len() == 2);
    must(
        "the process closed first, by its end",
        line.close == "local_first" && line.cause == cause,
    );
    must(
        "wrong signal or status",
        line.signal == signal && line.exit_status == status,
    );
    must("wrong role", line.role == role);
    must(
        "not closed first by it",
        line.closed_first.as_deref() == Some("local"),
    );
    must("not closed by it", is(line.closed_by.as_ref(), *pid, NAME));
    must(
        "the end of a process is no half close",
        line.half_closed_ns.is_none(),
    );
    must(
        "its minisocket waits for our FIN",
        line.minisocket.as_deref() == Some("fin_wait2"),
    );
    must(
        "all of it was seen",
        line.complete && line.sure.is_exact().is_ok(),
    );
    let sources = owner_sources(role, true, report);
    let owner = line.owner.as_ref();
    must(
        "not owned by it",
        owner.is_some_and(|owner| {
            is(Some(&owner.process), *pid, NAME) && sources.contains(&owner.source.as_str())
        }),
    );
    let other = told.iter().find(|one| one.ends == line.ends.turned());
    must(
        "the other end is ours",
        other.is_some_and(|other| {
            let (owner, peer) = (other.owner.as_ref(), other.peer.as_ref());
            let peer_owner = peer.and_then(|peer| peer.owner.as_ref());
            other.close == "remote_first"
                && owner.is_some_and(|owner| owner.process.pid == std::process::id())
                && peer_owner.is_some_and(|owner| is(Some(&owner.process), *pid, NAME))
        }),
    );
    // The process is gone for long; whose TIME_WAIT it is is still known.
    let entered: Vec<_> = report
        .entered
        .iter()
        .filter(|one| one.ends == line.ends)
        .collect();
    must(
        "it got one minisocket, which is the process's own",
        entered.len() == 1
            && entered[0]
                .owner
                .as_ref()
                .is_some_and(|owner| is(Some(&owner.process), *pid, NAME)),
    );
    problems
}
