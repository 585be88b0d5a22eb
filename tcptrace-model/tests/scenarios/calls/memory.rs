//! What comes for calls that never come, and what is bound and never closed, is forgotten.

use tcptrace_model::{Doubt, Listing, SocketCall, TcpState::Established};

use super::{bind_fails, binds, child, holder};
use crate::scene::{APP, Scene};

#[test]
fn holders_of_calls_that_were_lost_are_forgotten() {
    let mut scene = Scene::new();
    let c = child(4, "10.0.0.1:80");
    for asker in 0..100_000 {
        scene.lists(asker, holder(&c, Established), None);
    }
    // The last that came are there, the first are not.
    scene.calls(bind_fails(99_999, "0.0.0.0:80"));
    assert_eq!(scene.failure().holders_total, 1);
    scene.calls(bind_fails(0, "0.0.0.0:80"));
    assert_eq!(scene.failure().holders_total, 0);
}

#[test]
fn a_listing_without_end_is_cut_and_says_so() {
    let mut scene = Scene::new();
    let c = child(4, "10.0.0.1:80");
    for sk in 0..40_000 {
        let mut held = holder(&c, Established);
        held.sk = 10 + sk;
        scene.lists(3, held, None);
    }
    scene.calls(bind_fails(3, "0.0.0.0:80"));
    let told = scene.failure();
    assert!(told.holders_total < 40_000);
    assert!(told.doubts.contains(Doubt::HoldersNotListed));
}

#[test]
fn bound_sockets_that_nobody_closes_make_room() {
    let mut scene = Scene::new();
    for sk in 0..20_000 {
        scene.calls(binds(100 + sk, &format!("10.0.0.1:{}", 1 + sk)));
        scene.told();
    }
    assert_eq!(scene.tracker.summary().evicted, 20_000 - (1 << 14));
    let unlisted = |sk: u64, port: u64| SocketCall {
        listing: Listing::None,
        task: APP,
        ..bind_fails(sk, &format!("10.0.0.1:{port}"))
    };
    scene.calls(unlisted(5, 20_000));
    assert_eq!(scene.failure().holders_total, 1);
    scene.calls(unlisted(5, 1));
    let told = scene.failure();
    assert_eq!(told.holders_total, 0);
    assert!(told.doubts.contains(Doubt::Evicted));
}

#[test]
fn failed_binds_are_forgotten_in_their_turn() {
    let mut scene = Scene::new();
    for sk in 0..20_000 {
        scene.calls(SocketCall {
            cookie: super::cookie(1 + sk),
            ..bind_fails(100 + sk, "10.0.0.1:80")
        });
        scene.told();
    }
    for (sk, known) in [(0, false), (19_999, true)] {
        scene.calls(SocketCall {
            cookie: super::cookie(1 + sk),
            ..binds(100 + sk, "10.0.0.1:81")
        });
        assert_eq!(scene.success().after_failed_bind.is_some(), known);
    }
}
