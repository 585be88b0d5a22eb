//! What bind() checks before other sockets count: each check, and which comes first.

use tcptrace_model::{
    TcpState,
    conflict::{Address, Asked, Asker, BindSysctls, Request, Rule, Verdict},
};

use super::scene::{
    EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL, asked, asking, at, bind, decided, decided_with,
    fails, listener,
};

fn foreign(request: Request) -> Request {
    Request {
        address: Some(Address::Foreign),
        ..request
    }
}

fn bound_already(request: Request) -> Request {
    Request {
        asker: Asker {
            local: at("127.0.0.1:5000"),
            ..request.asker
        },
        ..request
    }
}

fn with_length(request: Request, len: u32) -> Request {
    Request {
        asked: request.asked.map(|asked| Asked { len, ..asked }),
        ..request
    }
}

fn with_family(request: Request, family: u16) -> Request {
    Request {
        asked: request.asked.map(|asked| Asked { family, ..asked }),
        ..request
    }
}

fn with_scope(request: Request, scope: u32) -> Request {
    Request {
        asked: request.asked.map(|asked| Asked { scope, ..asked }),
        ..request
    }
}

#[test]
fn lengths() {
    let short = fails(EINVAL, Rule::AddressLength);
    let (v4, v6) = (bind("127.0.0.1:8080"), bind("[::1]:8080"));
    assert_eq!(decided(&with_length(v4, 15), &[]), short);
    assert_eq!(decided(&with_length(v4, 16), &[]), Verdict::Succeeds);
    assert_eq!(decided(&with_length(v4, 128), &[]), Verdict::Succeeds);
    assert_eq!(decided(&with_length(v4, 129), &[]), short);
    assert_eq!(decided(&with_length(v6, 23), &[]), short);
    assert_eq!(decided(&with_length(v6, 24), &[]), Verdict::Succeeds);
}

#[test]
fn the_length_comes_before_the_family() {
    let request = Request {
        asked: Some(asked("127.0.0.1:8080")),
        ..bind("[::1]:8080")
    };
    assert_eq!(decided(&request, &[]), fails(EINVAL, Rule::AddressLength));
    assert_eq!(
        decided(&with_length(request, 28), &[]),
        fails(EAFNOSUPPORT, Rule::AddressFamily)
    );
}

#[test]
fn families() {
    let family = fails(EAFNOSUPPORT, Rule::AddressFamily);
    let request = Request {
        asked: Some(asked("[::1]:8080")),
        ..bind("127.0.0.1:8080")
    };
    assert_eq!(decided(&request, &[]), family);
    assert_eq!(
        decided(&with_family(bind("127.0.0.1:8080"), 1), &[]),
        family
    );
    assert_eq!(decided(&with_family(bind("[::1]:8080"), 0), &[]), family);
}

#[test]
fn an_unset_family_passes_with_any_ipv4_address_only() {
    assert_eq!(
        decided(&with_family(bind("0.0.0.0:8080"), 0), &[]),
        Verdict::Succeeds
    );
    assert_eq!(
        decided(&with_family(bind("127.0.0.1:8080"), 0), &[]),
        fails(EAFNOSUPPORT, Rule::AddressFamily)
    );
}

#[test]
fn the_family_comes_before_the_address() {
    assert_eq!(
        decided(&with_family(foreign(bind("10.9.9.9:80")), 1), &[]),
        fails(EAFNOSUPPORT, Rule::AddressFamily)
    );
}

#[test]
fn a_foreign_address() {
    let refused = fails(EADDRNOTAVAIL, Rule::AddressNotLocal);
    for address in [
        "10.9.9.9:8080",
        "0.1.2.3:8080",
        "[fd00::9]:8080",
        "[::ffff:10.9.9.9]:8080",
    ] {
        assert_eq!(decided(&foreign(bind(address)), &[]), refused, "{address}");
    }
}

#[test]
fn any_multicast_and_broadcast_ipv4_addresses_pass() {
    for address in [
        "0.0.0.0:8080",
        "224.0.0.1:8080",
        "255.255.255.255:8080",
        "[::ffff:224.0.0.1]:8080",
    ] {
        let request = foreign(bind(address));
        assert_eq!(decided(&request, &[]), Verdict::Succeeds, "{address}");
    }
    assert_eq!(decided(&foreign(bind("[::]:8080")), &[]), Verdict::Succeeds);
}

#[test]
fn what_lets_a_foreign_address_pass() {
    for address in ["10.9.9.9:8080", "[fd00::9]:8080", "[::ffff:10.9.9.9]:8080"] {
        let mut request = foreign(bind(address));
        request.asker.freebind = true;
        assert_eq!(decided(&request, &[]), Verdict::Succeeds, "{address}");
        request.asker.freebind = false;
        request.asker.transparent = true;
        assert_eq!(decided(&request, &[]), Verdict::Succeeds, "{address}");
    }
}

#[test]
fn the_setting_for_foreign_addresses_is_the_familys() {
    let v4 = BindSysctls {
        nonlocal_bind: true,
        ..BindSysctls::default()
    };
    let v6 = BindSysctls {
        nonlocal_bind_v6: true,
        ..BindSysctls::default()
    };
    let refused = fails(EADDRNOTAVAIL, Rule::AddressNotLocal);
    let (ipv4, ipv6) = (
        foreign(bind("10.9.9.9:80")),
        foreign(bind("[fd00::9]:8080")),
    );
    let ipv4 = with_port(ipv4, 8080);
    let mapped = foreign(bind("[::ffff:10.9.9.9]:8080"));
    assert_eq!(decided_with(&ipv4, &v4, None), Verdict::Succeeds);
    assert_eq!(decided_with(&ipv4, &v6, None), refused);
    assert_eq!(decided_with(&ipv6, &v6, None), Verdict::Succeeds);
    assert_eq!(decided_with(&ipv6, &v4, None), refused);
    assert_eq!(decided_with(&mapped, &v4, None), Verdict::Succeeds);
    assert_eq!(decided_with(&mapped, &v6, None), refused);
}

fn with_port(request: Request, port: u16) -> Request {
    Request {
        asked: request.asked.map(|mut asked| {
            asked.addr.set_port(port);
            asked
        }),
        ..request
    }
}

#[test]
fn an_unknown_address_is_not_decided() {
    let request = Request {
        address: None,
        ..bind("10.9.9.9:8080")
    };
    assert!(matches!(decided(&request, &[]), Verdict::Undecided { .. }));
    let request = Request {
        address: None,
        ..bind("0.0.0.0:8080")
    };
    assert_eq!(decided(&request, &[]), Verdict::Succeeds);
}

#[test]
fn a_privileged_port() {
    let refused = fails(EACCES, Rule::PrivilegedPort);
    for address in ["127.0.0.1:1023", "[::1]:1023", "127.0.0.1:1"] {
        assert_eq!(decided(&bind(address), &[]), refused, "{address}");
    }
    assert_eq!(decided(&bind("127.0.0.1:1024"), &[]), Verdict::Succeeds);
}

#[test]
fn the_capability_or_the_setting_opens_a_privileged_port() {
    let mut request = bind("127.0.0.1:80");
    request.asker.may_bind_privileged = Some(true);
    assert_eq!(decided(&request, &[]), Verdict::Succeeds);
    let sysctls = BindSysctls {
        unprivileged_port_start: 80,
        ..BindSysctls::default()
    };
    assert_eq!(
        decided_with(&bind("127.0.0.1:80"), &sysctls, None),
        Verdict::Succeeds
    );
    request.asker.may_bind_privileged = None;
    assert!(matches!(decided(&request, &[]), Verdict::Undecided { .. }));
}

#[test]
fn ipv4_asks_for_the_address_before_the_port_and_ipv6_after() {
    assert_eq!(
        decided(&foreign(bind("10.9.9.9:80")), &[]),
        fails(EADDRNOTAVAIL, Rule::AddressNotLocal)
    );
    assert_eq!(
        decided(&foreign(bind("[fd00::9]:80")), &[]),
        fails(EACCES, Rule::PrivilegedPort)
    );
    assert_eq!(
        decided(&foreign(bind("[::ffff:10.9.9.9]:80")), &[]),
        fails(EACCES, Rule::PrivilegedPort)
    );
}

#[test]
fn bind_comes_once_and_first() {
    let refused = fails(EINVAL, Rule::AlreadyBound);
    assert_eq!(
        decided(&bound_already(bind("127.0.0.1:8080")), &[]),
        refused
    );
    for state in TcpState::ALL {
        if state == TcpState::Close {
            continue;
        }
        let mut request = bind("127.0.0.1:8080");
        request.asker.state = state;
        assert_eq!(decided(&request, &[]), refused, "{state:?}");
    }
}

#[test]
fn the_port_is_asked_for_before_the_state_and_the_address_of_ipv6_after() {
    assert_eq!(
        decided(&bound_already(bind("127.0.0.1:80")), &[]),
        fails(EACCES, Rule::PrivilegedPort)
    );
    assert_eq!(
        decided(&bound_already(bind("[::1]:80")), &[]),
        fails(EACCES, Rule::PrivilegedPort)
    );
    assert_eq!(
        decided(&bound_already(foreign(bind("[fd00::9]:8080"))), &[]),
        fails(EINVAL, Rule::AlreadyBound)
    );
    assert_eq!(
        decided(&bound_already(foreign(bind("10.9.9.9:8080"))), &[]),
        fails(EADDRNOTAVAIL, Rule::AddressNotLocal)
    );
}

#[test]
fn the_state_comes_before_other_sockets() {
    let holders = [listener("127.0.0.1:8080")];
    assert_eq!(
        decided(&bound_already(bind("127.0.0.1:8080")), &holders),
        fails(EINVAL, Rule::AlreadyBound)
    );
}

#[test]
fn a_multicast_ipv6_address_comes_before_the_port() {
    assert_eq!(
        decided(&bind("[ff02::1]:80"), &[]),
        fails(EINVAL, Rule::Multicast)
    );
}

#[test]
fn a_mapped_address_on_an_ipv6_only_socket() {
    let request = asking(bind("[::ffff:127.0.0.1]:8080"), "V");
    assert_eq!(decided(&request, &[]), fails(EINVAL, Rule::MappedOnV6only));
    assert_eq!(
        decided(&foreign(request), &[]),
        fails(EINVAL, Rule::MappedOnV6only)
    );
    assert_eq!(
        decided(&bind("[::ffff:127.0.0.1]:8080"), &[]),
        Verdict::Succeeds
    );
}

#[test]
fn a_link_local_address_needs_an_interface() {
    let request = bind("[fe80::1]:8080");
    let refused = fails(EINVAL, Rule::LinkLocalWithoutScope);
    assert_eq!(decided(&request, &[]), refused);
    assert_eq!(decided(&foreign(request), &[]), refused);
    assert_eq!(decided(&with_scope(request, 2), &[]), Verdict::Succeeds);
    // Without room for the scope it does not count.
    assert_eq!(
        decided(&with_length(with_scope(request, 2), 24), &[]),
        refused
    );
    let mut on_device = request;
    on_device.asker.device = 2;
    assert_eq!(decided(&on_device, &[]), Verdict::Succeeds);
}

#[test]
fn the_scope_is_the_interface_that_counts() {
    let mut holder = listener("[fe80::1]:8080");
    holder.device = 3;
    let request = bind("[fe80::1]:8080");
    assert_eq!(
        decided(&with_scope(request, 2), &[holder]),
        Verdict::Succeeds
    );
    assert!(matches!(
        decided(&with_scope(request, 3), &[holder]),
        Verdict::Fails { .. }
    ));
}

#[test]
fn without_the_address_nothing_is_decided() {
    let request = Request {
        asked: None,
        ..bind("127.0.0.1:8080")
    };
    assert_eq!(
        decided(&request, &[]),
        Verdict::Undecided {
            missing: "the address that was asked for"
        }
    );
}
