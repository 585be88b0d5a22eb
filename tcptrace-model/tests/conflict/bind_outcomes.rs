//! bind() to a port that somebody holds at the same address: states and options.

use tcptrace_model::{
    Phase, TcpState,
    conflict::{Asker, Holder, KernelVersion, Request, Rule, Verdict},
};

use super::scene::{
    KERNELS, NEWEST, accepted, asking, bind, bound, decided, in_use, kernel, listener, minisocket,
    on, with,
};

const HERE: &str = "127.0.0.1:8080";
const PEER: &str = "127.0.0.1:40000";

/// What bind() meets, with the rule if it is in the way.
fn holders() -> Vec<(&'static str, Holder, Rule)> {
    let child = |state| accepted(HERE, PEER, state);
    vec![
        ("bound", bound(HERE), Rule::PortHeld),
        ("LISTEN", listener(HERE), Rule::PortListening),
        ("ESTABLISHED", child(TcpState::Established), Rule::PortHeld),
        ("SYN_RECV", child(TcpState::SynRecv), Rule::PortHeld),
        ("SYN_SENT", child(TcpState::SynSent), Rule::PortHeld),
        ("FIN_WAIT1", child(TcpState::FinWait1), Rule::PortHeld),
        ("FIN_WAIT2", child(TcpState::FinWait2), Rule::PortHeld),
        ("CLOSING", child(TcpState::Closing), Rule::PortHeld),
        ("CLOSE_WAIT", child(TcpState::CloseWait), Rule::PortHeld),
        ("LAST_ACK", child(TcpState::LastAck), Rule::PortHeld),
        (
            "FIN_WAIT2 minisocket",
            minisocket(HERE, PEER, Phase::FinWait2),
            Rule::PortHeld,
        ),
        (
            "TIME_WAIT",
            minisocket(HERE, PEER, Phase::TimeWait),
            Rule::PortHeld,
        ),
    ]
}

/// Asserts what each holder does with options `old` to a socket with options `new`: those named in
/// `blocking` are in the way, on every kernel. `*` names all.
fn outcomes(new: &str, old: &str, blocking: &[&str], by: Option<Rule>) {
    for (name, holder, rule) in holders() {
        let verdict = decided(&asking(bind(HERE), new), &[with(holder, old)]);
        let expected = if blocking.contains(&"*") || blocking.contains(&name) {
            in_use(by.unwrap_or(rule), &[0])
        } else {
            Verdict::Succeeds
        };
        assert_eq!(verdict, expected, "{new}/{old}: {name}");
    }
}

#[test]
fn reuseaddr_on_both_is_stopped_by_a_listener_only() {
    outcomes("R", "R", &["LISTEN"], None);
}

#[test]
fn reuseaddr_on_the_new_socket_alone_changes_nothing() {
    outcomes("R", "", &["*"], None);
}

#[test]
fn reuseaddr_on_the_old_socket_alone_changes_nothing() {
    outcomes("", "R", &["*"], None);
}

#[test]
fn without_options_every_holder_is_in_the_way() {
    outcomes("", "", &["*"], None);
}

#[test]
fn reuseport_on_both_by_the_same_user_is_stopped_by_nobody() {
    outcomes("P", "P", &[], None);
}

#[test]
fn reuseport_on_both_by_another_user_is_let_in_by_minisockets_only() {
    for (name, holder, _) in holders() {
        let other = with(holder, "PU");
        let expected = if holder.minisocket.is_some() {
            Verdict::Succeeds
        } else {
            in_use(Rule::ReuseportOtherUser, &[0])
        };
        assert_eq!(
            decided(&asking(bind(HERE), "P"), &[other]),
            expected,
            "{name}"
        );
    }
}

#[test]
fn reuseport_against_reuseaddr_is_no_agreement() {
    outcomes("P", "R", &["*"], None);
    outcomes("R", "P", &["*"], None);
}

#[test]
fn one_option_in_common_is_enough() {
    outcomes("RP", "R", &["LISTEN"], None);
    outcomes("R", "RP", &["LISTEN"], None);
    outcomes("RP", "P", &[], None);
    outcomes("RP", "RP", &[], None);
}

#[test]
fn both_options_and_another_user_are_stopped_by_a_listener_only() {
    outcomes("RP", "RPU", &["LISTEN"], Some(Rule::ReuseportOtherUser));
}

#[test]
fn root_is_another_user_too() {
    let holder = Holder {
        uid: Some(0),
        ..with(listener(HERE), "P")
    };
    let verdict = decided(&asking(bind(HERE), "P"), &[holder]);
    assert_eq!(verdict, in_use(Rule::ReuseportOtherUser, &[0]));
}

fn on_device(request: Request, device: u32) -> Request {
    Request {
        asker: Asker {
            device,
            ..request.asker
        },
        ..request
    }
}

#[test]
fn different_devices_do_not_meet() {
    let holder = Holder {
        device: 2,
        ..listener(HERE)
    };
    let request = on_device(bind(HERE), 3);
    assert_eq!(decided(&request, &[holder]), Verdict::Succeeds);
}

#[test]
fn a_device_meets_itself_and_none() {
    let with_device = Holder {
        device: 2,
        ..listener(HERE)
    };
    let inuse = in_use(Rule::PortListening, &[0]);
    assert_eq!(decided(&on_device(bind(HERE), 2), &[with_device]), inuse);
    assert_eq!(decided(&bind(HERE), &[with_device]), inuse);
    let request = on_device(bind(HERE), 2);
    assert_eq!(decided(&request, &[listener(HERE)]), inuse);
}

#[test]
fn repair_mode_takes_any_port() {
    let mut request = bind(HERE);
    request.asker.force_reuse = true;
    assert_eq!(decided(&request, &[listener(HERE)]), Verdict::Succeeds);
}

#[test]
fn a_holder_in_repair_mode_counts_as_reuseaddr() {
    let holder = Holder {
        force_reuse: true,
        ..bound(HERE)
    };
    assert_eq!(
        decided(&asking(bind(HERE), "R"), &[holder]),
        Verdict::Succeeds
    );
    assert_eq!(
        decided(&bind(HERE), &[holder]),
        in_use(Rule::PortHeld, &[0])
    );
}

#[test]
fn a_group_of_its_own_closes_reuseport_before_closed_listeners_counted() {
    let mut request = asking(bind(HERE), "P");
    request.asker.reuseport_group = true;
    let holders = [with(listener(HERE), "P")];
    assert_eq!(
        on(kernel(5, 10), &request, &holders),
        in_use(Rule::PortListening, &[0])
    );
    for newer in &KERNELS[1..] {
        assert!(matches!(
            on(*newer, &request, &holders),
            Verdict::Undecided { .. }
        ));
    }
}

#[test]
fn everybody_in_the_way_is_named_and_nobody_else() {
    let holders = [
        with(minisocket(HERE, PEER, Phase::TimeWait), "R"),
        minisocket(HERE, "127.0.0.1:40001", Phase::TimeWait),
        listener("127.0.0.2:8080"),
        with(listener(HERE), "R"),
    ];
    let verdict = decided(&asking(bind(HERE), "R"), &holders);
    assert_eq!(verdict, in_use(Rule::PortListening, &[1, 3]));
}

#[test]
fn holders_of_other_ports_do_not_matter() {
    assert_eq!(
        decided(&bind(HERE), &[listener("127.0.0.1:8081")]),
        Verdict::Succeeds
    );
}

#[test]
fn nobody_in_the_way() {
    assert_eq!(decided(&bind(HERE), &[]), Verdict::Succeeds);
}

#[test]
fn an_unknown_option_matters_only_where_it_decides() {
    let unknown = Holder {
        reuseaddr: None,
        reuseport: None,
        ..minisocket(HERE, PEER, Phase::TimeWait)
    };
    assert_eq!(
        decided(&bind(HERE), &[unknown]),
        in_use(Rule::PortHeld, &[0])
    );
    assert_eq!(
        decided(&asking(bind(HERE), "R"), &[unknown]),
        Verdict::Undecided {
            missing: "SO_REUSEADDR of the holder"
        }
    );
    assert_eq!(
        decided(&asking(bind(HERE), "P"), &[unknown]),
        Verdict::Undecided {
            missing: "SO_REUSEPORT of the holder"
        }
    );
    let listening = Holder {
        reuseaddr: None,
        reuseport: None,
        ..listener(HERE)
    };
    assert_eq!(
        decided(&asking(bind(HERE), "R"), &[listening]),
        in_use(Rule::PortListening, &[0])
    );
}

#[test]
fn what_is_known_to_be_in_the_way_decides_in_spite_of_the_unknown() {
    let unknown = Holder {
        reuseaddr: None,
        ..minisocket(HERE, PEER, Phase::TimeWait)
    };
    let holders = [unknown, listener(HERE)];
    assert_eq!(
        decided(&asking(bind(HERE), "R"), &holders),
        in_use(Rule::PortListening, &[1])
    );
}

#[test]
fn an_unknown_user_matters_for_reuseport_on_both() {
    let unknown = Holder {
        uid: None,
        ..with(listener(HERE), "P")
    };
    assert_eq!(
        decided(&asking(bind(HERE), "P"), &[unknown]),
        Verdict::Undecided {
            missing: "the user of the holder"
        }
    );
    assert_eq!(
        decided(&bind(HERE), &[unknown]),
        in_use(Rule::PortListening, &[0])
    );
}

/// The port remembers that its last bind() was P, of this user: net/ipv4/inet_connection_sock.c
/// `sk_reuseport_match`. A socket let in by R there lets in one with P alone.
#[test]
fn what_the_port_remembers_of_reuseport_is_not_known() {
    let first = with(bound(HERE), "R");
    let second = with(bound(HERE), "RP");
    assert!(matches!(
        decided(&asking(bind(HERE), "P"), &[first, second]),
        Verdict::Undecided { .. }
    ));
    assert_eq!(
        decided(&asking(bind(HERE), "P"), &[first]),
        in_use(Rule::PortHeld, &[0])
    );
}

/// It remembers an address, not what that address was for: seen on 6.18, an IPv6 socket comes in beside a
/// listener of IPv4.
#[test]
fn what_the_port_remembers_may_be_of_another_family_or_interface() {
    let undecided = |address: &str, listener: Holder, last: Holder| {
        let request = asking(bind(address), "P");
        assert_eq!(
            decided(&request, &[listener]),
            in_use(Rule::PortListening, &[0])
        );
        let verdict = decided(&request, &[listener, last]);
        assert!(matches!(verdict, Verdict::Undecided { .. }), "{verdict:?}");
    };
    let v6only = with(bound("[::]:8080"), "PV");
    undecided("[::]:8080", listener("0.0.0.0:8080"), v6only);
    let v4 = with(bound("0.0.0.0:8080"), "P");
    undecided("[::]:8080", listener("[::1]:8080"), v4);
    let on_device = |device, holder| Holder { device, ..holder };
    undecided(
        "0.0.0.0:8080",
        on_device(2, listener("0.0.0.0:8080")),
        on_device(3, v4),
    );
}

#[test]
fn what_the_port_remembers_is_of_the_same_user_and_covers_the_address() {
    let case = |last: Holder| {
        let holders = [with(bound(HERE), "R"), last];
        decided(&asking(bind(HERE), "P"), &holders)
    };
    let blocked = in_use(Rule::PortHeld, &[0]);
    assert!(matches!(
        case(with(bound("0.0.0.0:8080"), "RP")),
        Verdict::Undecided { .. }
    ));
    assert_eq!(
        case(with(bound(HERE), "RPU")),
        in_use(Rule::ReuseportOtherUser, &[0, 1]),
    );
    assert_eq!(case(with(bound("127.0.0.2:8080"), "RP")), blocked);
    assert_eq!(case(with(bound("127.0.0.1:8081"), "RP")), blocked);
    // Their listener may be the one, and it may have had a wider address.
    for child in [
        accepted(HERE, PEER, TcpState::Established),
        accepted("127.0.0.2:8080", PEER, TcpState::Established),
        minisocket(HERE, PEER, Phase::TimeWait),
    ] {
        assert!(matches!(case(with(child, "RP")), Verdict::Undecided { .. }));
    }
    let between_families = |address: &str, options, stops: Holder, last: Holder| {
        let request = asking(bind(address), options);
        assert_eq!(
            decided(&request, &[stops, last]),
            in_use(Rule::PortListening, &[0])
        );
    };
    between_families(
        "[::ffff:127.0.0.1]:8080",
        "P",
        listener(HERE),
        with(bound("[::]:8080"), "PV"),
    );
    between_families(
        "[::]:8080",
        "PV",
        listener("[::1]:8080"),
        with(bound("0.0.0.0:8080"), "P"),
    );
}

#[test]
fn orphans_of_a_reuseport_listener_count_as_roots_on_old_kernels() {
    let orphan = Holder {
        uid: Some(0),
        ..with(accepted(HERE, PEER, TcpState::FinWait1), "P")
    };
    let request = asking(bind(HERE), "P");
    let stable = |patch| KernelVersion {
        patch,
        ..kernel(6, 16)
    };
    for old in [kernel(6, 12), stable(0), stable(5)] {
        assert!(matches!(
            on(old, &request, &[orphan]),
            Verdict::Undecided { .. }
        ));
    }
    assert_eq!(
        on(stable(6), &request, &[orphan]),
        in_use(Rule::ReuseportOtherUser, &[0])
    );
    assert_eq!(
        on(NEWEST, &request, &[orphan]),
        in_use(Rule::ReuseportOtherUser, &[0])
    );
}
