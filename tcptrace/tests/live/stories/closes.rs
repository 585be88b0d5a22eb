//! Connections of this host that close in every way that two sockets can close.

use std::io::ErrorKind;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use super::verdict::{client, server};
use super::{Scene, Stage, in_turn};
use crate::endings::{expect_fin, expect_reset};
use crate::event::State;
use crate::sockets::{Family, Pair, Socket};
use crate::{kernel_table, netns};

/// IPv4, IPv6, and an IPv4 client of a dual-stack server.
pub(super) const FAMILIES: [Family; 3] = [Family::V4, Family::V6, Family::MappedServer];

pub(super) fn all() -> Result<()> {
    in_turn(SCENES, &FAMILIES)
}

pub(super) const SCENES: &[Scene] = &[
    Scene {
        name: "client first",
        play: |stage| {
            let (Pair { client, server }, _listener) = stage.pair()?;
            stage.one_after_the_other(client, server)
        },
        client: Some(
            client("local_first", "close")
                .by_us()
                .first("local")
                .minisocket("fin_wait2"),
        ),
        server: Some(
            server("remote_first", "close")
                .by_us()
                .first("remote")
                .half_closed(),
        ),
        shows: &[(State::FIN_WAIT2, State::CLOSE)],
    },
    Scene {
        name: "server first",
        play: |stage| {
            let (Pair { client, server }, _listener) = stage.pair()?;
            stage.one_after_the_other(server, client)
        },
        client: Some(
            client("remote_first", "close")
                .by_us()
                .first("remote")
                .half_closed(),
        ),
        server: Some(
            server("local_first", "close")
                .by_us()
                .first("local")
                .minisocket("fin_wait2"),
        ),
        shows: &[(State::FIN_WAIT2, State::CLOSE)],
    },
    Scene {
        name: "half close",
        play: half_close,
        client: Some(
            client("local_first", "shutdown")
                .by_us()
                .first("local")
                .minisocket("time_wait")
                .half_closed(),
        ),
        server: Some(
            server("remote_first", "close")
                .by_us()
                .first("remote")
                .half_closed(),
        ),
        shows: &[(State::FIN_WAIT2, State::CLOSE)],
    },
    Scene {
        name: "FIN on data, first",
        play: fin_on_data_first,
        client: Some(
            client("local_first", "close")
                .by_us()
                .first("local")
                .minisocket("fin_wait2"),
        ),
        server: Some(
            server("remote_first", "close")
                .by_us()
                .first("remote")
                .half_closed(),
        ),
        shows: &[(State::ESTABLISHED, State::FIN_WAIT1)],
    },
    Scene {
        name: "FIN on data, second",
        play: fin_on_data_second,
        client: Some(
            client("local_first", "shutdown")
                .by_us()
                .first("local")
                .minisocket("time_wait")
                .half_closed(),
        ),
        server: Some(
            server("remote_first", "close")
                .by_us()
                .first("remote")
                .half_closed(),
        ),
        shows: &[(State::FIN_WAIT2, State::CLOSE)],
    },
    Scene {
        name: "shutdown, then close",
        play: shutdown_then_close,
        client: Some(
            client("local_first", "shutdown")
                .by_us()
                .first("local")
                .minisocket("fin_wait2")
                .perhaps_half_closed(),
        ),
        server: Some(
            server("remote_first", "close")
                .by_us()
                .first("remote")
                .half_closed(),
        ),
        shows: &[(State::FIN_WAIT2, State::FIN_WAIT2)],
    },
    Scene {
        name: "linger 0, client",
        play: |stage| {
            let (Pair { client, server }, _listener) = stage.pair()?;
            client.reset_on_close()?;
            drop(client);
            expect_reset(&server)
        },
        client: Some(
            client("reset_sent", "linger_reset")
                .by_us()
                .inferred_without_reason()
                .reset("sent"),
        ),
        server: Some(
            server("reset_received", "peer")
                .reset("received")
                .error("ECONNRESET"),
        ),
        shows: ABORTED,
    },
    Scene {
        name: "linger 0, server",
        play: |stage| {
            let (Pair { client, server }, _listener) = stage.pair()?;
            server.reset_on_close()?;
            drop(server);
            expect_reset(&client)
        },
        client: Some(
            client("reset_received", "peer")
                .reset("received")
                .error("ECONNRESET"),
        ),
        server: Some(
            server("reset_sent", "linger_reset")
                .by_us()
                .inferred_without_reason()
                .reset("sent"),
        ),
        shows: ABORTED,
    },
    Scene {
        name: "unread data",
        play: |stage| {
            let (Pair { client, server }, _listener) = stage.pair()?;
            server.send(b"unread")?;
            // A busy CPU may deliver it only after send() has returned.
            client.peek()?;
            drop(client);
            expect_reset(&server)
        },
        client: Some(
            client("reset_sent", "unread_data_reset")
                .by_us()
                .reset("sent"),
        ),
        server: Some(
            server("reset_received", "peer")
                .reset("received")
                .error("ECONNRESET"),
        ),
        shows: ABORTED,
    },
    Scene {
        name: "connect(AF_UNSPEC)",
        play: |stage| {
            let (Pair { client, server }, _listener) = stage.pair()?;
            client.disconnect()?;
            expect_reset(&server)
        },
        client: Some(client("reset_sent", "disconnect").by_us().reset("sent")),
        server: Some(
            server("reset_received", "peer")
                .reset("received")
                .error("ECONNRESET"),
        ),
        shows: ABORTED,
    },
    Scene {
        name: "listener closed before accept",
        play: |stage| {
            let listener = stage.family.listener(stage.port)?;
            let client = stage.family.connect(stage.port)?;
            drop(listener);
            expect_reset(&client)
        },
        client: Some(
            client("reset_received", "peer")
                .reset("received")
                .error("ECONNRESET"),
        ),
        server: Some(
            server("reset_sent", "listener_closed")
                .by_us()
                .reset("sent")
                .not_accepted(),
        ),
        shows: ABORTED,
    },
    Scene {
        name: "refused",
        play: |stage| match stage.family.connect(stage.port) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => bail!("nobody listens, but: {:?}", other.map(drop)),
        },
        client: Some(
            client("refused", "peer")
                .reset("received")
                .error("ECONNREFUSED"),
        ),
        server: None,
        shows: &[(State::SYN_SENT, State::CLOSE)],
    },
    Scene {
        name: "data after close, to a minisocket",
        play: data_after_close,
        client: Some(
            client("local_first", "close")
                .by_us()
                .first("local")
                .minisocket("fin_wait2"),
        ),
        server: Some(
            server("reset_received", "peer")
                .first("remote")
                .reset("received")
                .error("EPIPE")
                .perhaps_half_closed(),
        ),
        shows: &[
            (State::FIN_WAIT2, State::CLOSE),
            (State::CLOSE_WAIT, State::CLOSE),
        ],
    },
    Scene {
        name: "data after close, to a socket",
        play: |stage| {
            // Beyond 60 s an orphan stays a full socket for the time that is over.
            netns::set_sysctl("ipv4/tcp_fin_timeout", "70")?;
            let result = data_after_close(stage);
            netns::set_sysctl("ipv4/tcp_fin_timeout", "60")?;
            result
        },
        client: Some(
            client("reset_sent", "close")
                .by_us()
                .first("local")
                .reset("sent")
                .error("ECONNRESET"),
        ),
        server: Some(
            server("reset_received", "peer")
                .first("remote")
                .reset("received")
                .error("EPIPE")
                .perhaps_half_closed(),
        ),
        shows: &[
            (State::FIN_WAIT2, State::CLOSE),
            (State::CLOSE_WAIT, State::CLOSE),
        ],
    },
    Scene {
        name: "no FIN_WAIT2 wanted",
        play: no_fin_wait2,
        client: Some(
            client("reset_sent", "shutdown")
                .by_us()
                .first("local")
                .reset("sent")
                .perhaps_half_closed(),
        ),
        server: Some(
            server("reset_received", "peer")
                .first("remote")
                .reset("received")
                .error("EPIPE")
                .perhaps_half_closed(),
        ),
        shows: &[
            (State::FIN_WAIT2, State::FIN_WAIT2),
            (State::FIN_WAIT2, State::CLOSE),
        ],
    },
];

const ABORTED: &[(State, State)] = &[(State::ESTABLISHED, State::CLOSE)];

impl Stage {
    fn pair(&self) -> Result<(Pair, Socket)> {
        let listener = self.family.listener(self.port)?;
        Ok((self.family.pair(&listener, self.port)?, listener))
    }

    /// Closes one end, and a while later the other one.
    fn one_after_the_other(&self, first: Socket, second: Socket) -> Result<()> {
        let (local, remote) = (first.local_port()?, second.local_port()?);
        let began = Instant::now();
        drop(first);
        expect_fin(&second)?;
        kernel_table::wait_for_state(local, remote, State::FIN_WAIT2)?;
        self.half_closed(began, || drop(second));
        Ok(())
    }
}

fn half_close(stage: &Stage) -> Result<()> {
    let (Pair { client, server }, _listener) = stage.pair()?;
    let began = Instant::now();
    client.shutdown_write()?;
    expect_fin(&server)?;
    stage.half_closed(began, || {
        server.send(b"answer")?;
        ensure!(client.receive()? == 6, "the answer must arrive whole");
        drop(server);
        expect_fin(&client)
    })
}

fn fin_on_data_first(stage: &Stage) -> Result<()> {
    let (Pair { client, server }, _listener) = stage.pair()?;
    let port = client.local_port()?;
    client.send_later(b"last")?;
    let began = Instant::now();
    drop(client);
    ensure!(server.receive()? == 4, "the data must arrive with the FIN");
    expect_fin(&server)?;
    kernel_table::wait_for_state(port, stage.port, State::FIN_WAIT2)?;
    stage.half_closed(began, || drop(server));
    Ok(())
}

/// A FIN with data is for an application to read: an orphan would answer it with a RST.
fn fin_on_data_second(stage: &Stage) -> Result<()> {
    let (Pair { client, server }, _listener) = stage.pair()?;
    let began = Instant::now();
    client.shutdown_write()?;
    expect_fin(&server)?;
    stage.half_closed(began, || {
        server.send_later(b"last")?;
        drop(server);
        ensure!(client.receive()? == 4, "the data must arrive with the FIN");
        expect_fin(&client)
    })
}

fn shutdown_then_close(stage: &Stage) -> Result<()> {
    let (Pair { client, server }, _listener) = stage.pair()?;
    let port = client.local_port()?;
    let began = Instant::now();
    client.shutdown_write()?;
    expect_fin(&server)?;
    kernel_table::wait_for_state(port, stage.port, State::FIN_WAIT2)?;
    drop(client);
    stage.half_closed(began, || drop(server));
    Ok(())
}

fn data_after_close(stage: &Stage) -> Result<()> {
    let (Pair { client, server }, _listener) = stage.pair()?;
    let port = client.local_port()?;
    drop(client);
    expect_fin(&server)?;
    kernel_table::wait_for_state(port, stage.port, State::FIN_WAIT2)?;
    server.send(b"too late")?;
    kernel_table::wait_until_closed(&[port])?;
    match server.send(b"refused") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => bail!("the second send must fail with EPIPE, but: {other:?}"),
    }
}

fn no_fin_wait2(stage: &Stage) -> Result<()> {
    let (Pair { client, server }, _listener) = stage.pair()?;
    let port = client.local_port()?;
    client.reset_in_fin_wait2()?;
    client.shutdown_write()?;
    expect_fin(&server)?;
    kernel_table::wait_for_state(port, stage.port, State::FIN_WAIT2)?;
    drop(client);
    kernel_table::wait_until_closed(&[port])
}
