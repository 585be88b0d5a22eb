//! An old connection in some state, a new server on its port, and SO_REUSEADDR on one, the other, or both.

use std::net::Ipv4Addr;

use anyhow::Result;
use tcptrace_model::TcpState;

use super::{REFUSED, SUCCEEDS};
use crate::lab::{
    actor::{Actor, Address, Options, Sock, must},
    stage::Stage,
    value::Called,
};

/// On which of the two sockets SO_REUSEADDR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    Neither,
    New,
    Old,
    Both,
}

impl On {
    pub(super) const ALL: [Self; 4] = [Self::Neither, Self::New, Self::Old, Self::Both];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Neither => "on neither",
            Self::New => "on the new socket",
            Self::Old => "on the old one",
            Self::Both => "on both",
        }
    }

    /// What bind() returns in its way through net/ipv4/inet_connection_sock.c `inet_bind_conflict` (v6.18; the
    /// same within `inet_csk_bind_conflict` up to 6.0), as long as the old socket does not listen.
    pub(super) const fn bind(self) -> Called {
        match self {
            Self::Neither | Self::New | Self::Old => REFUSED,
            Self::Both => SUCCEEDS,
        }
    }

    pub(super) const fn of_old(self) -> Options {
        Options::reuseaddr_if(matches!(self, Self::Old | Self::Both))
    }

    pub(super) const fn of_new(self) -> Options {
        Options::reuseaddr_if(matches!(self, Self::New | Self::Both))
    }
}

/// What became of the old connection before the new server came. Its listener is closed in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Old {
    /// The server closed first, then the client.
    TimeWait,
    /// The server has closed, and the client has not.
    FinWait2Closed,
    /// The server has sent its FIN by shutdown(), and the client has not closed.
    FinWait2Open,
    /// Nobody has closed.
    Established,
    /// The client has closed, and the server has not.
    CloseWait,
}

impl Old {
    pub(super) const fn state(self) -> TcpState {
        match self {
            Self::TimeWait => TcpState::TimeWait,
            Self::FinWait2Closed | Self::FinWait2Open => TcpState::FinWait2,
            Self::Established => TcpState::Established,
            Self::CloseWait => TcpState::CloseWait,
        }
    }
}

/// Who takes part.
pub(super) struct Cast {
    pub(super) server: Actor,
    pub(super) client: Actor,
    /// The new server.
    pub(super) restarted: Actor,
}

/// A connection, and the listener that it came from.
pub(super) struct Pair<'a> {
    pub(super) listener: Sock<'a>,
    pub(super) at_server: Sock<'a>,
    pub(super) at_client: Sock<'a>,
}

/// What happened when the new server came.
pub(super) struct Tried {
    pub(super) on: On,
    pub(super) port: u16,
    pub(super) bind: Called,
    /// `None` where bind() had failed.
    pub(super) listen: Option<Called>,
    /// The state of the old connection after that; CLOSE when it is gone.
    pub(super) state: TcpState,
    /// The old connection was a minisocket then.
    pub(super) was_minisocket: bool,
}

/// A port of 127.0.0.1.
pub(super) fn at(port: u16) -> Address {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Cast {
    pub(super) fn enter(stage: &Stage) -> Result<Self> {
        Ok(Self {
            server: stage.actor("server")?,
            client: stage.actor("client")?,
            restarted: stage.actor("restarted")?,
        })
    }

    /// A connection to a listener with these options.
    pub(super) fn pair(&self, port: u16, options: Options) -> Result<Pair<'_>> {
        let listener = self.server.listening(at(port), options)?;
        let at_client = self.client.connected(at(port), Options::NONE)?;
        let at_server = listener.accept()?;
        Ok(Pair {
            listener,
            at_server,
            at_client,
        })
    }

    /// Has SO_REUSEADDR on neither, one and both, on a port of its own each, from `first_port` on.
    pub(super) fn try_all(&self, stage: &Stage, old: Old, first_port: u16) -> Result<Vec<Tried>> {
        On::ALL
            .into_iter()
            .zip(first_port..)
            .map(|(on, port)| {
                stage.note(format_args!("port {port}: SO_REUSEADDR {}", on.name()));
                self.try_one(stage, old, on, port)
            })
            .collect()
    }

    fn try_one(&self, stage: &Stage, old: Old, on: On, port: u16) -> Result<Tried> {
        let pair = self.pair(port, on.of_old())?;
        pair.bring(stage, old)?;
        let tuple = pair.at_server.tuple()?;
        let (socket, bind) = self.restarted.try_bind(at(port), on.of_new())?;
        let listen = bind.is_ok().then(|| socket.listen()).transpose()?;
        let after = stage.state(tuple)?;
        Ok(Tried {
            on,
            port,
            bind,
            listen,
            state: after.map_or(TcpState::Close, |after| after.state),
            was_minisocket: after.is_some_and(|after| after.minisocket_left.is_some()),
        })
    }
}

impl Pair<'_> {
    /// Brings it into this state, and closes the listener.
    pub(super) fn bring(&self, stage: &Stage, old: Old) -> Result<()> {
        let Self {
            listener,
            at_server,
            at_client,
        } = self;
        match old {
            Old::TimeWait => {
                at_server.close()?;
                stage.await_state(at_client.tuple()?, TcpState::CloseWait)?;
                at_client.close()?;
            }
            Old::FinWait2Closed => at_server.close()?,
            Old::FinWait2Open => {
                must(at_server.shutdown()?, "shutdown()")?;
            }
            Old::Established => {}
            Old::CloseWait => at_client.close()?,
        }
        stage.await_state(at_server.tuple()?, old.state())?;
        listener.close()
    }
}
