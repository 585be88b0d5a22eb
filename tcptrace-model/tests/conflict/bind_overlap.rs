//! Which addresses meet, for the same port.

use tcptrace_model::{
    Phase, TcpState,
    conflict::{Holder, Rule, Verdict},
};

use super::scene::{
    accepted, asking, bind, bound, decided, in_use, kernel, listener, minisocket, on, with,
};

fn meets(new: &str, options: &str, old: Holder) {
    let rule = if old.state == TcpState::Listen {
        Rule::PortListening
    } else {
        Rule::PortHeld
    };
    let verdict = decided(&asking(bind(new), options), &[old]);
    assert_eq!(verdict, in_use(rule, &[0]), "{new} {options} / {old:?}");
}

fn passes(new: &str, options: &str, old: Holder) {
    let verdict = decided(&asking(bind(new), options), &[old]);
    assert_eq!(verdict, Verdict::Succeeds, "{new} {options} / {old:?}");
}

#[test]
fn any_ipv4_address_meets_every_one_in_both_orders() {
    meets("0.0.0.0:8080", "", listener("127.0.0.1:8080"));
    meets("127.0.0.1:8080", "", listener("0.0.0.0:8080"));
    meets("0.0.0.0:8080", "", listener("0.0.0.0:8080"));
}

#[test]
fn different_ipv4_addresses_do_not_meet() {
    passes("127.0.0.1:8080", "", listener("127.0.0.2:8080"));
    meets("127.0.0.1:8080", "", listener("127.0.0.1:8080"));
}

#[test]
fn any_ipv6_address_meets_every_ipv6_address_in_both_orders() {
    for options in ["", "V"] {
        meets("[::]:8080", options, listener("[::1]:8080"));
        meets("[::1]:8080", options, listener("[::]:8080"));
        meets("[::1]:8080", options, with(listener("[::]:8080"), "V"));
        meets("[::]:8080", options, with(listener("[::]:8080"), "V"));
        meets("[::]:8080", options, listener("[::]:8080"));
    }
}

#[test]
fn different_ipv6_addresses_do_not_meet() {
    passes("[::1]:8080", "", listener("[fd00::1]:8080"));
    meets("[::1]:8080", "", listener("[::1]:8080"));
}

#[test]
fn any_ipv6_address_meets_ipv4_unless_v6only() {
    for address in ["0.0.0.0:8080", "127.0.0.1:8080"] {
        meets("[::]:8080", "", listener(address));
        passes("[::]:8080", "V", listener(address));
        meets(address, "", listener("[::]:8080"));
        passes(address, "", with(listener("[::]:8080"), "V"));
    }
}

#[test]
fn a_specific_ipv6_address_does_not_meet_ipv4() {
    for address in ["0.0.0.0:8080", "127.0.0.1:8080"] {
        passes("[::1]:8080", "", listener(address));
        passes(address, "", listener("[::1]:8080"));
    }
}

#[test]
fn a_mapped_address_is_an_ipv4_address() {
    let mapped = "[::ffff:127.0.0.1]:8080";
    meets(mapped, "", listener("127.0.0.1:8080"));
    meets(mapped, "", listener("0.0.0.0:8080"));
    meets("127.0.0.1:8080", "", listener(mapped));
    meets("0.0.0.0:8080", "", listener(mapped));
    meets(mapped, "", listener(mapped));
    passes(mapped, "", listener("127.0.0.2:8080"));
    passes(mapped, "", listener("[::ffff:127.0.0.2]:8080"));
    meets(mapped, "", listener("[::]:8080"));
    passes(mapped, "", with(listener("[::]:8080"), "V"));
    passes(mapped, "", listener("[::1]:8080"));
}

#[test]
fn any_mapped_address_is_any_ipv4_address() {
    let any = "[::ffff:0.0.0.0]:8080";
    meets(any, "", listener("127.0.0.1:8080"));
    meets("127.0.0.1:8080", "", listener(any));
    meets("[::]:8080", "", listener(any));
    passes("[::]:8080", "V", listener(any));
    passes("[::1]:8080", "", listener(any));
    passes(any, "", with(listener("[::]:8080"), "V"));
}

/// From 6.1 to 6.7 the table of addresses did not take it for any address.
#[test]
fn any_mapped_address_meets_a_mapped_one_but_not_in_the_first_table_of_addresses() {
    let request = asking(bind("[::ffff:127.0.0.1]:8080"), "");
    let old = listener("[::ffff:0.0.0.0]:8080");
    let blocked = in_use(Rule::PortListening, &[0]);
    for (kernel, verdict) in [
        (kernel(6, 0), &blocked),
        (kernel(6, 1), &Verdict::Succeeds),
        (kernel(6, 7), &Verdict::Succeeds),
        (kernel(6, 8), &blocked),
    ] {
        assert_eq!(on(kernel, &request, &[old]), *verdict, "{kernel:?}");
    }
    meets("[::ffff:127.0.0.1]:8080", "", listener("0.0.0.0:8080"));
}

/// Its IPv4 field is 127.0.0.6, which meets a wildcard.
#[test]
fn any_ipv4_address_meets_an_ipv6_connection_of_a_dual_stack_listener() {
    let states = [
        accepted("[fd00::1]:8080", "[fd00::2]:4000", TcpState::Established),
        accepted("[fd00::1]:8080", "[fd00::2]:4000", TcpState::CloseWait),
        minisocket("[fd00::1]:8080", "[fd00::2]:4000", Phase::TimeWait),
    ];
    for child in states {
        meets("0.0.0.0:8080", "", child);
        passes("0.0.0.0:8080", "", with(child, "V"));
        passes("127.0.0.1:8080", "", child);
        passes("[::ffff:0.0.0.0]:8080", "", child);
        passes("[::ffff:127.0.0.1]:8080", "", child);
        meets("[::]:8080", "", child);
        meets("[::]:8080", "V", child);
        meets("[fd00::1]:8080", "", child);
        passes("[fd00::3]:8080", "", child);
    }
}

/// A bound specific IPv6 address makes its socket IPv6-only.
#[test]
fn any_ipv4_address_does_not_meet_a_bound_ipv6_address() {
    passes("0.0.0.0:8080", "", bound("[fd00::1]:8080"));
}

#[test]
fn a_mapped_connection_of_a_dual_stack_listener_is_ipv4s() {
    let child = accepted(
        "[::ffff:10.0.0.1]:8080",
        "[::ffff:10.0.0.2]:4000",
        TcpState::Established,
    );
    meets("0.0.0.0:8080", "", child);
    meets("10.0.0.1:8080", "", child);
    passes("10.0.0.3:8080", "", child);
    meets("[::]:8080", "", child);
    passes("[::]:8080", "V", child);
}

#[test]
fn the_field_of_ipv6_connections_is_met_by_its_own_value_without_the_table_of_addresses() {
    let child = accepted("[fd00::1]:8080", "[fd00::2]:4000", TcpState::Established);
    let request = bind("127.0.0.6:8080");
    for old in [kernel(5, 10), kernel(5, 15)] {
        assert_eq!(on(old, &request, &[child]), in_use(Rule::PortHeld, &[0]));
    }
    for new in [kernel(6, 1), kernel(6, 12), kernel(6, 18)] {
        assert_eq!(on(new, &request, &[child]), Verdict::Succeeds);
    }
}

#[test]
fn an_unknown_v6only_matters_where_the_families_differ() {
    let unknown = Holder {
        v6only: None,
        ..listener("[::]:8080")
    };
    assert_eq!(
        decided(&bind("0.0.0.0:8080"), &[unknown]),
        Verdict::Undecided {
            missing: "IPV6_V6ONLY of the holder"
        }
    );
    meets("[::1]:8080", "", unknown);
    passes(
        "0.0.0.0:8080",
        "R",
        Holder {
            v6only: None,
            ..with(bound("[::]:8080"), "R")
        },
    );
    let known_field = Holder {
        v6only: None,
        ..bound("127.0.0.1:8080")
    };
    meets("127.0.0.1:8080", "", known_field);
}
