//! Sockets that somebody else destroys, as `ss -K` does.

use anyhow::Result;

use super::verdict::{client, server};
use super::{Scene, Stage, in_turn};
use crate::endings::{expect_fin, expect_reset};
use crate::event::State;
use crate::sock_diag;
use crate::sockets::{Family, Pair};

pub(super) fn all() -> Result<()> {
    in_turn(SCENES, &[Family::V4, Family::V6])
}

pub(super) const SCENES: &[Scene] = &[
    Scene {
        name: "an open connection is destroyed",
        play: |stage| {
            let listener = stage.family.listener(stage.port)?;
            let Pair { client, server } = stage.family.pair(&listener, stage.port)?;
            stage.destroy_client_of(client.local_port()?)?;
            expect_reset(&server)
        },
        client: Some(
            client("aborted", "socket_destroyed")
                .by_us()
                .reset("sent")
                .error("ECONNABORTED"),
        ),
        server: Some(
            server("reset_received", "peer")
                .reset("received")
                .error("ECONNRESET"),
        ),
        shows: &[(State::ESTABLISHED, State::CLOSE)],
    },
    Scene {
        name: "a connection that the peer has closed is destroyed",
        play: |stage| {
            let listener = stage.family.listener(stage.port)?;
            let Pair { client, server } = stage.family.pair(&listener, stage.port)?;
            server.shutdown_write()?;
            expect_fin(&client)?;
            stage.destroy_client_of(client.local_port()?)?;
            expect_reset(&server)
        },
        client: Some(
            client("aborted", "socket_destroyed")
                .by_us()
                .first("remote")
                .reset("sent")
                .error("ECONNABORTED")
                .perhaps_half_closed(),
        ),
        server: Some(
            server("reset_received", "shutdown")
                .by_us()
                .first("local")
                .reset("received")
                .error("ECONNRESET")
                .perhaps_half_closed(),
        ),
        shows: &[(State::CLOSE_WAIT, State::CLOSE)],
    },
];

impl Stage {
    fn destroy_client_of(&self, port: u16) -> Result<()> {
        let local = self.family.connects_to(port);
        sock_diag::destroy(local, self.family.connects_to(self.port))
    }
}
