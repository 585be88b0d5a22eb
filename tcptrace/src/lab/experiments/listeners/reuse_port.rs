//! SO_REUSEPORT: beside a live listener, and for whom.

use std::net::Ipv4Addr;

use anyhow::Result;
use tcptrace_model::{TcpState, conflict::Call};

use super::{EADDRINUSE, NOBODY, SUCCEEDS};
use crate::lab::{actor::Options, experiment::Experiment, reading::Source, stage::Stage};

/// A listener with `SO_REUSEADDR`.
const REUSEADDR_PORT: u16 = 8000;
/// A listener with `SO_REUSEPORT`.
const REUSEPORT_PORT: u16 = 8001;
/// A TIME_WAIT of a listener with `SO_REUSEPORT` that is gone.
const LEFT_PORT: u16 = 8002;
/// A TIME_WAIT of a listener without options that is gone.
const PLAIN_LEFT_PORT: u16 = 8003;

pub(super) const K10: Experiment = Experiment {
    id: "K10",
    name: "reuse-port",
    claims: &["K10"],
    title: "SO_REUSEPORT shares a live listener's port, with the same user only",
    says: "Beside a live listener SO_REUSEADDR does not help. SO_REUSEPORT does, for the same user. What is \
           left in TIME_WAIT by a socket with SO_REUSEPORT lets any user in.",
    why: "SO_REUSEADDR passes over every socket except a listener. SO_REUSEPORT is there for listeners: \
          several processes share a port, and the kernel spreads the connections over them. So that nobody \
          can steal another user's connections, all have to belong to one user; a TIME_WAIT receives no \
          connections, and its user is not looked at: net/ipv4/inet_connection_sock.c inet_bind_conflict \
          (v6.18; inet_csk_bind_conflict before 6.1). A TIME_WAIT has the options that its listener had \
          when it accepted.",
    condition: None,
    seconds: 2,
    play: |stage: &mut Stage| -> Result<()> {
        let server = stage.actor("server")?;
        server.listening((Ipv4Addr::LOCALHOST, REUSEADDR_PORT), Options::REUSEADDR)?;
        server.listening((Ipv4Addr::LOCALHOST, REUSEPORT_PORT), Options::REUSEPORT)?;
        let same = stage.actor("same_user")?;
        let other = stage.actor("other_user")?;
        other.become_user(NOBODY)?;

        let (_, called) =
            same.try_bind((Ipv4Addr::LOCALHOST, REUSEADDR_PORT), Options::REUSEADDR)?;
        stage
            .reading("live listener, both SO_REUSEADDR")
            .claim(EADDRINUSE)
            .measured(called, Source::Call);
        // Before the same user joins: one listener is in the way, not two.
        let (_, called) =
            other.try_bind((Ipv4Addr::LOCALHOST, REUSEPORT_PORT), Options::REUSEPORT)?;
        stage
            .reading("live listener, both SO_REUSEPORT, other user")
            .claim(EADDRINUSE)
            .measured(called, Source::Call);
        let (second, called) =
            same.try_bind((Ipv4Addr::LOCALHOST, REUSEPORT_PORT), Options::REUSEPORT)?;
        stage
            .reading("live listener, both SO_REUSEPORT, same user")
            .claim(SUCCEEDS)
            .measured(called, Source::Call);
        let called = second.listen()?;
        stage
            .reading("its listen()")
            .claim(SUCCEEDS)
            .measured(called, Source::Call);

        leave_time_wait(stage, LEFT_PORT, Options::REUSEPORT)?;
        leave_time_wait(stage, PLAIN_LEFT_PORT, Options::NONE)?;
        let (_, called) =
            other.try_bind((Ipv4Addr::LOCALHOST, PLAIN_LEFT_PORT), Options::REUSEPORT)?;
        stage
            .reading("TIME_WAIT without it, other user")
            .control(EADDRINUSE)
            .measured(called, Source::Call);
        let (_, called) = other.try_bind((Ipv4Addr::LOCALHOST, LEFT_PORT), Options::REUSEPORT)?;
        stage
            .reading("TIME_WAIT with it, other user")
            .claim(SUCCEEDS)
            .measured(called, Source::Call);
        let waiting = stage.count(LEFT_PORT, TcpState::TimeWait)?;
        stage
            .reading("TIME_WAITs on that port, still there")
            .expect(1)
            .measured(waiting, Source::SockDiag);

        let failed = stage.call_failed(Call::Bind, REUSEPORT_PORT, EADDRINUSE)?;
        stage
            .reading("rule against the other user")
            .expect("reuseport_other_user")
            .measured(failed.rule.name(), Source::Finding);
        Ok(())
    },
};

/// A server with these options closes first and ends.
fn leave_time_wait(stage: &Stage, port: u16, options: Options) -> Result<()> {
    let (server, client) = (stage.actor("gone_server")?, stage.actor("client")?);
    let listener = server.listening((Ipv4Addr::LOCALHOST, port), options)?;
    let at_client = client.connected((Ipv4Addr::LOCALHOST, port), Options::NONE)?;
    let at_server = listener.accept()?;
    at_server.close()?;
    stage.await_state(at_client.tuple()?, TcpState::CloseWait)?;
    at_client.close()?;
    stage.await_state(at_server.tuple()?, TcpState::TimeWait)?;
    server.exit(0)
}
