//! Without a listing by the kernel: who is known to hold a port.

use tcptrace_model::{
    Certainty, Doubt, Listing, OptionsSource, OwnerSource, Phase, Socket, SocketCall,
    TcpState::{Close, Established, FinWait1, FinWait2, Listen, TimeWait},
    conflict::Rule,
};

use super::{bind_fails, child, owner, with_reuseaddr};
use crate::scene::{
    APP, CONTAINER, MINUTE, MS, ORPHAN, RELEASED, Scene, address, listener, socket,
};

fn unlisted(sk: u64, addr: &str) -> SocketCall {
    SocketCall {
        listing: Listing::None,
        ..bind_fails(sk, addr)
    }
}

#[test]
fn everyone_who_is_known_to_hold_the_port_is_found() {
    let mut scene = Scene::new();
    let l = listener(1, "0.0.0.0:80");
    scene.listens(APP, &l);
    let c = child(2, "10.0.0.1:80");
    scene.accepts(&c);
    let w = Socket {
        remote: address("10.0.0.9:6666"),
        ..child(3, "10.0.0.1:80")
    };
    scene.accepts(&w);
    scene.closes_by(APP, &w, Established, FinWait1, RELEASED);
    scene.goes(&w, FinWait1, FinWait2);
    scene.enters(&w, 9, Phase::TimeWait);
    let entered_ns = scene.now_ns;
    scene.closes(&w, FinWait2, Close, ORPHAN);
    scene.advance(100 * MS);
    // Not at this port, not in this namespace.
    scene.connects(&socket(20));
    scene.accepts(&child(21, "10.0.0.1:8080"));
    scene.accepts(&Socket {
        netns: Some(CONTAINER),
        ..child(22, "10.0.0.1:80")
    });
    scene.told();
    scene.calls(with_reuseaddr(unlisted(5, "0.0.0.0:80")));
    let told = scene.failure();
    assert_eq!(told.rule, Rule::PortListening);
    assert_eq!((told.holders_total, told.blocking_total), (3, 3));
    let states: Vec<_> = told
        .holders
        .iter()
        .map(|found| found.holder.state)
        .collect();
    assert_eq!(states, [Listen, Established, TimeWait]);
    assert!(
        told.holders
            .iter()
            .all(|found| found.options == OptionsSource::Event)
    );
    assert_eq!(told.holders[0].owner, Some(owner(APP, OwnerSource::Listen)));
    assert_eq!(told.holders[1].owner, Some(owner(APP, OwnerSource::Accept)));
    assert_eq!(told.holders[2].frees_at_ns, Some(entered_ns + MINUTE));
    assert_eq!(told.certainty, Certainty::Inferred);
    assert!(told.doubts.contains(Doubt::HoldersNotListed));
    assert!(told.doubts.contains(Doubt::BeforeTrace));
    assert!(!told.doubts.contains(Doubt::RecordsLost));
}

#[test]
fn who_comes_and_goes_after_the_first_question_is_found_and_not_found() {
    let mut scene = Scene::new();
    scene.calls(unlisted(5, "0.0.0.0:80"));
    assert_eq!(scene.failure().holders_total, 0);
    let c = child(2, "10.0.0.1:80");
    scene.accepts(&c);
    scene.calls(unlisted(5, "0.0.0.0:80"));
    assert_eq!(scene.failures()[0].holders_total, 1);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters(&c, 9, Phase::TimeWait);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    scene.calls(unlisted(5, "0.0.0.0:80"));
    let told = scene.failures();
    assert_eq!(told[0].holders_total, 1, "{:?}", told[0].holders);
    assert_eq!(told[0].holders[0].holder.sk, 9);
    assert!(told[0].free_at_ns.is_some());
    scene.ends(&c, 9, Phase::TimeWait, tcptrace_model::EndedBy::Expiry);
    scene.calls(unlisted(5, "0.0.0.0:80"));
    assert_eq!(scene.failures()[0].holders_total, 0);
    // Whoever takes their places in the tables has another port.
    scene.connects(&socket(20));
    scene.accepts(&child(21, "10.0.0.1:8080"));
    scene.told();
    scene.calls(unlisted(5, "0.0.0.0:80"));
    assert_eq!(scene.failure().holders_total, 0);
}

#[test]
fn a_question_long_after_the_last_one_is_answered_as_well() {
    let mut scene = Scene::new();
    let old = child(2, "10.0.0.1:80");
    scene.accepts(&old);
    scene.calls(unlisted(5, "0.0.0.0:80"));
    for minute in 0..5 {
        scene.advance(MINUTE);
        scene.accepts(&Socket {
            remote: address("10.0.0.8:6666"),
            ..child(30 + minute, &format!("10.0.1.{minute}:80"))
        });
    }
    scene.told();
    scene.calls(unlisted(5, "0.0.0.0:80"));
    assert_eq!(scene.failure().holders_total, 6);
}

#[test]
fn with_nobody_known_the_error_is_not_explained() {
    let mut scene = Scene::new();
    scene.calls(unlisted(5, "0.0.0.0:80"));
    let told = scene.failure();
    assert_eq!(told.certainty, Certainty::Unknown);
    assert!(told.doubts.contains(Doubt::BeforeTrace));
    assert!(!told.doubts.contains(Doubt::RulesDisagree));
    assert_eq!(told.blocking_total, 0);
}

#[test]
fn the_answer_is_the_same_each_time_and_for_many() {
    let answer = || {
        let mut scene = Scene::new();
        for number in 0..3000_u64 {
            let remote = format!("10.1.{}.{}:5000", number / 250, number % 250 + 1);
            scene.accepts(&Socket {
                remote: address(&remote),
                ..child(1000 + number, "10.0.0.1:80")
            });
        }
        scene.told();
        scene.calls(unlisted(5, "0.0.0.0:80"));
        scene.failure()
    };
    let told = answer();
    assert_eq!(told, answer());
    assert_eq!(told.rule, Rule::PortHeld);
    assert_eq!(told.holders.len(), 64);
    assert!(told.holders_total > 64);
}
