//! What is told of calls, to the character.

mod remedies;
mod why;

use std::net::SocketAddr;

use tcptrace_model::{
    CallFailed, CallSucceeded, FailedBind, HolderFound, Owner, OwnerSource, Phase,
    conflict::{Asker, Call, Family, Holder, Remedy, Rule},
};

use super::*;
use crate::render::text::samples::calls;

const PIPE: Layout = Layout {
    width: None,
    ..TERMINAL
};

fn told(layout: Layout, found: CallFailed) -> String {
    lines(layout, &[Finding::CallFailed(Box::new(found))]).join("\n")
}

/// One line, behind the heading.
fn body(found: CallFailed) -> String {
    let line = told(PIPE, found);
    let (_, body) = line.split_once("  ").unwrap();
    body.to_owned()
}

fn succeeded(found: &CallSucceeded) -> String {
    lines(TERMINAL, &[Finding::CallSucceeded(Box::new(*found))]).join("\n")
}

/// bind() of this address by a socket with these options.
fn bind(address: &str, change: impl FnOnce(&mut Asker)) -> tcptrace_model::SocketCall {
    let mut call = calls::call(Call::Bind, libc::EADDRINUSE, address);
    change(&mut call.asker);
    call
}

fn with_holder(found: HolderFound, change: impl FnOnce(&mut Holder)) -> HolderFound {
    let mut found = found;
    change(&mut found.holder);
    found
}

#[test]
fn a_server_that_restarts_too_early_learns_what_is_in_the_way_why_and_until_when() {
    assert_eq!(
        told(TERMINAL, calls::restarted()),
        "\
! bind 0.0.0.0:8000 by python3[812] failed: EADDRINUSE
  In the way: 3 connections in TIME_WAIT (127.0.0.1:8000 -- 127.0.0.1:50210,
  127.0.0.1:8000 -- 127.0.0.1:50212, 1 more) left by python3[770] (owner of the
  listener), for up to 19.0s, the last timer runs out in 41.0s.
  Why: two sockets share a port only if both have SO_REUSEADDR and neither
  listens, or both have SO_REUSEPORT. Here, none of them has either option.
  0.0.0.0 includes 127.0.0.1.
  What would have helped:
  - SO_REUSEADDR on both: on the new socket before bind(), and on the old
    listener when it accepted these connections, which keep what the listener
    had then (too late now, right for the next restart)
  - waiting: the port is free in 41.0s, or up to 2.05s later"
    );
}

#[test]
fn in_a_pipe_it_is_one_line() {
    let text = told(PIPE, calls::restarted());
    assert_eq!(text.lines().count(), 1);
    assert!(
        text.starts_with(
            "! bind 0.0.0.0:8000 by python3[812] failed: EADDRINUSE  In the way: 3 connections in \
             TIME_WAIT (127.0.0.1:8000 -- 127.0.0.1:50210, "
        ),
        "{text}"
    );
    assert!(
        text.ends_with(
            " (too late now, right for the next restart); or waiting: the port is free in 41.0s, or \
             up to 2.05s later."
        ),
        "{text}"
    );
}

#[test]
fn the_same_is_told_of_a_call_that_nobody_made() {
    let found = CallFailed {
        call: bind("0.0.0.0:8000", |asker| asker.reuseaddr = true),
        ..calls::restarted()
    };
    let text = call::would_fail(&TERMINAL, None, &found);
    assert!(
        text.starts_with(
            "! bind 0.0.0.0:8000 (with SO_REUSEADDR) would fail now: EADDRINUSE\n  In the way: 3 "
        ),
        "{text}"
    );
    assert!(!text.contains("812"), "{text}");
    for part in [
        "The new socket would have SO_REUSEADDR,\n  those in the way have neither.",
        "\n  What would help:\n",
        " in 41.0s, or some seconds later\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn what_depends_on_something_unknown_may_fail() {
    let heading = |certainty| {
        let found = CallFailed {
            certainty,
            doubts: samples::doubts(&[Doubt::OptionsUnknown]),
            ..calls::restarted()
        };
        let text = call::would_fail(&PIPE, Some(250), &found);
        let (heading, _) = text.split_once("  ").unwrap();
        heading.to_owned()
    };
    for (certainty, words) in [
        (
            Certainty::Exact,
            "! bind 0.0.0.0:8000 would fail now: EADDRINUSE",
        ),
        (
            Certainty::Inferred,
            "? bind 0.0.0.0:8000 would probably fail now: EADDRINUSE",
        ),
        (
            Certainty::Unknown,
            "? bind 0.0.0.0:8000 may fail now: EADDRINUSE",
        ),
    ] {
        assert_eq!(heading(certainty), words);
    }
}

#[test]
fn a_call_that_would_succeed_says_who_shares_the_port() {
    let call = calls::call(Call::Bind, 0, "127.0.0.1:80");
    assert_eq!(
        call::would_succeed(&TERMINAL, &call, &[], 0),
        "* bind 127.0.0.1:80 would succeed now  No socket holds the port.\n"
    );
    let other = HolderFound {
        blocks: false,
        ..calls::listener("127.0.0.2:80")
    };
    assert_eq!(
        call::would_succeed(&PIPE, &call, &[other], 3),
        "* bind 127.0.0.1:80 would succeed now  Holding the port, and not in the way: a listener \
         (127.0.0.2:80) of nginx[77], for 19.0s; and 2 more.\n"
    );
    let connect = calls::call(Call::Connect, 0, "127.0.0.1:80");
    assert_eq!(
        call::would_succeed(&PIPE, &connect, &[], 0),
        "* connect 127.0.0.1:80 would succeed now  Nothing on this host is in the way.\n"
    );
}

#[test]
fn many_holders_are_told_in_groups() {
    let owners = |index: u16| -> Option<Owner> {
        index
            .is_multiple_of(2)
            .then(|| samples::owner(70, "nginx", OwnerSource::Accept))
    };
    let mut holders: Vec<HolderFound> = (0..60)
        .map(|index| HolderFound {
            owner: owners(index),
            ..calls::holder(
                TcpState::Established,
                "127.0.0.1:80",
                &format!("127.0.0.1:{}", 50_000 + index),
                None,
            )
        })
        .collect();
    holders[1].since_ns = None;
    holders.push(HolderFound {
        owner: None,
        ..calls::time_wait(1)
    });
    let orphan = with_holder(calls::time_wait(2), |holder| {
        holder.state = TcpState::FinWait2;
        holder.minisocket = Some(Phase::FinWait2);
    });
    holders.push(HolderFound {
        frees_at_ns: Some(calls::CALLED_NS - 1),
        ..orphan
    });
    let mut found = calls::held(
        &bind("0.0.0.0:80", |_| {}),
        Rule::PortHeld,
        holders,
        Vec::new(),
    );
    found.blocking_total = 70;
    found.holders_total = 75;
    let text = told(TERMINAL, found);
    assert!(
        text.starts_with(
            "\
! bind 0.0.0.0:80 by python3[812] failed: EADDRINUSE
  In the way:
  - 30 connections in ESTABLISHED (127.0.0.1:80 -- 127.0.0.1:50000, 127.0.0.1:80
    -- 127.0.0.1:50002, 28 more) of nginx[70], for up to 19.0s
  - 30 connections in ESTABLISHED (127.0.0.1:80 -- 127.0.0.1:50001, 127.0.0.1:80
    -- 127.0.0.1:50003, 28 more) of a process that is not known
  - a connection in TIME_WAIT (127.0.0.1:8000 -- 127.0.0.1:1) left by a process
    that is not known, for 19.0s, its timer runs out in 41.0s
  - an orphaned connection in FIN_WAIT2 (127.0.0.1:8000 -- 127.0.0.1:2) left by
    python3[770] (owner of the listener), for 19.0s, its timer has run out and
    ends it any moment
  - and 8 more
  5 more sockets hold the port and are not in the way.
"
        ),
        "{text}"
    );
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
}

#[test]
fn of_very_many_groups_the_first_are_told() {
    let holders: Vec<HolderFound> = (0..64)
        .map(|pid| HolderFound {
            owner: Some(samples::owner(pid, "worker", OwnerSource::Accept)),
            ..calls::holder(TcpState::CloseWait, "127.0.0.1:80", "127.0.0.1:5", None)
        })
        .collect();
    let all = (0..64).collect();
    let found = calls::held(
        &bind("0.0.0.0:80", |_| {}),
        Rule::PortHeld,
        holders,
        vec![Remedy::CloseHolders(all)],
    );
    let text = told(TERMINAL, found);
    assert_eq!(text.matches("a connection in CLOSE_WAIT").count(), 6);
    assert!(text.contains("  - and 58 more\n"), "{text}");
    assert!(
        text.contains("stopping worker[0], worker[1], worker[2] and 61 more,\n  or closing the connections there."),
        "{text}"
    );
}

#[test]
fn a_holder_that_nobody_saw_is_not_made_up() {
    let found = CallFailed {
        certainty: Certainty::Unknown,
        doubts: samples::doubts(&[Doubt::HoldersNotListed]),
        ..calls::failed(&bind("0.0.0.0:80", |_| {}), Rule::PortHeld)
    };
    assert_eq!(
        told(PIPE, found.clone()),
        "! bind 0.0.0.0:80 by python3[812] failed: EADDRINUSE  In the way: not known; no socket \
         that holds the port was seen. Why: two sockets share a port only if both have SO_REUSEADDR \
         and neither listens, or both have SO_REUSEPORT. The new socket has neither. No remedy is \
         known that the rules confirm. Not known for sure: the kernel did not list who holds the \
         port."
    );
    let inferred = CallFailed {
        certainty: Certainty::Inferred,
        ..found
    };
    let text = body(inferred);
    assert!(
        text.ends_with("Probably so: the kernel did not list who holds the port."),
        "{text}"
    );
}

#[test]
fn listen_on_a_port_that_nobody_asked_for_is_loud() {
    assert_eq!(
        succeeded(&calls::autobound()),
        "\
! listen() of python3[812] succeeded on 0.0.0.0:43211, a port nobody asked for
  The bind to 0.0.0.0:8000 before it had failed with EADDRINUSE; the kernel then
  gave listen() a free port. Who connects to port 8000 does not reach this
  socket."
    );
    let unbound = CallSucceeded {
        after_failed_bind: None,
        ..calls::autobound()
    };
    let text = succeeded(&unbound);
    assert!(
        text.contains("The socket was not bound before: the kernel chose the port."),
        "{text}"
    );
}

#[test]
fn a_call_that_succeeds_is_one_line() {
    let mut call = calls::call(Call::Bind, 0, "0.0.0.0:8001");
    call.local = "0.0.0.0:8001".parse().unwrap();
    let found = CallSucceeded {
        call,
        autobound: false,
        after_failed_bind: None,
    };
    assert_eq!(
        succeeded(&found),
        "* bind 0.0.0.0:8001 by python3[812] succeeded"
    );
    let after = CallSucceeded {
        after_failed_bind: Some(FailedBind {
            asked: None,
            ..calls::failed_bind()
        }),
        ..found
    };
    assert_eq!(
        succeeded(&after),
        "* bind 0.0.0.0:8001 by python3[812] succeeded  A bind before it had failed with\n  \
         EADDRINUSE."
    );
}

#[test]
fn listen_that_fails_says_that_bind_had_failed_before() {
    let found = CallFailed {
        after_failed_bind: Some(calls::failed_bind()),
        ..calls::failed(
            &calls::call(Call::Listen, libc::EADDRINUSE, "0.0.0.0:0"),
            Rule::NoFreePort,
        )
    };
    let text = told(PIPE, found);
    assert!(
        text.starts_with(
            "! listen on a socket without a port by python3[812] failed: EADDRINUSE  "
        ),
        "{text}"
    );
    assert!(
        text.ends_with("The bind to 0.0.0.0:8000 before it had failed with EADDRINUSE."),
        "{text}"
    );
}

#[test]
fn what_was_asked_is_not_made_up() {
    let heading = |change: &dyn Fn(&mut tcptrace_model::SocketCall)| {
        let mut call = bind("0.0.0.0:80", |_| {});
        change(&mut call);
        told(PIPE, calls::failed(&call, Rule::Unknown))
    };
    let text = heading(&|call| call.asked = None);
    assert!(text.starts_with("! bind (address not known) by "), "{text}");
    let text = heading(&|call| {
        call.asked = call.asked.map(|mut asked| {
            asked.family = 1;
            asked
        });
    });
    assert!(text.starts_with("! bind (address family 1) by "), "{text}");
}

#[test]
fn wide_tells_all_of_the_socket_that_asked() {
    let wide = Layout { wide: true, ..PIPE };
    let call = bind("[::]:80", |asker| {
        asker.family = Family::V6;
        asker.v6only = true;
        asker.reuseaddr = true;
        asker.device = 3;
    });
    let text = told(wide, calls::failed(&call, Rule::NoMemory));
    assert_eq!(
        text,
        "! bind [::]:80 by python3[812] failed: EADDRINUSE  The socket that asked: \
         SO_REUSEADDR IPV6_V6ONLY, bound to interface 3, uid 1000, netns 4026531840, cgroup 4242, thread 813, \
         skaddr 0xffff888100005000, cookie 91, took 4.00us. Why: the kernel had no memory for it."
    );
}

#[test]
fn a_hostile_name_stays_text_in_a_call() {
    let mut found = calls::second_server();
    found.call.task.comm = samples::process(1, "a\x1b[2J\n").comm;
    found.holders[0].owner = Some(samples::owner(5, "b\x1b[2J\r", OwnerSource::Listen));
    let text = told(PIPE, found);
    assert!(!text.contains('\x1b') && !text.contains('\r'), "{text:?}");
    assert!(text.contains(" by a\\x1b[2J\\x0a[812] failed"), "{text}");
    assert!(text.contains(" of b\\x1b[2J\\x0d[5], for"), "{text}");
    assert!(text.contains("stopping b\\x1b[2J\\x0d[5],"), "{text}");
}

#[test]
fn long_addresses_wrap_below_the_times() {
    let address = "[2001:db8:1111:2222:3333:4444:5555:6666]:40000";
    let peer = "[2001:db8:1111:2222:3333:4444:5555:7777]:40000";
    let parsed: SocketAddr = address.parse().unwrap();
    let holder = calls::holder(TcpState::CloseWait, address, peer, Some(samples::nginx()));
    let mut found = calls::held(
        &calls::call(Call::Bind, libc::EADDRINUSE, address),
        Rule::PortHeld,
        vec![holder],
        vec![Remedy::OtherAddress(parsed.ip()), Remedy::Wait],
    );
    found.free_at_ns = None;
    let layout = Layout {
        timestamp: true,
        ..TERMINAL
    };
    let text = told(layout, found);
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    assert!(text.starts_with("  60.000000 ! bind [2001:"), "{text}");
    assert!(
        text.lines()
            .skip(1)
            .all(|line| line.starts_with(&" ".repeat(14))),
        "{text}"
    );
    assert!(
        text.ends_with(
            "              - waiting: what is in the way goes by itself, when is not known"
        ),
        "{text}"
    );
}

#[test]
fn colour_is_for_the_mark_and_the_heading() {
    let coloured = written(
        Layout {
            colour: true,
            ..TERMINAL
        },
        &[Finding::CallFailed(Box::new(calls::restarted()))],
    );
    assert!(
        coloured.contains(
            "\x1b[1m\x1b[31m!\x1b[0m \x1b[1mbind 0.0.0.0:8000 by python3[812] failed: \
             EADDRINUSE\x1b[0m\n  In the way"
        ),
        "{coloured:?}"
    );
}
