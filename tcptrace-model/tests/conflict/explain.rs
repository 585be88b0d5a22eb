//! An errno that was seen, explained.

use tcptrace_model::{
    Phase, TcpState,
    conflict::{
        Address, Asked, BindSysctls, Explanation, Holder, KernelVersion, PortUse, Request, Rule,
        World, blocks, explain, listen_after, settled,
    },
};

use super::scene::{
    EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL, NEWEST, accepted, asked, asking, at,
    bind, bound, connect, in_use, kernel, listen, listener, minisocket, unused, with,
};

const HERE: &str = "127.0.0.1:8080";
const PEER: &str = "127.0.0.1:40000";

fn explained_with(
    request: &Request,
    holders: &[Holder],
    ports: Option<PortUse>,
    error: u16,
) -> Explanation {
    let world = World {
        holders,
        sysctls: &BindSysctls::default(),
        ports,
        kernel: NEWEST,
    };
    explain(request, &world, error, false)
}

fn explained(request: &Request, holders: &[Holder], error: u16) -> Explanation {
    explained_with(request, holders, None, error)
}

fn plain(rule: Rule, agrees: bool) -> Explanation {
    Explanation {
        rule,
        guilty: Vec::new(),
        sure: true,
        agrees,
    }
}

/// The request as the trace has it: nothing is known that no hook shows.
fn traced(request: Request) -> Request {
    let mut request = request;
    request.address = None;
    request.asker.may_bind_privileged = None;
    request
}

#[test]
fn each_holder_in_the_way_has_its_clause() {
    let holders = [
        with(listener(HERE), "R"),
        with(accepted(HERE, PEER, TcpState::Established), "R"),
        minisocket(HERE, PEER, Phase::TimeWait),
        with(bound(HERE), "PU"),
    ];
    let explanation = explained(&traced(asking(bind(HERE), "RP")), &holders, EADDRINUSE);
    assert_eq!(
        explanation,
        Explanation {
            rule: Rule::PortListening,
            guilty: vec![
                (0, Rule::PortListening),
                (2, Rule::PortHeld),
                (3, Rule::ReuseportOtherUser)
            ],
            sure: true,
            agrees: true,
        }
    );
}

#[test]
fn the_only_holder_of_unknown_options_must_be_it() {
    let unknown = Holder {
        reuseaddr: None,
        ..minisocket(HERE, PEER, Phase::TimeWait)
    };
    let request = traced(asking(bind(HERE), "R"));
    let explanation = explained(&request, &[unknown], EADDRINUSE);
    assert_eq!(
        explanation,
        Explanation {
            rule: Rule::PortHeld,
            guilty: vec![(0, Rule::PortHeld)],
            sure: true,
            agrees: true,
        }
    );
    let explanation = explained(&request, &[unknown, unknown], EADDRINUSE);
    assert!(!explanation.sure);
    assert!(explanation.agrees);
    assert_eq!(explanation.guilty.len(), 2);
}

#[test]
fn a_holder_that_has_gone_is_not_made_up() {
    let explanation = explained(&traced(bind(HERE)), &[], EADDRINUSE);
    assert_eq!(explanation, plain(Rule::Unknown, false));
    let explanation = explained(
        &traced(asking(bind(HERE), "R")),
        &[with(bound(HERE), "R")],
        EADDRINUSE,
    );
    assert_eq!(explanation, plain(Rule::Unknown, false));
}

#[test]
fn nobody_is_blamed_where_the_rules_give_another_errno() {
    let mut twice = bind(HERE);
    twice.asker.local = at("127.0.0.1:5000");
    let explanation = explained(&twice, &[listener(HERE)], EADDRINUSE);
    assert_eq!(explanation, plain(Rule::Unknown, false));
}

#[test]
fn a_failed_listen_names_the_listener() {
    let explanation = explained(
        &asking(listen(HERE), "R"),
        &[with(bound(HERE), "R"), with(listener(HERE), "R")],
        EADDRINUSE,
    );
    assert_eq!(explanation.rule, Rule::PortListening);
    assert_eq!(explanation.guilty, [(1, Rule::PortListening)]);
    assert!(explanation.agrees);
}

#[test]
fn what_the_port_may_remember_is_settled_by_the_failure() {
    let holders = [with(bound(HERE), "R"), with(bound(HERE), "RP")];
    let explanation = explained(&traced(asking(bind(HERE), "P")), &holders, EADDRINUSE);
    assert_eq!(explanation.guilty, [(0, Rule::PortHeld)]);
    assert!(explanation.sure && explanation.agrees);
}

#[test]
fn addresses_that_are_not_local() {
    for address in ["10.9.9.9:8080", "[fd00::9]:8080", "10.9.9.9:80"] {
        let explanation = explained(&traced(bind(address)), &[], EADDRNOTAVAIL);
        assert_eq!(explanation, plain(Rule::AddressNotLocal, true), "{address}");
    }
    let explanation = explained(&bind(HERE), &[], EADDRNOTAVAIL);
    assert_eq!(explanation, plain(Rule::AddressNotLocal, false));
}

#[test]
fn privileged_ports_and_security_modules() {
    let request = traced(bind("127.0.0.1:80"));
    assert_eq!(
        explained(&request, &[], EACCES),
        plain(Rule::PrivilegedPort, true)
    );
    assert_eq!(
        explained(&traced(bind("[::1]:80")), &[], EACCES),
        plain(Rule::PrivilegedPort, true)
    );
    // Not one of the kernel's own: some module or program that the hooks did not show.
    assert_eq!(
        explained(&traced(bind(HERE)), &[], EACCES),
        plain(Rule::Unknown, false)
    );
    let mut able = request;
    able.asker.may_bind_privileged = Some(true);
    assert_eq!(explained(&able, &[], EACCES), plain(Rule::Unknown, false));
    let world = World {
        holders: &[],
        sysctls: &BindSysctls::default(),
        ports: None,
        kernel: NEWEST,
    };
    assert_eq!(
        explain(&request, &world, EACCES, true),
        plain(Rule::SecurityModule, true)
    );
}

#[test]
fn invalid_binds() {
    let mut twice = bind(HERE);
    twice.asker.local = at("127.0.0.1:5000");
    assert_eq!(
        explained(&twice, &[], EINVAL),
        plain(Rule::AlreadyBound, true)
    );
    assert_eq!(
        explained(&bind("[ff02::1]:8080"), &[], EINVAL),
        plain(Rule::Multicast, true)
    );
    assert_eq!(
        explained(&bind(HERE), &[], EINVAL),
        plain(Rule::Unknown, false)
    );
    let other = Request {
        asked: Some(asked("[::1]:8080")),
        ..bind(HERE)
    };
    assert_eq!(
        explained(&other, &[], EAFNOSUPPORT),
        plain(Rule::AddressFamily, true)
    );
    assert_eq!(
        explained(&bind(HERE), &[], EAFNOSUPPORT),
        plain(Rule::AddressFamily, false)
    );
}

#[test]
fn interfaces_that_are_not_there() {
    let mut request = bind("[fe80::1]:8080");
    assert_eq!(
        explained(&request, &[], 19),
        plain(Rule::NoSuchDevice, false)
    );
    request.asked = request.asked.map(|asked| Asked { scope: 77, ..asked });
    assert_eq!(
        explained(&request, &[], 19),
        plain(Rule::NoSuchDevice, true)
    );
}

#[test]
fn no_automatic_port() {
    let full = PortUse {
        held: 10,
        ..unused(40_000, 40_009)
    };
    let free = unused(40_000, 40_009);
    let mut unbound = listen(HERE);
    unbound.asker.local = at("0.0.0.0:0");
    for request in [traced(bind("127.0.0.1:0")), unbound] {
        for (ports, agrees) in [(Some(full), true), (None, true), (Some(free), false)] {
            assert_eq!(
                explained_with(&request, &[], ports, EADDRINUSE),
                plain(Rule::NoFreePort, agrees)
            );
        }
    }
}

#[test]
fn listens_that_cannot() {
    let mut request = listen(HERE);
    request.asker.state = TcpState::Established;
    assert_eq!(
        explained(&request, &[], EINVAL),
        plain(Rule::CannotListen, true)
    );
    assert_eq!(
        explained(&listen(HERE), &[], EINVAL),
        plain(Rule::CannotListen, false)
    );
}

fn unbound(to: &str) -> Request {
    let from = if to.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    connect(from, to)
}

#[test]
fn a_bound_connect_names_the_connection_in_its_way() {
    let there = "127.0.0.1:9000";
    let live = accepted(HERE, there, TcpState::CloseWait);
    let explanation = explained(&connect(HERE, there), &[live], EADDRNOTAVAIL);
    assert_eq!(explanation.rule, Rule::TupleInUse);
    assert_eq!(explanation.guilty, [(0, Rule::TupleInUse)]);
    assert!(explanation.sure && explanation.agrees);
    let waiting = Holder {
        timestamps: None,
        ..minisocket(HERE, there, Phase::TimeWait)
    };
    let explanation = explained(&connect(HERE, there), &[waiting], EADDRNOTAVAIL);
    assert_eq!(explanation.guilty, [(0, Rule::TupleInTimeWait)]);
    assert!(explanation.sure && explanation.agrees);
    // The address that the route gives is not known, but nobody else is there.
    let any = connect("0.0.0.0:8080", there);
    let explanation = explained(&any, &[live], EADDRNOTAVAIL);
    assert_eq!(explanation.guilty, [(0, Rule::TupleInUse)]);
    assert_eq!(
        explained(&connect(HERE, there), &[], EADDRNOTAVAIL),
        plain(Rule::Unknown, false)
    );
}

#[test]
fn an_unbound_connect_without_a_port_or_without_a_source() {
    let full = PortUse {
        held: 10,
        ..unused(40_000, 40_009)
    };
    let free = unused(40_000, 40_009);
    let (v4, v6) = (unbound("10.0.0.1:80"), unbound("[::1]:80"));
    let case = |request, ports| explained_with(request, &[], ports, EADDRNOTAVAIL);
    assert_eq!(case(&v4, Some(full)), plain(Rule::PortsExhausted, true));
    assert_eq!(case(&v4, None), plain(Rule::PortsExhausted, true));
    assert_eq!(case(&v4, Some(free)), plain(Rule::PortsExhausted, false));
    assert_eq!(case(&v6, Some(full)), plain(Rule::PortsExhausted, true));
    assert_eq!(case(&v6, Some(free)), plain(Rule::NoSourceAddress, true));
    assert_eq!(case(&v6, None), plain(Rule::Unknown, false));
}

#[test]
fn what_the_network_says() {
    let request = unbound("10.0.0.1:80");
    for (error, rule) in [
        (111, Rule::Refused),
        (104, Rule::Refused),
        (101, Rule::Unreachable),
        (113, Rule::Unreachable),
        (100, Rule::Unreachable),
        (110, Rule::TimedOut),
        (106, Rule::AlreadyConnected),
        (114, Rule::AlreadyConnecting),
        (1, Rule::NotPermitted),
        (13, Rule::NotPermitted),
        (4, Rule::Interrupted),
        (512, Rule::Interrupted),
        (12, Rule::NoMemory),
        (105, Rule::NoMemory),
    ] {
        assert_eq!(
            explained(&request, &[], error),
            plain(rule, true),
            "{error}"
        );
    }
    for error in [22, 14, 95 + 100, 115] {
        assert_eq!(
            explained(&request, &[], error),
            plain(Rule::Unknown, false),
            "{error}"
        );
    }
}

#[test]
fn destinations_that_tcp_does_not_take() {
    let case = |to, options| explained(&asking(unbound(to), options), &[], 101);
    assert_eq!(case("224.0.0.1:80", ""), plain(Rule::Multicast, true));
    assert_eq!(case("[ff02::1]:80", ""), plain(Rule::Multicast, true));
    assert_eq!(case("255.255.255.255:80", ""), plain(Rule::Broadcast, true));
    assert_eq!(
        case("[::ffff:127.0.0.1]:80", "V"),
        plain(Rule::MappedOnV6only, true)
    );
}

#[test]
fn cgroup_programs_refuse_binds() {
    assert_eq!(
        explained(&bind(HERE), &[], 1),
        plain(Rule::CgroupProgram, true)
    );
}

#[test]
fn an_errno_settles_the_checks_before_its_own() {
    let request = traced(bind("127.0.0.1:80"));
    let case = |error| {
        let settled = settled(&request, error);
        (settled.address, settled.asker.may_bind_privileged)
    };
    assert_eq!(case(EADDRINUSE), (Some(Address::Local), Some(true)));
    assert_eq!(case(EACCES), (Some(Address::Local), Some(false)));
    assert_eq!(case(EADDRNOTAVAIL), (Some(Address::Foreign), None));
    let known = bind("127.0.0.1:80");
    assert_eq!(settled(&known, EADDRNOTAVAIL), known);
}

#[test]
fn a_table_of_holders_tells_who_blocks() {
    let request = asking(bind(HERE), "R");
    let tell = |holder: Holder, kernel: KernelVersion| blocks(&request, &holder, kernel);
    assert_eq!(tell(with(bound(HERE), "R"), NEWEST), None);
    assert_eq!(tell(bound(HERE), NEWEST), Some(Rule::PortHeld));
    assert_eq!(
        tell(with(listener(HERE), "R"), kernel(5, 10)),
        Some(Rule::PortListening)
    );
    let connection = accepted(HERE, PEER, TcpState::Established);
    assert_eq!(
        blocks(&connect(HERE, PEER), &connection, NEWEST),
        Some(Rule::TupleInUse)
    );
    // The port is privileged and the address unknown: the holder blocks all the same.
    let request = traced(bind("127.0.0.1:80"));
    assert_eq!(
        blocks(&request, &listener("127.0.0.1:80"), NEWEST),
        Some(Rule::PortListening)
    );
}

#[test]
fn the_listen_that_follows_a_bind_may_fail() {
    let holders = [
        with(listener("127.0.0.1:8080"), "R"),
        with(bound(HERE), "R"),
    ];
    let sysctls = BindSysctls::default();
    let world = |holders| World {
        holders,
        sysctls: &sysctls,
        ports: None,
        kernel: NEWEST,
    };
    let request = asking(bind(HERE), "R");
    assert_eq!(
        listen_after(&request, &world(&holders)),
        in_use(Rule::PortListening, &[0])
    );
    assert_eq!(
        listen_after(&request, &world(&holders[1..])),
        tcptrace_model::conflict::Verdict::Succeeds
    );
}
