//! What a trace says of each failed call.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::remedies;
use super::situations::{Old, SITUATIONS, Situation};
use crate::lines::{self, Report};
use crate::sockets::{Family, Socket};
use crate::tracer::Tracer;
use crate::{netns, ports};

/// The longest that a minisocket can stay, with the wheel's granularity at HZ=100, in ns.
const LONGEST_NS: u64 = 66_000_000_000;

/// The line of the failed call on `port`.
pub(super) fn line_of(report: &Report, port: u16) -> Result<&Value> {
    let mine = |line: &&Value| line["port"] == port || line["lport"] == port;
    let lines: Vec<&Value> = report.calls_failed.iter().filter(mine).collect();
    ensure!(
        lines.len() == 1,
        "one call failed on port {port}, {} are told: {lines:?}",
        lines.len()
    );
    Ok(lines[0])
}

/// The errno as the lines name it.
pub(super) fn error_name(error: i32) -> Result<&'static str> {
    Ok(match error {
        libc::EADDRINUSE => "EADDRINUSE",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::EINVAL => "EINVAL",
        libc::EACCES => "EACCES",
        libc::ECONNREFUSED => "ECONNREFUSED",
        other => anyhow::bail!("no test expects errno {other}"),
    })
}

/// Makes `situation` fail on `port` while `body` looks.
pub(super) fn fail<T>(
    situation: &Situation,
    port: u16,
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let held = situation.hold(port)?;
    let outcome = situation.call(port, &held)?;
    let error = outcome.err().context("it must fail")?;
    ensure!(
        error.raw_os_error() == Some(situation.error),
        "it must fail with {}: {error}",
        io::Error::from_raw_os_error(situation.error)
    );
    let done = body();
    drop(held);
    done
}

pub(super) fn each() -> Result<()> {
    netns::with_new(|_| {
        let tracer = Tracer::json(&[])?;
        let played = played()?;
        let report = tracer.stop_settled()?;
        let failed = lines::field(&report.summary, "calls_failed")?;
        let failed = failed.as_array().context("calls_failed is a list")?;
        let counted: u64 = failed.iter().filter_map(|one| one["count"].as_u64()).sum();
        ensure!(
            counted == report.calls_failed.len() as u64,
            "the summary counts {counted} failed calls: {failed:?}"
        );
        let mut wrong = Vec::new();
        for (situation, port) in &played {
            let checked = line_of(&report, *port).and_then(|line| {
                check(situation, line)
                    .and_then(|()| {
                        remedies::names(line)?
                            .iter()
                            .filter(|name| *name != "wait" || situation.old != Old::TimeWait)
                            .try_for_each(|name| remedies::perform(situation, name))
                    })
                    .with_context(|| format!("in {line}"))
            });
            if let Err(error) = checked {
                wrong.push(format!("{}: {error:#}", situation.name));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        waits_once()
    })
}

/// Lets one call after the other fail in the network namespace of this thread.
fn played() -> Result<Vec<(Situation, u16)>> {
    netns::set_sysctl("ipv4/tcp_fin_timeout", "1")?;
    let mut played = Vec::new();
    for situation in SITUATIONS {
        let port = ports::next();
        fail(&situation, port, || Ok(())).context(situation.name)?;
        played.push((situation, port));
    }
    Ok(played)
}

/// Plays every situation, a listen() after a bind() that failed, and a connect() that is refused, in the
/// network namespace of this thread.
pub(crate) fn play_situations() -> Result<()> {
    played()?;
    listen_elsewhere(ports::next())?;
    connect_to_nobody(ports::next())
}

/// The minute of a real TIME_WAIT, once for all of them.
fn waits_once() -> Result<()> {
    let first = SITUATIONS
        .iter()
        .find(|situation| situation.old == Old::TimeWait)
        .context("one has a TIME_WAIT")?;
    remedies::perform(first, "wait")
}

fn check(situation: &Situation, line: &Value) -> Result<()> {
    ensure!(
        lines::text(line, "call")? == if situation.listens { "listen" } else { "bind" }
            && lines::text(line, "errno")? == error_name(situation.error)?,
        "another call or errno"
    );
    ensure!(
        lines::text(line, "rule")? == situation.rule,
        "the clause is {}",
        situation.rule
    );
    ensure!(
        lines::number(line, "pid")? == u64::from(std::process::id())
            && lines::flag(line, "reuseaddr")? == situation.new.reuseaddr
            && lines::flag(line, "reuseport")? == situation.new.reuseport,
        "it is ours, with our options"
    );
    ensure!(
        lines::text(line, "certainty")? == "exact",
        "the kernel has shown all of it"
    );
    let holders = lines::field(line, "holders")?;
    let holders = holders.as_array().context("holders are a list")?;
    let blocking: Vec<&Value> = holders.iter().filter(|one| one["blocks"] == true).collect();
    let Some(state) = (match situation.old {
        Old::Nobody => None,
        Old::Bound if situation.listens => Some("LISTEN"),
        Old::Bound => Some("CLOSE"),
        Old::Listening => Some("LISTEN"),
        Old::Established => Some("ESTABLISHED"),
        Old::CloseWait => Some("CLOSE_WAIT"),
        Old::OrphanFinWait2 => Some("FIN_WAIT2"),
        Old::TimeWait => Some("TIME_WAIT"),
    }) else {
        ensure!(blocking.is_empty(), "nobody is in the way");
        return Ok(());
    };
    ensure!(
        blocking.len() == 1 && lines::text(blocking[0], "state")? == state,
        "one socket is in the way, in {state}"
    );
    let holder = blocking[0];
    ensure!(
        lines::flag(holder, "reuseaddr")? == situation.holder.reuseaddr
            && lines::flag(holder, "reuseport")? == situation.holder.reuseport
            && lines::text(holder, "options")? == "kernel",
        "its options are those that it was given"
    );
    let owner = lines::field(holder, "owner")?;
    ensure!(
        owner["pid"] == std::process::id(),
        "its owner is ours: {owner}"
    );
    let frees_ns = holder["frees_in_ns"].as_u64();
    match situation.old {
        Old::TimeWait => ensure!(
            frees_ns.is_some_and(|ns| (30_000_000_000..LONGEST_NS).contains(&ns)),
            "it goes within a minute or so: {frees_ns:?}"
        ),
        Old::OrphanFinWait2 => ensure!(
            frees_ns.is_some_and(|ns| ns < 3_000_000_000),
            "it goes within tcp_fin_timeout: {frees_ns:?}"
        ),
        Old::Nobody | Old::Bound | Old::Listening | Old::Established | Old::CloseWait => {
            ensure!(frees_ns.is_none(), "it does not go by itself: {frees_ns:?}");
        }
    }
    let names = remedies::names(line)?;
    ensure!(!names.is_empty(), "something helps");
    if situation.old == Old::TimeWait {
        ensure!(
            names.iter().any(|name| name == "wait"),
            "waiting helps: {names:?}"
        );
    }
    Ok(())
}

pub(super) fn listens_elsewhere() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let tracer = Tracer::json(&[])?;
        let chosen = listen_elsewhere(port)?;
        let report = tracer.stop_settled()?;
        line_of(&report, port)?;
        let mine = |line: &&Value| line["lport"] == chosen;
        let line = report
            .calls
            .iter()
            .find(mine)
            .with_context(|| format!("nothing is said of port {chosen}: {:?}", report.calls))?;
        ensure!(
            lines::text(line, "call")? == "listen" && lines::flag(line, "autobound")?,
            "it is said that nobody asked for the port: {line}"
        );
        let before = lines::field(line, "after_failed_bind")?;
        ensure!(
            lines::text(before, "errno")? == "EADDRINUSE" && before["port"] == port,
            "and what had been asked for: {line}"
        );
        Ok(())
    })
}

/// Fails to bind to `port`, listens all the same, and returns the port on which.
fn listen_elsewhere(port: u16) -> Result<u16> {
    let holder = Family::V4.listener(port)?;
    let socket = Socket::new(false)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    ensure!(socket.bind(address).is_err(), "the port is held");
    socket.listen(8)?;
    let chosen = socket.local_port()?;
    drop((socket, holder));
    Ok(chosen)
}

fn connect_to_nobody(port: u16) -> Result<()> {
    let client = Socket::new(false)?;
    let refused = client.connect(Family::V4.connects_to(port));
    ensure!(
        refused.is_err_and(|error| error.raw_os_error() == Some(libc::ECONNREFUSED)),
        "nobody listens there"
    );
    Ok(())
}

pub(super) fn refused() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let tracer = Tracer::json(&[])?;
        connect_to_nobody(port)?;
        let report = tracer.stop_settled()?;
        let line = line_of(&report, port)?;
        ensure!(
            lines::text(line, "call")? == "connect"
                && lines::text(line, "errno")? == "ECONNREFUSED"
                && lines::text(line, "rule")? == "refused",
            "{line}"
        );
        Ok(())
    })
}
