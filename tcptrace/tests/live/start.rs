//! How a trace starts: its first line, and the places where it must be able to start.

use anyhow::{Context, Result, ensure};

use crate::attributes::since_epoch;
use crate::lines;
use crate::sockets::Family;
use crate::tracer::Tracer;
use crate::{Scenario, netns, ports, sys};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("start: the start line", start_line),
        Scenario::new("start: where no automatic port is left", no_port_left),
        Scenario::new("start: where loopback is down", loopback_down),
        Scenario::new("start: where ipv6 is switched off", without_ipv6),
    ]
}

fn start_line() -> Result<()> {
    netns::with_new(|_| {
        let report = Tracer::json(&[])?.stop()?;
        let start = &report.start;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let told = lines::text(start, "kernel")?;
        ensure!(
            told.contains(kernel.trim()),
            "this is {}, not {told}",
            kernel.trim()
        );
        ensure!(
            lines::text(start, "version")? == env!("CARGO_PKG_VERSION"),
            "wrong: {start}"
        );
        let hz = lines::number(start, "hz")?;
        ensure!(
            [100, 250, 300, 1000].contains(&hz),
            "no kernel ticks at {hz} Hz"
        );
        ensure!(
            lines::field(start, "backends")?.is_object(),
            "backends in {start}"
        );
        let sysctls = lines::field(start, "sysctls")?;
        ensure!(
            sysctls.as_object().is_some_and(|all| !all.is_empty()),
            "sysctls in {start}"
        );
        let offset = lines::field(start, "clock_offset_ns")?
            .as_i64()
            .context("not a number")?;
        let time = since_epoch(lines::text(start, "time")?)?;
        let from_offset =
            i128::from(lines::number(start, "ts_ns")?).saturating_add(i128::from(offset));
        let gap = i128::try_from(time.as_nanos())?.abs_diff(from_offset);
        ensure!(
            gap < 1_000_000,
            "ts_ns and clock_offset_ns are {gap} ns off time in {start}"
        );
        Ok(())
    })
}

/// Where the automatic ports have run out, somebody may want to see why: whatever the tracer does to
/// check itself must not need one.
fn no_port_left() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        netns::set_sysctl("ipv4/ip_local_port_range", &format!("{port} {port}"))?;
        let holder = Family::V4.listener(port)?;
        nothing_seen()?;
        drop(holder);
        Ok(())
    })
}

/// A namespace that has just been made, as container runtimes make them.
fn loopback_down() -> Result<()> {
    netns::with_new(|_| {
        sys::unshare(libc::CLONE_NEWNET).context("cannot make a network namespace")?;
        nothing_seen()
    })
}

fn without_ipv6() -> Result<()> {
    netns::with_new(|_| {
        netns::set_sysctl("ipv6/conf/all/disable_ipv6", "1")?;
        nothing_seen()
    })
}

/// A trace of an idle namespace starts, ends and shows nothing: not even the tracer's own sockets.
fn nothing_seen() -> Result<()> {
    let seen = Tracer::json(&[])?.stop()?.transitions;
    ensure!(
        seen.is_empty(),
        "the tracer's own sockets are not to be shown: {seen:?}"
    );
    Ok(())
}
