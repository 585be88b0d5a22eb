//! K18: how long an orphan stays in FIN_WAIT2.

use std::time::Duration;

use anyhow::{Context, Result};
use tcptrace_model::{TcpState, TimeWaitEnd};

use super::{PORT, SERVER, TIME_WAIT};
use crate::lab::{
    actor::{Actor, Options, Sock, must},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
    tuple::Tuple,
    value::Expected,
};

/// How much later than the timer wheel allows a timer of seconds may run on a busy machine. It also covers
/// 3.5 retransmission timeouts, the least that FIN_WAIT2 lasts, where that is longer than 1 s.
const BUSY: Duration = Duration::from_secs(2);

pub(super) const K18: Experiment = Experiment {
    id: "K18",
    name: "fin-timeout",
    claims: &["K18"],
    title: "An orphan stays in FIN_WAIT2 for tcp_fin_timeout, if that is at most 60 s",
    says: "tcp_fin_timeout up to 60 is how long an orphan stays in FIN_WAIT2; F above 60 gives about 2 (F - 60).",
    why: "An orphan is a socket that nobody has open any more. In FIN_WAIT2 it waits for a FIN that the peer may never \
          send, so the kernel gives it a time: tcp_fin_time() of include/net/tcp.h (v6.18), at least 3.5 \
          retransmission timeouts. Up to TCP_TIMEWAIT_LEN, 60 s, __tcp_close() makes it a minisocket at once \
          with a timer of F. Beyond, it stays a whole socket for F - 60 s with the keepalive timer, then \
          tcp_keepalive_timer() (net/ipv4/tcp_timer.c) makes it a minisocket for F - 60 s once more: 62 gives 4 s, \
          much less than 60 does. RFC 9293 3.6 has no such time; RFC 1122 4.2.2.13 allows it. The timer wheel's \
          granularity comes on top.",
    condition: None,
    seconds: 28,
    play: |stage| {
        let server = stage.actor("server")?;
        let client = stage.actor("client")?;
        let listener = server.listening(SERVER, Options::NONE)?;
        let [one, three] = [1, 3].map(|seconds| orphan(stage, &listener, &client, seconds));
        let (one, three) = (one?, three?);
        // The kernel asks for the setting again when the first half is over.
        let beyond = orphan(stage, &listener, &client, 62)?;
        lifetime(stage, one, 1, Duration::from_secs(1))?;
        lifetime(stage, three, 3, Duration::from_secs(3))?;
        lifetime(stage, beyond, 62, Duration::from_secs(4))?;
        let beyond = orphan(stage, &listener, &client, 70)?;
        is_minisocket(
            stage,
            beyond,
            "at 70, a minisocket just after close()",
            false,
        )?;
        let entered = stage.time_wait_entered(beyond)?;
        is_minisocket(stage, beyond, "at 70, a minisocket after 10 s", true)?;
        let closed_ns = closed_ns(stage, beyond)?;
        let half = Duration::from_secs(10);
        let wheel = stage.kernel().granularity(half);
        stage
            .reading("at 70, a whole socket for")
            .expect(Expected::between(half, half + wheel + BUSY))
            .measured(
                Duration::from_nanos(entered.ts_ns.saturating_sub(closed_ns)),
                Source::Finding,
            );
        lifetime(stage, beyond, 70, Duration::from_secs(20))
    },
};

/// An orphan of the server that has been in FIN_WAIT2 since before it was closed, so it is certain what close()
/// finds.
fn orphan(stage: &Stage, listener: &Sock<'_>, client: &Actor, seconds: u32) -> Result<Tuple> {
    let _at_client = client.connected(SERVER, Options::NONE)?;
    let at_server = listener.accept()?;
    must(at_server.shutdown()?, "shutdown()")?;
    stage.await_state(at_server.tuple()?, TcpState::FinWait2)?;
    stage.set_sysctl("net.ipv4.tcp_fin_timeout", seconds)?;
    at_server.close()?;
    at_server.tuple()
}

/// Waits for its end, and reads how long it has lasted since close().
fn lifetime(stage: &mut Stage, orphan: Tuple, seconds: u32, claimed: Duration) -> Result<()> {
    let ended = stage.time_wait(orphan)?;
    let closed_ns = closed_ns(stage, orphan)?;
    let wheel = if Duration::from_secs(seconds.into()) > TIME_WAIT {
        // Two timers, of half the time each.
        2 * stage.kernel().granularity(claimed / 2)
    } else {
        stage.kernel().granularity(claimed)
    };
    stage
        .reading(format!("tcp_fin_timeout = {seconds}: FIN_WAIT2 lasted"))
        .claim(Expected::between(claimed, claimed + wheel + BUSY))
        .measured(
            Duration::from_nanos(ended.ts_ns.saturating_sub(closed_ns)),
            Source::Finding,
        );
    if ended.end != TimeWaitEnd::Expired {
        stage.note(format_args!(
            "{orphan} ended otherwise: {}",
            ended.end.name()
        ));
    }
    Ok(())
}

/// When close() was called, CLOCK_BOOTTIME ns: it sets the state that the socket is in already.
/// net/ipv4/tcp.c `tcp_close_state` (v6.18).
fn closed_ns(stage: &Stage, orphan: Tuple) -> Result<u64> {
    let transitions = stage.transitions(orphan);
    let closed = transitions
        .iter()
        .map(|found| found.transition)
        .find(|one| one.oldstate == TcpState::FinWait2 && one.newstate == TcpState::FinWait2);
    Ok(closed.context("the trace has not seen the close()")?.ts_ns)
}

fn is_minisocket(stage: &mut Stage, orphan: Tuple, what: &str, expected: bool) -> Result<()> {
    let found = stage
        .sockets(PORT)?
        .into_iter()
        .find(|one| one.remote == orphan.remote)
        .with_context(|| format!("{orphan} is gone"))?;
    stage
        .reading(what)
        .expect(expected)
        .measured(found.minisocket_expires_in_ms.is_some(), Source::SockDiag);
    Ok(())
}
