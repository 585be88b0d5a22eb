//! connect(): what this host decides before the network does.

use tcptrace_model::{
    Phase, TcpState,
    conflict::{Asked, Asker, BindSysctls, Holder, PortUse, Request, Rule, Verdict, World, decide},
};

use super::scene::{
    EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL, NEWEST, accepted, asked, asking, at, bound, connect,
    decided, decided_with, fails, kernel, listener, minisocket, unused,
};

const HERE: &str = "127.0.0.1:5000";
const THERE: &str = "127.0.0.1:8080";
const ENETUNREACH: u16 = 101;
const EISCONN: u16 = 106;

fn taken(rule: Rule, guilty: &[usize]) -> Verdict {
    Verdict::Fails {
        error: EADDRNOTAVAIL,
        rule,
        guilty: guilty.to_vec(),
    }
}

#[test]
fn a_bound_socket_needs_its_two_addresses_and_ports_for_itself() {
    for state in [
        TcpState::Established,
        TcpState::SynSent,
        TcpState::SynRecv,
        TcpState::FinWait1,
        TcpState::FinWait2,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::Closing,
    ] {
        let holder = accepted(HERE, THERE, state);
        assert_eq!(
            decided(&asking(connect(HERE, THERE), "RP"), &[holder]),
            taken(Rule::TupleInUse, &[0]),
            "{state:?}"
        );
    }
}

#[test]
fn listeners_only_bound_sockets_and_other_connections_are_not_in_the_way() {
    let holders = [
        listener(HERE),
        bound(HERE),
        accepted(HERE, "127.0.0.1:8081", TcpState::Established),
        accepted(HERE, "127.0.0.2:8080", TcpState::Established),
        accepted("127.0.0.3:5000", THERE, TcpState::Established),
        accepted("127.0.0.1:5001", THERE, TcpState::Established),
    ];
    assert_eq!(decided(&connect(HERE, THERE), &holders), Verdict::Succeeds);
}

#[test]
fn a_minisocket_gives_way_if_its_connection_used_timestamps() {
    for phase in [Phase::FinWait2, Phase::TimeWait] {
        let with = minisocket(HERE, THERE, phase);
        let without = Holder {
            timestamps: Some(false),
            ..with
        };
        let unknown = Holder {
            timestamps: None,
            ..with
        };
        let request = connect(HERE, THERE);
        assert_eq!(decided(&request, &[with]), Verdict::Succeeds);
        assert_eq!(
            decided(&request, &[without]),
            taken(Rule::TupleInTimeWait, &[0])
        );
        assert!(matches!(
            decided(&request, &[unknown]),
            Verdict::Undecided { .. }
        ));
    }
}

#[test]
fn the_setting_for_reuse_does_not_matter_to_a_bound_socket() {
    let without = Holder {
        timestamps: Some(false),
        ..minisocket(HERE, THERE, Phase::TimeWait)
    };
    for tcp_tw_reuse in 0..3 {
        let sysctls = BindSysctls {
            tcp_tw_reuse,
            ..BindSysctls::default()
        };
        let world = World {
            holders: &[without],
            sysctls: &sysctls,
            ports: None,
            kernel: NEWEST,
        };
        let verdict = decide(&connect(HERE, THERE), &world);
        assert_eq!(verdict, taken(Rule::TupleInTimeWait, &[0]));
    }
}

#[test]
fn a_mapped_connection_is_an_ipv4_connection() {
    let mapped = accepted(
        "[::ffff:127.0.0.1]:5000",
        "[::ffff:127.0.0.1]:8080",
        TcpState::Established,
    );
    assert_eq!(
        decided(&connect(HERE, THERE), &[mapped]),
        taken(Rule::TupleInUse, &[0])
    );
    assert_eq!(
        decided(
            &connect("[::ffff:127.0.0.1]:5000", "[::ffff:127.0.0.1]:8080"),
            &[accepted(HERE, THERE, TcpState::Established)]
        ),
        taken(Rule::TupleInUse, &[0])
    );
}

#[test]
fn ipv6_connections_meet_too() {
    let holder = accepted("[::1]:5000", "[::1]:8080", TcpState::Established);
    assert_eq!(
        decided(&connect("[::1]:5000", "[::1]:8080"), &[holder]),
        taken(Rule::TupleInUse, &[0])
    );
}

#[test]
fn the_local_address_of_a_socket_bound_to_any_comes_from_the_route() {
    let holder = accepted(HERE, THERE, TcpState::Established);
    let request = connect("0.0.0.0:5000", THERE);
    assert!(matches!(
        decided(&request, &[holder]),
        Verdict::Undecided { .. }
    ));
    let mapped = connect("[::ffff:0.0.0.0]:5000", "[::ffff:127.0.0.1]:8080");
    assert!(matches!(
        decided(&mapped, &[holder]),
        Verdict::Undecided { .. }
    ));
    let elsewhere = connect("0.0.0.0:5000", "127.0.0.1:8081");
    assert_eq!(decided(&elsewhere, &[holder]), Verdict::Succeeds);
}

#[test]
fn any_address_as_destination_is_this_host() {
    let holder = accepted(HERE, THERE, TcpState::Established);
    let verdict = decided(&connect(HERE, "0.0.0.0:8080"), &[holder]);
    assert_eq!(verdict, taken(Rule::TupleInUse, &[0]));
    let holder = accepted("[::1]:5000", "[::1]:8080", TcpState::Established);
    let verdict = decided(&connect("[::1]:5000", "[::]:8080"), &[holder]);
    assert_eq!(verdict, taken(Rule::TupleInUse, &[0]));
}

#[test]
fn another_device_is_another_connection() {
    let holder = Holder {
        device: 2,
        ..accepted(HERE, THERE, TcpState::Established)
    };
    assert_eq!(decided(&connect(HERE, THERE), &[holder]), Verdict::Succeeds);
    let mut request = connect(HERE, THERE);
    request.asker.device = 2;
    assert_eq!(decided(&request, &[holder]), taken(Rule::TupleInUse, &[0]));
    let without = accepted(HERE, THERE, TcpState::Established);
    assert_eq!(decided(&request, &[without]), taken(Rule::TupleInUse, &[0]));
}

fn with_asked(request: Request, change: impl Fn(Asked) -> Asked) -> Request {
    Request {
        asked: request.asked.map(change),
        ..request
    }
}

#[test]
fn checks_of_the_address() {
    let v4 = connect(HERE, THERE);
    let v6 = connect("[::1]:5000", "[::1]:8080");
    let with_length = |request, len| with_asked(request, |asked| Asked { len, ..asked });
    let short = fails(EINVAL, Rule::AddressLength);
    for (request, len) in [(v4, 1), (v4, 15), (v6, 23), (v4, 129)] {
        assert_eq!(decided(&with_length(request, len), &[]), short, "{len}");
    }
    assert_eq!(decided(&with_length(v6, 24), &[]), Verdict::Succeeds);
    assert_eq!(
        decided(&with_asked(v4, |_| asked("[::1]:8080")), &[]),
        fails(EAFNOSUPPORT, Rule::AddressFamily)
    );
    let to = |text: &'static str| with_asked(v6, move |_| asked(text));
    assert_eq!(
        decided(&to("[fe80::1]:8080"), &[]),
        fails(EINVAL, Rule::LinkLocalWithoutScope)
    );
    assert_eq!(
        decided(&to("[ff02::1]:8080"), &[]),
        fails(ENETUNREACH, Rule::Multicast)
    );
    assert_eq!(
        decided(&asking(to("[::ffff:127.0.0.1]:8080"), "V"), &[]),
        fails(ENETUNREACH, Rule::MappedOnV6only)
    );
    assert_eq!(
        decided(&with_asked(v4, |_| asked("255.255.255.255:8080")), &[]),
        fails(ENETUNREACH, Rule::Broadcast)
    );
    assert_eq!(
        decided(&with_asked(v4, |_| asked("224.0.0.1:8080")), &[]),
        fails(ENETUNREACH, Rule::Multicast)
    );
}

#[test]
fn an_unset_family_disconnects() {
    let mut request = with_asked(connect(HERE, THERE), |asked| Asked {
        family: 0,
        len: 2,
        ..asked
    });
    request.asker.state = TcpState::Established;
    assert_eq!(decided(&request, &[]), Verdict::Succeeds);
}

#[test]
fn a_listener_cannot_connect() {
    let mut request = connect(HERE, THERE);
    request.asker.state = TcpState::Listen;
    assert_eq!(
        decided(&request, &[]),
        fails(EISCONN, Rule::AlreadyConnected)
    );
}

#[test]
fn what_a_second_connect_says_depends_on_the_first() {
    for state in [TcpState::SynSent, TcpState::Established] {
        let mut request = connect(HERE, THERE);
        request.asker.state = state;
        assert!(matches!(decided(&request, &[]), Verdict::Undecided { .. }));
    }
}

/// Ten ports, all held: `listening` by listeners, the rest by connections, `here` of them to the
/// destination, of which `waiting` are in TIME_WAIT.
fn full(listening: u32, here: u32, waiting: u32) -> PortUse {
    let mut ports = PortUse {
        held: 10,
        destination: Some(at(THERE)),
        ..unused(40_000, 40_009)
    };
    ports.by_state[usize::from(TcpState::Listen.number())] = listening;
    ports.by_state[usize::from(TcpState::Established.number())] = 10 - listening;
    ports.to_destination[usize::from(TcpState::Established.number())] = here - waiting;
    ports.to_destination[usize::from(TcpState::TimeWait.number())] = waiting;
    ports
}

fn unbound() -> Request {
    let request = connect(HERE, THERE);
    Request {
        asker: Asker {
            local: at("0.0.0.0:0"),
            ..request.asker
        },
        ..request
    }
}

fn reuse(tcp_tw_reuse: u8) -> BindSysctls {
    BindSysctls {
        tcp_tw_reuse,
        ..BindSysctls::default()
    }
}

#[test]
fn an_unbound_socket_finds_a_port_that_nobody_holds() {
    assert_eq!(
        decided_with(&unbound(), &reuse(0), Some(unused(40_000, 40_009))),
        Verdict::Succeeds
    );
    assert!(matches!(
        decided_with(&unbound(), &reuse(0), None),
        Verdict::Undecided { .. }
    ));
}

/// Seen on 6.18: of an odd range of its own, connect() takes all ports and bind() all but the last.
#[test]
fn a_range_of_its_own_is_searched_to_the_last_port() {
    let mut request = unbound();
    let ports = PortUse {
        held: 2,
        ..unused(40_000, 40_002)
    };
    let sysctls = reuse(0);
    let on = |request: &Request, kernel| {
        let world = World {
            holders: &[],
            sysctls: &sysctls,
            ports: Some(ports),
            kernel,
        };
        decide(request, &world)
    };
    assert!(matches!(on(&request, NEWEST), Verdict::Undecided { .. }));
    request.asker.port_range = Some((40_000, 40_002));
    assert_eq!(on(&request, NEWEST), Verdict::Succeeds);
    assert!(matches!(
        on(&request, kernel(6, 6)),
        Verdict::Undecided { .. }
    ));
}

#[test]
fn ports_are_counted_for_each_destination() {
    let exhausted = fails(EADDRNOTAVAIL, Rule::PortsExhausted);
    assert_eq!(
        decided_with(&unbound(), &reuse(0), Some(full(0, 10, 0))),
        exhausted
    );
    assert_eq!(
        decided_with(&unbound(), &reuse(0), Some(full(0, 9, 0))),
        Verdict::Succeeds
    );
    assert!(matches!(
        decided_with(
            &with_asked(unbound(), |_| asked("127.0.0.1:8081")),
            &reuse(0),
            Some(full(0, 10, 0))
        ),
        Verdict::Undecided { .. }
    ));
}

#[test]
fn ports_of_listeners_and_reserved_ports_are_lost_to_connect() {
    let exhausted = fails(EADDRNOTAVAIL, Rule::PortsExhausted);
    assert_eq!(
        decided_with(&unbound(), &reuse(0), Some(full(10, 0, 0))),
        exhausted
    );
    assert_eq!(
        decided_with(&unbound(), &reuse(0), Some(full(4, 6, 0))),
        exhausted
    );
    let mut only_bound = full(0, 9, 0);
    assert_eq!(
        decided_with(&unbound(), &reuse(0), Some(only_bound)),
        Verdict::Succeeds
    );
    only_bound.by_state[usize::from(TcpState::Close.number())] = 1;
    assert_eq!(
        decided_with(&unbound(), &reuse(0), Some(only_bound)),
        exhausted
    );
    let reserved = PortUse {
        reserved: 10,
        ..unused(40_000, 40_009)
    };
    assert_eq!(
        decided_with(&unbound(), &reuse(0), Some(reserved)),
        exhausted
    );
}

#[test]
fn time_wait_is_reused_as_the_setting_says() {
    let exhausted = fails(EADDRNOTAVAIL, Rule::PortsExhausted);
    let ports = Some(full(0, 10, 3));
    assert_eq!(decided_with(&unbound(), &reuse(0), ports), exhausted);
    assert_eq!(
        decided_with(&unbound(), &reuse(1), ports),
        Verdict::Succeeds
    );
    // 2: on loopback only, which this is.
    assert_eq!(
        decided_with(&unbound(), &reuse(2), ports),
        Verdict::Succeeds
    );
    let far = with_asked(unbound(), |_| asked("10.0.0.1:8080"));
    let ports = ports.map(|ports| PortUse {
        destination: Some(at("10.0.0.1:8080")),
        ..ports
    });
    assert_eq!(decided_with(&far, &reuse(2), ports), exhausted);
    let sysctls = BindSysctls {
        tcp_timestamps: false,
        ..reuse(1)
    };
    assert_eq!(decided_with(&far, &sysctls, ports), exhausted);
}
