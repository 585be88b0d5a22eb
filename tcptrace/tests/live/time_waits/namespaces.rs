//! A TIME_WAIT whose network namespace is removed.

use anyhow::{Result, ensure};

use super::observers::Observers;
use crate::endings::expect_fin;
use crate::event::State;
use crate::sockets::{Family, Pair};
use crate::{kernel_table, netns, ports};

pub(crate) const CONNECTIONS: usize = 5;

/// The namespace goes with its last thread, and with it what nobody has open.
pub(super) fn gone() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut observers = Observers::everywhere(&port.to_string())?;
        play_gone(port)?;
        let word = format!("\"rport\":{port}");
        for _ in 0..CONNECTIONS {
            observers.wait_for(&["\"kind\":\"time_wait\"", &word])?;
        }
        observers.check(|observed| {
            let lines = &observed.report.time_waits;
            ensure!(
                lines.len() == CONNECTIONS,
                "{CONNECTIONS} ended, not {lines:#?}"
            );
            for line in lines {
                ensure!(
                    line.end == "netns_exit",
                    "it went with its namespace: {line:?}"
                );
                ensure!(
                    line.time_wait_ns.is_some_and(|ns| ns < 60_000_000_000),
                    "it had not lasted its time: {line:?}"
                );
                let owner = line.owner.as_ref().map(|owner| owner.process.pid);
                ensure!(owner == Some(std::process::id()), "it was ours: {line:?}");
                ensure!(line.by.is_none(), "no process ended it: {line:?}");
            }
            Ok(())
        })
    })
}

/// Leaves [`CONNECTIONS`] in TIME_WAIT in a network namespace that nobody holds afterwards.
pub(crate) fn play_gone(port: u16) -> Result<()> {
    netns::with_new(|_| {
        let listener = Family::V4.listener(port)?;
        for _ in 0..CONNECTIONS {
            let Pair { client, server } = Family::V4.pair(&listener, port)?;
            let local = client.local_port()?;
            drop(client);
            expect_fin(&server)?;
            drop(server);
            kernel_table::wait_for_state(local, port, State::TIME_WAIT)?;
        }
        Ok(())
    })
}
