//! Owns what names a connection's end within a network namespace.

use std::{fmt, net::SocketAddr};

use tcptrace_model::{Minisocket, Socket};

/// One end of a connection: its own address and port, and the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Its own.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

impl Tuple {
    /// The other end's.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
        }
    }
}

impl From<&Socket> for Tuple {
    fn from(socket: &Socket) -> Self {
        Self {
            local: socket.local,
            remote: socket.remote,
        }
    }
}

impl From<&Minisocket> for Tuple {
    fn from(minisocket: &Minisocket) -> Self {
        Self {
            local: minisocket.local,
            remote: minisocket.remote,
        }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -- {}", self.local, self.remote)
    }
}
