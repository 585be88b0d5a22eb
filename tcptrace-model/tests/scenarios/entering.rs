//! How minisockets are joined to the connections whose place they take, or never come to be.

use std::num::NonZeroU64;

use tcptrace_model::{
    Certainty, CloseSequence, Doubt, EndedBy, Evidence, Finding, Input, MinisocketEntered, Phase,
    Settings, Socket,
    TcpState::{Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck},
    TimeWaitEnd,
};

use crate::scene::{
    APP, CONTAINER, MINUTE, MS, OPEN, ORPHAN, RELEASED, Scene, address, error, minisocket, process,
    socket,
};

#[test]
fn the_order_of_findings_at_an_end() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.told();
    scene.enters(&c, 9, Phase::TimeWait);
    assert_eq!(scene.told(), []);
    // Other CPUs report in between.
    scene.connects(&socket(2));
    scene.closes(&c, FinWait2, Close, ORPHAN);
    let told = scene.told();
    let [
        Finding::Transition(_),
        Finding::Transition(_),
        Finding::Transition(transition),
        Finding::TimeWaitEntered(entered),
        Finding::Connection(connection),
        Finding::Story(story),
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!(transition.minisocket, Some(Phase::TimeWait));
    assert_eq!(transition.transition.newstate, Close);
    assert_eq!(entered.sk, Some(1));
    assert_eq!(entered.minisocket.tw, 9);
    assert_eq!(entered.timeout_ns, MINUTE);
    assert_eq!(entered.certainty, Certainty::Exact);
    assert_eq!(entered.owner.unwrap().process, process(APP));
    assert_eq!(connection.minisocket, Some(Phase::TimeWait));
    assert_eq!(story.first, **connection);
}

#[test]
fn the_bucket_limit_forbids_a_time_wait() {
    let half = Evidence {
        send_shutdown: true,
        receive_shutdown: true,
        ..OPEN
    };
    for (last, evidence, close, phase) in [
        (FinWait2, ORPHAN, CloseSequence::LocalFirst, Phase::FinWait2),
        (FinWait2, half, CloseSequence::LocalFirst, Phase::TimeWait),
        (
            Closing,
            ORPHAN,
            CloseSequence::Simultaneous,
            Phase::TimeWait,
        ),
    ] {
        let mut scene = Scene::new();
        let c = socket(1);
        scene.connects(&c);
        scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
        scene.goes(&c, FinWait1, last);
        scene.closes(&c, last, Close, evidence);
        scene.wait(60 * MS);
        scene.connects(&socket(2));
        let told = scene.told();
        let at = told
            .iter()
            .position(|finding| matches!(finding, Finding::TimeWait(_)))
            .unwrap();
        let [Finding::TimeWait(never), Finding::Connection(connection)] = &told[at..at + 2] else {
            panic!("{told:?}");
        };
        assert_eq!(never.end, TimeWaitEnd::NeverEntered);
        assert_eq!(never.certainty, Certainty::Exact);
        assert_eq!(never.minisocket.tw, 0);
        assert_eq!((never.entered_ns, never.time_wait_ns), (None, None));
        assert_eq!(never.last_phase, phase);
        assert_eq!(never.ts_ns, connection.ts_ns);
        assert!(connection.never_entered);
        assert_eq!(connection.close, close);
        assert_eq!(connection.minisocket, None);
        let summary = scene.tracker.summary();
        assert_eq!(summary.time_wait_ends, [(TimeWaitEnd::NeverEntered, 1)]);
        assert_eq!(summary.time_waits_entered, 0);
    }
}

#[test]
fn where_minisockets_are_not_reported_nothing_is_said_of_them() {
    let mut scene = Scene::with(Settings {
        minisockets: false,
        ..Settings::default()
    });
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::LocalFirst);
    assert!(!told.never_entered);
    assert_eq!(told.certainty, Certainty::Exact);
    assert_eq!(scene.tracker.summary().time_wait_ends, []);
}

#[test]
fn a_loss_may_have_hidden_the_minisocket() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.gap();
    scene.closes(&c, FinWait2, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::LocalFirst);
    assert_eq!(told.certainty, Certainty::Inferred);
    assert!(!told.never_entered);
}

#[test]
fn a_loss_may_have_hidden_the_reset_that_was_waited_for() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    scene.gap();
    let told = scene.connection();
    assert!(!told.never_entered);
    assert_eq!(told.certainty, Certainty::Inferred);
    assert!(told.doubts.contains(Doubt::RecordsLost));
    assert!(!told.complete);
}

#[test]
fn passive_closers_have_no_time_wait() {
    let mut scene = Scene::new();
    let s = socket(1);
    scene.accepts(&s);
    scene.goes(&s, Established, CloseWait);
    scene.closes_by(APP, &s, CloseWait, LastAck, RELEASED);
    scene.closes(&s, LastAck, Close, ORPHAN);
    let told = scene.connection();
    assert!(!told.never_entered);
    assert_eq!(scene.tracker.summary().waiting, 0);
}

#[test]
fn a_minisocket_is_joined_by_its_tuple_where_the_hook_does_not_show_the_socket() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    let ts_ns = scene.now_ns;
    scene
        .tracker
        .handle(&Input::MinisocketEntered(MinisocketEntered {
            ts_ns,
            minisocket: minisocket(&c, 9),
            sk: None,
            phase: Phase::TimeWait,
            timeout_ns: MINUTE,
        }));
    scene.closes(&c, FinWait2, Close, ORPHAN);
    let told = scene.told();
    let entered = told.iter().find_map(|finding| match finding {
        Finding::TimeWaitEntered(told) => Some(told),
        _ => None,
    });
    assert_eq!(entered.unwrap().sk, Some(1));
    assert_eq!(entered.unwrap().owner.unwrap().process, process(APP));
}

#[test]
fn a_minisocket_whose_transition_does_not_come_is_told_alone() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.enters(&c, 9, Phase::TimeWait);
    scene.advance(4 * MS);
    assert_eq!(scene.told(), []);
    scene.advance(2 * MS);
    let told = scene.told();
    let [Finding::TimeWaitEntered(entered)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(entered.owner, None);
    scene.ends(&c, 9, Phase::TimeWait, EndedBy::Expiry);
    assert_eq!(scene.time_wait().certainty, Certainty::Exact);
    scene.loses(1);
    scene.enters(&c, 9, Phase::TimeWait);
    scene.advance(6 * MS);
    let told = scene.told();
    let [Finding::Lost(_), Finding::TimeWaitEntered(entered)] = &told[..] else {
        panic!("{told:?}");
    };
    assert!(entered.doubts.contains(Doubt::RecordsLost));
    assert_eq!(entered.certainty, Certainty::Inferred);
}

#[test]
fn a_transition_that_comes_late_is_joined_all_the_same() {
    // The hypervisor may take the CPU away between the two.
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters(&c, 9, Phase::TimeWait);
    scene.advance(50 * MS);
    scene.told();
    scene.closes(&c, FinWait2, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::LocalFirst);
    assert_eq!(told.minisocket, Some(Phase::TimeWait));
    assert!(!told.never_entered);
    assert_eq!(scene.tracker.summary().time_waits_entered, 1);
}

#[test]
fn minisockets_of_connections_that_the_filters_hide_are_not_told() {
    let mut scene = Scene::with(Settings {
        known_minisockets_only: true,
        ..Settings::default()
    });
    let hidden = socket(1);
    scene.enters(&hidden, 9, Phase::TimeWait);
    scene.advance(10 * MS);
    scene.rearms(&hidden, 9, Phase::TimeWait);
    scene.ends(&hidden, 9, Phase::TimeWait, EndedBy::Expiry);
    assert_eq!(scene.told(), []);
    assert_eq!(scene.tracker.summary().waiting, 0);
    // One whose connection is older than the trace is known by its last transition.
    let older = socket(2);
    scene.enters(&older, 8, Phase::TimeWait);
    scene.closes(&older, FinWait2, Close, ORPHAN);
    scene.ends(&older, 8, Phase::TimeWait, EndedBy::Expiry);
    let told = scene.told();
    assert!(matches!(told[1], Finding::TimeWaitEntered(_)), "{told:?}");
    assert!(matches!(told.last(), Some(Finding::TimeWait(_))));
}

#[test]
fn a_minisocket_in_another_namespace_is_another_connections() {
    let mut scene = Scene::new();
    let loopback = Socket {
        local: address("127.0.0.1:4000"),
        remote: address("127.0.0.1:80"),
        ..socket(1)
    };
    let elsewhere = Socket {
        sk: 2,
        netns: Some(CONTAINER),
        ..loopback
    };
    scene.connects(&loopback);
    scene.accepts(&elsewhere);
    let ts_ns = scene.now_ns;
    scene
        .tracker
        .handle(&Input::MinisocketEntered(MinisocketEntered {
            ts_ns,
            minisocket: minisocket(&elsewhere, 9),
            sk: None,
            phase: Phase::TimeWait,
            timeout_ns: MINUTE,
        }));
    scene.closes(&loopback, Established, Close, error(104, OPEN));
    let told = scene.connection();
    assert_eq!(told.socket.sk, 1);
    assert_eq!(told.minisocket, None);
    scene.closes(&elsewhere, Established, Close, ORPHAN);
    assert_eq!(scene.connection().minisocket, Some(Phase::TimeWait));
}

#[test]
fn a_minisocket_of_another_socket_or_cookie_is_not_joined() {
    let cookie = |cookie| NonZeroU64::new(cookie);
    let c = Socket {
        cookie: cookie(1),
        ..socket(1)
    };
    for (sk, with) in [
        (Some(7), cookie(1)),
        (Some(1), cookie(2)),
        (None, cookie(2)),
    ] {
        let mut scene = Scene::new();
        scene.connects(&c);
        let ts_ns = scene.now_ns;
        scene
            .tracker
            .handle(&Input::MinisocketEntered(MinisocketEntered {
                ts_ns,
                minisocket: minisocket(&Socket { cookie: with, ..c }, 9),
                sk,
                phase: Phase::TimeWait,
                timeout_ns: MINUTE,
            }));
        scene.closes(&c, Established, Close, error(104, OPEN));
        assert_eq!(scene.connection().minisocket, None);
    }
}

#[test]
fn of_a_connection_first_seen_at_its_end_nothing_is_said_to_be_forbidden() {
    // Its minisocket may have been entered just before the trace began.
    let mut scene = Scene::new();
    scene.closes(&socket(1), FinWait2, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::LocalFirst);
    assert!(!told.never_entered);
}
