//! D6: what becomes of the TIME_WAIT when a server starts beside it.

use std::time::Duration;

use anyhow::{Context, Result};
use tcptrace_model::TcpState;

use super::{
    REFUSED, SUCCEEDS,
    old_and_new::{Cast, Old, at},
};
use crate::lab::{
    actor::Options, experiment::Experiment, reading::Source, stage::Stage, tuple::Tuple,
    value::Expected,
};

pub(super) const D6: Experiment = Experiment {
    id: "D6",
    name: "time-wait-ignored",
    claims: &["D6"],
    title: "A TIME_WAIT goes on beside the server that was started again",
    says: "With SO_REUSEADDR the TIME_WAIT is still there, only ignored.",
    why: "bind() passes over a holder of the port when both have SO_REUSEADDR (net/ipv4/inet_connection_sock.c \
          inet_bind_conflict, v6.18), and does nothing to it. Its timer runs on, and it still answers for its \
          own pair of addresses and ports, which new connections to the server do not have: \
          net/ipv4/tcp_ipv4.c tcp_v4_rcv finds it before the listener.",
    condition: None,
    seconds: 3,
    play,
};

fn play(stage: &mut Stage) -> Result<()> {
    const PORT: u16 = 8000;
    let cast = Cast::enter(stage)?;
    let pair = cast.pair(PORT, Options::REUSEADDR)?;
    pair.bring(stage, Old::TimeWait)?;
    let tuple = pair.at_server.tuple()?;

    let (_, called) = cast.restarted.try_bind(at(PORT), Options::NONE)?;
    stage
        .reading("bind() without SO_REUSEADDR")
        .control(REFUSED)
        .measured(called, Source::Call);
    let before = left(stage, tuple)?.context("the TIME_WAIT is gone too early")?;
    let (again, called) = cast.restarted.try_bind(at(PORT), Options::REUSEADDR)?;
    stage
        .reading("bind() with it")
        .claim(SUCCEEDS)
        .measured(called, Source::Call);
    stage
        .reading("listen() then")
        .claim(SUCCEEDS)
        .measured(again.listen()?, Source::Call);
    let (at_client, called) = cast.client.try_connect(at(PORT), Options::NONE)?;
    stage
        .reading("connect() to the new server")
        .claim(SUCCEEDS)
        .measured(called, Source::Call);
    let waiting = stage.count(PORT, TcpState::TimeWait)?;
    stage
        .reading("TIME_WAITs on the port then")
        .claim(1)
        .measured(waiting, Source::SockDiag);
    let after = left(stage, tuple)?;
    stage
        .reading("left of its time then")
        .expect(Expected::between(Duration::from_secs(30), before))
        .measured(after.unwrap_or_default(), Source::SockDiag);

    stage.note("the control: where the client closes first, the server's port has no TIME_WAIT");
    let other = cast.pair(8001, Options::REUSEADDR)?;
    other.at_client.close()?;
    stage.await_state(other.at_server.tuple()?, TcpState::CloseWait)?;
    other.at_server.close()?;
    stage.await_state(other.at_client.tuple()?, TcpState::TimeWait)?;
    let waiting = stage.count(8001, TcpState::TimeWait)?;
    stage
        .reading("TIME_WAITs where the client closed first")
        .control(0)
        .measured(waiting, Source::SockDiag);
    at_client.close()
}

/// What is left of the timer of a TIME_WAIT; `None` when there is none.
fn left(stage: &Stage, tuple: Tuple) -> Result<Option<Duration>> {
    let now = stage.state(tuple)?;
    Ok(now
        .filter(|now| now.state == TcpState::TimeWait)
        .and_then(|now| now.minisocket_left))
}
