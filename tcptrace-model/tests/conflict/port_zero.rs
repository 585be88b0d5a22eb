//! bind() to port 0: the kernel's own choice.

use tcptrace_model::conflict::{Asker, BindSysctls, PortUse, Rule, Verdict, port_range};

use super::scene::{EADDRINUSE, asker, asking, bind, decided_with, fails, unused};

fn with(ports: PortUse, held: u32) -> PortUse {
    PortUse { held, ..ports }
}

fn defaults() -> BindSysctls {
    BindSysctls::default()
}

#[test]
fn a_port_that_nobody_holds_is_found() {
    let ports = with(unused(40_000, 40_009), 8);
    for address in ["0.0.0.0:0", "127.0.0.1:0", "[::]:0"] {
        let verdict = decided_with(&bind(address), &defaults(), Some(ports));
        assert_eq!(verdict, Verdict::Succeeds, "{address}");
    }
}

#[test]
fn an_exhausted_range_stops_one_that_overlaps_with_everybody() {
    let ports = with(unused(40_000, 40_009), 10);
    let exhausted = fails(EADDRINUSE, Rule::NoFreePort);
    for options in ["", "R", "P", "RP"] {
        let request = asking(bind("[::]:0"), options);
        let verdict = decided_with(&request, &defaults(), Some(ports));
        assert_eq!(verdict, exhausted, "{options}");
    }
}

#[test]
fn who_holds_the_ports_is_not_known_to_meet_one_address() {
    let ports = with(unused(40_000, 40_009), 10);
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
        let verdict = decided_with(&bind(address), &defaults(), Some(ports));
        assert!(matches!(verdict, Verdict::Undecided { .. }), "{address}");
    }
}

#[test]
fn reserved_ports_are_not_chosen() {
    let ports = PortUse {
        reserved: 10,
        ..unused(40_000, 40_009)
    };
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        assert_eq!(
            decided_with(&bind(address), &defaults(), Some(ports)),
            fails(EADDRINUSE, Rule::NoFreePort),
            "{address}"
        );
    }
}

/// The search goes over an even number of ports, by parity.
#[test]
fn the_last_port_of_an_odd_range_is_not_looked_at() {
    let odd = unused(40_000, 40_002);
    assert_eq!(
        decided_with(&bind("[::]:0"), &defaults(), Some(with(odd, 1))),
        Verdict::Succeeds
    );
    assert!(matches!(
        decided_with(&bind("[::]:0"), &defaults(), Some(with(odd, 2))),
        Verdict::Undecided { .. }
    ));
    let one = unused(40_000, 40_000);
    assert_eq!(
        decided_with(&bind("[::]:0"), &defaults(), Some(one)),
        Verdict::Succeeds
    );
}

#[test]
fn autobind_reuse_gives_reuseaddr_a_second_search() {
    let ports = with(unused(40_000, 40_009), 10);
    let sysctls = BindSysctls {
        autobind_reuse: true,
        ..defaults()
    };
    assert!(matches!(
        decided_with(&asking(bind("[::]:0"), "R"), &sysctls, Some(ports)),
        Verdict::Undecided { .. }
    ));
    assert_eq!(
        decided_with(&bind("[::]:0"), &sysctls, Some(ports)),
        fails(EADDRINUSE, Rule::NoFreePort)
    );
}

#[test]
fn without_a_count_it_is_not_decided() {
    assert!(matches!(
        decided_with(&bind("0.0.0.0:0"), &defaults(), None),
        Verdict::Undecided { .. }
    ));
}

#[test]
fn bind_address_no_port_leaves_the_choice_to_connect() {
    let mut request = bind("127.0.0.1:0");
    request.asker.bind_address_no_port = true;
    assert_eq!(decided_with(&request, &defaults(), None), Verdict::Succeeds);
}

#[test]
fn a_range_of_its_own_narrows_the_namespaces() {
    let own = |range| {
        let asker = Asker {
            port_range: range,
            ..asker("0.0.0.0:0")
        };
        port_range(&asker, &defaults())
    };
    assert_eq!(own(None), (32_768, 60_999));
    assert_eq!(own(Some((40_000, 40_100))), (40_000, 40_100));
    assert_eq!(own(Some((0, 40_100))), (32_768, 40_100));
    assert_eq!(own(Some((40_000, 0))), (40_000, 60_999));
    assert_eq!(own(Some((1000, 2000))), (32_768, 60_999));
}
