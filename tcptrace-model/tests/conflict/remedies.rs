//! What would have made a call succeed.

use std::net::IpAddr;

use tcptrace_model::{
    Phase, TcpState,
    conflict::{Address, BindSysctls, Holder, PortUse, Remedy, Request, World, remedies, settled},
};

use super::scene::{
    EADDRNOTAVAIL, NEWEST, accepted, asking, at, bind, bound, connect, listen, listener,
    minisocket, unused, with,
};

const HERE: &str = "127.0.0.1:8080";
const PEER: &str = "127.0.0.1:40000";

fn offered_with(
    request: &Request,
    holders: &[Holder],
    sysctls: &BindSysctls,
    ports: Option<PortUse>,
) -> Vec<Remedy> {
    let world = World {
        holders,
        sysctls,
        ports,
        kernel: NEWEST,
    };
    remedies(request, &world)
}

fn offered(request: &Request, holders: &[Holder]) -> Vec<Remedy> {
    offered_with(request, holders, &BindSysctls::default(), None)
}

#[test]
fn nothing_for_what_succeeds() {
    assert_eq!(offered(&bind(HERE), &[]), []);
}

#[test]
fn time_wait_of_a_server_without_reuseaddr() {
    let waiting = minisocket(HERE, PEER, Phase::TimeWait);
    assert_eq!(
        offered(&asking(bind(HERE), "R"), &[waiting]),
        [
            Remedy::Wait,
            Remedy::ReuseaddrOnBoth,
            Remedy::ReuseportOnBoth
        ]
    );
    assert_eq!(
        offered(&bind(HERE), &[waiting]),
        [
            Remedy::Wait,
            Remedy::ReuseaddrOnBoth,
            Remedy::ReuseportOnBoth
        ]
    );
}

#[test]
fn time_wait_of_a_server_with_reuseaddr() {
    let waiting = with(minisocket(HERE, PEER, Phase::TimeWait), "R");
    assert_eq!(
        offered(&bind(HERE), &[waiting]),
        [
            Remedy::Wait,
            Remedy::ReuseaddrOnNew,
            Remedy::ReuseportOnBoth
        ]
    );
}

#[test]
fn a_listener_is_closed_or_shares_by_reuseport() {
    assert_eq!(
        offered(&asking(bind(HERE), "R"), &[with(listener(HERE), "R")]),
        [Remedy::CloseHolders(vec![0]), Remedy::ReuseportOnBoth]
    );
    assert_eq!(
        offered(&bind(HERE), &[with(listener(HERE), "P")]),
        [Remedy::CloseHolders(vec![0]), Remedy::ReuseportOnNew]
    );
    assert_eq!(
        offered(&bind(HERE), &[with(listener(HERE), "PU")]),
        [Remedy::CloseHolders(vec![0])]
    );
}

/// Closing it here would put it into TIME_WAIT, which is in the way no less.
#[test]
fn a_connection_is_not_closed_away() {
    let connection = accepted(HERE, PEER, TcpState::Established);
    assert_eq!(
        offered(&bind(HERE), &[connection]),
        [Remedy::ReuseaddrOnBoth, Remedy::ReuseportOnBoth]
    );
    let peer_closed = accepted(HERE, PEER, TcpState::CloseWait);
    assert_eq!(
        offered(&bind(HERE), &[peer_closed])[0],
        Remedy::CloseHolders(vec![0])
    );
}

#[test]
fn who_is_not_in_the_way_is_not_closed() {
    let holders = [with(bound(HERE), "R"), with(listener(HERE), "R")];
    assert_eq!(
        offered(&asking(bind(HERE), "R"), &holders)[0],
        Remedy::CloseHolders(vec![1])
    );
}

#[test]
fn waiting_does_not_help_against_a_listener() {
    let holders = [listener(HERE), minisocket(HERE, PEER, Phase::TimeWait)];
    assert_eq!(offered(&bind(HERE), &holders), [Remedy::ReuseportOnBoth]);
}

#[test]
fn an_unknown_option_is_no_remedy_alone() {
    let unknown = Holder {
        reuseaddr: None,
        reuseport: None,
        ..minisocket(HERE, PEER, Phase::TimeWait)
    };
    assert_eq!(
        offered(&bind(HERE), &[unknown]),
        [
            Remedy::Wait,
            Remedy::ReuseaddrOnBoth,
            Remedy::ReuseportOnBoth
        ]
    );
}

#[test]
fn ipv6_only_where_ipv4_is_in_the_way() {
    let offers = offered(&bind("[::]:8080"), &[listener("0.0.0.0:8080")]);
    assert!(offers.contains(&Remedy::V6onlyOnNew), "{offers:?}");
    let offers = offered(&bind("[::]:8080"), &[listener("[::1]:8080")]);
    assert!(!offers.contains(&Remedy::V6onlyOnNew), "{offers:?}");
}

#[test]
fn a_mapped_address_wants_ipv6_only_off() {
    let request = asking(bind("[::ffff:127.0.0.1]:8080"), "V");
    assert_eq!(offered(&request, &[]), [Remedy::ClearV6only]);
}

#[test]
fn another_address_of_this_host_where_one_is_known() {
    let other: IpAddr = "127.0.0.2".parse().unwrap();
    let holders = [
        listener(HERE),
        with(bound("127.0.0.2:8080"), "R"),
        listener("[::1]:8080"),
        bound("127.0.0.3:8080"),
    ];
    let offers = offered(&asking(bind(HERE), "R"), &holders);
    assert!(offers.contains(&Remedy::OtherAddress(other)), "{offers:?}");
    let others = offers
        .iter()
        .filter(|offer| matches!(offer, Remedy::OtherAddress(_)));
    assert_eq!(others.count(), 1, "{offers:?}");
}

/// It is another one on each interface.
#[test]
fn a_link_local_address_is_not_offered() {
    let on_two = |holder: Holder| Holder {
        device: 2,
        ..holder
    };
    let mut request = asking(bind("[fe80::2]:8080"), "R");
    request.asked.as_mut().unwrap().scope = 2;
    let holders = [
        on_two(listener("[fe80::2]:8080")),
        on_two(with(bound("[fe80::1]:8080"), "R")),
    ];
    let offers = offered(&request, &holders);
    assert_eq!(
        offers,
        [Remedy::CloseHolders(vec![0]), Remedy::ReuseportOnBoth]
    );
}

#[test]
fn a_foreign_address() {
    let foreign = |address| Request {
        address: Some(Address::Foreign),
        ..bind(address)
    };
    let both = [Remedy::Freebind, Remedy::NonlocalBind];
    assert_eq!(offered(&foreign("10.9.9.9:8080"), &[]), both);
    assert_eq!(offered(&foreign("[fd00::9]:8080"), &[]), both);
    assert_eq!(offered(&foreign("[::ffff:10.9.9.9]:8080"), &[]), both);
    let mut traced = bind("10.9.9.9:8080");
    traced.address = None;
    traced.asker.may_bind_privileged = None;
    assert_eq!(offered(&settled(&traced, EADDRNOTAVAIL), &[]), both);
}

#[test]
fn a_privileged_port() {
    assert_eq!(
        offered(&bind("127.0.0.1:80"), &[]),
        [Remedy::Capability, Remedy::UnprivilegedPortStart(80)]
    );
}

#[test]
fn two_faults_at_once_have_no_single_remedy() {
    let request = bind("127.0.0.1:80");
    assert_eq!(offered(&request, &[listener("127.0.0.1:80")]), []);
}

#[test]
fn a_bound_socket_wants_a_new_one() {
    let mut request = bind(HERE);
    request.asker.local = at("127.0.0.1:5000");
    assert_eq!(offered(&request, &[]), [Remedy::NewSocket]);
    // The old one still has the port.
    request.asker.local = at(HERE);
    assert_eq!(offered(&request, &[]), []);
}

#[test]
fn a_connected_socket_wants_a_new_one() {
    let mut request = listen(HERE);
    request.asker.state = TcpState::Established;
    assert_eq!(offered(&request, &[]), [Remedy::NewSocket]);
    let mut request = connect(HERE, PEER);
    request.asker.state = TcpState::Established;
    assert_eq!(offered(&request, &[]), [Remedy::NewSocket]);
}

#[test]
fn a_second_listener() {
    let holders = [with(bound(HERE), "R"), with(listener(HERE), "R")];
    assert_eq!(
        offered(&asking(listen(HERE), "R"), &holders),
        [Remedy::CloseHolders(vec![1]), Remedy::ReuseportOnBoth]
    );
}

/// Ten ports, all held by `listening` listeners and by connections.
fn full(listening: u32, to_destination: u32, waiting: u32) -> PortUse {
    let mut ports = PortUse {
        held: 10,
        destination: Some(at("10.0.0.1:80")),
        ..unused(40_000, 40_009)
    };
    ports.by_state[usize::from(TcpState::Listen.number())] = listening;
    ports.by_state[usize::from(TcpState::Established.number())] = 10 - listening;
    ports.to_destination[usize::from(TcpState::Established.number())] = to_destination - waiting;
    ports.to_destination[usize::from(TcpState::TimeWait.number())] = waiting;
    ports
}

fn narrow() -> BindSysctls {
    BindSysctls {
        port_range: (40_000, 40_009),
        ..BindSysctls::default()
    }
}

#[test]
fn no_automatic_port_for_bind() {
    let request = bind("[::]:0");
    assert_eq!(
        offered_with(&request, &[], &narrow(), Some(full(9, 0, 0))),
        [Remedy::WiderPortRange, Remedy::AutobindReuse]
    );
    assert_eq!(
        offered_with(&request, &[], &narrow(), Some(full(10, 0, 0))),
        [Remedy::WiderPortRange]
    );
    assert_eq!(
        offered_with(&asking(request, "P"), &[], &narrow(), Some(full(9, 0, 0))),
        [Remedy::WiderPortRange]
    );
}

#[test]
fn a_range_of_its_own_is_not_widened_by_the_namespaces() {
    let mut request = bind("[::]:0");
    request.asker.port_range = Some((40_000, 40_009));
    let offers = offered_with(&request, &[], &BindSysctls::default(), Some(full(10, 0, 0)));
    assert_eq!(offers, []);
}

/// The count may be of a part of it.
#[test]
fn the_widest_range_is_not_widened() {
    let widest = BindSysctls {
        port_range: (1024, 65_535),
        ..BindSysctls::default()
    };
    let offers = offered_with(&bind("[::]:0"), &[], &widest, Some(full(10, 0, 0)));
    assert_eq!(offers, []);
}

#[test]
fn more_ports_do_not_help_a_bound_socket() {
    let mut request = bind("[::]:0");
    request.asker.local = at("[::]:5000");
    request.asker.state = TcpState::Established;
    let offers = offered_with(&request, &[], &narrow(), Some(full(9, 0, 0)));
    assert_eq!(offers, []);
}

#[test]
fn no_automatic_port_for_connect() {
    let request = connect("0.0.0.0:0", "10.0.0.1:80");
    assert_eq!(
        offered_with(&request, &[], &narrow(), Some(full(0, 10, 4))),
        [
            Remedy::Wait,
            Remedy::OtherDestination,
            Remedy::WiderPortRange,
            Remedy::TcpTwReuse
        ]
    );
    assert_eq!(
        offered_with(&request, &[], &narrow(), Some(full(0, 10, 0))),
        [Remedy::OtherDestination, Remedy::WiderPortRange]
    );
    assert_eq!(
        offered_with(&request, &[], &narrow(), Some(full(10, 0, 0))),
        [Remedy::WiderPortRange]
    );
}

#[test]
fn a_bound_connect() {
    let there = "127.0.0.1:9000";
    let without = Holder {
        timestamps: Some(false),
        ..minisocket(HERE, there, Phase::TimeWait)
    };
    assert_eq!(
        offered(&connect(HERE, there), &[without]),
        [Remedy::Wait, Remedy::OtherDestination]
    );
    let live = accepted(HERE, there, TcpState::Established);
    assert_eq!(
        offered(&connect(HERE, there), &[live]),
        [Remedy::OtherDestination]
    );
}
