//! The text output: what people and their pipes get, and what a hostile process name cannot do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::puppet::Puppet;
use crate::sockets::Family;
use crate::tracer::{Ended, Tracer};
use crate::{PATIENCE, Scenario, netns, ports};

const ESCAPE: u8 = 0x1b;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "text: a header and one plain line an event in a pipe",
            plain,
        ),
        Scenario::new("text: -H prints no header", no_header),
        Scenario::new("text: --color always colours a pipe too", coloured),
        Scenario::new(
            "text: ipv6 addresses are whole, with few and with many columns",
            ipv6,
        ),
        Scenario::new(
            "text: a hostile process name writes nothing but text",
            hostile_name,
        ),
        Scenario::new("text: a hostile process name in JSON", hostile_name_in_json),
    ]
}

/// The text of a trace of `count` lines, while `play` is repeated until the tracer has had enough:
/// text output does not say when the trace begins.
fn text(flags: &[&str], play: impl FnMut() -> Result<()>) -> Result<Vec<Vec<u8>>> {
    let Ended {
        status,
        lines,
        stderr,
    } = run(Tracer::text(flags)?, play)?;
    ensure!(
        status.success(),
        "with {flags:?} the tracer ended with {status}: {stderr}"
    );
    Ok(lines)
}

fn run(tracer: Tracer, mut play: impl FnMut() -> Result<()>) -> Result<Ended> {
    let deadline = Instant::now() + PATIENCE;
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(tracer.wait()));
    loop {
        play()?;
        if let Ok(ended) = ended.recv_timeout(Duration::from_millis(20)) {
            return ended;
        }
        if Instant::now() > deadline {
            bail!("the tracer has not seen enough in {PATIENCE:?}");
        }
    }
}

/// A refused connection: two transitions.
fn refused(family: Family, port: u16) -> Result<()> {
    let result = family.client()?.connect(family.connects_to(port));
    ensure!(result.is_err(), "nobody listens on {port}");
    Ok(())
}

/// Lines that tell of the port; the rest are headers and a summary.
fn of_port(lines: &[Vec<u8>], port: u16) -> Result<Vec<&str>> {
    let port = port.to_string();
    let lines = lines
        .iter()
        .map(|line| std::str::from_utf8(line).context("not UTF-8"));
    let lines = lines.collect::<Result<Vec<_>>>()?;
    Ok(lines
        .into_iter()
        .filter(|line| line.contains(&port) && line.contains("SYN"))
        .collect())
}

fn plain() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let lines = text(&["--port", &port.to_string(), "-n", "4"], || {
            refused(Family::V4, port)
        })?;
        let events = of_port(&lines, port)?;
        ensure!(
            events.len() == 4,
            "four events are four lines, not {}: {events:#?}",
            events.len()
        );
        for line in &events {
            ensure!(
                line.contains("SYN_SENT") && line.contains("CLOSE") && line.contains("127.0.0.1"),
                "a line has states and addresses: {line:?}"
            );
        }
        let header = String::from_utf8(lines[0].clone())?;
        ensure!(
            header.to_uppercase().contains("STATE") && !header.contains("127.0.0.1"),
            "the first line must be a header, not {header:?}"
        );
        ensure_text(&lines)
    })
}

fn no_header() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let flags = ["--port", &port.to_string(), "-n", "2", "-H"];
        let lines = text(&flags, || refused(Family::V4, port))?;
        // A transition, or the connect() that failed.
        let first = String::from_utf8_lossy(lines.first().context("nothing was printed")?);
        ensure!(
            first.contains(&format!("127.0.0.1:{port}")),
            "the first line must be of the port, not {first:?}"
        );
        Ok(())
    })
}

fn coloured() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let flags = ["--port", &port.to_string(), "-n", "2", "--color", "always"];
        let lines = text(&flags, || refused(Family::V4, port))?;
        for line in of_port(&lines, port)? {
            ensure!(
                line.as_bytes().contains(&ESCAPE),
                "an event without colour: {line:?}"
            );
            ensure!(
                line.rfind("\x1b[0m").is_some() || line.rfind("\x1b[39m").is_some(),
                "a colour that is never reset: {line:?}"
            );
        }
        Ok(())
    })
}

fn ipv6() -> Result<()> {
    netns::with_new(|_| {
        let kinds: [(Family, &str, &[&str]); 3] = [
            (Family::V6, "::1", &[]),
            (Family::MappedClient, "::ffff:127.0.0.1", &["-t"]),
            (Family::MappedBoth, "::ffff:127.0.0.1", &["-T", "-w"]),
        ];
        for (family, address, columns) in kinds {
            let port = ports::next();
            let port_text = port.to_string();
            let mut flags = vec!["--port", &port_text, "-n", "2"];
            flags.extend(columns);
            let lines = text(&flags, || refused(family, port))?;
            let events = of_port(&lines, port)?;
            ensure!(
                events.len() == 2,
                "with {flags:?}, two events, not {events:#?}"
            );
            for line in events {
                ensure!(
                    line.contains(address),
                    "with {flags:?}, no {address} in {line:?}"
                );
            }
        }
        Ok(())
    })
}

/// A name with what clears a screen, starts a line and is not UTF-8.
const HOSTILE: &[u8] = b"\x1b[2Jx\ny\rz\x9b1m\xff";

fn hostile_name() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut puppet = Puppet::start()?;
        puppet.rename(HOSTILE)?;
        let flags = ["--port", &port.to_string(), "-n", "2", "-w"];
        let address = Family::V4.connects_to(port);
        // The puppet says that it was refused, and that is all we want.
        let lines = text(&flags, || {
            ensure!(puppet.connect(address).is_err(), "nobody listens on {port}");
            Ok(())
        })?;
        ensure_text(&lines)?;
        let events = of_port(&lines, port)?;
        ensure!(
            events.len() == 2,
            "two events are two lines, not {events:#?}"
        );
        for line in events {
            ensure!(
                line.contains("[2Jx"),
                "the harmless part of the name must be shown: {line:?}"
            );
        }
        Ok(())
    })
}

fn hostile_name_in_json() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut puppet = Puppet::start()?;
        puppet.rename(HOSTILE)?;
        let tracer = Tracer::json(&["--port", &port.to_string(), "-n", "2"])?;
        let address = Family::V4.connects_to(port);
        ensure!(puppet.connect(address).is_err(), "nobody listens on {port}");
        let ended = tracer.wait()?;
        ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
        ensure_text(&ended.lines)?;
        let mut transitions = 0;
        for line in &ended.lines {
            let value: serde_json::Value = serde_json::from_slice(line)?;
            if value["kind"] == "transition" {
                transitions += 1;
                let comm = value["current"]["comm"]
                    .as_str()
                    .context("no current.comm")?;
                ensure!(comm.contains("[2Jx"), "the name must be readable: {comm:?}");
            }
        }
        ensure!(transitions == 2, "{transitions} transitions instead of two");
        Ok(())
    })
}

/// Fails on any control character but the newlines that the lines were split at.
fn ensure_text(lines: &[Vec<u8>]) -> Result<()> {
    for line in lines {
        let text = std::str::from_utf8(line).context("output that is not UTF-8")?;
        let control = text.chars().find(|one| one.is_control());
        ensure!(
            control.is_none(),
            "the control character {control:?} in {text:?}"
        );
    }
    Ok(())
}
