//! A1: the server closed first, and is started again at once.

use anyhow::Result;
use tcptrace_model::{
    TcpState,
    conflict::{Call, Remedy, Rule},
};

use super::{EADDRINUSE, SUCCEEDS, read_holder_of_dead};
use crate::lab::{actor::Options, experiment::Experiment, reading::Source, stage::Stage};

pub(super) const A1: Experiment = Experiment {
    id: "A1",
    name: "restart-too-early",
    claims: &["A1"],
    title: "A server that closes first and starts again at once cannot bind",
    says: "If the server closes the connection first and is started again at once, bind() fails with \
           EADDRINUSE, and the reason is TIME_WAIT.",
    why: "The end that closes first keeps the pair of addresses and ports for 60 s in TIME_WAIT, so that \
          a late segment of the old connection cannot enter a new one (RFC 9293 3.4.1, 3.6.1). The server \
          is gone, but the kernel's table of bound ports still has the entry, and bind() without \
          SO_REUSEADDR on both sockets wants the port for itself: net/ipv4/inet_connection_sock.c \
          inet_bind_conflict (v6.18). Where the client closed first, the entry is on the client's port, \
          and nothing is in the server's way.",
    condition: None,
    seconds: 3,
    play,
};

fn play(stage: &mut Stage) -> Result<()> {
    let server = stage.actor("server")?;
    let client = stage.actor("client")?;
    let listener = server.listening("127.0.0.1:8000", Options::NONE)?;
    let at_client = client.connected("127.0.0.1:8000", Options::NONE)?;
    let at_server = listener.accept()?;
    at_server.close()?;
    stage.await_state(at_client.tuple()?, TcpState::CloseWait)?;
    at_client.close()?;
    stage.await_state(at_server.tuple()?, TcpState::TimeWait)?;

    stage.note("on port 8001 it is the client that closes first");
    let other_listener = server.listening("127.0.0.1:8001", Options::NONE)?;
    let other_client = client.connected("127.0.0.1:8001", Options::NONE)?;
    let other_server = other_listener.accept()?;
    other_client.close()?;
    stage.await_state(other_server.tuple()?, TcpState::CloseWait)?;
    server.kill(libc::SIGTERM)?;
    stage.await_state(other_client.tuple()?, TcpState::TimeWait)?;
    stage.await_state(other_server.tuple()?, TcpState::Close)?;

    let again = stage.actor("restarted")?;
    let (_, called) = again.try_bind("127.0.0.1:8000", Options::NONE)?;
    stage
        .reading("bind() of the restarted server")
        .claim(EADDRINUSE)
        .measured(called, Source::Call);

    let failed = stage.call_failed(Call::Bind, 8000, EADDRINUSE)?;
    stage
        .reading("the rule")
        .expect(Rule::PortHeld.name())
        .measured(failed.rule.name(), Source::Finding);
    read_holder_of_dead(stage, &failed, TcpState::TimeWait);
    for (what, remedy) in [
        ("waiting would help", Remedy::Wait),
        (
            "SO_REUSEADDR on both would have helped",
            Remedy::ReuseaddrOnBoth,
        ),
    ] {
        stage
            .reading(what)
            .expect(true)
            .measured(failed.remedies.contains(&remedy), Source::Finding);
    }
    let (_, called) = again.try_bind("127.0.0.2:8000", Options::NONE)?;
    stage
        .reading("bind() to another address meanwhile")
        .expect(SUCCEEDS)
        .measured(called, Source::Call);
    let (_, called) = again.try_bind("127.0.0.1:8001", Options::NONE)?;
    stage
        .reading("bind() where the client closed first")
        .control(SUCCEEDS)
        .measured(called, Source::Call);
    Ok(())
}
