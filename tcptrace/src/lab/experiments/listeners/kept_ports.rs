//! What keeps a port that looks free, and which check of bind() comes first.

use anyhow::Result;
use tcptrace_model::{TcpState, conflict::Call};

use super::{EACCES, EADDRINUSE, EADDRNOTAVAIL, NOBODY, SUCCEEDS, need_ipv6};
use crate::lab::{
    actor::{Actor, Options, must},
    experiment::Experiment,
    reading::Source,
    stage::{Stage, comm},
};

/// A listener that is shut down.
const SHUT_PORT: u16 = 8000;
/// Sends a RST in place of a FIN.
const LINGER_0: Options = Options {
    linger: Some(0),
    ..Options::NONE
};

pub(super) const K26: Experiment = Experiment {
    id: "K26",
    name: "kept-ports",
    claims: &["K26"],
    title: "Who keeps a port without a connection, and which error of bind() comes first",
    says: "Bound by a user without privileges, a port below 1024 on an address of another host gives \
           EADDRNOTAVAIL in IPv4 and EACCES in IPv6. shutdown() of a listener keeps its port. A client that \
           had called bind() and is reset by its peer keeps its port until close(); a connection that was \
           accepted does not.",
    why: "IPv4 looks at the address first and at the port's privilege then, IPv6 the other way round: \
          net/ipv4/af_inet.c __inet_bind, net/ipv6/af_inet6.c __inet6_bind (v6.18). A socket that goes to \
          CLOSE gives its port back unless its application asked for that port with bind() \
          (SOCK_BINDPORT_LOCK, net/ipv4/tcp.c tcp_set_state): then only close() does. So a listener that is \
          shut down, and a bound client that was reset, hold their ports while nothing of them is to be \
          seen in a list of connections. An accepted connection has never called bind().",
    condition: None,
    seconds: 3,
    play: |stage: &mut Stage| -> Result<()> {
        need_ipv6(stage)?;
        privileged(stage)?;
        let (server, rival) = (stage.actor("server")?, stage.actor("rival")?);
        shut_listener(stage, &server, &rival)?;
        reset(stage, &server, &rival)
    },
};

/// A privileged port on an address of another host, with privileges and without.
fn privileged(stage: &mut Stage) -> Result<()> {
    let (root, user) = (stage.actor("root")?, stage.actor("user")?);
    user.become_user(NOBODY)?;
    for (name, address, errno) in [
        (
            "foreign IPv4 address, port 80",
            "192.0.2.1:80",
            EADDRNOTAVAIL,
        ),
        ("foreign IPv6 address, port 80", "[2001:db8::1]:80", EACCES),
    ] {
        let (_, called) = user.try_bind(address, Options::NONE)?;
        stage
            .reading(name)
            .claim(errno)
            .measured(called, Source::Call);
        let (_, called) = root.try_bind(address, Options::NONE)?;
        stage
            .reading(format!("{name}, as root"))
            .control(EADDRNOTAVAIL)
            .measured(called, Source::Call);
    }
    for (name, address) in [
        ("own IPv4 address, port 80", "127.0.0.1:80"),
        ("own IPv6 address, port 80", "[::1]:80"),
    ] {
        let (_, called) = user.try_bind(address, Options::NONE)?;
        stage
            .reading(name)
            .control(EACCES)
            .measured(called, Source::Call);
    }
    Ok(())
}

fn shut_listener(stage: &mut Stage, server: &Actor, rival: &Actor) -> Result<()> {
    let listener = server.listening("127.0.0.1:8000", Options::NONE)?;
    must(listener.shutdown_reading()?, "shutdown() of a listener")?;
    let (_, called) = rival.try_bind("127.0.0.1:8000", Options::NONE)?;
    stage
        .reading("port of a listener after shutdown()")
        .claim(EADDRINUSE)
        .measured(called, Source::Call);
    let failed = stage.call_failed(Call::Bind, SHUT_PORT, EADDRINUSE)?;
    let holder = failed.holders.iter().find(|holder| holder.blocks);
    stage
        .reading("state of that listener")
        .expect(TcpState::Close)
        .measured(
            holder.map_or(TcpState::Listen, |found| found.holder.state),
            Source::Finding,
        );
    stage.reading("its owner").expect("server").measured(
        comm(holder.and_then(|found| found.owner.as_ref())),
        Source::Finding,
    );
    listener.close()?;
    let (_, called) = rival.try_bind("127.0.0.1:8000", Options::NONE)?;
    stage
        .reading("after its close()")
        .control(SUCCEEDS)
        .measured(called, Source::Call);
    Ok(())
}

/// Connections that their peers reset, at the end that called bind() and at the end that was accepted.
fn reset(stage: &mut Stage, server: &Actor, rival: &Actor) -> Result<()> {
    let client = stage.actor("client")?;
    let listener = server.listening("127.0.0.1:8001", Options::NONE)?;

    let bound = client.bound("127.0.0.1:9000", Options::NONE)?;
    must(bound.connect("127.0.0.1:8001")?, "connect()")?;
    let accepted = listener.accept()?;
    accepted.set(LINGER_0)?;
    accepted.close()?;
    stage.await_state(bound.tuple()?, TcpState::Close)?;
    let (_, called) = rival.try_bind("127.0.0.1:9000", Options::NONE)?;
    stage
        .reading("port of a bound client that was reset")
        .claim(EADDRINUSE)
        .measured(called, Source::Call);
    bound.close()?;
    let (_, called) = rival.try_bind("127.0.0.1:9000", Options::NONE)?;
    stage
        .reading("after its close()")
        .control(SUCCEEDS)
        .measured(called, Source::Call);

    let unbound = client.connected("127.0.0.1:8001", Options::NONE)?;
    let accepted = listener.accept()?;
    listener.close()?;
    let (_, called) = rival.try_bind("127.0.0.1:8001", Options::NONE)?;
    stage
        .reading("port of an accepted connection")
        .control(EADDRINUSE)
        .measured(called, Source::Call);
    unbound.set(LINGER_0)?;
    unbound.close()?;
    stage.await_state(accepted.tuple()?, TcpState::Close)?;
    let (_, called) = rival.try_bind("127.0.0.1:8001", Options::NONE)?;
    stage
        .reading("once it was reset, its descriptor open")
        .claim(SUCCEEDS)
        .measured(called, Source::Call);
    Ok(())
}
