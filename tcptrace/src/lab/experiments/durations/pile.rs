//! B1: a server that closes many short connections itself.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use tcptrace_model::{Finding, TcpState};

use super::{HalfClosed, PORT, SERVER, TOLD_WITHIN, half_closed, told};
use crate::lab::{
    actor::{Actor, Options, Sock},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
};

const ROUNDS: u8 = 5;
const EACH: u32 = 200;
const ALL: u32 = ROUNDS as u32 * EACH;

pub(super) const B1: Experiment = Experiment {
    id: "B1",
    name: "pile",
    claims: &["B1"],
    title: "A server piles up TIME_WAIT, and does not run out of sockets",
    says: "A server that closes many short connections itself piles up TIME_WAIT until it runs out of sockets.",
    why: "The pile is real: each connection that the server closes first is in TIME_WAIT for 60 s. But it is no pile of \
          sockets. A minisocket takes a few hundred bytes (struct tcp_timewait_sock), no descriptor, and no \
          port of its own: all have the server's port, and a listener takes connections as long as addresses \
          and ports of both ends together are new. What limits them is tcp_max_tw_buckets, and beyond it \
          nothing fails: inet_twsk_alloc() (net/ipv4/inet_timewait_sock.c, v6.18) makes none, the connection \
          ends without TIME_WAIT, TCPTimeWaitOverflow counts it. It is a client, or a proxy in its role as one, \
          that runs out, of ports.",
    condition: None,
    seconds: 6,
    play: |stage| {
        let server = stage.actor("server")?;
        let client = stage.actor("client")?;
        let listener = server.listening("0.0.0.0:8000", Options::NONE)?;
        for round in 0..ROUNDS {
            close(stage, &listener, &client, round)?;
        }
        let entered = |finding: &Finding| match finding {
            Finding::TimeWaitEntered(found) if found.minisocket.local.port() == PORT => Some(()),
            _ => None,
        };
        let entered = told(stage, ALL, TOLD_WITHIN, entered)?.len();
        stage
            .reading("TIME_WAITs entered")
            .expect(u64::from(ALL))
            .measured(entered as u64, Source::Finding);
        let waiting = stage.count(PORT, TcpState::TimeWait)?;
        stage
            .reading(format!("of these alive, after {ALL} closes"))
            .control(u64::from(ALL))
            .measured(waiting, Source::SockDiag);
        let in_use = stage.socket_count("inuse")?;
        stage
            .reading("sockets in use, the listener among them")
            .expect(1_u64)
            .measured(in_use, Source::Counter);
        let (_, called) = client.try_connect(SERVER, Options::NONE)?;
        stage
            .reading(format!("with {ALL} in TIME_WAIT, connect() is refused"))
            .claim(true)
            .expect(false)
            .measured(called.is_err(), Source::Call);
        let _at_server = listener.accept()?;

        let overflow_before = stage.counter("TcpExt", "TCPTimeWaitOverflow")?;
        stage.set_sysctl("net.ipv4.tcp_max_tw_buckets", ALL)?;
        close(stage, &listener, &client, ROUNDS)?;
        let waiting = stage.count(PORT, TcpState::TimeWait)?;
        stage
            .reading(format!("TIME_WAITs, limited to {ALL}, {EACH} closes later"))
            .expect(u64::from(ALL))
            .measured(waiting, Source::SockDiag);
        let overflow = stage.counter("TcpExt", "TCPTimeWaitOverflow")? - overflow_before;
        stage
            .reading("connections that ended without TIME_WAIT")
            .expect(u64::from(EACH))
            .measured(overflow, Source::Counter);
        let (_, called) = client.try_connect(SERVER, Options::NONE)?;
        stage
            .reading("at the limit, connect() is refused")
            .claim(true)
            .expect(false)
            .measured(called.is_err(), Source::Call);
        Ok(())
    },
};

/// Opens connections that the server closes first, and waits until both ends are closed. Each round is to an
/// address of the server's own: connect() goes through the ports in turn, and a client that came round to a port
/// of before, with the same addresses, would end the server's TIME_WAIT.
fn close(stage: &Stage, listener: &Sock<'_>, client: &Actor, round: u8) -> Result<()> {
    let server = (Ipv4Addr::new(127, 0, 0, 10 + round), PORT);
    let in_use_before = stage.socket_count("inuse")?;
    let HalfClosed {
        at_client,
        at_server,
    } = half_closed(stage, listener, client, server, EACH)?;
    client.close_many(at_client)?;
    listener.actor().close_many(at_server)?;
    let in_use = stage.until("both ends to be closed", || {
        let in_use = stage.socket_count("inuse")?;
        Ok((in_use <= in_use_before).then_some(in_use))
    })?;
    ensure!(in_use == in_use_before, "other sockets went as well");
    Ok(())
}
