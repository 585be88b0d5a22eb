//! The kernel's listing, joined with what the trace knows of each socket in it.

use tcptrace_model::{
    Existing, Input, OwnerSource, Phase, Snapshot, Socket, SocketCall,
    TcpState::{Close, CloseWait, Established, FinWait1, FinWait2, Listen},
    conflict::Rule,
};

use super::{bind_fails, child, cookie, holder, minisocket_holder, owner};
use crate::scene::{
    APP, HOST, MINUTE, ORPHAN, OTHER, RELEASED, S, Scene, address, listener, process,
};

#[test]
fn a_child_that_nobody_has_accepted_is_its_listeners() {
    let mut scene = Scene::new();
    scene.listens(OTHER, &listener(1, "0.0.0.0:80"));
    let c = child(2, "10.0.0.1:80");
    scene.arrives(&c);
    scene.told();
    scene.lists(3, holder(&c, Established), None);
    scene.calls(bind_fails(3, "10.0.0.1:80"));
    let found = scene.failure().holders[0];
    assert_eq!(found.owner, Some(owner(OTHER, OwnerSource::Listener)));
    assert!(found.since_ns.is_some());
}

#[test]
fn a_child_of_which_nothing_is_known_is_its_listeners_but_a_bound_client_is_not() {
    let mut scene = Scene::new();
    scene.listens(OTHER, &listener(1, "0.0.0.0:80"));
    scene.told();
    let c = child(2, "10.0.0.1:80");
    scene.lists(3, holder(&c, Established), None);
    let mut client = holder(&child(4, "10.0.0.1:80"), Established);
    client.port_bound = Some(true);
    scene.lists(3, client, None);
    scene.calls(bind_fails(3, "10.0.0.1:80"));
    let told = scene.failure();
    let of = |sk: u64| {
        let found = told.holders.iter().find(|found| found.holder.sk == sk);
        found.unwrap().owner
    };
    assert_eq!(of(2), Some(owner(OTHER, OwnerSource::Listener)));
    assert_eq!(of(4), None);
}

#[test]
fn since_when_it_is_in_its_state_is_told_if_it_was_seen_to_enter_it() {
    let mut scene = Scene::new();
    let c = child(2, "10.0.0.1:80");
    scene.accepts(&c);
    scene.goes(&c, Established, CloseWait);
    let since_ns = scene.now_ns;
    scene.told();
    scene.lists(3, holder(&c, CloseWait), None);
    scene.calls(bind_fails(3, "10.0.0.1:80"));
    assert_eq!(scene.failure().holders[0].since_ns, Some(since_ns));
    // The kernel is ahead of the records.
    scene.lists(3, holder(&c, FinWait1), None);
    scene.calls(bind_fails(3, "10.0.0.1:80"));
    let found = scene.failure().holders[0];
    assert_eq!(found.since_ns, None);
    assert_eq!(found.owner, Some(owner(APP, OwnerSource::Accept)));
}

#[test]
fn a_socket_at_a_recycled_address_has_nothing_of_the_one_before() {
    let mut scene = Scene::new();
    let old = child(2, "10.0.0.1:443");
    scene.accepts(&old);
    let mut known = child(4, "10.0.0.1:80");
    known.cookie = cookie(4);
    scene.accepts(&known);
    scene.told();
    let new = child(2, "10.0.0.1:80");
    scene.lists(3, holder(&new, Established), None);
    let renewed = Socket {
        cookie: cookie(5),
        ..known
    };
    scene.lists(3, holder(&renewed, Established), None);
    scene.calls(bind_fails(3, "10.0.0.1:80"));
    let told = scene.failure();
    assert_eq!(told.holders_total, 2);
    for found in told.holders {
        assert_eq!((found.owner, found.since_ns), (None, None), "{found:?}");
    }
}

#[test]
fn an_orphan_in_fin_wait2_is_known_as_the_minisocket_that_it_is() {
    let mut scene = Scene::new();
    let c = child(2, "10.0.0.1:80");
    scene.accepts(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters(&c, 9, Phase::FinWait2);
    let entered_ns = scene.now_ns;
    scene.closes(&c, FinWait2, Close, ORPHAN);
    scene.told();
    scene.lists(3, minisocket_holder(&c, 9, Phase::FinWait2), None);
    scene.calls(bind_fails(3, "10.0.0.1:80"));
    let told = scene.failure();
    let found = told.holders[0];
    assert_eq!(found.holder.state, FinWait2);
    assert_eq!(found.since_ns, Some(entered_ns));
    assert_eq!(found.owner, Some(owner(APP, OwnerSource::Accept)));
    assert_eq!(told.free_at_ns, Some(entered_ns + MINUTE));
}

#[test]
fn what_only_a_snapshot_has_shown_is_joined_by_its_tuple() {
    let mut scene = Scene::new();
    let c = child(2, "10.0.0.1:80");
    let waiting = Socket {
        remote: address("10.0.0.9:6666"),
        ..c
    };
    let l = listener(1, "0.0.0.0:80");
    let ts_ns = scene.now_ns;
    let existing = |socket: &Socket, state, minisocket_expires_in_ns| {
        Snapshot::Socket(Existing {
            ts_ns,
            cookie: None,
            netns: HOST,
            local: socket.local,
            remote: socket.remote,
            state,
            minisocket_expires_in_ns,
            process: Some(process(OTHER)),
        })
    };
    for snapshot in [
        Snapshot::Begin { ts_ns },
        existing(&c, Established, None),
        existing(&l, Listen, None),
        existing(&waiting, tcptrace_model::TcpState::TimeWait, Some(7 * S)),
        Snapshot::End {
            ts_ns,
            complete: true,
        },
    ] {
        scene.tracker.handle(&Input::Snapshot(snapshot));
    }
    scene.lists(3, holder(&c, Established), None);
    scene.lists(3, holder(&l, Listen), None);
    scene.lists(3, minisocket_holder(&waiting, 9, Phase::TimeWait), None);
    scene.calls(bind_fails(3, "0.0.0.0:80"));
    let told = scene.failure();
    let of = |sk: u64| {
        let found = told.holders.iter().find(|found| found.holder.sk == sk);
        *found.unwrap()
    };
    assert_eq!(of(2).owner, Some(owner(OTHER, OwnerSource::Proc)));
    assert_eq!(of(1).owner, Some(owner(OTHER, OwnerSource::Proc)));
    assert_eq!(of(9).frees_at_ns, Some(ts_ns + 7 * S));
    assert_eq!(of(2).since_ns, None);
}

#[test]
fn a_child_has_the_options_that_its_listener_had_then() {
    let mut scene = Scene::new();
    let with = |socket: Socket, reuseaddr| Socket {
        reuseaddr,
        ..socket
    };
    scene.listens(APP, &with(listener(1, "0.0.0.0:80"), true));
    scene.accepts(&with(child(2, "10.0.0.1:80"), true));
    // SO_REUSEADDR is cleared on the listener: its next child has none.
    let later = Socket {
        remote: address("10.0.0.9:6666"),
        ..child(4, "10.0.0.1:80")
    };
    scene.accepts(&with(later, false));
    scene.told();
    scene.calls(SocketCall {
        listing: tcptrace_model::Listing::None,
        ..super::with_reuseaddr(bind_fails(3, "10.0.0.1:80"))
    });
    let told = scene.failure();
    let of = |sk: u64| {
        let found = told.holders.iter().find(|found| found.holder.sk == sk);
        *found.unwrap()
    };
    assert_eq!(of(2).holder.reuseaddr, Some(true));
    assert_eq!(of(4).holder.reuseaddr, Some(false));
    assert!(!of(2).blocks);
    assert!(of(4).blocks && of(4).rule == Some(Rule::PortHeld));
    assert_eq!(of(4).holder.port_bound, Some(false));
}

#[test]
fn the_socket_that_the_kernel_names_is_marked() {
    let mut scene = Scene::new();
    let (one, two) = (child(4, "10.0.0.1:80"), child(5, "10.0.0.2:80"));
    scene.lists(3, holder(&one, Established), None);
    scene.lists(3, holder(&two, Established), None);
    scene.calls(SocketCall {
        guilty: Some(5),
        ..bind_fails(3, "0.0.0.0:80")
    });
    let told = scene.failure();
    assert_eq!(told.holders[0].holder.sk, 5);
    assert!(told.holders[0].named_by_kernel && told.holders[0].blocks);
    assert!(!told.holders[1].named_by_kernel && told.holders[1].blocks);
}

#[test]
fn the_socket_that_the_kernel_met_last_while_it_chose_a_port_is_not_listed() {
    let mut scene = Scene::new();
    let c = child(5, "10.0.0.1:80");
    scene.accepts(&c);
    scene.told();
    scene.calls(SocketCall {
        guilty: Some(5),
        ..bind_fails(3, "10.0.0.1:0")
    });
    let told = scene.failure();
    assert_eq!(told.rule, Rule::NoFreePort);
    assert!(told.holders.is_empty(), "{:?}", told.holders);
}
