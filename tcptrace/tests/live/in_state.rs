//! `in_state_ns`: right where the beginning of the state was seen, null where it was not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::event::{self, State};
use crate::kernel_trace::KernelTrace;
use crate::lines::{Report, Transition};
use crate::sockets::{Family, Pair};
use crate::tracer::Tracer;
use crate::{Scenario, compare, netns, ports};

/// How long the connections are held in a state.
const HELD: Duration = Duration::from_millis(150);

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("in_state: the time that a state was held", held),
        Scenario::new(
            "in_state: null for a connection older than the trace",
            older_than_trace,
        ),
        Scenario::new(
            "in_state: never from another socket at the same address",
            recycled,
        ),
    ]
}

/// Two states of a known length, one on each side.
fn held() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--port", &port.to_string()])?;
        let listener = Family::V4.listener(port)?;
        let began = Instant::now();
        let Pair { client, server } = Family::V4.pair(&listener, port)?;
        let connected = Instant::now();
        std::thread::sleep(HELD);
        let closing = Instant::now();
        drop(client);
        ensure!(server.receive()? == 0, "the client's FIN must arrive");
        let half = Instant::now();
        std::thread::sleep(HELD);
        let ending = Instant::now();
        drop(server);
        let ended = Instant::now();
        drop(listener);
        let lives = kernel.wait_until_over(&[port])?;
        let report = tracer.stop()?;
        ensure!(
            lives.len() == 3,
            "two ends and a listener, not {}",
            lives.len()
        );
        let least = closing - connected;
        between(
            &report,
            State::ESTABLISHED,
            State::FIN_WAIT1,
            least,
            half - began,
        )?;
        between(
            &report,
            State::ESTABLISHED,
            State::CLOSE_WAIT,
            least,
            half - began,
        )?;
        between(
            &report,
            State::CLOSE_WAIT,
            State::LAST_ACK,
            ending - half,
            ended - closing,
        )?;
        compare::in_state(&report.transitions)
    })
}

/// Fails unless the only such transition says a time within these bounds, of the test's own clock.
fn between(report: &Report, old: State, new: State, least: Duration, most: Duration) -> Result<()> {
    let transition = only(report, old, new)?;
    let told = transition
        .in_state_ns
        .map(Duration::from_nanos)
        .with_context(|| format!("the beginning of {old} was seen, so its time is known"))?;
    // Instant is CLOCK_MONOTONIC and the tracer's is CLOCK_BOOTTIME; they tick alike.
    ensure!(
        least <= told && told <= most,
        "{old} -> {new} must come after {least:?} to {most:?}, not {told:?}"
    );
    Ok(())
}

fn only(report: &Report, old: State, new: State) -> Result<&Transition> {
    let is = |one: &&Transition| one.event.step.old == old && one.event.step.new == new;
    let mut found = report.transitions.iter().filter(is);
    let first = found
        .next()
        .with_context(|| format!("no {old} -> {new} was printed"))?;
    ensure!(
        found.next().is_none(),
        "only one {old} -> {new} was expected"
    );
    Ok(first)
}

/// The first transition of each end is from a state that began before the trace; the next ones
/// begin under our eyes.
fn older_than_trace() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let listener = Family::V4.listener(port)?;
        let Pair { client, server } = Family::V4.pair(&listener, port)?;
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--port", &port.to_string()])?;
        drop(client);
        ensure!(server.receive()? == 0, "the client's FIN must arrive");
        drop((server, listener));
        let lives = kernel.wait_until_over(&[port])?;
        let report = tracer.stop()?;
        ensure!(
            lives.len() == 3,
            "two ends and a listener, not {}",
            lives.len()
        );
        for (old, new) in [
            (State::ESTABLISHED, State::FIN_WAIT1),
            (State::ESTABLISHED, State::CLOSE_WAIT),
            (State::LISTEN, State::CLOSE),
        ] {
            let told = only(&report, old, new)?.in_state_ns;
            ensure!(
                told.is_none(),
                "nobody saw {old} begin, but in_state_ns is {told:?}"
            );
        }
        compare::same(&lives, &report)
    })
}

/// The kernel gives the memory of an ended socket to the next one, so the tracer meets the same
/// addresses again and again. The first event of each life must know nothing of the life before.
fn recycled() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--port", &port.to_string()])?;
        let listener = Family::V4.listener(port)?;
        for _ in 0..100 {
            let Pair { client, server } = Family::V4.pair(&listener, port)?;
            client.reset_on_close()?;
            drop((client, server));
        }
        drop(listener);
        let lives = kernel.wait_until_over(&[port])?;
        let mut addresses: Vec<u64> = lives.iter().map(|life| life[0].step.skaddr).collect();
        addresses.sort_unstable();
        addresses.dedup();
        ensure!(
            addresses.len() < lives.len(),
            "{} sockets had {} addresses: none was used twice, so this shows nothing",
            lives.len(),
            addresses.len()
        );
        ensure!(
            lives.iter().all(event::is_over),
            "all sockets must have ended"
        );
        compare::same(&lives, &tracer.stop()?)
    })
}
