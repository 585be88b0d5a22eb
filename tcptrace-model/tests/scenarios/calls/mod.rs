//! bind(), listen() and connect(): what is told of those that fail, and of the sockets in the way.

mod bound;
mod connects;
mod joined;
mod listens;
mod lost;
mod memory;
mod restarts;
mod unlisted;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU64,
};

use tcptrace_model::{
    CallFailed, CallSucceeded, Finding, Input, ListedHolder, Listing, Owner, OwnerSource, Phase,
    Socket, SocketCall, Surroundings, Task,
    TcpState::{self, Close, Listen},
    conflict::{Asked, Asker, BindSysctls, Call, Family, Holder, PortUse},
};

use crate::scene::{APP, HOST, MS, Scene, address, process, socket};

pub(crate) const EADDRINUSE: u16 = 98;
pub(crate) const EADDRNOTAVAIL: u16 = 99;

pub(crate) const fn owner(task: Task, source: OwnerSource) -> Owner {
    Owner {
        process: process(task),
        source,
    }
}

/// Any address and no port, of the family of `local`.
fn any(local: SocketAddr) -> SocketAddr {
    if local.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    }
}

/// A new socket for addresses like `local`.
fn asker(local: SocketAddr) -> Asker {
    Asker {
        family: if local.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        },
        state: Close,
        local: any(local),
        reuseaddr: false,
        force_reuse: false,
        reuseport: false,
        reuseport_group: false,
        v6only: false,
        freebind: false,
        transparent: false,
        bind_address_no_port: false,
        device: 0,
        uid: 0,
        port_range: None,
        may_bind_privileged: Some(true),
    }
}

/// `call` of a new socket for `addr`, as it returns `error`.
fn call(sk: u64, call: Call, addr: &str, error: u16) -> SocketCall {
    let addr = address(addr);
    SocketCall {
        ts_ns: 0,
        began_ns: None,
        call,
        error,
        sk,
        cookie: None,
        netns: Some(HOST),
        cgroup_id: Some(1),
        task: APP,
        asker: asker(addr),
        asked: Some(Asked {
            family: if addr.is_ipv4() { 2 } else { 10 },
            len: if addr.is_ipv4() { 16 } else { 28 },
            addr,
            scope: 0,
        }),
        backlog: 0,
        local: any(addr),
        remote: any(addr),
        nonblocking: false,
        refused_by_lsm: false,
        guilty: None,
        listing: Listing::None,
    }
}

/// A bind() to `addr` that succeeds.
pub(crate) fn binds(sk: u64, addr: &str) -> SocketCall {
    SocketCall {
        local: address(addr),
        ..call(sk, Call::Bind, addr, 0)
    }
}

/// A bind() to `addr` that does not, because the port is held.
pub(crate) fn bind_fails(sk: u64, addr: &str) -> SocketCall {
    SocketCall {
        listing: Listing::Whole,
        ..call(sk, Call::Bind, addr, EADDRINUSE)
    }
}

/// listen() by a socket that is bound to `addr`.
pub(crate) fn listens(sk: u64, addr: &str) -> SocketCall {
    let bound = address(addr);
    let listen = call(sk, Call::Listen, addr, 0);
    SocketCall {
        asker: Asker {
            local: bound,
            ..listen.asker
        },
        asked: None,
        backlog: 128,
        local: bound,
        ..listen
    }
}

/// connect() to `to` by a socket that is bound to `from`, or to nothing, that fails for want of a port.
pub(crate) fn connect_fails(sk: u64, from: &str, to: &str) -> SocketCall {
    let connect = call(sk, Call::Connect, to, EADDRNOTAVAIL);
    SocketCall {
        asker: Asker {
            local: address(from),
            ..connect.asker
        },
        local: address(from),
        ..connect
    }
}

pub(crate) fn with_reuseaddr(mut call: SocketCall) -> SocketCall {
    call.asker.reuseaddr = true;
    call
}

/// `socket` in `state`, as the kernel's own table shows it.
pub(crate) fn holder(socket: &Socket, state: TcpState) -> Holder {
    let connected = !matches!(state, Close | Listen);
    Holder {
        sk: socket.sk,
        cookie: socket.cookie,
        state,
        minisocket: None,
        local: socket.local,
        remote: if connected {
            socket.remote
        } else {
            any(socket.local)
        },
        reuseaddr: Some(socket.reuseaddr),
        reuseport: Some(socket.reuseport),
        force_reuse: false,
        v6only: Some(false),
        uid: Some(socket.uid),
        device: 0,
        port_bound: Some(!connected),
        timestamps: None,
    }
}

/// The minisocket at `tw` of `socket`, as the kernel's own table shows it.
pub(crate) fn minisocket_holder(socket: &Socket, tw: u64, phase: Phase) -> Holder {
    Holder {
        sk: tw,
        minisocket: Some(phase),
        uid: None,
        port_bound: None,
        timestamps: Some(true),
        ..holder(
            socket,
            match phase {
                Phase::FinWait2 => TcpState::FinWait2,
                Phase::TimeWait => TcpState::TimeWait,
            },
        )
    }
}

pub(crate) fn cookie(number: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(number)
}

/// A connection that a server has at `local`.
pub(crate) fn child(sk: u64, local: &str) -> Socket {
    Socket {
        local: address(local),
        remote: address("10.0.0.9:5555"),
        ..socket(sk)
    }
}

impl Scene {
    /// A call returns.
    #[expect(
        clippy::large_types_passed_by_value,
        reason = "each is made for the moment"
    )]
    pub(crate) fn calls(&mut self, call: SocketCall) {
        self.now_ns += MS / 10;
        self.tracker.handle(&Input::Call(SocketCall {
            ts_ns: self.now_ns,
            began_ns: Some(self.now_ns - MS / 20),
            ..call
        }));
    }

    /// The kernel lists who holds the port of a call that is to come.
    pub(crate) fn lists(&mut self, asker: u64, holder: Holder, expires_in_ns: Option<u64>) {
        self.tracker.handle(&Input::Holder(ListedHolder {
            ts_ns: self.now_ns + MS / 20,
            asker,
            holder,
            netns: Some(HOST),
            expires_ns: expires_in_ns.map(|left_ns| self.now_ns + left_ns),
        }));
    }

    /// User space has looked around.
    pub(crate) fn surrounds(&mut self, sk: u64, ports: Option<PortUse>) {
        self.tracker.handle(&Input::Surroundings(Surroundings {
            ts_ns: self.now_ns + MS,
            netns: HOST,
            sk,
            sysctls: BindSysctls::default(),
            ports,
        }));
    }

    /// The failed calls told since the last time.
    pub(crate) fn failures(&mut self) -> Vec<CallFailed> {
        self.told()
            .into_iter()
            .filter_map(|finding| match finding {
                Finding::CallFailed(told) => Some(*told),
                _ => None,
            })
            .collect()
    }

    /// The only failed call told since the last time.
    pub(crate) fn failure(&mut self) -> CallFailed {
        let [failure] = <[_; 1]>::try_from(self.failures()).unwrap();
        failure
    }

    /// The only successful call told since the last time.
    pub(crate) fn success(&mut self) -> CallSucceeded {
        let succeeded: Vec<CallSucceeded> = self
            .told()
            .into_iter()
            .filter_map(|finding| match finding {
                Finding::CallSucceeded(told) => Some(*told),
                _ => None,
            })
            .collect();
        let [success] = <[_; 1]>::try_from(succeeded).unwrap();
        success
    }
}
