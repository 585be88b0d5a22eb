//! C1: which side has the TIME_WAIT.

use std::net::Ipv4Addr;

use anyhow::Result;
use tcptrace_model::TcpState;

use crate::lab::{
    actor::Options,
    experiment::Experiment,
    experiments::scripted::{Scripted, Timestamps},
    reading::Source,
    stage::Stage,
    tuple::Tuple,
    wire::Version,
};

pub(super) const C1: Experiment = Experiment {
    id: "C1",
    name: "only-one-side",
    claims: &["C1"],
    title: "Only the end that closes first has a TIME_WAIT, unless both do",
    says: "Only one of the two ends needs TIME_WAIT: the one that closes first.",
    why: "The end that sends the last ACK cannot know whether it has arrived; if not, the other end sends its \
          FIN again, and somebody must be there to answer. So TIME_WAIT falls to the end whose FIN was first \
          (RFC 9293 3.6, figure 12): net/ipv4/tcp_input.c tcp_fin (v6.18) makes it in FIN_WAIT2, while the \
          other end goes through LAST_ACK, gets an ACK and is done. If both send their FIN before the \
          other's has come, both have closed first and each sends an ACK of which it cannot know: both go \
          through CLOSING into TIME_WAIT (figure 13, tcp_rcv_state_process). Seen from either end it is the same, so \
          the scripted peer crosses FINs with a server and with a client of this kernel.",
    condition: Some("the two FINs do not cross"),
    seconds: 1,
    play: |stage: &mut Stage| -> Result<()> {
        in_order(stage, true)?;
        in_order(stage, false)?;
        crossing(stage)
    },
};

/// One end closes, then the other.
fn in_order(stage: &mut Stage, server_first: bool) -> Result<()> {
    let server = stage.actor("server")?;
    let client = stage.actor("client")?;
    let (name, port) = if server_first {
        ("server", 8000)
    } else {
        ("client", 8001)
    };
    let address = (Ipv4Addr::LOCALHOST, port);
    let listener = server.listening(address, Options::NONE)?;
    let at_client = client.connected(address, Options::NONE)?;
    let at_server = listener.accept()?;
    let (first, second) = if server_first {
        (at_server, at_client)
    } else {
        (at_client, at_server)
    };
    first.close()?;
    stage.await_state(second.tuple()?, TcpState::CloseWait)?;
    second.close()?;
    stage.await_state(first.tuple()?, TcpState::TimeWait)?;
    let (first, second) = (first.tuple()?, second.tuple()?);
    let followed = stage.connection(second)?;
    let sides = u64::from(is_waiting(stage, first)?) + u64::from(is_waiting(stage, second)?);
    stage
        .reading(format!("ends with a TIME_WAIT, the {name} was first"))
        .claim(1)
        .measured(sides, Source::SockDiag);
    let waits = is_waiting(stage, first)?;
    stage
        .reading(format!("the {name} has it"))
        .claim(true)
        .measured(waits, Source::SockDiag);
    let states: Vec<TcpState> = followed
        .states
        .iter()
        .map(|span| span.state)
        .skip_while(|state| *state != TcpState::Established)
        .collect();
    stage
        .reading(format!("states of the other end, the {name} first"))
        .expect(vec![
            TcpState::Established,
            TcpState::CloseWait,
            TcpState::LastAck,
        ])
        .measured(states, Source::Finding);
    if server_first {
        stage.story(first)?;
    }
    Ok(())
}

/// Both close at once, seen from the server's end and from the client's.
fn crossing(stage: &mut Stage) -> Result<()> {
    let device = stage.wire()?;
    let server = stage.actor("server")?;
    let client = stage.actor("client")?;
    let listener = server.listening(Version::V4.local(8002), Options::NONE)?;
    let mut pair = Scripted::served(&device, &listener, 40_000, Timestamps::With)?;
    pair.close_crossing(stage)?;
    let mut connected = Scripted::connected(&device, &client, 9000, Timestamps::With)?;
    connected.close_crossing(stage)?;
    let sides =
        u64::from(is_waiting(stage, pair.tuple)?) + u64::from(is_waiting(stage, connected.tuple)?);
    stage
        .reading("ends with a TIME_WAIT, the FINs crossed")
        .claim(1)
        .expect(2)
        .measured(sides, Source::SockDiag);
    Ok(())
}

fn is_waiting(stage: &Stage, tuple: Tuple) -> Result<bool> {
    let now = stage.state(tuple)?;
    Ok(now.is_some_and(|now| now.state == TcpState::TimeWait))
}
