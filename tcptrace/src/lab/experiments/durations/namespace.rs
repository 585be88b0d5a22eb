//! K21: a network namespace that is taken down with TIME_WAITs in it.

use std::time::{Duration, Instant};

use anyhow::Result;
use tcptrace_model::{Finding, TcpState, TimeWait, TimeWaitEnd};

use super::{HalfClosed, PORT, SERVER, TIME_WAIT, TOLD_WITHIN, half_closed};
use crate::{
    host::clock,
    lab::{
        actor::Options, experiment::Experiment, observed::Observed, reading::Source, stage::Stage,
        value::Expected,
    },
};

const COUNT: u32 = 500;
/// How long the kernel may take until it takes a namespace down: one worker does it for all, many at once, and
/// waits for grace periods of RCU in between.
const TAKEN_DOWN_WITHIN: Duration = Duration::from_secs(20);

pub(super) const K21: Experiment = Experiment {
    id: "K21",
    name: "namespace-gone",
    claims: &["K21"],
    title: "A network namespace takes its TIME_WAITs with it",
    says: "When a network namespace goes, its TIME_WAITs go with it at once.",
    why: "A minisocket does not keep its network namespace alive; a socket of a process does. So the namespace, such as \
          that of a container, goes with its last process, whatever is in TIME_WAIT there. cleanup_net() \
          (net/core/net_namespace.c), in a kernel worker, calls tcp_sk_exit_batch() (net/ipv4/tcp_ipv4.c, \
          v6.18), and inet_twsk_purge() ends every minisocket of it. Nothing answers the peers' segments any \
          more; the address may be another container's in the next second.",
    condition: None,
    seconds: 8,
    play: |stage| {
        let ((waiting, left_ns), there) = stage.elsewhere(|stage| {
            let waiting = fill(stage)?;
            Ok((waiting, clock::boottime_ns()))
        })?;
        stage
            .reading("TIME_WAITs in the namespace")
            .expect(u64::from(COUNT))
            .measured(waiting, Source::SockDiag);
        let ended = told(stage, &there)?;
        let with_it = ended
            .iter()
            .filter(|found| found.end == TimeWaitEnd::NetnsExit)
            .count();
        stage
            .reading("TIME_WAITs that went with the namespace")
            .claim(u64::from(COUNT))
            .measured(with_it as u64, Source::Finding);
        let times = |of: fn(&TimeWait) -> Option<u64>| ended.iter().filter_map(of);
        let first_ns = times(|one| Some(one.ts_ns)).min().unwrap_or_default();
        let last_ns = times(|one| Some(one.ts_ns)).max().unwrap_or_default();
        let longest_ns = times(|one| one.time_wait_ns).max().unwrap_or_default();
        stage
            .reading("the longest of them lasted")
            .claim(Expected::between(Duration::ZERO, TIME_WAIT / 2))
            .measured(Duration::from_nanos(longest_ns), Source::Finding);
        stage
            .reading("from the last process to the last TIME_WAIT")
            .expect(Expected::between(Duration::ZERO, TAKEN_DOWN_WITHIN))
            .measured(
                Duration::from_nanos(last_ns.saturating_sub(left_ns)),
                Source::Finding,
            );
        stage
            .reading("from the first TIME_WAIT's end to the last's")
            .expect(Expected::between(Duration::ZERO, Duration::from_secs(1)))
            .measured(
                Duration::from_nanos(last_ns.saturating_sub(first_ns)),
                Source::Finding,
            );
        if let Some(found) = ended.into_iter().next() {
            stage.show(Finding::TimeWait(Box::new(found)));
        }
        Ok(())
    },
};

/// Leaves TIME_WAITs on this stage, and no process. Returns how many.
fn fill(stage: &Stage) -> Result<u64> {
    let server = stage.actor("server")?;
    let client = stage.actor("client")?;
    let listener = server.listening(SERVER, Options::NONE)?;
    let HalfClosed {
        at_client,
        at_server,
    } = half_closed(stage, &listener, &client, SERVER, COUNT)?;
    client.close_many(at_client)?;
    server.close_many(at_server)?;
    stage.until("both ends to be closed", || {
        Ok((stage.socket_count("inuse")? == 1).then_some(()))
    })?;
    stage.count(PORT, TcpState::TimeWait)
}

/// The TIME_WAITs of the namespace that have ended, when all have, or when no more are told of: a kernel that keeps
/// events from the trace may have kept one of so many.
fn told(stage: &Stage, there: &Observed) -> Result<Vec<TimeWait>> {
    let wanted = |finding: &Finding| match finding {
        Finding::TimeWait(found) => Some(**found),
        _ => None,
    };
    there.wait_for("the end of a TIME_WAIT", 1, stage.cancel(), wanted)?;
    let limit = Instant::now() + TOLD_WITHIN;
    stage.until("the others to end", || {
        let ended = there.all(wanted);
        Ok((ended.len() >= COUNT as usize || Instant::now() >= limit).then_some(ended))
    })
}
