//! Which end of a connection has the TIME_WAIT.

use anyhow::Result;
use tcptrace_model::{Role, TcpState};

use crate::lab::{
    actor::{Options, Sock},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
    tuple::Tuple,
};

pub(super) const D2: Experiment = Experiment {
    id: "D2",
    name: "who-closes-first",
    claims: &["D2"],
    title: "TIME_WAIT belongs to the end that closes first, server or client",
    says: "TIME_WAIT belongs to whoever closes first, be it the server or the client; the other end has none.",
    why: "The end whose FIN goes first sends the last ACK, and cannot know whether that arrives: if it is \
          lost, the peer sends its FIN again, and somebody has to answer (RFC 9293 3.6, case 1). The other \
          end goes from CLOSE_WAIT to LAST_ACK, and when its FIN is acknowledged it knows that all is over \
          (case 2): net/ipv4/tcp_input.c tcp_rcv_state_process, net/ipv4/tcp_minisocks.c tcp_time_wait \
          (v6.18). Who connected to whom plays no part.",
    condition: None,
    seconds: 3,
    play: |stage: &mut Stage| -> Result<()> {
        let (server, client) = (stage.actor("server")?, stage.actor("client")?);
        let listener = server.listening("127.0.0.1:8000", Options::NONE)?;
        for closes_first in [Role::Server, Role::Client] {
            let at_client = client.connected("127.0.0.1:8000", Options::NONE)?;
            let at_server = listener.accept()?;
            match closes_first {
                Role::Server | Role::Unknown => {
                    closed(stage, "server first", "server", &at_server, &at_client)?;
                }
                Role::Client => closed(stage, "client first", "client", &at_client, &at_server)?,
            }
        }
        Ok(())
    },
};

/// `first` closes, then `second`: what becomes of them.
fn closed(
    stage: &mut Stage,
    name: &str,
    role: &str,
    first: &Sock<'_>,
    second: &Sock<'_>,
) -> Result<()> {
    let (one, other) = (first.tuple()?, second.tuple()?);
    first.close()?;
    stage.await_state(other, TcpState::CloseWait)?;
    stage.await_state(one, TcpState::FinWait2)?;
    second.close()?;
    // The ACK that takes one end away is sent by the other when it enters TIME_WAIT.
    stage.await_state(other, TcpState::Close)?;
    for (name, tuple, claimed) in [
        (format!("{name}: TIME_WAITs of the first"), one, 1_u64),
        (format!("{name}: TIME_WAITs of the other"), other, 0),
    ] {
        let waiting = waiting(stage, tuple)?;
        stage
            .reading(name)
            .claim(claimed)
            .measured(waiting, Source::SockDiag);
    }
    let ended = stage.connection(one)?;
    stage
        .reading(format!("{name}: role of the first"))
        .control(role)
        .measured(ended.role.name(), Source::Finding);
    // Its last state comes after the end of the first.
    stage.connection(other)?;
    let states = stage.states(other);
    stage
        .reading(format!("{name}: last states of the other"))
        .expect(vec![
            TcpState::CloseWait,
            TcpState::LastAck,
            TcpState::Close,
        ])
        .measured(last_three(states), Source::Finding);
    stage.story(one)?;
    Ok(())
}

/// How many minisockets in TIME_WAIT this end of a connection has.
fn waiting(stage: &Stage, tuple: Tuple) -> Result<u64> {
    let sockets = stage.sockets(tuple.local.port())?;
    let waiting = sockets.iter().filter(|one| {
        one.state == TcpState::TimeWait && one.local == tuple.local && one.remote == tuple.remote
    });
    Ok(waiting.count() as u64)
}

fn last_three(mut states: Vec<TcpState>) -> Vec<TcpState> {
    states.split_off(states.len().saturating_sub(3))
}
