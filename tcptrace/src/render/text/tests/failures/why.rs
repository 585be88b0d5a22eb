//! Why a call failed, in words.

use super::*;

#[test]
fn a_listener_is_shared_by_reuseport_only() {
    assert_eq!(
        told(TERMINAL, calls::second_server()),
        "\
! bind 127.0.0.1:80 by python3[812] failed: EADDRINUSE
  In the way: a listener (0.0.0.0:80) of nginx[77], for 19.0s.
  Why: somebody listens on the port. SO_REUSEADDR does not share it with a
  listener, even if both sockets have it; SO_REUSEPORT on both does. Neither has
  SO_REUSEPORT. 0.0.0.0 includes 127.0.0.1.
  What would have helped:
  - SO_REUSEPORT on both the new socket and the old, set before bind(), by the
    same user
  - stopping nginx[77], or closing the listener there
  - another address, such as 127.0.0.2: nobody is in the way there"
    );
    let why = |new: bool, old: Option<bool>, reuseaddr: bool| {
        let call = bind("0.0.0.0:80", |asker| {
            asker.reuseport = new;
            asker.reuseaddr = reuseaddr;
        });
        let old = with_holder(calls::listener("0.0.0.0:80"), |holder| {
            holder.reuseport = old;
        });
        body(calls::held(
            &call,
            Rule::PortListening,
            vec![old],
            Vec::new(),
        ))
    };
    let text = why(true, Some(false), false);
    assert!(
        text.contains("The new socket has SO_REUSEPORT, the listener does not."),
        "{text}"
    );
    let text = why(false, Some(true), false);
    assert!(
        text.contains("The listener has SO_REUSEPORT, the new socket does not."),
        "{text}"
    );
    let text = why(false, None, true);
    assert!(
        text.contains(
            "Why: somebody listens on the port. SO_REUSEADDR does not share it with a listener, even if both sockets have it; SO_REUSEPORT on both does. No remedy is known that the rules confirm."
        ),
        "{text}"
    );
}

#[test]
fn connections_beside_a_listener_are_told_to_be_in_the_way_too() {
    let found = calls::held(
        &bind("0.0.0.0:8000", |_| {}),
        Rule::PortListening,
        vec![calls::listener("0.0.0.0:8000"), calls::time_wait(5)],
        Vec::new(),
    );
    let text = body(found);
    assert!(
        text.contains(
            "Neither has SO_REUSEPORT. Without the listener, the other sockets would still be in the way: not both sides have SO_REUSEADDR, or both SO_REUSEPORT."
        ),
        "{text}"
    );
}

#[test]
fn a_second_listen_is_told_apart_from_bind() {
    let call = calls::call(Call::Listen, libc::EADDRINUSE, "0.0.0.0:80");
    let found = calls::held(
        &call,
        Rule::PortListening,
        vec![calls::listener("0.0.0.0:80")],
        vec![Remedy::CloseHolders(vec![0])],
    );
    assert_eq!(
        told(PIPE, found),
        "! listen 0.0.0.0:80 by python3[812] failed: EADDRINUSE  In the way: a listener \
         (0.0.0.0:80) of nginx[77], for 19.0s. Why: only one of the sockets that share a port by \
         SO_REUSEADDR may listen: bind() lets them all, listen() only the first. Neither has \
         SO_REUSEPORT. \
         What would have helped: stopping nginx[77], or closing the listener there."
    );
}

#[test]
fn who_has_which_option_is_told() {
    let why = |new: (bool, bool), old: &[(Option<bool>, Option<bool>)]| {
        let call = bind("127.0.0.1:8000", |asker| {
            (asker.reuseaddr, asker.reuseport) = new;
        });
        let old = old.iter().map(|options| {
            with_holder(calls::time_wait(50_000), |holder| {
                (holder.reuseaddr, holder.reuseport) = *options;
            })
        });
        let text = body(calls::held(
            &call,
            Rule::PortHeld,
            old.collect(),
            Vec::new(),
        ));
        let (_, why) = text.split_once("both have SO_REUSEPORT. ").unwrap();
        let (why, _) = why.split_once(" No remedy").unwrap();
        why.to_owned()
    };
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(
        why((false, false), &[(no, no)]),
        "Here, none of them has either option."
    );
    assert_eq!(
        why((false, false), &[(yes, no)]),
        "The new socket has neither, the one in the way has SO_REUSEADDR."
    );
    assert_eq!(
        why((true, false), &[(no, no)]),
        "The new socket has SO_REUSEADDR, the one in the way has neither. \
         SO_REUSEADDR on the new socket alone changes nothing."
    );
    assert_eq!(
        why((true, true), &[(no, no), (yes, no), (no, no), (None, yes)]),
        "The new socket has both, of those in the way 2 have neither, 1 has SO_REUSEADDR, 1 has \
         options that are not known. SO_REUSEADDR on the new socket alone changes nothing."
    );
    assert_eq!(
        why((false, true), &[(no, yes), (no, yes)]),
        "The new socket has SO_REUSEPORT, those in the way have SO_REUSEPORT."
    );
}

#[test]
fn an_address_that_is_in_the_way_of_another_one_is_explained() {
    let why = |new: &str, new_v6only: bool, old: HolderFound| {
        let call = bind(new, |asker| asker.v6only = new_v6only);
        let text = body(calls::held(&call, Rule::PortHeld, vec![old], Vec::new()));
        let (_, why) = text
            .split_once("Here, none of them has either option.")
            .unwrap();
        let (why, _) = why.split_once(" No remedy").unwrap();
        why.trim_start().to_owned()
    };
    let bound = |address: &str| calls::holder(TcpState::Close, address, "0.0.0.0:0", None);
    assert_eq!(why("127.0.0.1:1", false, bound("127.0.0.1:1")), "");
    assert_eq!(why("127.0.0.1:1", false, bound("[::ffff:127.0.0.1]:1")), "");
    assert_eq!(
        why("0.0.0.0:1", false, bound("127.0.0.1:1")),
        "0.0.0.0 includes 127.0.0.1."
    );
    assert_eq!(
        why("127.0.0.1:1", false, bound("0.0.0.0:1")),
        "0.0.0.0 includes 127.0.0.1."
    );
    assert_eq!(why("[::]:1", true, bound("[::1]:1")), ":: includes ::1.");
    assert_eq!(
        why("[::]:1", false, bound("127.0.0.1:1")),
        "A socket on :: without IPV6_V6ONLY takes the port of IPv4, too."
    );
    assert_eq!(
        why("127.0.0.1:1", false, bound("[::]:1")),
        "A socket on :: without IPV6_V6ONLY has the port of IPv4, too."
    );
    let child = calls::holder(TcpState::Established, "[::1]:1", "[::1]:2", None);
    assert_eq!(
        why("0.0.0.0:1", false, child),
        "An IPv6 connection whose listener was open to IPv4 as well is in the way of 0.0.0.0."
    );
    let only_v6 = with_holder(bound("[::]:1"), |holder| holder.v6only = None);
    assert_eq!(why("127.0.0.1:1", false, only_v6), "");
}

#[test]
fn exhausted_ports_are_counted_by_state_and_destination() {
    assert_eq!(
        told(TERMINAL, calls::exhausted()),
        "\
! connect 10.0.0.5:5432 by python3[812] failed: EADDRNOTAVAIL
  Why: no port is left for 10.0.0.5:5432 in 32768-60999
  (net.ipv4.ip_local_port_range): 28232 ports, 4 reserved
  (ip_local_reserved_ports), 28228 held when it was counted. Connected to
  10.0.0.5:5432: 27000 TIME_WAIT, 1200 ESTABLISHED. All sockets on these ports,
  whatever they are connected to: 27000 TIME_WAIT, 1200 ESTABLISHED, 16 LISTEN,
  12 only bound. connect() counts ports for each destination address and port
  apart, and leaves ports alone that a bind() has taken.
  What would have helped:
  - sysctl net.ipv4.tcp_tw_reuse=1, so that connect() takes over ports that are
    in TIME_WAIT
  - a wider sysctl net.ipv4.ip_local_port_range
  - another address or port of the peer: each has ports of its own"
    );
}

#[test]
fn port_0_is_another_thing() {
    let mut found = calls::exhausted();
    found.call = bind("127.0.0.1:0", |asker| {
        asker.port_range = Some((40_000, 40_000));
    });
    found.rule = Rule::NoFreePort;
    found.remedies = vec![Remedy::AutobindReuse];
    if let Some(ports) = &mut found.ports {
        ports.range = (40_000, 40_000);
        ports.reserved = 0;
        ports.held = 1;
        ports.destination = None;
        ports.by_state = [0; 14];
        ports.by_state[usize::from(TcpState::Close.number())] = 1;
    }
    assert_eq!(
        body(found.clone()),
        "Why: no port is left in 40000-40000 (the socket's IP_LOCAL_PORT_RANGE): 1 port, none \
         reserved, 1 held when it was counted. Sockets that hold them: 1 only bound. A port without \
         a number is given only if no other socket has it, whatever SO_REUSEADDR or SO_REUSEPORT \
         say. What would have helped: sysctl net.ipv4.ip_autobind_reuse=1, with SO_REUSEADDR on all \
         sockets."
    );
    found.ports = None;
    let text = body(found);
    assert!(
        text.starts_with(
            "Why: every port of the automatic range is held or reserved. How they are used was not \
             counted. What"
        ),
        "{text}"
    );
}

#[test]
fn another_users_reuseport_names_both_users() {
    let call = bind("0.0.0.0:80", |asker| asker.reuseport = true);
    let found = calls::held(
        &call,
        Rule::ReuseportOtherUser,
        vec![calls::listener("0.0.0.0:80")],
        Vec::new(),
    );
    let text = body(found);
    assert!(
        text.contains(
            "Why: both have SO_REUSEPORT, which shares a port among sockets of one user only. The \
             new socket belongs to uid 1000, the one in the way to uid 33."
        ),
        "{text}"
    );
}

#[test]
fn what_the_network_answers_is_one_line_without_alarm() {
    let found = calls::failed(
        &calls::call(Call::Connect, libc::ECONNREFUSED, "127.0.0.1:9"),
        Rule::Refused,
    );
    assert_eq!(
        told(PIPE, found),
        "* connect 127.0.0.1:9 by python3[812] failed: ECONNREFUSED  The peer answered with a RST: \
         nobody listens there, or a firewall says so."
    );
    let mut call = calls::call(Call::Connect, libc::ETIMEDOUT, "127.0.0.1:9");
    call.began_ns = Some(calls::CALLED_NS - 31_000_000_000);
    assert_eq!(
        body(calls::failed(&call, Rule::TimedOut)),
        "The peer did not answer for 31.0s."
    );
}

/// What is said of `rule` for a bind() that is changed like that.
fn why(rule: Rule, change: &dyn Fn(&mut tcptrace_model::SocketCall)) -> String {
    let mut call = bind("10.9.8.7:80", |_| {});
    change(&mut call);
    body(calls::failed(&call, rule))
}

#[test]
fn every_other_rule_has_its_words() {
    let same = |rule: Rule| why(rule, &|_| {});
    for (rule, words) in [
        (
            Rule::SecurityModule,
            "Why: a Linux security module (such as SELinux, AppArmor or Landlock) does not allow it. Its log (audit) may say more.",
        ),
        (
            Rule::CgroupProgram,
            "Why: an eBPF program that is attached to its cgroup does not allow it.",
        ),
        (
            Rule::AddressLength,
            "Why: 16 bytes are too short for an address of an IPv4 socket.",
        ),
        (
            Rule::AddressFamily,
            "Why: the address is not of the socket's family, which is IPv4.",
        ),
        (
            Rule::Multicast,
            "Why: a TCP socket cannot have a multicast address.",
        ),
        (
            Rule::MappedOnV6only,
            "Why: it is an IPv4 address in IPv6 form, and the socket has IPV6_V6ONLY.",
        ),
        (
            Rule::LinkLocalWithoutScope,
            "Why: a link-local address means nothing without its interface (sin6_scope_id, the part behind % in fe80::1%eth0).",
        ),
        (Rule::NoSuchDevice, "Why: there is no such interface."),
        (
            Rule::AddressNotLocal,
            "Why: no interface has 10.9.8.7 in the network namespace of the socket.",
        ),
        (
            Rule::PrivilegedPort,
            "Why: port 80 is below net.ipv4.ip_unprivileged_port_start, and the process has no CAP_NET_BIND_SERVICE.",
        ),
        (
            Rule::AlreadyBound,
            "Why: the socket has a port or has been used. bind() comes once, and before connect() and listen().",
        ),
        (Rule::CannotListen, "Why: a socket in CLOSE cannot listen."),
        (
            Rule::NoSourceAddress,
            "Why: no address of this host can be the source of a connection to 10.9.8.7, as where IPv6 is disabled or an interface has no address.",
        ),
        (
            Rule::Unreachable,
            "There is no route to it, or a router or the peer said that it cannot be reached.",
        ),
        (Rule::AlreadyConnected, "The socket is connected."),
        (
            Rule::AlreadyConnecting,
            "An earlier connect() of the socket has not come to its end.",
        ),
        (
            Rule::Broadcast,
            "Why: it is a broadcast or multicast address, and TCP has one peer.",
        ),
        (
            Rule::NotPermitted,
            "Why: a firewall of this host, a route of type prohibit, or an eBPF program that is attached to its cgroup does not allow it.",
        ),
        (
            Rule::Interrupted,
            "A signal interrupted the call; the handshake goes on without it.",
        ),
        (Rule::NoMemory, "Why: the kernel had no memory for it."),
        (
            Rule::Unknown,
            "Why: not known; no rule that tcptrace knows gives EADDRINUSE here.",
        ),
    ] {
        assert_eq!(same(rule), words, "{rule:?}");
    }
}

#[test]
fn some_rules_say_more_where_more_is_known() {
    let scoped = why(Rule::NoSuchDevice, &|call| {
        call.asked = call.asked.map(|mut asked| {
            asked.scope = 7;
            asked
        });
    });
    assert_eq!(scoped, "Why: there is no interface with the index 7.");
    let bound = |state: TcpState| {
        why(Rule::AlreadyBound, &|call| {
            call.asker.state = state;
            call.asker.local = "127.0.0.1:5".parse().unwrap();
        })
    };
    let text = bound(TcpState::Close);
    assert!(
        text.starts_with("Why: the socket is bound already, to 127.0.0.1:5. "),
        "{text}"
    );
    let text = bound(TcpState::Listen);
    assert!(
        text.starts_with("Why: the socket listens already, on 127.0.0.1:5. "),
        "{text}"
    );
    let text = bound(TcpState::Established);
    assert!(
        text.starts_with("Why: the socket is in ESTABLISHED. "),
        "{text}"
    );
}

#[test]
fn a_connection_that_exists_already_is_in_the_way_of_a_bound_socket() {
    let found = calls::held(
        &calls::call(Call::Connect, libc::EADDRNOTAVAIL, "127.0.0.1:80"),
        Rule::TupleInTimeWait,
        vec![calls::time_wait(80)],
        vec![Remedy::Wait],
    );
    let text = body(found.clone());
    assert!(
        text.contains(
            "Why: a connection with the same two addresses and ports is in TIME_WAIT. A new one may \
             take its place only if the old one used TCP timestamps, or after its time is over. What \
             would have helped: waiting: the addresses and ports are free in 41.0s, or up to 2.05s later."
        ),
        "{text}"
    );
    let text = body(CallFailed {
        rule: Rule::TupleInUse,
        ..found
    });
    assert!(
        text.contains(
            "Why: a connection with the same two addresses and ports exists; there can be only one."
        ),
        "{text}"
    );
}
