//! Calls that failed, for the tests of all renderers.

use std::num::NonZeroU64;

use tcptrace_model::{
    CallFailed, CallSucceeded, Certainty, Doubts, FailedBind, HolderFound, Listing, OptionsSource,
    Owner, OwnerSource, Phase, SocketCall, Task, TcpState,
    conflict::{Asked, Asker, Call, Family, Holder, PortUse, Remedy, Rule},
};

use super::{comm, owner};

/// When the calls of the samples return, CLOCK_BOOTTIME ns.
pub(in crate::render) const CALLED_NS: u64 = 65_000_000_000;

const SECOND: u64 = 1_000_000_000;

/// A call of python3 that returns `error`. `asked` is its address; for listen() what the socket is
/// bound to.
pub(in crate::render) fn call(call: Call, error: i32, asked: &str) -> SocketCall {
    let address: std::net::SocketAddr = asked.parse().unwrap();
    let (family, number) = if address.is_ipv4() {
        (Family::V4, libc::AF_INET)
    } else {
        (Family::V6, libc::AF_INET6)
    };
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let any = any.parse().unwrap();
    let (local, remote) = match call {
        Call::Bind => (any, any),
        Call::Listen => (address, any),
        Call::Connect => (any, address),
    };
    SocketCall {
        ts_ns: CALLED_NS,
        began_ns: Some(CALLED_NS - 4_000),
        call,
        error: error.try_into().unwrap(),
        sk: 0xffff_8881_0000_5000,
        cookie: NonZeroU64::new(91),
        netns: Some(4_026_531_840),
        cgroup_id: Some(4242),
        task: Task {
            pid: 812,
            tid: 813,
            comm: comm("python3"),
        },
        asker: Asker {
            family,
            state: TcpState::Close,
            local: any,
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
        },
        asked: (call != Call::Listen).then(|| Asked {
            family: number.try_into().unwrap(),
            len: if address.is_ipv4() { 16 } else { 28 },
            addr: address,
            scope: 0,
        }),
        backlog: if call == Call::Listen { 128 } else { 0 },
        local,
        remote,
        nonblocking: false,
        refused_by_lsm: false,
        guilty: None,
        listing: Listing::Whole,
    }
}

/// A failure by `rule` that nobody on this host is guilty of.
pub(in crate::render) fn failed(call: &SocketCall, rule: Rule) -> CallFailed {
    CallFailed {
        call: *call,
        rule,
        holders: Vec::new(),
        holders_total: 0,
        blocking_total: 0,
        ports: None,
        remedies: Vec::new(),
        free_at_ns: None,
        after_failed_bind: None,
        certainty: Certainty::Exact,
        doubts: Doubts::NONE,
    }
}

/// The same with sockets in the way.
pub(in crate::render) fn held(
    call: &SocketCall,
    rule: Rule,
    holders: Vec<HolderFound>,
    remedies: Vec<Remedy>,
) -> CallFailed {
    let holders: Vec<HolderFound> = holders
        .into_iter()
        .map(|one| HolderFound {
            rule: one.blocks.then_some(rule),
            ..one
        })
        .collect();
    CallFailed {
        holders_total: holders.len(),
        blocking_total: holders.iter().filter(|one| one.blocks).count(),
        free_at_ns: holders
            .iter()
            .filter(|one| one.blocks)
            .map(|one| one.frees_at_ns)
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.into_iter().max()),
        holders,
        remedies,
        ..failed(call, rule)
    }
}

/// A socket in the way that has been in its state for 19 s.
pub(in crate::render) fn holder(
    state: TcpState,
    local: &str,
    remote: &str,
    owner: Option<Owner>,
) -> HolderFound {
    HolderFound {
        holder: Holder {
            sk: 0xffff_8881_0000_6000,
            cookie: NonZeroU64::new(78),
            state,
            minisocket: None,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            reuseaddr: Some(false),
            reuseport: Some(false),
            force_reuse: false,
            v6only: Some(false),
            uid: Some(33),
            device: 0,
            port_bound: Some(!matches!(
                state,
                TcpState::Established | TcpState::CloseWait
            )),
            timestamps: None,
        },
        blocks: true,
        named_by_kernel: false,
        rule: None,
        owner,
        since_ns: Some(CALLED_NS - 19 * SECOND),
        frees_at_ns: None,
        options: OptionsSource::Kernel,
    }
}

/// nginx[77] listens.
pub(in crate::render) fn listener(local: &str) -> HolderFound {
    holder(
        TcpState::Listen,
        local,
        "0.0.0.0:0",
        Some(owner(77, "nginx", OwnerSource::Listen)),
    )
}

/// A TIME_WAIT of python3[770] on 127.0.0.1:8000, with this peer's port, 19 s old.
pub(in crate::render) fn time_wait(rport: u16) -> HolderFound {
    let found = holder(
        TcpState::TimeWait,
        "127.0.0.1:8000",
        &format!("127.0.0.1:{rport}"),
        Some(owner(770, "python3", OwnerSource::Listener)),
    );
    HolderFound {
        holder: Holder {
            minisocket: Some(Phase::TimeWait),
            port_bound: None,
            uid: None,
            timestamps: Some(true),
            ..found.holder
        },
        frees_at_ns: Some(CALLED_NS + 41 * SECOND),
        ..found
    }
}

/// A server that was restarted: three connections of the old one are in TIME_WAIT.
pub(in crate::render) fn restarted() -> CallFailed {
    held(
        &call(Call::Bind, libc::EADDRINUSE, "0.0.0.0:8000"),
        Rule::PortHeld,
        vec![time_wait(50_210), time_wait(50_212), time_wait(50_214)],
        vec![Remedy::ReuseaddrOnBoth, Remedy::Wait],
    )
}

/// A second server beside nginx.
pub(in crate::render) fn second_server() -> CallFailed {
    held(
        &call(Call::Bind, libc::EADDRINUSE, "127.0.0.1:80"),
        Rule::PortListening,
        vec![listener("0.0.0.0:80")],
        vec![
            Remedy::ReuseportOnBoth,
            Remedy::CloseHolders(vec![0]),
            Remedy::OtherAddress("127.0.0.2".parse().unwrap()),
        ],
    )
}

/// A client that has used up the ports for its server.
pub(in crate::render) fn exhausted() -> CallFailed {
    let destination = "10.0.0.5:5432";
    let mut to_destination = [0; 14];
    to_destination[usize::from(TcpState::TimeWait.number())] = 27_000;
    to_destination[usize::from(TcpState::Established.number())] = 1_200;
    let mut by_state = to_destination;
    by_state[usize::from(TcpState::Close.number())] = 12;
    by_state[usize::from(TcpState::Listen.number())] = 16;
    CallFailed {
        ports: Some(PortUse {
            ts_ns: CALLED_NS + 3_000_000,
            range: (32_768, 60_999),
            reserved: 4,
            held: 28_228,
            by_state,
            to_destination,
            destination: Some(destination.parse().unwrap()),
        }),
        remedies: vec![
            Remedy::TcpTwReuse,
            Remedy::WiderPortRange,
            Remedy::OtherDestination,
        ],
        ..failed(
            &call(Call::Connect, libc::EADDRNOTAVAIL, destination),
            Rule::PortsExhausted,
        )
    }
}

/// listen() after a bind() that failed: the kernel chose a port.
pub(in crate::render) fn autobound() -> CallSucceeded {
    CallSucceeded {
        call: call(Call::Listen, 0, "0.0.0.0:43211"),
        autobound: true,
        after_failed_bind: Some(failed_bind()),
    }
}

pub(in crate::render) fn failed_bind() -> FailedBind {
    FailedBind {
        ts_ns: CALLED_NS - SECOND,
        error: 98,
        asked: Some("0.0.0.0:8000".parse().unwrap()),
    }
}
