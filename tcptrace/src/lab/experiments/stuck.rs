//! Connections that somebody forgot to close.

use std::time::Duration;

use anyhow::{Context, Result};
use tcptrace_model::{TcpState, TimeWait};

use super::{EPIPE, SUCCEEDS};
use crate::lab::{
    actor::{Options, must},
    experiment::Experiment,
    reading::Source,
    stage::{Stage, comm, known},
    tuple::Tuple,
    value::Expected,
    watch::STUCK_AFTER_NS,
};

pub(super) const ALL: &[Experiment] = &[B5, B6, K23];

/// How many connections the program of B5 forgets.
const FORGOTTEN: u32 = 20;
/// `net.ipv4.tcp_fin_timeout` of these experiments.
const FIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How much later than it should a thing may happen on a busy machine.
const SLACK: Duration = Duration::from_secs(1);

const B5: Experiment = Experiment {
    id: "B5",
    name: "forgotten-close",
    claims: &["B5"],
    title: "A program that does not close after its peer did piles up CLOSE_WAIT",
    says: "Many sockets in CLOSE_WAIT mean that the program does not close after its peer did; they never go by \
           themselves.",
    why: "CLOSE_WAIT is the state in which the peer has closed and the local program has not (RFC 9293 3.3.2): \
          it may still send, and only it knows when it is done. So the kernel sets no timer \
          (net/ipv4/tcp_input.c tcp_fin, v6.18), and the peer need not even exist any more. No sysctl helps: \
          the descriptors are open, and what ends these sockets is close(), or the end of the program.",
    condition: None,
    seconds: 10,
    play: |stage: &mut Stage| -> Result<()> {
        let seconds = FIN_TIMEOUT.as_secs();
        stage.set_sysctl("net.ipv4.tcp_fin_timeout", seconds)?;
        let (forgetful, tidy) = (stage.actor("forgetful")?, stage.actor("tidy")?);
        let client = stage.actor("client")?;

        let listener = tidy.listening("127.0.0.1:8001", Options::NONE)?;
        let clients = client.connect_many("127.0.0.1:8001", Options::NONE, FORGOTTEN)?;
        let accepted = listener.accept_many(FORGOTTEN)?;
        client.close_many(clients)?;
        await_count(stage, 8001, FORGOTTEN)?;
        tidy.close_many(accepted)?;

        let listener = forgetful.listening("127.0.0.1:8000", Options::NONE)?;
        let clients = client.connect_many("127.0.0.1:8000", Options::NONE, FORGOTTEN)?;
        listener.accept_many(FORGOTTEN)?;
        client.close_many(clients)?;
        await_count(stage, 8000, FORGOTTEN)?;
        let sockets = stage.sockets(8000)?;
        let one = sockets
            .iter()
            .find(|one| one.state == TcpState::CloseWait)
            .context("no socket is in CLOSE_WAIT")?;
        let forgotten = Tuple {
            local: one.local,
            remote: one.remote,
        };

        let stuck = stage.stuck(forgotten, TcpState::CloseWait)?;
        stage
            .reading("owner of one that is told to be stuck")
            .expect("forgetful")
            .measured(comm(stuck.owner.as_ref()), Source::Finding);
        let after = Duration::from_nanos(STUCK_AFTER_NS);
        stage
            .reading("for how long it has been, when told")
            // The trace looks now and then; on a busy machine that is emulated, seldom.
            .expect(Expected::between(after, after + 20 * SLACK))
            .measured(Duration::from_nanos(stuck.for_ns), Source::Finding);
        stage.await_state(forgotten.reversed(), TcpState::Close)?;
        stage.let_pass(2 * FIN_TIMEOUT)?;

        let left = stage.sockets(8000)?;
        let waiting = left.iter().filter(|one| one.state == TcpState::CloseWait);
        stage
            .reading("in CLOSE_WAIT, their peers long gone")
            .claim(u64::from(FORGOTTEN))
            .measured(waiting.clone().count() as u64, Source::SockDiag);
        let timers = waiting.filter(|one| one.has_timer).count();
        stage
            .reading("of them, with a timer that could end them")
            .claim(0)
            .measured(timers as u64, Source::SockDiag);
        let waiting = stage.count(8001, TcpState::CloseWait)?;
        stage
            .reading("in CLOSE_WAIT of a program that closes")
            .control(0)
            .measured(waiting, Source::SockDiag);
        forgetful.exit(0)?;
        let waiting = stage.count(8000, TcpState::CloseWait)?;
        stage
            .reading("in CLOSE_WAIT when the program has ended")
            .control(0)
            .measured(waiting, Source::SockDiag);
        Ok(())
    },
};

const B6: Experiment = Experiment {
    id: "B6",
    name: "peer-does-not-close",
    claims: &["B6"],
    title: "A peer that does not close keeps this end in FIN_WAIT2, if it has not closed, either",
    says: "A program in CLOSE_WAIT that does not send its FIN leaves the other end in FIN_WAIT2.",
    why: "FIN_WAIT2 waits for the peer's FIN, and RFC 9293 sets no limit to that: the peer may go on to send. \
          After shutdown() the program still has its socket and can read, so Linux waits with it, without \
          a timer. After close() nobody could read any more, and the kernel keeps such an orphan for \
          tcp_fin_timeout only, as a minisocket: net/ipv4/tcp.c __tcp_close, net/ipv4/tcp_input.c \
          tcp_rcv_state_process (v6.18). The peer's CLOSE_WAIT does not notice.",
    condition: Some(
        "the other end still has its socket open, after shutdown(): one that was closed goes after \
         tcp_fin_timeout",
    ),
    seconds: 8,
    play: |stage: &mut Stage| -> Result<()> {
        let seconds = FIN_TIMEOUT.as_secs();
        stage.set_sysctl("net.ipv4.tcp_fin_timeout", seconds)?;
        let (server, client) = (stage.actor("server")?, stage.actor("forgetful")?);
        let listener = server.listening("127.0.0.1:8000", Options::NONE)?;
        client.connected("127.0.0.1:8000", Options::NONE)?;
        let open = listener.accept()?;
        client.connected("127.0.0.1:8000", Options::NONE)?;
        let closed = listener.accept()?;
        let (open_end, closed_end) = (open.tuple()?, closed.tuple()?);
        must(open.shutdown()?, "shutdown()")?;
        closed.close()?;
        for end in [open_end, closed_end] {
            stage.await_state(end.reversed(), TcpState::CloseWait)?;
            stage.await_state(end, TcpState::FinWait2)?;
        }
        for (name, end, expected) in [
            ("after shutdown(): a timer runs", open_end, false),
            ("after close(): a timer runs", closed_end, true),
        ] {
            let now = stage.state(end)?;
            stage
                .reading(name)
                .expect(expected)
                .measured(now.is_some_and(|now| now.has_timer), Source::SockDiag);
        }

        let ended = stage.time_wait(closed_end)?;
        let (lived, expected) = lifetime(stage, &ended)?;
        stage
            .reading("after close(): in FIN_WAIT2 for")
            .expect(expected)
            .measured(lived, Source::Finding);
        stage
            .reading("after close(): its phase at the end")
            .expect("fin_wait2")
            .measured(ended.last_phase.name(), Source::Finding);
        let stuck = stage.stuck(open_end, TcpState::FinWait2)?;
        stage
            .reading("after shutdown(): owner of the one stuck")
            .expect("server")
            .measured(comm(stuck.owner.as_ref()), Source::Finding);
        stage.let_pass(FIN_TIMEOUT)?;
        for (name, end, claimed, expected) in [
            (
                "after shutdown(): state in the end",
                open_end,
                TcpState::FinWait2,
                TcpState::FinWait2,
            ),
            (
                "after close(): state in the end",
                closed_end,
                TcpState::FinWait2,
                TcpState::Close,
            ),
        ] {
            let now = state_or_gone(stage, end)?;
            stage
                .reading(name)
                .claim(claimed)
                .expect(expected)
                .measured(now, Source::SockDiag);
        }
        for (name, end) in [
            ("after shutdown(): state of the peer", open_end),
            ("after close(): state of the peer", closed_end),
        ] {
            let now = state_or_gone(stage, end.reversed())?;
            stage
                .reading(name)
                .control(TcpState::CloseWait)
                .measured(now, Source::SockDiag);
        }
        Ok(())
    },
};

const K23: Experiment = Experiment {
    id: "K23",
    name: "close-wait-outlives-its-peer",
    claims: &["K23"],
    title: "CLOSE_WAIT outlives its peer, and learns of that when it sends",
    says: "CLOSE_WAIT lasts as long as the program holds the descriptor. The peer, an orphan in FIN_WAIT2, goes \
           after tcp_fin_timeout.",
    why: "The end in CLOSE_WAIT may send for as long as it likes (RFC 9293 3.6), so it has no timer; the orphan \
          at the other end is kept for tcp_fin_timeout, because nobody reads there. From then on nothing is \
          left at the other end, and nobody tells: the next send() succeeds, its data is answered with a \
          RST, and only the call after that fails, with EPIPE (net/ipv4/tcp_input.c tcp_reset, v6.18). Of \
          what was written in between nothing arrives.",
    condition: None,
    seconds: 6,
    play: |stage: &mut Stage| -> Result<()> {
        let seconds = FIN_TIMEOUT.as_secs();
        stage.set_sysctl("net.ipv4.tcp_fin_timeout", seconds)?;
        let (server, client) = (stage.actor("server")?, stage.actor("client")?);
        let listener = server.listening("127.0.0.1:8000", Options::NONE)?;
        let at_client = client.connected("127.0.0.1:8000", Options::NONE)?;
        let sends = listener.accept()?;
        let also_at_client = client.connected("127.0.0.1:8000", Options::NONE)?;
        let closes = listener.accept()?;
        at_client.close()?;
        also_at_client.close()?;
        for socket in [&sends, &closes] {
            stage.await_state(socket.tuple()?, TcpState::CloseWait)?;
        }
        let ended = stage.time_wait(at_client.tuple()?)?;
        let (lived, claimed) = lifetime(stage, &ended)?;
        stage
            .reading("the peer, an orphan: in FIN_WAIT2 for")
            .claim(claimed)
            .measured(lived, Source::Finding);
        stage
            .reading("its phase at the end")
            .expect("fin_wait2")
            .measured(ended.last_phase.name(), Source::Finding);
        stage.await_state(also_at_client.tuple()?, TcpState::Close)?;
        stage.let_pass(FIN_TIMEOUT)?;

        let now = stage.state(sends.tuple()?)?;
        stage
            .reading("state of this end, its peer gone")
            .claim(TcpState::CloseWait)
            .measured(
                now.map_or(TcpState::Close, |now| now.state),
                Source::SockDiag,
            );
        stage
            .reading("a timer runs for it")
            .claim(false)
            .measured(now.is_none_or(|now| now.has_timer), Source::SockDiag);
        let called = sends.write(10)?;
        stage
            .reading("send() at this end")
            .expect(SUCCEEDS)
            .measured(called, Source::Call);
        stage.await_state(sends.tuple()?, TcpState::Close)?;
        let ended = stage.connection(sends.tuple()?)?;
        stage
            .reading("what that comes to")
            .expect("reset_received")
            .measured(ended.close.name(), Source::Finding);
        let called = sends.write(10)?;
        stage
            .reading("the next send()")
            .expect(EPIPE)
            .measured(called, Source::Call);

        let now = state_or_gone(stage, closes.tuple()?)?;
        stage
            .reading("another one, not closed")
            .control(TcpState::CloseWait)
            .measured(now, Source::SockDiag);
        closes.close()?;
        let now = state_or_gone(stage, closes.tuple()?)?;
        stage
            .reading("in CLOSE_WAIT after its close()")
            .claim(false)
            .measured(now == TcpState::CloseWait, Source::SockDiag);
        stage.story(sends.tuple()?)?;
        Ok(())
    },
};

/// How long an orphan was in FIN_WAIT2, and how long it should have been.
fn lifetime(stage: &Stage, ended: &TimeWait) -> Result<(Duration, Expected)> {
    let entered_ns = ended.entered_ns;
    let lived = known(
        entered_ns.map(|entered_ns| ended.ts_ns.saturating_sub(entered_ns)),
        "when the orphan became one",
    )?;
    let most = FIN_TIMEOUT + stage.kernel().granularity(FIN_TIMEOUT) + SLACK;
    Ok((lived, Expected::between(FIN_TIMEOUT, most)))
}

fn state_or_gone(stage: &Stage, end: Tuple) -> Result<TcpState> {
    let now = stage.state(end)?;
    Ok(now.map_or(TcpState::Close, |now| now.state))
}

/// Waits until so many sockets on a port are in CLOSE_WAIT.
fn await_count(stage: &Stage, port: u16, count: u32) -> Result<()> {
    stage.until(
        format_args!("{count} sockets on port {port} to be in CLOSE_WAIT"),
        || {
            let now = stage.count(port, TcpState::CloseWait)?;
            Ok((now == u64::from(count)).then_some(()))
        },
    )?;
    stage.note(format_args!(
        "{count} sockets on port {port} are in CLOSE_WAIT"
    ));
    Ok(())
}
