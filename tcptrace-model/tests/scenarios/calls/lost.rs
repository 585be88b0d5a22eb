//! Losses: what may be missing from a listing, and from what the trace knows.

use tcptrace_model::{
    Certainty, Doubt, Listing, OwnerSource, SocketCall,
    TcpState::{Established, Listen},
    conflict::Rule,
};

use super::{bind_fails, binds, child, holder, owner};
use crate::scene::{APP, Scene, listener};

#[test]
fn a_gap_within_the_call_leaves_the_listing_doubtful() {
    let mut scene = Scene::new();
    let l = listener(1, "0.0.0.0:80");
    scene.listens(APP, &l);
    scene.told();
    scene.lists(2, holder(&l, Listen), None);
    // The gap shows itself with the record after it: here the call's.
    let gap_ns = scene.now_ns + 90_000;
    scene
        .tracker
        .handle(&tcptrace_model::Input::Gap { ts_ns: gap_ns });
    scene.calls(bind_fails(2, "0.0.0.0:80"));
    let told = scene.failure();
    assert!(told.doubts.contains(Doubt::HoldersNotListed));
    assert!(told.doubts.contains(Doubt::RecordsLost));
    assert_eq!(told.certainty, Certainty::Inferred);
    assert_eq!(told.rule, Rule::PortListening);
    assert_eq!(told.holders_total, 1, "once, though listed and known");
}

#[test]
fn a_gap_before_the_call_began_is_none_of_it() {
    let mut scene = Scene::new();
    let l = listener(1, "0.0.0.0:80");
    scene.listens(APP, &l);
    scene.gap();
    scene.told();
    scene.lists(2, holder(&l, Listen), None);
    scene.calls(bind_fails(2, "0.0.0.0:80"));
    let told = scene.failure();
    assert!(told.doubts.is_empty(), "{:?}", told.doubts);
    assert_eq!(told.certainty, Certainty::Exact);
    // Since when it listens is not sure any more, and who began to is.
    assert_eq!(told.holders[0].since_ns, None);
    assert_eq!(told.holders[0].owner, Some(owner(APP, OwnerSource::Listen)));
}

#[test]
fn a_gap_when_it_is_not_known_when_the_call_began_counts() {
    let mut scene = Scene::new();
    scene.lists(2, holder(&listener(1, "0.0.0.0:80"), Listen), None);
    scene.gap();
    let ts_ns = scene.now_ns;
    scene
        .tracker
        .handle(&tcptrace_model::Input::Call(SocketCall {
            ts_ns,
            ..bind_fails(2, "0.0.0.0:80")
        }));
    assert!(scene.failure().doubts.contains(Doubt::RecordsLost));
}

#[test]
fn holders_that_did_not_fit_are_added_from_what_is_known() {
    let mut scene = Scene::new();
    let (one, two) = (child(4, "10.0.0.1:80"), child(5, "10.0.0.2:80"));
    scene.accepts(&one);
    scene.accepts(&two);
    scene.told();
    scene.lists(3, holder(&one, Established), None);
    scene.calls(SocketCall {
        listing: Listing::Cut,
        ..bind_fails(3, "0.0.0.0:80")
    });
    let told = scene.failure();
    assert_eq!((told.holders_total, told.blocking_total), (2, 2));
    assert!(told.doubts.contains(Doubt::HoldersNotListed));
    assert_eq!(told.certainty, Certainty::Inferred);
}

#[test]
fn what_is_only_known_from_before_a_loss_may_be_gone() {
    let mut scene = Scene::new();
    scene.calls(binds(1, "0.0.0.0:80"));
    scene.gap();
    scene.loses(1);
    scene.told();
    scene.wait(10_000_000_000);
    scene.calls(SocketCall {
        listing: Listing::None,
        ..bind_fails(2, "0.0.0.0:80")
    });
    let told = scene.failure();
    assert!(told.doubts.contains(Doubt::RecordsLost));
    assert!(told.doubts.contains(Doubt::CloseNotShown));
    assert_eq!(told.certainty, Certainty::Inferred);
}

#[test]
fn when_the_rules_do_not_give_the_error_that_is_said() {
    let mut scene = Scene::new();
    // Listed whole, and nobody is in the way.
    scene.calls(bind_fails(2, "10.0.0.1:80"));
    let told = scene.failure();
    assert_eq!(told.certainty, Certainty::Unknown);
    assert!(told.doubts.contains(Doubt::RulesDisagree));
    assert_eq!(told.blocking_total, 0);
    assert!(told.remedies.is_empty(), "{:?}", told.remedies);
}
