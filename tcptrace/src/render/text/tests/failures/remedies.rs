//! What would have helped, in words.

use super::*;

/// What is said of a remedy for this holder in the way.
fn remedy(remedy: Remedy, holders: Vec<HolderFound>) -> String {
    let call = bind("0.0.0.0:80", |_| {});
    let text = body(calls::held(&call, Rule::PortHeld, holders, vec![remedy]));
    let (_, told) = text.split_once("What would have helped: ").unwrap();
    told.to_owned()
}

#[test]
fn every_remedy_says_what_to_do() {
    for (one, words) in [
        (
            Remedy::ReuseaddrOnNew,
            "SO_REUSEADDR on the new socket, set before bind(): the one in the way has it.",
        ),
        (
            Remedy::ReuseportOnNew,
            "SO_REUSEPORT on the new socket, set before bind(): the one in the way has it.",
        ),
        (
            Remedy::ReuseaddrOnBoth,
            "SO_REUSEADDR on both: on the new socket before bind(), and on the old listener when it accepted this connection, which keeps what the listener had then (too late now, right for the next restart).",
        ),
        (
            Remedy::V6onlyOnNew,
            "IPV6_V6ONLY on the new socket, set before bind(): it then leaves IPv4, where the conflict is, alone.",
        ),
        (
            Remedy::CloseHolders(vec![0]),
            "stopping python3[770], or closing the connection there.",
        ),
        (
            Remedy::Freebind,
            "IP_FREEBIND on the new socket, which allows an address that this host does not have (yet).",
        ),
        (
            Remedy::NonlocalBind,
            "sysctl net.ipv4.ip_nonlocal_bind=1, which allows addresses that this host does not have.",
        ),
        (
            Remedy::Capability,
            "CAP_NET_BIND_SERVICE for the process (setcap cap_net_bind_service=+ep on its program, or AmbientCapabilities= in its systemd unit).",
        ),
        (
            Remedy::UnprivilegedPortStart(80),
            "sysctl net.ipv4.ip_unprivileged_port_start=80, for all processes.",
        ),
        (Remedy::NewSocket, "a new socket for it."),
        (
            Remedy::ClearV6only,
            "IPV6_V6ONLY off on the new socket, so that it may have IPv4 addresses.",
        ),
    ] {
        assert_eq!(remedy(one, vec![calls::time_wait(5)]), words);
    }
}

#[test]
fn an_option_on_both_says_when_the_old_side_needed_it() {
    let client = || {
        calls::holder(
            TcpState::Established,
            "127.0.0.1:80",
            "127.0.0.1:5",
            Some(samples::curl()),
        )
    };
    assert_eq!(
        remedy(Remedy::ReuseaddrOnBoth, vec![client()]),
        "SO_REUSEADDR on both the new socket and the old, set before bind()."
    );
    assert_eq!(
        remedy(Remedy::ReuseaddrOnBoth, vec![calls::time_wait(5), client()]),
        "SO_REUSEADDR on all: on the sockets before bind(), and for the connections on their \
         listener when it accepted them."
    );
    assert_eq!(
        remedy(Remedy::ReuseportOnNew, vec![client(), client()]),
        "SO_REUSEPORT on the new socket, set before bind(): all in the way have it."
    );
}

#[test]
fn whom_to_stop_is_named_where_it_is_known() {
    let unknown = HolderFound {
        owner: None,
        ..calls::listener("0.0.0.0:80")
    };
    assert_eq!(
        remedy(Remedy::CloseHolders(vec![0]), vec![unknown]),
        "closing the listener; whose is not known."
    );
    let bound = calls::holder(
        TcpState::Close,
        "0.0.0.0:80",
        "0.0.0.0:0",
        Some(samples::owner(5, "x", OwnerSource::Bind)),
    );
    let open = calls::holder(
        TcpState::Established,
        "127.0.0.1:80",
        "127.0.0.1:5",
        Some(samples::nginx()),
    );
    assert_eq!(
        remedy(Remedy::CloseHolders(vec![0, 1]), vec![bound, open]),
        "stopping x[5], nginx[77], or closing the sockets there (a TIME_WAIT that this leaves would \
         not be in the way)."
    );
}

#[test]
fn an_ipv6_address_needs_the_setting_of_ipv6() {
    let told = |address: &str| {
        let call = calls::call(Call::Bind, libc::EADDRNOTAVAIL, address);
        let found = CallFailed {
            remedies: vec![Remedy::NonlocalBind],
            ..calls::failed(&call, Rule::AddressNotLocal)
        };
        body(found)
    };
    assert!(told("[2001:db8::1]:80").contains("net.ipv6.ip_nonlocal_bind=1"));
    assert!(told("[::ffff:10.0.0.1]:80").contains("net.ipv4.ip_nonlocal_bind=1"));
}

#[test]
fn time_waits_of_exhausted_ports_end_one_by_one() {
    let found = CallFailed {
        remedies: vec![Remedy::Wait],
        ..calls::exhausted()
    };
    let text = body(found);
    assert!(
        text.ends_with(
            "waiting: the ports in TIME_WAIT come free one by one, each after about 60s."
        ),
        "{text}"
    );
}
