//! What is left of a socket that never had a connection.

use std::net::Ipv4Addr;

use anyhow::Result;
use tcptrace_model::TcpState;

use super::{EADDRINUSE, SUCCEEDS};
use crate::lab::{
    actor::{Actor, Options},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
};

const BOUND_PORT: u16 = 8000;
const LISTENING_PORT: u16 = 8001;
/// A listener that has had a connection.
const CONNECTED_PORT: u16 = 8002;

pub(super) const D3: Experiment = Experiment {
    id: "D3",
    name: "no-connection",
    claims: &["D3", "K6"],
    title: "A socket without a connection leaves no TIME_WAIT",
    says: "A socket that was only bound, or that listened and nobody connected, leaves no TIME_WAIT: its port \
           can be bound again at once.",
    why: "TIME_WAIT is a state of a connection: it keeps late segments out of the next one between the same \
          addresses and ports (RFC 9293 3.4.1). A listener has no peer and sends no FIN, so that close() \
          takes it to CLOSE directly and gives its port back: net/ipv4/tcp.c __tcp_close (v6.18). What \
          blocks a server's restart is left by its connections, never by its listener.",
    condition: None,
    seconds: 2,
    play: |stage: &mut Stage| -> Result<()> {
        let (server, client) = (stage.actor("server")?, stage.actor("client")?);
        let bound = server.bound((Ipv4Addr::LOCALHOST, BOUND_PORT), Options::NONE)?;
        bound.close()?;
        again(stage, &server, BOUND_PORT, "bind() after bind(), close()")?;

        let listener = server.listening((Ipv4Addr::LOCALHOST, LISTENING_PORT), Options::NONE)?;
        listener.close()?;
        again(
            stage,
            &server,
            LISTENING_PORT,
            "bind() after bind(), listen(), close()",
        )?;

        let listener = server.listening((Ipv4Addr::LOCALHOST, CONNECTED_PORT), Options::NONE)?;
        let at_client = client.connected((Ipv4Addr::LOCALHOST, CONNECTED_PORT), Options::NONE)?;
        let at_server = listener.accept()?;
        at_server.close()?;
        stage.await_state(at_client.tuple()?, TcpState::CloseWait)?;
        at_client.close()?;
        stage.await_state(at_server.tuple()?, TcpState::TimeWait)?;
        listener.close()?;
        let (_, called) = server.try_bind((Ipv4Addr::LOCALHOST, CONNECTED_PORT), Options::NONE)?;
        stage
            .reading("bind() after a connection")
            .control(EADDRINUSE)
            .measured(called, Source::Call);

        // Whatever the first two could have left has been there for longer than what this one has left.
        for (name, port) in [
            ("TIME_WAITs left by bind()", BOUND_PORT),
            ("TIME_WAITs left by bind(), listen()", LISTENING_PORT),
        ] {
            let left = stage.count(port, TcpState::TimeWait)?;
            stage
                .reading(name)
                .claim(0)
                .measured(left, Source::SockDiag);
        }
        let left = stage.count(CONNECTED_PORT, TcpState::TimeWait)?;
        stage
            .reading("TIME_WAITs left by a connection")
            .control(1)
            .measured(left, Source::SockDiag);
        stage.story(at_server.tuple()?)?;
        Ok(())
    },
};

/// Binds the port at once, without options, and lets it go.
fn again(stage: &mut Stage, server: &Actor, port: u16, name: &str) -> Result<()> {
    let (socket, called) = server.try_bind((Ipv4Addr::LOCALHOST, port), Options::NONE)?;
    stage
        .reading(name)
        .claim(SUCCEEDS)
        .measured(called, Source::Call);
    socket.close()
}
