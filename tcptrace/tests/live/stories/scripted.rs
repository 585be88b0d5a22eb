//! Connections with a peer that sends what no kernel would, or at a moment that no kernel would.

use std::io::ErrorKind;

use anyhow::{Context, Result, bail};

use super::verdict::{client, server};
use super::{Scene, Stage, in_turn};
use crate::endings::{expect_fin, expect_reset};
use crate::event::State;
use crate::peer::{self, Flags, Odd, Peer};
use crate::sockets::{Family, Socket};
use crate::{kernel_table, ports};

pub(super) fn all() -> Result<()> {
    in_turn(SCENES, &[Family::V4])
}

pub(super) const SCENES: &[Scene] = &[
    Scene {
        name: "both FINs cross, server",
        play: |stage| {
            let (mut peer, socket, port) = stage.serve()?;
            drop(socket);
            crossing_fins(&mut peer, stage.port, port)
        },
        client: None,
        server: Some(CROSSED_SERVER),
        shows: CROSSED,
    },
    Scene {
        name: "both FINs cross, client",
        play: |stage| {
            let (mut peer, socket) = stage.connect()?;
            let port = socket.local_port()?;
            drop(socket);
            crossing_fins(&mut peer, port, stage.port)
        },
        client: Some(
            client("simultaneous", "close")
                .by_us()
                .first("both")
                .minisocket("time_wait"),
        ),
        server: None,
        shows: CROSSED,
    },
    Scene {
        name: "both FINs cross, shutdown",
        play: |stage| {
            let (mut peer, socket, port) = stage.serve()?;
            socket.shutdown_write()?;
            crossing_fins(&mut peer, stage.port, port)
        },
        client: None,
        server: Some(
            server("simultaneous", "shutdown")
                .by_us()
                .first("both")
                .minisocket("time_wait")
                .perhaps_half_closed(),
        ),
        shows: CROSSED,
    },
    Scene {
        name: "FIN and ACK in one segment",
        play: |stage| {
            let (mut peer, socket, _) = stage.serve()?;
            drop(socket);
            peer.expect(Flags::FIN | Flags::ACK)?;
            peer.send(Flags::FIN | Flags::ACK)?;
            peer.expect(Flags::ACK).map(drop)
        },
        client: None,
        server: Some(
            server("local_first", "close")
                .by_us()
                .first("local")
                .minisocket("time_wait"),
        ),
        shows: &[
            (State::FIN_WAIT1, State::FIN_WAIT2),
            (State::FIN_WAIT2, State::CLOSE),
        ],
    },
    Scene {
        name: "reset by the peer, server",
        play: |stage| {
            let (mut peer, socket, _) = stage.serve()?;
            peer.send(Flags::RST | Flags::ACK)?;
            expect_reset(&socket)
        },
        client: None,
        server: Some(
            server("reset_received", "peer")
                .reset("received")
                .error("ECONNRESET"),
        ),
        shows: &[(State::ESTABLISHED, State::CLOSE)],
    },
    Scene {
        name: "reset by the peer, client",
        play: |stage| {
            let (mut peer, socket) = stage.connect()?;
            peer.send(Flags::RST | Flags::ACK)?;
            expect_reset(&socket)
        },
        client: Some(
            client("reset_received", "peer")
                .reset("received")
                .error("ECONNRESET"),
        ),
        server: None,
        shows: &[(State::ESTABLISHED, State::CLOSE)],
    },
    Scene {
        name: "reset by the peer after its FIN",
        play: |stage| {
            let (mut peer, socket, _) = stage.serve()?;
            peer.send(Flags::FIN | Flags::ACK)?;
            expect_fin(&socket)?;
            peer.send(Flags::RST | Flags::ACK)?;
            match socket.send(b"!") {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                other => bail!("a reset in CLOSE_WAIT is EPIPE, but: {other:?}"),
            }
        },
        client: None,
        server: Some(
            server("reset_received", "peer")
                .first("remote")
                .reset("received")
                .error("EPIPE")
                .perhaps_half_closed(),
        ),
        shows: &[(State::CLOSE_WAIT, State::CLOSE)],
    },
    Scene {
        name: "reset by the peer after our FIN",
        play: |stage| {
            let (mut peer, socket, port) = stage.serve()?;
            socket.shutdown_write()?;
            peer.expect(Flags::FIN | Flags::ACK)?;
            peer.send(Flags::ACK)?;
            kernel_table::wait_for_state(stage.port, port, State::FIN_WAIT2)?;
            peer.send(Flags::RST | Flags::ACK)?;
            expect_reset(&socket)
        },
        client: None,
        server: Some(
            server("reset_received", "shutdown")
                .by_us()
                .first("local")
                .reset("received")
                .error("ECONNRESET")
                .perhaps_half_closed(),
        ),
        shows: &[(State::FIN_WAIT2, State::CLOSE)],
    },
    Scene {
        name: "refused by a reset",
        play: |stage| {
            let mut peer = stage.wire.server(stage.port)?;
            let socket = begin_connect(stage.port)?;
            peer.await_syn()?;
            peer.send(Flags::RST | Flags::ACK)?;
            let port = socket.local_port()?;
            kernel_table::wait_until_closed(&[port])
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
        name: "given up before an answer",
        play: |stage| {
            let mut peer = stage.wire.server(stage.port)?;
            let socket = begin_connect(stage.port)?;
            peer.await_syn()?;
            drop(socket);
            Ok(())
        },
        client: Some(client("never_established", "close").by_us()),
        server: None,
        shows: &[(State::SYN_SENT, State::CLOSE)],
    },
    Scene {
        name: "FIN with data for an orphan",
        play: |stage| {
            let (mut peer, socket, port) = stage.serve()?;
            drop(socket);
            peer.expect(Flags::FIN | Flags::ACK)?;
            peer.send(Flags::ACK)?;
            kernel_table::wait_for_state(stage.port, port, State::FIN_WAIT2)?;
            peer.send_data(Flags::FIN | Flags::ACK, b"too late")?;
            peer.expect(Flags::RST).map(drop)
        },
        client: None,
        server: Some(
            server("local_first", "close")
                .by_us()
                .first("local")
                .minisocket("fin_wait2"),
        ),
        shows: &[(State::FIN_WAIT2, State::CLOSE)],
    },
    Scene {
        name: "the last ACK is lost, then comes",
        play: |stage| {
            let (mut peer, socket, port) = stage.serve()?;
            peer.send(Flags::FIN | Flags::ACK)?;
            expect_fin(&socket)?;
            drop(socket);
            peer.expect(Flags::FIN | Flags::ACK)?;
            kernel_table::wait_for_state(stage.port, port, State::LAST_ACK)?;
            // The kernel sends its FIN again.
            peer.expect(Flags::FIN | Flags::ACK)?;
            peer.send(Flags::ACK)
        },
        client: None,
        server: Some(
            server("remote_first", "close")
                .by_us()
                .first("remote")
                .perhaps_half_closed(),
        ),
        shows: &[
            (State::CLOSE_WAIT, State::LAST_ACK),
            (State::LAST_ACK, State::CLOSE),
        ],
    },
];

const CROSSED_SERVER: super::End = server("simultaneous", "close")
    .by_us()
    .first("both")
    .minisocket("time_wait");

const CROSSED: &[(State, State)] = &[
    (State::FIN_WAIT1, State::CLOSING),
    (State::CLOSING, State::CLOSE),
];

impl Stage {
    /// A connection of the peer to a listener of ours, and the peer's port.
    pub(super) fn serve(&self) -> Result<(Peer, Socket, u16)> {
        let listener = self.wire.listener(self.port)?;
        let port = ports::next();
        let mut peer = self.wire.client(self.port, port)?;
        peer.connect()?;
        Ok((peer, listener.accept()?, port))
    }

    /// A connection of ours to the peer.
    pub(super) fn connect(&self) -> Result<(Peer, Socket)> {
        let mut peer = self.wire.server(self.port)?;
        let socket = begin_connect(self.port)?;
        peer.accept()?;
        let port = socket.local_port()?;
        kernel_table::wait_for_state(port, self.port, State::ESTABLISHED)?;
        socket.set_blocking()?;
        Ok((peer, socket))
    }
}

/// A socket whose SYN is on its way to the peer.
pub(super) fn begin_connect(port: u16) -> Result<Socket> {
    let socket = Socket::new(false)?;
    socket.set_nonblocking()?;
    match socket.connect(peer::address(port)) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        Err(error) => Err(error).context("cannot begin to connect to the peer"),
        Ok(()) => bail!("connected before the peer has answered"),
    }
}

/// The kernel has sent its FIN; the peer's comes before it has acknowledged that.
fn crossing_fins(peer: &mut Peer, lport: u16, rport: u16) -> Result<()> {
    peer.send(Flags::FIN | Flags::ACK)?;
    kernel_table::wait_for_state(lport, rport, State::CLOSING)?;
    peer.expect(Flags::FIN | Flags::ACK)?;
    // Its FIN is before this segment.
    peer.send_odd(Flags::ACK, Odd::default(), b"")?;
    kernel_table::wait_for_state(lport, rport, State::TIME_WAIT)
}
