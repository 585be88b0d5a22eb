//! Connections whose peer is silent, and how the kernel gives up.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::scripted::begin_connect;
use super::verdict::{client, server};
use super::{Scene, at_once};
use crate::endings::expect_fin;
use crate::event::State;
use crate::peer::Flags;
use crate::sockets::Socket;
use crate::{kernel_table, netns};

/// Each lasts a few seconds, so all of them last no longer together.
pub(super) fn all() -> Result<()> {
    at_once(SCENES)
}

pub(super) const SCENES: &[Scene] = &[
    Scene {
        name: "no answer to the SYN",
        play: |stage| {
            netns::set_sysctl("ipv4/tcp_syn_retries", "1")?;
            let mut peer = stage.wire.server(stage.port)?;
            let socket = begin_connect(stage.port)?;
            peer.await_syn()?;
            expect_timeout(&socket, libc::ETIMEDOUT)
        },
        client: Some(client("never_established", "retransmit_timeout").error("ETIMEDOUT")),
        server: None,
        shows: &[(State::SYN_SENT, State::CLOSE)],
    },
    Scene {
        name: "no answer to keepalive",
        play: |stage| {
            let (_peer, socket) = stage.connect()?;
            socket.keep_alive_for_seconds()?;
            expect_timeout(&socket, libc::ETIMEDOUT)
        },
        client: Some(
            client("timed_out", "keepalive")
                .reset("sent")
                .error("ETIMEDOUT"),
        ),
        server: None,
        shows: OPEN,
    },
    Scene {
        name: "no answer to data, TCP_USER_TIMEOUT",
        play: |stage| {
            let (_peer, socket, _) = stage.serve()?;
            socket.give_up_after(1000)?;
            socket.send(b"anybody?")?;
            let began = Instant::now();
            expect_timeout(&socket, libc::ETIMEDOUT)?;
            let took = began.elapsed();
            ensure!(took > Duration::from_millis(900), "given up after {took:?}");
            Ok(())
        },
        client: None,
        server: Some(server("timed_out", "user_timeout").error("ETIMEDOUT")),
        shows: OPEN,
    },
    Scene {
        name: "no answer to data",
        play: |stage| {
            netns::set_sysctl("ipv4/tcp_retries2", "2")?;
            let (_peer, socket, _) = stage.serve()?;
            socket.send(b"anybody?")?;
            expect_timeout(&socket, libc::ETIMEDOUT)
        },
        client: None,
        server: Some(server("timed_out", "retransmit_timeout").error("ETIMEDOUT")),
        shows: OPEN,
    },
    Scene {
        name: "no answer to the FIN of an orphan",
        play: |stage| {
            netns::set_sysctl("ipv4/tcp_orphan_retries", "1")?;
            let (mut peer, socket, port) = stage.serve()?;
            drop(socket);
            peer.expect(Flags::FIN | Flags::ACK)?;
            kernel_table::wait_for_state(stage.port, port, State::FIN_WAIT1)?;
            kernel_table::wait_until_closed(&[port])
        },
        client: None,
        server: Some(
            server("timed_out", "close")
                .by_us()
                .first("local")
                .error("ETIMEDOUT"),
        ),
        shows: &[(State::FIN_WAIT1, State::CLOSE)],
    },
    Scene {
        name: "no answer to the second FIN",
        play: |stage| {
            netns::set_sysctl("ipv4/tcp_orphan_retries", "1")?;
            let (mut peer, socket, port) = stage.serve()?;
            peer.send(Flags::FIN | Flags::ACK)?;
            expect_fin(&socket)?;
            drop(socket);
            peer.expect(Flags::FIN | Flags::ACK)?;
            kernel_table::wait_for_state(stage.port, port, State::LAST_ACK)?;
            kernel_table::wait_until_closed(&[port])
        },
        client: None,
        server: Some(
            server("timed_out", "close")
                .by_us()
                .first("remote")
                .error("ETIMEDOUT")
                .perhaps_half_closed(),
        ),
        shows: &[(State::LAST_ACK, State::CLOSE)],
    },
];

const OPEN: &[(State, State)] = &[(State::ESTABLISHED, State::CLOSE)];

/// Waits until the kernel gives up, and fails unless it does so with this errno.
fn expect_timeout(socket: &Socket, errno: i32) -> Result<()> {
    socket
        .wait_for_error()
        .context("while the peer is silent")?;
    match socket.receive() {
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        other => anyhow::bail!("the kernel must give up, but: {other:?}"),
    }
}
