//! C3: the same pair of sockets again.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use tcptrace_model::TcpState;

use super::super::{EADDRINUSE, EADDRNOTAVAIL};
use crate::lab::{
    actor::{Actor, Options, Sock, must},
    experiment::Experiment,
    experiments::scripted::{Scripted, Timestamps, ack, syn_ack},
    reading::Source,
    stage::Stage,
    tuple::Tuple,
    value::Called,
    wire::Version,
};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(super) const C3: Experiment = Experiment {
    id: "C3",
    name: "same-pair-again",
    claims: &["C3"],
    title: "Connecting again from the same port to a server in TIME_WAIT",
    says: "With SO_REUSEADDR the server can listen again in spite of TIME_WAIT, but a client that connects from \
           the same address and port as before is refused with EADDRINUSE.",
    why: "The client does not know of the server's TIME_WAIT: its SYN goes out, and the server's TIME_WAIT \
          judges it. It may begin a new connection if its sequence number or timestamp is newer (RFC 9293 \
          3.6.1, RFC 6191; net/ipv4/tcp_minisocks.c tcp_timewait_state_process, v6.18), and as Linux takes \
          first sequence numbers from a clock (net/core/secure_seq.c), a client of Linux has a newer one. \
          Where the TIME_WAIT is the client's own, connect() finds it: with timestamps it may be used again at \
          once, without them connect() fails, with EADDRNOTAVAIL (net/ipv4/tcp_ipv4.c tcp_twsk_unique, \
          net/ipv4/inet_hashtables.c __inet_check_established). EADDRINUSE is what bind() says; \
          connect() of TCP does not.",
    condition: None,
    seconds: 2,
    play: |stage: &mut Stage| -> Result<()> {
        for (timestamps, ports) in [(1, (8000, 40_000)), (0, (8001, 40_001))] {
            stage.set_sysctl("net.ipv4.tcp_timestamps", timestamps)?;
            real_client(stage, timestamps, ports)?;
        }
        scripted_syns(stage)
    },
};

/// A client on a port of its own connects again: through the server's TIME_WAIT, then through its own.
fn real_client(stage: &mut Stage, timestamps: u8, (port, client_port): (u16, u16)) -> Result<()> {
    let with = if timestamps == 1 {
        "with timestamps"
    } else {
        "without timestamps"
    };
    let server = stage.actor("server")?;
    let client = stage.actor("client")?;
    let listener = server.listening((HOST, port), Options::REUSEADDR)?;
    let (at_client, called) = connect(&client, client_port, port)?;
    must(called, "connect()")?;
    let at_server = listener.accept()?;
    let servers = close_in_turn(stage, &at_server, &at_client)?;
    listener.close()?;

    let (listener, bound) = server.try_bind((HOST, port), Options::REUSEADDR)?;
    stage
        .reading(format!("{with}: bind() again"))
        .control(Called::Ok(()))
        .measured(bound, Source::Call);
    let listens = listener.listen()?;
    stage
        .reading(format!("{with}: listen() again"))
        .control(Called::Ok(()))
        .measured(listens, Source::Call);
    let (at_client, called) = connect(&client, client_port, port)?;
    stage
        .reading(format!("{with}: connect() to TIME_WAIT"))
        .claim(EADDRINUSE)
        .expect(Called::Ok(()))
        .measured(called, Source::Call);
    if called.is_err() {
        return Ok(());
    }
    let ended = stage.time_wait(servers)?;
    let by_syn = stage.ended_by_syn();
    stage
        .reading(format!("{with}: how that ended"))
        .expect(by_syn)
        .measured(ended.end.name(), Source::Finding);

    let at_server = listener.accept()?;
    close_in_turn(stage, &at_client, &at_server)?;
    let (_, called) = connect(&client, client_port, port)?;
    let expected = if timestamps == 1 {
        Called::Ok(())
    } else {
        Err(EADDRNOTAVAIL)
    };
    stage
        .reading(format!("{with}: connect() from TIME_WAIT"))
        .claim(EADDRINUSE)
        .expect(expected)
        .measured(called, Source::Call);
    Ok(())
}

/// Why the real client got through: what TIME_WAIT answers to SYNs with chosen numbers.
fn scripted_syns(stage: &mut Stage) -> Result<()> {
    let device = stage.wire()?;
    let server = stage.actor("server")?;
    let listener = server.listening(Version::V4.local(8002), Options::REUSEADDR)?;
    for (what, sequence, answer, port) in [
        ("a SYN with a newer number", 1, syn_ack(), 41_000),
        ("a SYN with an older number", -1000, ack(), 41_001),
    ] {
        let mut pair = Scripted::served(&device, &listener, port, Timestamps::Without)?;
        pair.close_to_time_wait(stage)?;
        let answered = pair.answer_to_syn(sequence, 0)?;
        stage
            .reading(format!("answer to {what}"))
            .expect(answer)
            .measured(answered, Source::Segment);
    }
    Ok(())
}

fn connect(client: &Actor, client_port: u16, port: u16) -> Result<(Sock<'_>, Called)> {
    let socket = client.bound((HOST, client_port), Options::REUSEADDR)?;
    let called = socket.connect((HOST, port))?;
    Ok((socket, called))
}

/// One end closes, then the other. Returns the end that has the TIME_WAIT.
fn close_in_turn(stage: &Stage, first: &Sock<'_>, second: &Sock<'_>) -> Result<Tuple> {
    first.close()?;
    stage.await_state(second.tuple()?, TcpState::CloseWait)?;
    second.close()?;
    stage.await_state(first.tuple()?, TcpState::TimeWait)?;
    first.tuple()
}
