//! Owns what an experiment tells its actors and what they answer: one JSON object a line.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Options of a socket. What is `None` stays as the kernel made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// `SO_REUSEADDR`
    pub reuseaddr: Option<bool>,
    /// `SO_REUSEPORT`
    pub reuseport: Option<bool>,
    /// `IPV6_V6ONLY`
    pub v6only: Option<bool>,
    /// `SO_LINGER` with this time in seconds.
    pub linger: Option<u16>,
    /// `TCP_LINGER2` in seconds: how long an orphan stays in FIN_WAIT2. Negative: not at all.
    pub linger2: Option<i32>,
    /// `IP_FREEBIND`
    pub freebind: Option<bool>,
    /// `IP_BIND_ADDRESS_NO_PORT`
    pub bind_address_no_port: Option<bool>,
}

impl Options {
    /// None set.
    pub const NONE: Self = Self {
        reuseaddr: None,
        reuseport: None,
        v6only: None,
        linger: None,
        linger2: None,
        freebind: None,
        bind_address_no_port: None,
    };
    /// `SO_REUSEADDR`
    pub const REUSEADDR: Self = Self {
        reuseaddr: Some(true),
        ..Self::NONE
    };
    /// `SO_REUSEPORT`
    pub const REUSEPORT: Self = Self {
        reuseport: Some(true),
        ..Self::NONE
    };
    /// `IPV6_V6ONLY`
    pub const V6ONLY: Self = Self {
        v6only: Some(true),
        ..Self::NONE
    };

    /// `SO_REUSEADDR` if `on`, else none set.
    #[must_use]
    pub const fn reuseaddr_if(on: bool) -> Self {
        if on { Self::REUSEADDR } else { Self::NONE }
    }
}

/// What an actor is to do. Sockets have the numbers that the actor gave them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Opens a socket.
    Socket { ipv6: bool, options: Options },
    /// Sets options.
    Set { socket: u32, options: Options },
    /// bind()
    Bind { socket: u32, address: SocketAddr },
    /// listen()
    Listen { socket: u32, backlog: i32 },
    /// Chooses the first sequence number of the connect() that follows.
    FirstSequence { socket: u32, sequence: u32 },
    /// connect()
    Connect { socket: u32, address: SocketAddr },
    /// connect() with AF_UNSPEC.
    Disconnect { socket: u32 },
    /// accept()
    Accept { listener: u32 },
    /// send() of so many bytes; `more`: with MSG_MORE, so they wait for what comes next.
    Write {
        socket: u32,
        bytes: usize,
        more: bool,
    },
    /// recv(), once.
    Read { socket: u32 },
    /// shutdown() of writing, or of reading.
    Shutdown { socket: u32, read: bool },
    /// close()
    Close { socket: u32 },
    /// getsockname() and getpeername().
    Addresses { socket: u32 },
    /// Opens and connects so many sockets, until the first that fails.
    ConnectMany {
        address: SocketAddr,
        options: Options,
        count: u32,
    },
    /// Accepts so many.
    AcceptMany { listener: u32, count: u32 },
    /// shutdown() of writing of so many, from this one on.
    ShutdownMany { first: u32, count: u32 },
    /// Closes so many, from this one on, one each `every_ms`.
    CloseMany {
        first: u32,
        count: u32,
        every_ms: u32,
    },
    /// Gives up root for this user.
    User { uid: u32 },
    /// _exit()
    Exit { status: i32 },
}

/// What an actor answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Done.
    Done,
    /// The kernel refused: the errno.
    Refused(u16),
    /// A socket, by number, with its addresses.
    Socket {
        socket: u32,
        local: SocketAddr,
        remote: Option<SocketAddr>,
    },
    /// So many bytes; 0 is the peer's FIN.
    Bytes(usize),
    /// Sockets with numbers from `first` on, and why there are not more.
    Many {
        first: u32,
        count: u32,
        refused: Option<u16>,
    },
    /// The order makes no sense, in words.
    Confused(String),
}
