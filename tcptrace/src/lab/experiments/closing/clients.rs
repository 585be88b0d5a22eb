//! A client that closes first and comes again.

use anyhow::Result;
use tcptrace_model::TcpState;

use super::{EADDRINUSE, SUCCEEDS};
use crate::lab::{
    actor::{Options, Sock, must},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
};

pub(super) const D1: Experiment = Experiment {
    id: "D1",
    name: "client-reconnects",
    claims: &["D1", "K5"],
    title: "A client that closed first can reconnect at once, and the server start again",
    says: "A client that closes first can reconnect at once, with or without SO_REUSEADDR: its TIME_WAIT is on \
           a port that it does not need again. The server's port can be bound again without SO_REUSEADDR.",
    why: "A client that has not called bind() gets a port from the kernel with each connect(), and the pair \
          of addresses and ports in TIME_WAIT is passed over: net/ipv4/inet_hashtables.c \
          __inet_hash_connect (v6.18). SO_REUSEADDR has no say in that. The server's end went from LAST_ACK \
          to CLOSE and left nothing behind (RFC 9293 3.6, case 2), so nothing holds its port. That lasts \
          until the client's ports run out.",
    condition: None,
    seconds: 3,
    play: |stage: &mut Stage| -> Result<()> {
        let (server, client) = (stage.actor("server")?, stage.actor("client")?);
        let listener = server.listening("127.0.0.1:8000", Options::NONE)?;
        let first = client.connected("127.0.0.1:8000", Options::NONE)?;
        let at_server = listener.accept()?;
        closes_first(stage, &first, &at_server)?;

        let (second, called) = client.try_connect("127.0.0.1:8000", Options::NONE)?;
        stage
            .reading("connect() again, without SO_REUSEADDR")
            .claim(SUCCEEDS)
            .measured(called, Source::Call);
        must(called, "connect()")?;
        let at_server = listener.accept()?;
        let (third, called) = client.try_connect("127.0.0.1:8000", Options::REUSEADDR)?;
        stage
            .reading("connect() again, with SO_REUSEADDR")
            .claim(SUCCEEDS)
            .measured(called, Source::Call);
        must(called, "connect()")?;
        let third_at_server = listener.accept()?;
        let old = first.local().port();
        let is_new = [&second, &third].map(|socket| socket.local().port() != old);
        stage
            .reading("both have other ports than the first")
            .claim(true)
            .measured(is_new == [true, true], Source::Call);

        closes_first(stage, &second, &at_server)?;
        closes_first(stage, &third, &third_at_server)?;
        listener.close()?;
        server.exit(0)?;
        let mut waiting = 0;
        for socket in [&first, &second, &third] {
            waiting += stage.count(socket.local().port(), TcpState::TimeWait)?;
        }
        stage
            .reading("TIME_WAITs on the client's 3 ports")
            .claim(3)
            .measured(waiting, Source::SockDiag);
        let waiting = stage.count(8000, TcpState::TimeWait)?;
        stage
            .reading("TIME_WAITs on the server's port")
            .claim(0)
            .measured(waiting, Source::SockDiag);
        let again = stage.actor("restarted")?;
        let (socket, called) = again.try_bind("127.0.0.1:8000", Options::NONE)?;
        stage
            .reading("bind() of the restarted server")
            .claim(SUCCEEDS)
            .measured(called, Source::Call);
        let called = socket.listen()?;
        stage
            .reading("its listen()")
            .claim(SUCCEEDS)
            .measured(called, Source::Call);

        // The same with the server closing first.
        let last = client.connected("127.0.0.1:8000", Options::NONE)?;
        let at_server = socket.accept()?;
        closes_first(stage, &at_server, &last)?;
        socket.close()?;
        let (_, called) = again.try_bind("127.0.0.1:8000", Options::NONE)?;
        stage
            .reading("bind() after the server had closed first")
            .control(EADDRINUSE)
            .measured(called, Source::Call);
        stage.story(first.tuple()?)?;
        Ok(())
    },
};

/// `one` closes, then `other`; returns when `one` is in TIME_WAIT and the other is gone.
fn closes_first(stage: &Stage, one: &Sock<'_>, other: &Sock<'_>) -> Result<()> {
    one.close()?;
    stage.await_state(other.tuple()?, TcpState::CloseWait)?;
    other.close()?;
    stage.await_state(other.tuple()?, TcpState::Close)?;
    stage.await_state(one.tuple()?, TcpState::TimeWait)
}
