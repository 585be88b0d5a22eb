//! Sockets that are bound and do nothing else: no event shows them, and none shows their end.

use tcptrace_model::{
    Certainty, Doubt, Existing, Input, OptionsSource, OwnerSource, Snapshot, Socket,
    TcpState::{BoundInactive, Close, Established, Listen, SynRecv, SynSent},
    conflict::Rule,
};

use super::{EADDRINUSE, bind_fails, binds, child, cookie, holder, listens, owner, with_reuseaddr};
use crate::scene::{
    APP, CONTAINER, HOST, MS, OPEN, ORPHAN, OTHER, RELEASED, Scene, address, error, listener,
    process, socket,
};
use tcptrace_model::{Listing, SocketCall};

/// A bind() that fails, and whose holders nobody has listed.
fn unlisted(sk: u64, addr: &str) -> SocketCall {
    SocketCall {
        listing: Listing::None,
        ..bind_fails(sk, addr)
    }
}

#[test]
fn a_socket_that_is_only_bound_is_found_with_its_owner_in_the_kernels_listing() {
    let mut scene = Scene::new();
    scene.calls(SocketCall {
        task: OTHER,
        ..binds(1, "0.0.0.0:80")
    });
    let bound_ns = scene.now_ns;
    let bound = holder(&listener(1, "0.0.0.0:80"), Close);
    scene.told();
    scene.lists(2, bound, None);
    scene.calls(bind_fails(2, "0.0.0.0:80"));
    let told = scene.failure();
    assert_eq!(told.certainty, Certainty::Exact);
    assert!(told.doubts.is_empty());
    assert_eq!(told.rule, Rule::PortHeld);
    let found = told.holders[0];
    assert_eq!(found.owner, Some(owner(OTHER, OwnerSource::Bind)));
    assert_eq!(found.since_ns, Some(bound_ns));
    assert_eq!((found.frees_at_ns, told.free_at_ns), (None, None));
}

#[test]
fn without_a_listing_it_is_known_from_its_bind_and_may_be_gone() {
    let mut scene = Scene::new();
    scene.calls(with_reuseaddr(binds(1, "10.0.0.1:80")));
    scene.told();
    scene.calls(unlisted(2, "0.0.0.0:80"));
    let told = scene.failure();
    assert_eq!(told.rule, Rule::PortHeld);
    assert_eq!(told.certainty, Certainty::Inferred);
    assert!(told.doubts.contains(Doubt::CloseNotShown));
    assert!(told.doubts.contains(Doubt::HoldersNotListed));
    let found = told.holders[0];
    assert_eq!(found.holder.sk, 1);
    assert_eq!(found.holder.reuseaddr, Some(true));
    assert_eq!(found.options, OptionsSource::Event);
}

#[test]
fn a_listing_that_does_not_have_it_shows_that_it_is_gone() {
    let mut scene = Scene::new();
    scene.calls(binds(1, "0.0.0.0:80"));
    scene.calls(binds(2, "0.0.0.0:81"));
    let other = child(5, "10.0.0.1:80");
    scene.lists(3, holder(&other, Established), None);
    scene.calls(bind_fails(3, "0.0.0.0:80"));
    scene.told();
    scene.calls(unlisted(4, "0.0.0.0:80"));
    assert_eq!(scene.failure().holders_total, 0);
    // Of another port it says nothing.
    scene.calls(unlisted(4, "0.0.0.0:81"));
    assert_eq!(scene.failure().holders[0].holder.sk, 2);
}

#[test]
fn one_that_goes_on_is_not_only_bound_any_more() {
    let mut scene = Scene::new();
    scene.calls(binds(1, "0.0.0.0:80"));
    scene.listens(APP, &listener(1, "0.0.0.0:80"));
    scene.calls(listens(1, "0.0.0.0:80"));
    scene.told();
    scene.calls(unlisted(2, "0.0.0.0:80"));
    let told = scene.failure();
    assert_eq!(told.holders_total, 1);
    assert_eq!(told.holders[0].holder.state, Listen);
    assert_eq!(told.holders[0].owner, Some(owner(APP, OwnerSource::Listen)));
    assert!(!told.doubts.contains(Doubt::CloseNotShown));

    scene.calls(binds(3, "10.0.0.1:4000"));
    let client = Socket {
        local: address("10.0.0.1:4000"),
        ..socket(3)
    };
    scene.goes_by(APP, &client, Close, SynSent);
    scene.goes(&client, SynSent, Established);
    scene.told();
    scene.calls(unlisted(4, "10.0.0.1:4000"));
    let told = scene.failure();
    assert_eq!(told.holders_total, 1);
    assert_eq!(told.holders[0].holder.state, Established);
    assert_eq!(told.holders[0].holder.port_bound, Some(true));
    assert_eq!(
        told.holders[0].owner,
        Some(owner(APP, OwnerSource::Connect))
    );
}

#[test]
fn a_recycled_address_is_another_socket() {
    let mut scene = Scene::new();
    scene.calls(binds(1, "0.0.0.0:80"));
    // A child, a new bind(), and a call of a socket that has no port show that it is gone.
    scene.goes(&child(1, "10.0.0.1:443"), Listen, SynRecv);
    scene.calls(binds(2, "0.0.0.0:80"));
    scene.calls(binds(2, "0.0.0.0:81"));
    scene.calls(binds(3, "0.0.0.0:80"));
    scene.calls(unlisted(3, "0.0.0.0:443"));
    scene.told();
    scene.calls(unlisted(9, "0.0.0.0:80"));
    assert_eq!(scene.failure().holders_total, 0);
}

#[test]
fn a_cookie_tells_two_sockets_at_one_address_apart() {
    let mut scene = Scene::new();
    scene.calls(SocketCall {
        cookie: cookie(7),
        ..binds(1, "0.0.0.0:80")
    });
    scene.told();
    let mut other = listener(1, "0.0.0.0:80");
    other.cookie = cookie(8);
    scene.lists(2, holder(&other, Close), None);
    scene.calls(bind_fails(2, "0.0.0.0:80"));
    assert_eq!(scene.failure().holders[0].owner, None);
}

#[test]
fn a_bound_client_keeps_its_port_until_its_descriptor_is_closed() {
    for (evidence, kept) in [(error(104, OPEN), true), (ORPHAN, false), (RELEASED, false)] {
        let mut scene = Scene::new();
        let client = Socket {
            local: address("10.0.0.1:4000"),
            reuseaddr: true,
            ..socket(1)
        };
        scene.goes_by(APP, &client, Close, SynSent);
        scene.goes(&client, SynSent, Established);
        scene.closes(&client, Established, Close, evidence);
        scene.advance(100 * MS);
        scene.told();
        scene.calls(unlisted(2, "10.0.0.1:4000"));
        let told = scene.failure();
        assert_eq!(told.holders_total, usize::from(kept), "{evidence:?}");
        if kept {
            let found = told.holders[0];
            assert_eq!((found.holder.sk, found.holder.state), (1, Close));
            assert_eq!(found.holder.reuseaddr, Some(true));
            assert_eq!(found.owner, Some(owner(APP, OwnerSource::Connect)));
        }
    }
}

#[test]
fn a_port_that_connect_chose_goes_with_the_connection() {
    let mut scene = Scene::new();
    let client = Socket {
        local: address("10.0.0.1:4000"),
        ..socket(1)
    };
    scene.connects(&client);
    scene.closes(&client, Established, Close, error(104, OPEN));
    scene.advance(100 * MS);
    scene.told();
    scene.calls(unlisted(2, "10.0.0.1:4000"));
    assert_eq!(scene.failure().holders_total, 0);
}

#[test]
fn a_listener_that_is_shut_down_keeps_its_port() {
    let mut scene = Scene::new();
    let l = listener(1, "0.0.0.0:80");
    scene.listens(APP, &l);
    scene.closes_by(APP, &l, Listen, Close, OPEN);
    scene.told();
    scene.calls(unlisted(2, "0.0.0.0:80"));
    let told = scene.failure();
    assert_eq!(told.holders[0].holder.state, Close);
    assert_eq!(told.holders[0].owner, Some(owner(APP, OwnerSource::Listen)));
}

#[test]
fn a_snapshot_may_show_it() {
    let mut scene = Scene::new();
    let existing = Existing {
        ts_ns: scene.now_ns,
        cookie: cookie(5),
        netns: HOST,
        local: address("0.0.0.0:80"),
        remote: address("0.0.0.0:0"),
        state: BoundInactive,
        minisocket_expires_in_ns: None,
        process: Some(process(OTHER)),
    };
    let elsewhere = Existing {
        netns: CONTAINER,
        cookie: cookie(6),
        ..existing
    };
    for _ in 0..2 {
        let ts_ns = scene.now_ns;
        for snapshot in [
            Snapshot::Begin { ts_ns },
            Snapshot::Socket(existing),
            Snapshot::Socket(elsewhere),
            Snapshot::End {
                ts_ns,
                complete: true,
            },
        ] {
            scene.tracker.handle(&Input::Snapshot(snapshot));
        }
    }
    scene.calls(with_reuseaddr(unlisted(2, "0.0.0.0:80")));
    let told = scene.failure();
    assert_eq!(told.call.error, EADDRINUSE);
    assert_eq!(told.holders_total, 1, "{:?}", told.holders);
    let found = told.holders[0];
    assert_eq!(found.holder.state, Close);
    assert_eq!(found.holder.cookie, cookie(5));
    assert_eq!(found.owner, Some(owner(OTHER, OwnerSource::Proc)));
    assert_eq!(found.options, OptionsSource::Unknown);
    assert_eq!(found.holder.reuseaddr, None);
    assert!(told.doubts.contains(Doubt::OptionsUnknown));
    assert_ne!(told.certainty, Certainty::Exact);
}
