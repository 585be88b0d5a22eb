//! Filters by process, user and control group: sockets belong to who made them, and their events
//! in interrupt context, where some other task is running, belong to the same.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::cgroup::Cgroup;
use crate::endings::connect_twice;
use crate::event::{self, Life, State};
use crate::kernel_trace::KernelTrace;
use crate::puppet::Puppet;
use crate::sockets::{Family, Socket};
use crate::tracer::Tracer;
use crate::{Needs, Scenario, compare, netns, ports};

/// The user "nobody", on every distribution.
const NOBODY: u32 = 65_534;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("owners: --pid of a client", client_of_pid),
        Scenario::new("owners: --pid of a server", server_of_pid),
        Scenario::new("owners: --pid of a process that is killed", killed_pid),
        Scenario::new(
            "owners: --pid with sockets older than the trace",
            older_than_trace,
        ),
        Scenario::new(
            "owners: --pid with an unaccepted connection older than the trace",
            queued_before_trace,
        ),
        Scenario::new(
            "owners: --pid hides who listens on the same port later",
            same_port_later,
        ),
        Scenario::new(
            "owners: --pid hides who listens on the same port at another address",
            same_port_beside,
        ),
        Scenario::new("owners: --pid with a port filter", pid_and_port),
        Scenario::new("owners: --uid", uid),
        Scenario::new("owners: --cgroup", cgroup).needing(Needs::Cgroup),
    ]
}

/// Connections of our own, that the filter must hide, in the memory that the puppet's sockets have
/// left behind.
fn strangers() -> Result<()> {
    connect_twice(Family::V4, ports::next())?;
    connect_twice(Family::V6, ports::next())
}

/// The puppet's end of connections to the port: the client's.
fn client_ends(lives: Vec<Life>, port: u16) -> Vec<Life> {
    lives
        .into_iter()
        .filter(|life| event::has_remote(life, &[port]))
        .collect()
}

/// The other end: the listener and its children.
fn server_ends(lives: Vec<Life>, port: u16) -> Vec<Life> {
    lives
        .into_iter()
        .filter(|life| event::has_local(life, &[port]))
        .collect()
}

fn client_of_pid() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut puppet = Puppet::start()?;
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--pid", &puppet.pid().to_string()])?;
        let listener = Family::V4.listener(port)?;
        // One of ours, that the filter must hide.
        drop(Family::V4.pair(&listener, port)?);
        let own: Vec<Life> = kernel.wait_for(
            |life| event::has_remote(life, &[port]),
            |lives| lives.iter().all(event::is_over),
            "our own client to end",
        )?;
        puppet.connect(Family::V4.connects_to(port))?;
        let first = listener.accept()?;
        puppet.connect(Family::V4.connects_to(port))?;
        let second = listener.accept()?;
        // The server ends the first, so that the client hears of it in interrupt context.
        drop(first);
        puppet.close_all()?;
        ensure!(second.receive()? == 0, "the puppet's FIN must arrive");
        drop((second, listener));
        strangers()?;
        let lives = client_ends(kernel.wait_until_over(&[port])?, port);
        ensure!(
            own.len() == 1 && lives.len() == 3,
            "three clients, of which one is ours"
        );
        compare::shows(
            "a client closed by its server",
            &lives,
            &[
                (State::CLOSE, State::SYN_SENT),
                (State::SYN_SENT, State::ESTABLISHED),
                (State::ESTABLISHED, State::CLOSE_WAIT),
            ],
        )?;
        compare::same(&lives[1..], &tracer.stop()?)
    })
}

fn server_of_pid() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut puppet = Puppet::start()?;
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["-p", &puppet.pid().to_string()])?;
        serve(&mut puppet, port)?;
        strangers()?;
        let lives = server_ends(kernel.wait_until_over(&[port])?, port);
        ensure!(
            lives.len() == 3,
            "a listener and two children, not {}",
            lives.len()
        );
        compare::same(&lives, &tracer.stop()?)
    })
}

/// The puppet serves two connections of ours: one it closes first, the other we close first.
fn serve(puppet: &mut Puppet, port: u16) -> Result<()> {
    puppet.listen(Family::V4.listens_on(port))?;
    let first = Family::V4.connect(port)?;
    puppet.accept()?;
    drop(first);
    let second = Family::V4.connect(port)?;
    puppet.accept()?;
    puppet.close_all()?;
    ensure!(second.receive()? == 0, "the puppet's FIN must arrive");
    Ok(())
}

/// The kernel closes what a killed process had open, when the process is hardly there any more.
fn killed_pid() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut puppet = Puppet::start()?;
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["-p", &puppet.pid().to_string()])?;
        let listener = Family::V4.listener(port)?;
        puppet.connect(Family::V4.connects_to(port))?;
        let server = listener.accept()?;
        puppet.kill()?;
        ensure!(
            server.receive()? == 0,
            "the FIN of the killed puppet must arrive"
        );
        drop((server, listener));
        let lives = client_ends(kernel.wait_until_over(&[port])?, port);
        ensure!(lives.len() == 1, "one client, not {}", lives.len());
        compare::same(&lives, &tracer.stop()?)
    })
}

/// The tracer must find the sockets that the process has already.
fn older_than_trace() -> Result<()> {
    netns::with_new(|_| {
        let [ours, theirs] = [ports::next(), ports::next()];
        let mut puppet = Puppet::start()?;
        let listener = Family::V6.listener(ours)?;
        puppet.connect(Family::V6.connects_to(ours))?;
        let server = listener.accept()?;
        puppet.listen(Family::V6.listens_on(theirs))?;
        let client = Family::V6.connect(theirs)?;
        puppet.accept()?;
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["-p", &puppet.pid().to_string()])?;
        // Ours first, so that the puppet's sockets change state when it is not running.
        drop((server, listener));
        client.shutdown_write()?;
        // A child of the old listener.
        let late = Family::V6.connect(theirs)?;
        puppet.accept()?;
        puppet.close_all()?;
        ensure!(client.receive()? == 0, "the puppet's FIN must arrive");
        drop((client, late));
        strangers()?;
        let lives = kernel.wait_until_over(&[ours, theirs])?;
        let lives: Vec<Life> = client_ends(lives.clone(), ours)
            .into_iter()
            .chain(server_ends(lives, theirs))
            .collect();
        ensure!(
            lives.len() == 4,
            "a client, a listener and two children, not {}",
            lives.len()
        );
        compare::same(&lives, &tracer.stop()?)
    })
}

/// A connection that waits in the accept queue belongs to nobody's descriptor yet, but it is the
/// listener's.
fn queued_before_trace() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut puppet = Puppet::start()?;
        puppet.listen(Family::V4.listens_on(port))?;
        let client = Family::V4.connect(port)?;
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["-p", &puppet.pid().to_string()])?;
        puppet.accept()?;
        drop(client);
        kernel.wait_for(
            |life| event::has_local(life, &[port]),
            |lives| !lives.is_empty(),
            "the puppet's end to get the FIN",
        )?;
        puppet.close_all()?;
        let lives = server_ends(kernel.wait_until_over(&[port])?, port);
        ensure!(
            lives.len() == 2,
            "a child and a listener, not {}",
            lives.len()
        );
        compare::same(&lives, &tracer.stop()?)
    })
}

/// The puppet stops listening, and another process takes the port.
fn same_port_later() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut puppet = Puppet::start()?;
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["-p", &puppet.pid().to_string()])?;
        serve(&mut puppet, port)?;
        let lives = server_ends(kernel.wait_until_over(&[port])?, port);
        connect_twice(Family::V4, port)?;
        kernel.wait_until_over(&[port])?;
        compare::same(&lives, &tracer.stop()?)
    })
}

/// The puppet listens on 127.0.0.1, and we on 127.0.0.2.
fn same_port_beside() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let beside = SocketAddr::from(([127, 0, 0, 2], port));
        let mut puppet = Puppet::start()?;
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["-p", &puppet.pid().to_string()])?;
        let ours = Socket::new(false)?;
        ours.bind(beside)?;
        ours.listen(1)?;
        puppet.listen(Family::V4.listens_on(port))?;
        for address in [Family::V4.connects_to(port), beside] {
            Socket::new(false)?.connect(address)?;
        }
        puppet.accept()?;
        puppet.close_all()?;
        drop(ours);
        let mut lives = server_ends(kernel.wait_until_over(&[port])?, port);
        lives.retain(|life| life[0].step.laddr != beside.ip());
        // Up to 6.14 a child's first event has the listener's address, which is the same here.
        ensure!(
            lives.len() == 2,
            "the puppet's listener and child, not {}",
            lives.len()
        );
        compare::same(&lives, &tracer.stop()?)
    })
}

/// Two filters of different kinds must both hold.
fn pid_and_port() -> Result<()> {
    netns::with_new(|_| {
        let [port, other] = [ports::next(), ports::next()];
        let mut puppet = Puppet::start()?;
        let mut kernel = KernelTrace::start()?;
        let pid = puppet.pid().to_string();
        let tracer = Tracer::json(&["-p", &pid, "--port", &port.to_string()])?;
        serve(&mut puppet, other)?;
        serve(&mut puppet, port)?;
        kernel.wait_until_over(&[other])?;
        let lives = server_ends(kernel.wait_until_over(&[port])?, port);
        compare::same(&lives, &tracer.stop()?)
    })
}

/// Lets the puppet connect to us and serve, beside strangers; returns the lives of its own sockets.
fn as_client_and_server(
    puppet: &mut Puppet,
    kernel: &mut KernelTrace,
    ours: u16,
    theirs: u16,
) -> Result<Vec<Life>> {
    let listener = Family::V4.listener(ours)?;
    puppet.connect(Family::V4.connects_to(ours))?;
    let server = listener.accept()?;
    drop((server, listener));
    serve(puppet, theirs)?;
    strangers()?;
    let lives = kernel.wait_until_over(&[ours, theirs])?;
    let lives: Vec<Life> = client_ends(lives.clone(), ours)
        .into_iter()
        .chain(server_ends(lives, theirs))
        .collect();
    ensure!(
        lives.len() == 4,
        "a client, a listener and two children, not {}",
        lives.len()
    );
    Ok(lives)
}

fn uid() -> Result<()> {
    netns::with_new(|_| {
        let [ours, theirs] = [ports::next(), ports::next()];
        let mut puppet = Puppet::start()?;
        puppet.become_user(NOBODY)?;
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--uid", &NOBODY.to_string()])?;
        let lives = as_client_and_server(&mut puppet, &mut kernel, ours, theirs)?;
        let report = tracer.stop()?;
        compare::same(&lives, &report)?;
        for transition in &report.transitions {
            ensure!(
                transition.uid == NOBODY,
                "a line of another user: {transition:?}"
            );
        }
        Ok(())
    })
}

fn cgroup() -> Result<()> {
    netns::with_new(|_| {
        let [ours, theirs] = [ports::next(), ports::next()];
        let group = Cgroup::new()?;
        let mut puppet = Puppet::start()?;
        group.take(puppet.pid())?;
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--cgroup", group.path()?])?;
        let lives = as_client_and_server(&mut puppet, &mut kernel, ours, theirs)?;
        let report = tracer.stop()?;
        compare::same(&lives, &report).context("with --cgroup")?;
        let id = group.id()?;
        for transition in &report.transitions {
            ensure!(
                transition.cgroup_id == id,
                "not of cgroup {id}: {transition:?}"
            );
        }
        drop(puppet);
        Ok(())
    })
}
