//! A server that is started again: its old connections hold the port.

use tcptrace_model::{
    Certainty, OptionsSource, OwnerSource, Phase, Socket,
    TcpState::{Close, Established, FinWait1, FinWait2, Listen, TimeWait},
    conflict::{Remedy, Rule},
};

use super::{bind_fails, child, holder, minisocket_holder, owner, with_reuseaddr};
use crate::scene::{APP, MINUTE, ORPHAN, OTHER, RELEASED, S, Scene, listener};

/// A server at port 80 that has closed its connection first and is gone.
fn restarted(reuseaddr: bool) -> (Scene, Socket, u64) {
    let mut scene = Scene::new();
    let l = Socket {
        reuseaddr,
        ..listener(1, "0.0.0.0:80")
    };
    scene.listens(APP, &l);
    let c = Socket {
        reuseaddr,
        ..child(2, "10.0.0.1:80")
    };
    scene.accepts(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters(&c, 9, Phase::TimeWait);
    let entered_ns = scene.now_ns;
    scene.closes(&c, FinWait2, Close, ORPHAN);
    scene.closes_by(APP, &l, Listen, Close, RELEASED);
    scene.told();
    (scene, c, entered_ns)
}

#[test]
fn a_time_wait_whose_process_is_gone_has_that_process_for_its_owner() {
    let (mut scene, c, entered_ns) = restarted(false);
    scene.wait(5 * S);
    scene.lists(3, minisocket_holder(&c, 9, Phase::TimeWait), Some(55 * S));
    let expires_ns = scene.now_ns + 55 * S;
    scene.surrounds(3, None);
    scene.calls(bind_fails(3, "0.0.0.0:80"));
    let told = scene.failure();
    assert_eq!(told.rule, Rule::PortHeld);
    assert_eq!(told.certainty, Certainty::Exact);
    assert!(told.doubts.is_empty(), "{:?}", told.doubts);
    assert_eq!((told.holders_total, told.blocking_total), (1, 1));
    let [found] = &told.holders[..] else {
        panic!("{:?}", told.holders);
    };
    assert_eq!(found.holder.state, TimeWait);
    assert!(found.blocks);
    assert_eq!(found.rule, Some(Rule::PortHeld));
    assert_eq!(found.owner, Some(owner(APP, OwnerSource::Accept)));
    assert_eq!(found.since_ns, Some(entered_ns));
    assert_eq!(found.frees_at_ns, Some(expires_ns));
    assert_eq!(found.options, OptionsSource::Kernel);
    assert_eq!(told.free_at_ns, Some(expires_ns));
    assert!(told.remedies.contains(&Remedy::ReuseaddrOnBoth));
    assert!(told.remedies.contains(&Remedy::Wait));
}

#[test]
fn a_time_wait_frees_when_its_timer_was_set_to_if_the_kernel_does_not_say() {
    let (mut scene, c, entered_ns) = restarted(false);
    scene.lists(3, minisocket_holder(&c, 9, Phase::TimeWait), None);
    scene.calls(bind_fails(3, "0.0.0.0:80"));
    assert_eq!(scene.failure().free_at_ns, Some(entered_ns + MINUTE));
}

#[test]
fn what_does_not_end_by_itself_leaves_no_time_to_wait_for() {
    let (mut scene, c, _) = restarted(false);
    let open = child(4, "10.0.0.2:80");
    scene.lists(3, minisocket_holder(&c, 9, Phase::TimeWait), Some(55 * S));
    scene.lists(3, holder(&open, Established), None);
    scene.calls(bind_fails(3, "0.0.0.0:80"));
    let told = scene.failure();
    assert_eq!((told.holders_total, told.blocking_total), (2, 2));
    assert_eq!(told.free_at_ns, None);
    assert!(!told.remedies.contains(&Remedy::Wait));
    assert_eq!(told.holders[0].holder.state, Established, "{told:?}");
}

#[test]
fn with_reuseaddr_on_both_only_a_listener_is_in_the_way() {
    let (mut scene, c, _) = restarted(true);
    let l = Socket {
        reuseaddr: true,
        ..listener(5, "0.0.0.0:80")
    };
    scene.listens(OTHER, &l);
    scene.lists(3, minisocket_holder(&c, 9, Phase::TimeWait), Some(55 * S));
    scene.lists(3, holder(&l, Listen), None);
    scene.calls(with_reuseaddr(bind_fails(3, "0.0.0.0:80")));
    let told = scene.failure();
    assert_eq!(told.rule, Rule::PortListening);
    assert_eq!((told.holders_total, told.blocking_total), (2, 1));
    let [listening, waiting] = &told.holders[..] else {
        panic!("{:?}", told.holders);
    };
    assert_eq!(listening.owner, Some(owner(OTHER, OwnerSource::Listen)));
    assert!(listening.since_ns.is_some());
    assert!(listening.blocks && !waiting.blocks);
    assert_eq!(waiting.rule, None);
    assert_eq!(waiting.owner, Some(owner(APP, OwnerSource::Accept)));
    let close = Remedy::CloseHolders(vec![0]);
    assert!(told.remedies.contains(&close), "{:?}", told.remedies);
}

#[test]
fn who_is_in_the_way_comes_first_and_remedies_follow() {
    let (mut scene, _, _) = restarted(false);
    // Seventy that are not in the way, and behind them one that is.
    for sk in 0..70 {
        let elsewhere = child(100 + sk, "10.0.0.7:80");
        scene.lists(3, holder(&elsewhere, Established), None);
    }
    let here = listener(50, "10.0.0.1:80");
    scene.lists(3, holder(&here, Close), None);
    scene.calls(bind_fails(3, "10.0.0.1:80"));
    let told = scene.failure();
    assert_eq!((told.holders_total, told.blocking_total), (71, 1));
    assert_eq!(told.holders.len(), tcptrace_model::CallFailed::MOST_HOLDERS);
    assert_eq!(told.holders[0].holder.sk, 50);
    assert!(told.holders[1..].iter().all(|found| !found.blocks));
    assert!(told.remedies.contains(&Remedy::CloseHolders(vec![0])));
}

#[test]
fn a_bind_of_another_socket_has_nothing_of_this_ones_listing() {
    let (mut scene, c, _) = restarted(false);
    scene.lists(3, minisocket_holder(&c, 9, Phase::TimeWait), None);
    scene.lists(4, holder(&child(50, "10.0.0.1:80"), Established), None);
    scene.calls(bind_fails(3, "0.0.0.0:80"));
    scene.calls(bind_fails(4, "0.0.0.0:80"));
    let told = scene.failures();
    assert_eq!(told[0].holders[0].holder.sk, 9);
    assert_eq!(told[1].holders[0].holder.sk, 50);
    assert_eq!((told[0].holders_total, told[1].holders_total), (1, 1));
}

#[test]
fn what_failed_is_counted_by_call_errno_and_rule() {
    let (mut scene, c, _) = restarted(false);
    for _ in 0..3 {
        scene.lists(3, minisocket_holder(&c, 9, Phase::TimeWait), None);
        scene.calls(bind_fails(3, "0.0.0.0:80"));
    }
    let counts = scene.tracker.summary().calls_failed;
    let expected = (tcptrace_model::conflict::Call::Bind, 98, Rule::PortHeld);
    assert_eq!(counts, [(expected, 3)]);
}
