//! Owns the vocabulary of these tests: sockets that ask, sockets that hold, and the world they are in.

use std::net::SocketAddr;

use tcptrace_model::{
    Phase, TcpState,
    conflict::{
        Address, Asked, Asker, BindSysctls, Call, Family, Holder, KernelVersion, PortUse, Request,
        Rule, Verdict, World, decide,
    },
};

pub(crate) const EADDRINUSE: u16 = 98;
pub(crate) const EADDRNOTAVAIL: u16 = 99;
pub(crate) const EACCES: u16 = 13;
pub(crate) const EINVAL: u16 = 22;
pub(crate) const EAFNOSUPPORT: u16 = 97;

/// The kernels whose rules differ in something, and those of Debian.
pub(crate) const KERNELS: [KernelVersion; 6] = [
    kernel(5, 10),
    kernel(5, 15),
    kernel(6, 1),
    kernel(6, 12),
    kernel(6, 18),
    kernel(7, 2),
];

pub(crate) const NEWEST: KernelVersion = kernel(6, 18);

pub(crate) const fn kernel(major: u16, minor: u16) -> KernelVersion {
    KernelVersion::of(major, minor)
}

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A new socket of the family of `address`, of user 1000, without options.
pub(crate) fn asker(address: &str) -> Asker {
    let (family, local) = match at(address) {
        SocketAddr::V4(_) => (Family::V4, at("0.0.0.0:0")),
        SocketAddr::V6(_) => (Family::V6, at("[::]:0")),
    };
    Asker {
        family,
        state: TcpState::Close,
        local,
        reuseaddr: false,
        force_reuse: false,
        reuseport: false,
        reuseport_group: false,
        v6only: false,
        freebind: false,
        transparent: false,
        bind_address_no_port: false,
        device: 0,
        uid: 1000,
        port_range: None,
        may_bind_privileged: Some(false),
    }
}

pub(crate) fn asked(address: &str) -> Asked {
    let addr = at(address);
    Asked {
        family: if addr.is_ipv4() { 2 } else { 10 },
        len: if addr.is_ipv4() { 16 } else { 28 },
        addr,
        scope: 0,
    }
}

/// bind() of a new socket to a local `address`.
pub(crate) fn bind(address: &str) -> Request {
    Request {
        call: Call::Bind,
        asker: asker(address),
        asked: Some(asked(address)),
        address: Some(Address::Local),
    }
}

/// listen() of a socket that is bound to `address`.
pub(crate) fn listen(address: &str) -> Request {
    Request {
        call: Call::Listen,
        asker: Asker {
            local: at(address),
            ..asker(address)
        },
        asked: None,
        address: None,
    }
}

/// connect() to `to` of a socket that is bound to `from`.
pub(crate) fn connect(from: &str, to: &str) -> Request {
    Request {
        call: Call::Connect,
        asker: Asker {
            local: at(from),
            ..asker(from)
        },
        asked: Some(asked(to)),
        address: None,
    }
}

/// A socket of user 1000, without options, that bind() has given `local`.
pub(crate) fn bound(local: &str) -> Holder {
    let local = at(local);
    let any = if local.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    Holder {
        sk: 0,
        cookie: None,
        state: TcpState::Close,
        minisocket: None,
        local,
        remote: at(any),
        reuseaddr: Some(false),
        reuseport: Some(false),
        force_reuse: false,
        v6only: Some(match local {
            SocketAddr::V4(_) => false,
            SocketAddr::V6(v6) => !v6.ip().is_unspecified() && v6.ip().to_ipv4_mapped().is_none(),
        }),
        uid: Some(1000),
        device: 0,
        port_bound: Some(true),
        timestamps: None,
    }
}

pub(crate) fn listener(local: &str) -> Holder {
    Holder {
        state: TcpState::Listen,
        ..bound(local)
    }
}

/// A connection that a listener on any address has accepted, in `state`. Its `IPV6_V6ONLY` is the
/// listener's: off.
pub(crate) fn accepted(local: &str, remote: &str, state: TcpState) -> Holder {
    Holder {
        state,
        remote: at(remote),
        v6only: Some(false),
        port_bound: Some(false),
        ..bound(local)
    }
}

/// Its minisocket.
pub(crate) fn minisocket(local: &str, remote: &str, phase: Phase) -> Holder {
    Holder {
        state: match phase {
            Phase::FinWait2 => TcpState::FinWait2,
            Phase::TimeWait => TcpState::TimeWait,
        },
        minisocket: Some(phase),
        uid: None,
        port_bound: None,
        timestamps: Some(true),
        ..accepted(local, remote, TcpState::TimeWait)
    }
}

/// `holder` with the options named in `options`: R `SO_REUSEADDR`, P `SO_REUSEPORT`, V `IPV6_V6ONLY`,
/// U another user.
pub(crate) fn with(holder: Holder, options: &str) -> Holder {
    let has = |option| options.contains(option);
    Holder {
        reuseaddr: Some(has('R')),
        reuseport: Some(has('P')),
        v6only: if has('V') { Some(true) } else { holder.v6only },
        uid: if has('U') { Some(2000) } else { holder.uid },
        ..holder
    }
}

/// The same for the socket that asks.
pub(crate) fn asking(request: Request, options: &str) -> Request {
    let has = |option| options.contains(option);
    Request {
        asker: Asker {
            reuseaddr: has('R'),
            reuseport: has('P'),
            v6only: has('V'),
            ..request.asker
        },
        ..request
    }
}

/// Decides on a kernel, with the settings of a new namespace.
pub(crate) fn on(kernel: KernelVersion, request: &Request, holders: &[Holder]) -> Verdict {
    decide(
        request,
        &World {
            holders,
            sysctls: &BindSysctls::default(),
            ports: None,
            kernel,
        },
    )
}

/// Decides on every kernel, which must agree.
pub(crate) fn decided(request: &Request, holders: &[Holder]) -> Verdict {
    let newest = on(NEWEST, request, holders);
    for kernel in KERNELS {
        assert_eq!(on(kernel, request, holders), newest, "{kernel:?}");
    }
    newest
}

/// Decides with settings and a count of ports.
pub(crate) fn decided_with(
    request: &Request,
    sysctls: &BindSysctls,
    ports: Option<PortUse>,
) -> Verdict {
    decide(
        request,
        &World {
            holders: &[],
            sysctls,
            ports,
            kernel: NEWEST,
        },
    )
}

pub(crate) fn in_use(rule: Rule, guilty: &[usize]) -> Verdict {
    Verdict::Fails {
        error: EADDRINUSE,
        rule,
        guilty: guilty.to_vec(),
    }
}

pub(crate) fn fails(error: u16, rule: Rule) -> Verdict {
    Verdict::Fails {
        error,
        rule,
        guilty: Vec::new(),
    }
}

/// A count of a range of ports, all unheld.
pub(crate) fn unused(low: u16, high: u16) -> PortUse {
    PortUse {
        ts_ns: 0,
        range: (low, high),
        reserved: 0,
        held: 0,
        by_state: [0; 14],
        to_destination: [0; 14],
        destination: None,
    }
}
