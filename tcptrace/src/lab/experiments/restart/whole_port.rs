//! C2: whether TIME_WAIT keeps the pair of sockets, or the whole local port.

use anyhow::Result;
use tcptrace_model::{
    TcpState,
    conflict::{Call, Rule},
};

use super::{EADDRINUSE, EADDRNOTAVAIL, SUCCEEDS};
use crate::lab::{
    actor::{Actor, Options, Sock},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
};

pub(super) const C2: Experiment = Experiment {
    id: "C2",
    name: "whole-port-or-pair",
    claims: &["C2"],
    title: "What a TIME_WAIT keeps: the pair of sockets, or the whole local port",
    says: "The RFC forbids only a new connection between the same pair of sockets, but implementations \
           forbid the whole local port while one of its connections is in TIME_WAIT.",
    why: "It depends on who asks. connect() knows both ends, so it looks for the same pair alone, as RFC 9293 \
          3.10.1 wants it: net/ipv4/inet_hashtables.c __inet_check_established (v6.18). A listener's new \
          connections have pairs of their own as well. bind() does not know yet with whom the socket will \
          speak, so it looks at the local port: net/ipv4/inet_connection_sock.c inet_bind_conflict. Only \
          there is the whole port forbidden, and SO_REUSEADDR on both sockets lifts that.",
    condition: Some("bind() asks for the port, without SO_REUSEADDR on both sockets"),
    seconds: 4,
    play,
};

fn play(stage: &mut Stage) -> Result<()> {
    let server = stage.actor("server")?;
    let client = stage.actor("client")?;
    // Otherwise connect() may take over a TIME_WAIT on loopback after a second.
    stage.set_sysctl("net.ipv4.tcp_tw_reuse", 0)?;
    one_client_port(stage, &client, &server)?;
    stage.set_sysctl("net.ipv4.ip_local_port_range", "41000 41099")?;
    listening_port(stage, &client, &server)
}

/// A TIME_WAIT on a port that connect() has chosen.
fn one_client_port(stage: &mut Stage, client: &Actor, server: &Actor) -> Result<()> {
    stage.set_sysctl("net.ipv4.ip_local_port_range", "40000 40000")?;
    let listener = server.listening("127.0.0.1:8000", Options::NONE)?;
    server.listening("127.0.0.1:8001", Options::NONE)?;
    let at_client = client.connected("127.0.0.1:8000", Options::NONE)?;
    let at_server = listener.accept()?;
    closes_first(stage, &at_client, &at_server)?;

    let (_, called) = client.try_connect("127.0.0.1:8000", Options::NONE)?;
    stage
        .reading("connect() from 40000, same pair")
        .control(EADDRNOTAVAIL)
        .measured(called, Source::Call);
    let failed = stage.call_failed(Call::Connect, 8000, EADDRNOTAVAIL)?;
    stage
        .reading("its rule")
        .expect(Rule::PortsExhausted.name())
        .measured(failed.rule.name(), Source::Finding);
    let (_, called) = client.try_bind("127.0.0.1:40000", Options::NONE)?;
    stage
        .reading("bind() to 40000")
        .claim(EADDRINUSE)
        .measured(called, Source::Call);
    stage.call_failed(Call::Bind, 40000, EADDRINUSE)?;
    let (other, called) = client.try_connect("127.0.0.1:8001", Options::NONE)?;
    stage
        .reading("connect() from 40000 to another port")
        .claim(EADDRNOTAVAIL)
        .expect(SUCCEEDS)
        .measured(called, Source::Call);
    stage
        .reading("local port of that connection")
        .expect(40000)
        .measured(u64::from(other.local().port()), Source::Call);
    let waiting = stage.count(40000, TcpState::TimeWait)?;
    stage
        .reading("TIME_WAIT on 40000 beside it")
        .expect(1)
        .measured(waiting, Source::SockDiag);
    Ok(())
}

/// A TIME_WAIT on the port of a server.
fn listening_port(stage: &mut Stage, client: &Actor, server: &Actor) -> Result<()> {
    let listener = server.listening("127.0.0.1:8002", Options::REUSEADDR)?;
    let at_client = client.connected("127.0.0.1:8002", Options::NONE)?;
    let at_server = listener.accept()?;
    closes_first(stage, &at_server, &at_client)?;

    let (_, called) = client.try_connect("127.0.0.1:8002", Options::NONE)?;
    stage
        .reading("connect() to 8002, whose listener goes on")
        .expect(SUCCEEDS)
        .measured(called, Source::Call);
    let waiting = stage.count(8002, TcpState::TimeWait)?;
    stage
        .reading("TIME_WAIT on 8002 meanwhile")
        .expect(1)
        .measured(waiting, Source::SockDiag);
    listener.close()?;
    let again = stage.actor("restarted")?;
    let (_, called) = again.try_bind("127.0.0.1:8002", Options::NONE)?;
    stage
        .reading("bind() to 8002 without SO_REUSEADDR")
        .claim(EADDRINUSE)
        .measured(called, Source::Call);
    let (_, called) = again.try_bind("127.0.0.1:8002", Options::REUSEADDR)?;
    stage
        .reading("bind() to 8002, SO_REUSEADDR on both")
        .claim(EADDRINUSE)
        .expect(SUCCEEDS)
        .measured(called, Source::Call);
    Ok(())
}

/// `first` closes, then `second`, until `first` is in TIME_WAIT.
fn closes_first(stage: &Stage, first: &Sock<'_>, second: &Sock<'_>) -> Result<()> {
    first.close()?;
    stage.await_state(second.tuple()?, TcpState::CloseWait)?;
    second.close()?;
    stage.await_state(first.tuple()?, TcpState::TimeWait)
}
