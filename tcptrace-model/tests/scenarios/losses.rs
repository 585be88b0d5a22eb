//! What lost records take away, and what they do not.

use tcptrace_model::{
    Certainty, CloseCause, CloseSequence, Doubt, EndedBy, Finding, Phase,
    TcpState::{Close, CloseWait, Established, FinWait1, FinWait2, LastAck},
    TimeWaitEnd,
};

use crate::scene::{APP, MINUTE, MS, ORPHAN, RELEASED, S, Scene, process, socket};

const STEP: u64 = MS / 10;

#[test]
fn after_a_loss_no_time_is_known_until_the_next_state() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.gap();
    scene.goes(&c, Established, FinWait1);
    scene.goes(&c, FinWait1, FinWait2);
    scene.loses(7);
    scene.goes(&c, FinWait2, Close);
    let told = scene.told();
    assert!(
        told.iter()
            .any(|finding| matches!(finding, Finding::Lost(loss) if loss.records == 7))
    );
    let times: Vec<_> = told
        .iter()
        .filter_map(|finding| match finding {
            Finding::Transition(told) => Some(told.in_state_ns),
            _ => None,
        })
        .collect();
    assert_eq!(times, [None, Some(STEP), None, Some(STEP), None]);
    assert_eq!(scene.tracker.summary().lost, 7);
}

#[test]
fn a_connection_with_a_gap_in_it_is_not_complete_and_not_sure() {
    let mut scene = Scene::new();
    let s = socket(1);
    scene.accepts(&s);
    scene.goes(&s, Established, CloseWait);
    scene.gap();
    scene.closes_by(APP, &s, CloseWait, LastAck, RELEASED);
    scene.closes(&s, LastAck, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::RemoteFirst);
    assert_eq!(told.cause, CloseCause::Close);
    assert_eq!(told.certainty, Certainty::Inferred);
    assert_eq!(told.doubts.iter().collect::<Vec<_>>(), [Doubt::RecordsLost]);
    assert!(!told.complete);
    assert_eq!(told.half_closed_ns, None);
    assert_eq!(told.owner.unwrap().process, process(APP));
}

#[test]
fn a_connection_after_the_loss_is_as_sure_as_ever() {
    let mut scene = Scene::new();
    scene.loses(7);
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters(&c, 9, Phase::TimeWait);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.certainty, Certainty::Exact);
    assert!(told.complete);
    scene.ends(&c, 9, Phase::TimeWait, EndedBy::Expiry);
    assert_eq!(scene.time_wait().certainty, Certainty::Exact);
}

#[test]
fn states_lost_in_the_middle_do_not_make_two_connections_of_one() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.gap();
    // FIN_WAIT1 was lost.
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters(&c, 9, Phase::TimeWait);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::LocalFirst);
    assert_eq!(told.cause, CloseCause::Unknown);
    assert_eq!(told.certainty, Certainty::Inferred);
    assert_eq!(told.owner.unwrap().process, process(APP));
    assert_eq!(told.doubts.iter().collect::<Vec<_>>(), [Doubt::RecordsLost]);
    let states: Vec<_> = told
        .states
        .iter()
        .map(|span| (span.state, span.ns.is_some()))
        .collect();
    assert_eq!(
        states[1..],
        [(Established, false), (FinWait1, false), (FinWait2, true)]
    );
    assert_eq!(told.established_ns, None);
}

#[test]
fn one_first_seen_after_a_loss_may_be_older_than_it() {
    let mut scene = Scene::new();
    scene.gap();
    let s = socket(1);
    scene.goes(&s, Established, CloseWait);
    scene.closes(&s, CloseWait, Close, crate::scene::error(32, ORPHAN));
    let told = scene.connection();
    assert!(told.doubts.contains(Doubt::RecordsLost));
    assert!(!told.complete);
    // A RST in CLOSE_WAIT proves itself.
    assert_eq!(told.cause, CloseCause::Peer);
}

#[test]
fn a_minisocket_with_a_gap_in_it() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters(&c, 9, Phase::FinWait2);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    scene.gap();
    let stamp_ns = scene.now_ns + 3 * S;
    scene.wait(64 * S);
    scene.ends_at(
        &c,
        9,
        Phase::TimeWait,
        EndedBy::Expiry,
        Some(stamp_ns),
        stamp_ns + MINUTE,
    );
    let told = scene.time_wait();
    assert_eq!(told.end, TimeWaitEnd::Expired);
    assert_eq!(told.certainty, Certainty::Inferred);
    assert!(told.doubts.contains(Doubt::RecordsLost));
    assert!(told.doubts.contains(Doubt::DateFromStamp));
    assert_eq!(told.time_wait_ns, Some(scene.now_ns - stamp_ns));
}
