//! Ports that run out, that not everybody may have, and that one connection had a moment ago.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::remedies;
use super::told::line_of;
use crate::endings::expect_fin;
use crate::event::State;
use crate::lines;
use crate::puppet::Puppet;
use crate::sockets::{Family, Socket};
use crate::tracer::Tracer;
use crate::{kernel_table, netns, ports};

/// How many ports there are to choose from.
const FEW: u16 = 4;

/// connect() without a port of its own, and bind() to port 0.
pub(super) fn none_left() -> Result<()> {
    netns::with_new(|_| {
        let mut tracer = Tracer::json(&[])?;
        let port = play_none_left(|words| tracer.wait_for_line_with(words))?;
        let report = tracer.stop_settled()?;

        let line = line_of(&report, port)?;
        ensure!(
            lines::text(line, "call")? == "connect"
                && lines::text(line, "rule")? == "ports_exhausted",
            "{line}"
        );
        check_ports(line)?;
        let helps = remedies::names(line)?;
        for name in ["wider_port_range", "other_destination"] {
            ensure!(helps.iter().any(|one| one == name), "{name} helps: {line}");
        }
        let of_bind = |line: &&Value| line["call"] == "bind" && line["rule"] == "no_free_port";
        let line = report
            .calls_failed
            .iter()
            .find(of_bind)
            .context("the bind() is not told")?;
        check_ports(line)?;
        let helps = remedies::names(line)?;
        ensure!(
            helps.iter().any(|one| one == "wider_port_range"),
            "a wider range helps: {line}"
        );
        Ok(())
    })
}

/// Takes all automatic ports of the network namespace of this thread, lets a connect() and a bind() fail, and
/// does what helps; returns the port of the destination. `told` waits until a line with such words has come.
pub(crate) fn play_none_left(mut told: impl FnMut(&[&str]) -> Result<()>) -> Result<u16> {
    let first = ports::several(usize::from(FEW) + 2)[0] & !1;
    let range = |count: u16| format!("{first} {}", first + count - 1);
    netns::set_sysctl("ipv4/ip_local_port_range", &range(FEW))?;
    let [port, other] = [ports::next(), ports::next()];
    let listener = Family::V4.listener(port)?;
    let second = Family::V4.listener(other)?;
    let mut pairs = Vec::new();
    for _ in 0..FEW {
        pairs.push(Family::V4.pair(&listener, port)?);
    }
    let client = Socket::new(false)?;
    let failed = client.connect(Family::V4.connects_to(port));
    ensure!(
        failed.is_err_and(|error| error.raw_os_error() == Some(libc::EADDRNOTAVAIL)),
        "no port is left for this destination"
    );
    // The ports are counted a moment later: nothing changes until it is told.
    told(&["call_failed", "connect"])?;
    let bound = Socket::new(false)?;
    let failed = bound.bind((Ipv4Addr::LOCALHOST, 0).into());
    ensure!(
        failed.is_err_and(|error| error.raw_os_error() == Some(libc::EADDRINUSE)),
        "no port is left to bind"
    );
    told(&["call_failed", "no_free_port"])?;
    // What helps, while nothing else changes: another destination, then a wider range.
    client.connect(Family::V4.connects_to(other))?;
    netns::set_sysctl("ipv4/ip_local_port_range", &range(FEW + 2))?;
    Socket::new(false)?.connect(Family::V4.connects_to(port))?;
    bound.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    drop((second, pairs));
    Ok(port)
}

fn check_ports(line: &Value) -> Result<()> {
    let ports = lines::field(line, "ports")?;
    ensure!(
        lines::number(ports, "held")? == u64::from(FEW),
        "all {FEW} ports are held: {line}"
    );
    Ok(())
}

pub(super) fn privileged() -> Result<()> {
    netns::with_new(|_| {
        // Below it, and not one of the ports of other tests.
        let start = ports::next() + 1;
        netns::set_sysctl("ipv4/ip_unprivileged_port_start", &start.to_string())?;
        let tracer = Tracer::json(&[])?;
        let port = start - 1;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut user = Puppet::start()?;
        user.become_user(65_534)?;
        ensure!(user.listen(address).is_err(), "it is not allowed to");
        let report = tracer.stop_settled()?;
        let line = line_of(&report, port)?;
        ensure!(
            lines::text(line, "call")? == "bind"
                && lines::text(line, "errno")? == "EACCES"
                && lines::text(line, "rule")? == "privileged_port"
                && lines::number(line, "pid")? == u64::from(user.pid()),
            "{line}"
        );
        let helps = remedies::names(line)?;
        for name in ["capability", "unprivileged_port_start"] {
            ensure!(helps.iter().any(|one| one == name), "{name} helps: {line}");
        }
        netns::set_sysctl("ipv4/ip_unprivileged_port_start", &port.to_string())?;
        user.listen(address)
            .context("with ip_unprivileged_port_start at the port")?;
        drop(user);
        Family::V4
            .listener(ports::next())
            .context("with the capability")?;
        Ok(())
    })
}

pub(super) fn tuple() -> Result<()> {
    netns::with_new(|_| {
        let tracer = Tracer::json(&[])?;
        let port = play_tuple()?;
        let report = tracer.stop_settled()?;
        let line = line_of(&report, port)?;
        ensure!(
            lines::text(line, "call")? == "connect"
                && lines::text(line, "rule")? == "tuple_in_time_wait",
            "{line}"
        );
        let holders = lines::field(line, "holders")?;
        let blocking = holders
            .as_array()
            .context("holders are a list")?
            .iter()
            .find(|one| one["blocks"] == true)
            .context("the TIME_WAIT is in the way")?;
        ensure!(
            lines::text(blocking, "state")? == "TIME_WAIT" && blocking["rport"] == port,
            "{line}"
        );
        Ok(())
    })
}

/// Asks for the two addresses and ports of a TIME_WAIT that may not be replaced, in the network namespace of
/// this thread; returns the port of the destination.
pub(crate) fn play_tuple() -> Result<u16> {
    netns::set_sysctl("ipv4/tcp_timestamps", "0")?;
    let [port, local] = [ports::next(), ports::next()];
    let listener = Family::V4.listener(port)?;
    let client = || -> Result<Socket> {
        let client = Socket::new(false)?;
        client.set_reuse_address(true)?;
        client.bind(Family::V4.connects_to(local))?;
        Ok(client)
    };
    let first = client()?;
    first.connect(Family::V4.connects_to(port))?;
    let server = listener.accept()?;
    drop(first);
    expect_fin(&server)?;
    drop(server);
    kernel_table::wait_for_state(local, port, State::TIME_WAIT)?;
    let second = client()?;
    let failed = second.connect(Family::V4.connects_to(port));
    ensure!(
        failed.is_err_and(|error| error.raw_os_error() == Some(libc::EADDRNOTAVAIL)),
        "the TIME_WAIT has these addresses"
    );
    Ok(port)
}
