//! A close() that sends a RST in place of a FIN.

use std::net::Ipv4Addr;

use anyhow::Result;
use tcptrace_model::TcpState;

use super::in_words;
use crate::lab::{
    actor::{Actor, Options, must},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
};

/// What the client sends and the server does not read.
const UNREAD: u32 = 10;

/// How the server closes.
#[derive(Clone, Copy)]
enum Way {
    /// As usual.
    Normally,
    /// With `SO_LINGER` and a time of 0.
    Linger,
    /// With data that it has not read.
    Unread,
}

pub(super) const K17: Experiment = Experiment {
    id: "K17",
    name: "close-with-reset",
    claims: &["K17"],
    title: "close() with SO_LINGER 0 or unread data: a RST, and no TIME_WAIT",
    says: "close() with SO_LINGER and a time of 0, or with data that has come and was not read, leaves no \
           TIME_WAIT, and the peer gets ECONNRESET.",
    why: "SO_LINGER with 0 asks for an abort in place of a close (RFC 9293 3.10.5). Unread data cannot be \
          delivered any more, and a FIN would tell the peer that all had been taken, so a RST says that it \
          was not (RFC 2525 2.17): net/ipv4/tcp.c __tcp_close (v6.18). A RST is not acknowledged, so \
          nothing has to wait for it to arrive: both ends are gone at once, without TIME_WAIT and its \
          protection. The peer loses what it had not read yet.",
    condition: None,
    seconds: 3,
    play: |stage: &mut Stage| -> Result<()> {
        let (server, client) = (stage.actor("server")?, stage.actor("client")?);
        closed(stage, &server, &client, 8000, Way::Normally)?;
        closed(stage, &server, &client, 8001, Way::Linger)?;
        closed(stage, &server, &client, 8002, Way::Unread)
    },
};

/// The server closes in this way: what the client reads, and how many TIME_WAITs both have then.
fn closed(stage: &mut Stage, server: &Actor, client: &Actor, port: u16, way: Way) -> Result<()> {
    let listener = server.listening((Ipv4Addr::LOCALHOST, port), Options::NONE)?;
    let at_client = client.connected((Ipv4Addr::LOCALHOST, port), Options::NONE)?;
    let at_server = listener.accept()?;
    let (there, here) = (at_server.tuple()?, at_client.tuple()?);
    match way {
        Way::Normally => {}
        Way::Linger => at_server.set(Options {
            linger: Some(0),
            ..Options::NONE
        })?,
        Way::Unread => {
            must(at_client.write(UNREAD as usize)?, "send()")?;
            stage.await_unread(there, UNREAD)?;
        }
    }
    at_server.close()?;
    let read = in_words(at_client.read()?);
    at_client.close()?;
    stage.await_state(here, TcpState::Close)?;
    match way {
        Way::Normally => stage.await_state(there, TcpState::TimeWait)?,
        Way::Linger | Way::Unread => stage.await_state(there, TcpState::Close)?,
    }
    let waiting = stage.count(port, TcpState::TimeWait)?
        + stage.count(here.local.port(), TcpState::TimeWait)?;
    let (name, cause) = match way {
        Way::Normally => ("close()", "close"),
        Way::Linger => ("SO_LINGER 0", "linger_reset"),
        Way::Unread => ("unread data", "unread_data_reset"),
    };
    match way {
        Way::Normally => {
            stage
                .reading(format!("{name}: the peer reads"))
                .control("FIN")
                .measured(read, Source::Call);
            stage
                .reading(format!("{name}: TIME_WAITs of both ends"))
                .control(1)
                .measured(waiting, Source::SockDiag);
        }
        Way::Linger | Way::Unread => {
            stage
                .reading(format!("{name}: the peer reads"))
                .claim("ECONNRESET")
                .measured(read, Source::Call);
            stage
                .reading(format!("{name}: TIME_WAITs of both ends"))
                .claim(0)
                .measured(waiting, Source::SockDiag);
        }
    }
    let ended = stage.connection(there)?;
    stage
        .reading(format!("{name}: what the trace calls it"))
        .expect(cause)
        .measured(ended.cause.name(), Source::Finding);
    match way {
        Way::Normally => {}
        Way::Linger | Way::Unread => {
            stage.story(there)?;
        }
    }
    Ok(())
}
