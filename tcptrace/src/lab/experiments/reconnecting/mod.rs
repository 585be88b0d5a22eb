//! Clients: what their own TIME_WAIT costs them.

mod bound;
mod exhausted;
mod per_destination;
mod reuse;

use anyhow::Result;
use tcptrace_model::TcpState;

use super::{EADDRINUSE, EADDRNOTAVAIL};
use crate::lab::{
    actor::{Actor, Address, Options, Sock, must},
    experiment::Experiment,
    stage::Stage,
    tuple::Tuple,
};

pub(super) const ALL: &[Experiment] =
    &[exhausted::C4, bound::K12, reuse::K13, per_destination::K22];

/// Connects a socket and closes it first, which leaves its end in TIME_WAIT.
fn client_in_time_wait(
    stage: &Stage,
    socket: &Sock<'_>,
    listener: &Sock<'_>,
    address: impl Into<Address>,
) -> Result<Tuple> {
    must(socket.connect(address)?, "connect()")?;
    let at_server = listener.accept()?;
    socket.close()?;
    let at_server_is = at_server.tuple()?;
    stage.until("the client's FIN", || {
        let now = stage.state(at_server_is)?;
        Ok(now.filter(|now| now.state == TcpState::CloseWait))
    })?;
    at_server.close()?;
    stage.await_state(socket.tuple()?, TcpState::TimeWait)?;
    socket.tuple()
}

/// An IPv4 socket of its own, unbound.
fn unbound(actor: &Actor) -> Result<Sock<'_>> {
    actor.socket(false, Options::NONE)
}
