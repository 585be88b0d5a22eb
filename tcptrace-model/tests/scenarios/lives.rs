//! Which transitions belong to one socket, and how long it was in each state.

use tcptrace_model::{
    Certainty, CloseCause, CloseSequence, Doubt, Role, Settings, Socket,
    TcpState::{
        Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
    },
};

use crate::scene::{
    APP, HOST, MS, OPEN, ORPHAN, RELEASED, Scene, address, error, listener, socket,
};

const STEP: u64 = MS / 10;

fn times(scene: &mut Scene) -> Vec<Option<u64>> {
    let told = scene.transitions();
    told.iter().map(|told| told.in_state_ns).collect()
}

#[test]
fn every_time_but_the_first_is_known() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.goes_by(APP, &c, Close, SynSent);
    scene.goes(&c, SynSent, Established);
    scene.wait(20 * MS);
    scene.goes(&c, Established, FinWait1);
    scene.goes(&c, FinWait1, FinWait2);
    scene.wait(2 * MS);
    scene.goes(&c, FinWait2, Close);
    assert_eq!(
        times(&mut scene),
        [
            None,
            Some(STEP),
            Some(20 * MS + STEP),
            Some(STEP),
            Some(2 * MS + STEP)
        ]
    );
}

#[test]
fn a_child_was_never_in_listen_itself() {
    let mut scene = Scene::new();
    let (l, s) = (listener(1, "0.0.0.0:80"), socket(2));
    scene.listens(APP, &l);
    scene.goes(&s, Listen, SynRecv);
    scene.goes(&s, SynRecv, Established);
    scene.goes_by(APP, &l, Listen, Close);
    assert_eq!(times(&mut scene), [None, None, Some(STEP), Some(3 * STEP)]);
    assert_eq!(scene.connections(), []);
}

#[test]
fn a_listen_that_fails_leaves_nothing_behind() {
    let mut scene = Scene::new();
    let l = listener(1, "0.0.0.0:80");
    scene.listens(APP, &l);
    scene.goes_by(APP, &l, Listen, Close);
    scene.finish();
    assert_eq!(scene.transitions().len(), 2);
    let summary = scene.tracker.summary();
    assert_eq!((summary.connections, summary.open), (0, 0));
    // Its address becomes a connection's, and nobody is taken for its listener.
    scene.arrives(&socket(1));
    assert_eq!(scene.transitions()[1].owner, None);
}

#[test]
fn a_state_set_to_itself_goes_on() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.goes(&c, FinWait1, FinWait2);
    scene.goes(&c, FinWait2, FinWait2);
    scene.goes(&c, FinWait2, Close);
    assert_eq!(times(&mut scene), [None, Some(STEP), Some(2 * STEP)]);
    // One that was not seen to be entered is not dated by it.
    scene.goes(&c, FinWait2, FinWait2);
    scene.goes(&c, FinWait2, Close);
    assert_eq!(times(&mut scene), [None, None]);
}

#[test]
fn streams_that_are_no_connections_are_told_and_forgotten() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.goes(&c, Close, Close);
    scene.goes(&c, Listen, Listen);
    scene.finish();
    assert_eq!(scene.transitions().len(), 2);
    assert_eq!(scene.tracker.summary().open, 0);
}

#[test]
fn a_recycled_address_inherits_nothing() {
    let mut scene = Scene::new();
    let first = socket(1);
    scene.connects(&first);
    scene.closes(&first, Established, Close, error(104, OPEN));
    let second = Socket {
        local: address("10.0.0.1:50000"),
        ..first
    };
    scene.arrives(&second);
    scene.closes(&second, Established, Close, error(104, OPEN));
    let told = scene.connections();
    assert_eq!(told.len(), 2);
    assert_eq!(told[0].role, Role::Client);
    assert_eq!(told[1].role, Role::Server);
    assert_eq!(told[1].owner, None);
    assert_eq!(told[1].states.len(), 2);
    assert!(told[1].complete);
}

#[test]
fn a_birth_at_a_known_address_means_that_an_end_was_missed() {
    let mut scene = Scene::new();
    let first = socket(1);
    scene.connects(&first);
    let second = Socket {
        local: address("10.0.0.1:50000"),
        ..first
    };
    scene.connects(&second);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::Unknown);
    assert_eq!(told.certainty, Certainty::Unknown);
    assert!(told.doubts.contains(Doubt::RecordsLost));
    assert!(!told.complete);
    assert_eq!(told.states.last().unwrap().ns, None);
    assert_eq!(told.socket.local, first.local);
}

#[test]
fn a_transition_that_does_not_fit_begins_an_incomplete_life() {
    let first = socket(1);
    let elsewhere = Socket {
        local: address("10.0.0.1:50000"),
        ..first
    };
    let with_cookie = |cookie| Socket {
        cookie: std::num::NonZeroU64::new(cookie),
        ..first
    };
    for (known, shown, old) in [
        (first, first, CloseWait),
        (first, elsewhere, Established),
        (with_cookie(1), with_cookie(2), Established),
    ] {
        let mut scene = Scene::new();
        scene.connects(&known);
        scene.told();
        scene.goes(&shown, old, LastAck);
        let told = scene.told();
        assert!(
            matches!(&told[..], [
                tcptrace_model::Finding::Connection(gone),
                tcptrace_model::Finding::Story(_),
                tcptrace_model::Finding::Transition(next),
            ] if gone.close == CloseSequence::Unknown && next.in_state_ns.is_none()
                && next.owner.is_none()),
            "{told:?}"
        );
        scene.closes(&shown, LastAck, Close, ORPHAN);
        let told = scene.connection();
        assert!(!told.complete);
        assert_eq!(told.role, Role::Unknown);
        assert_eq!(told.certainty, Certainty::Inferred);
        assert!(told.doubts.contains(Doubt::BeforeTrace));
    }
}

#[test]
fn a_connection_older_than_the_trace_closes() {
    let mut scene = Scene::new();
    let s = socket(1);
    scene.goes(&s, Established, CloseWait);
    scene.closes_by(APP, &s, CloseWait, LastAck, RELEASED);
    scene.closes(&s, LastAck, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::RemoteFirst);
    assert_eq!(told.cause, CloseCause::Close);
    assert_eq!(told.certainty, Certainty::Inferred);
    assert_eq!(told.doubts.iter().collect::<Vec<_>>(), [Doubt::BeforeTrace]);
    assert!(!told.complete);
    assert_eq!(told.established_ns, None);
    let states: Vec<_> = told
        .states
        .iter()
        .map(|span| (span.state, span.ns))
        .collect();
    assert_eq!(
        states,
        [
            (Established, None),
            (CloseWait, Some(STEP)),
            (LastAck, Some(STEP))
        ]
    );
}

#[test]
fn what_the_end_alone_proves_is_exact_whatever_came_before() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.closes_by(APP, &c, Established, Close, error(103, OPEN));
    let told = scene.connection();
    assert_eq!(told.cause, CloseCause::SocketDestroyed);
    assert_eq!(told.certainty, Certainty::Exact);
    assert!(told.doubts.contains(Doubt::BeforeTrace));
    assert!(!told.complete);
}

#[test]
fn shutdown_is_proven_by_a_close_that_sets_the_same_state() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.closes_by(APP, &c, FinWait2, FinWait2, RELEASED);
    scene.enters(&c, 9, tcptrace_model::Phase::FinWait2);
    scene.closes_by(APP, &c, FinWait2, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.cause, CloseCause::Shutdown);
    assert_eq!(told.half_closed_ns, None);
}

#[test]
fn the_fields_of_the_listener_are_not_the_childs() {
    // Up to 6.14 the first event of a child shows its listener's fields.
    let mut scene = Scene::new();
    let child = Socket {
        cookie: None,
        ..socket(2)
    };
    let like_listener = Socket {
        local: address("0.0.0.0:80"),
        remote: address("0.0.0.0:0"),
        cookie: std::num::NonZeroU64::new(77),
        ..child
    };
    scene.goes(&like_listener, Listen, SynRecv);
    scene.goes(&child, SynRecv, Established);
    scene.goes(
        &Socket {
            cookie: std::num::NonZeroU64::new(78),
            ..child
        },
        Established,
        CloseWait,
    );
    scene.closes(&child, CloseWait, Close, error(32, OPEN));
    let told = scene.connection();
    assert_eq!(told.socket.local, child.local);
    assert_eq!(told.socket.remote, child.remote);
    assert_eq!(told.socket.cookie, std::num::NonZeroU64::new(78));
    assert!(told.complete);
    assert_eq!(told.role, Role::Server);
}

#[test]
fn the_port_chosen_last_is_kept() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let unbound = Socket {
        local: address("10.0.0.1:0"),
        netns: None,
        ..c
    };
    scene.closes(&unbound, Established, Close, error(104, OPEN));
    let told = scene.connection();
    assert_eq!(told.socket.local, c.local);
    assert_eq!(told.socket.netns, Some(HOST));
}

#[test]
fn time_that_runs_backwards_is_unknown() {
    // Two CPUs may hand in their records in the other order.
    let mut scene = Scene::new();
    let c = socket(1);
    scene.goes(&c, SynSent, Established);
    scene.now_ns -= MS;
    scene.goes(&c, Established, FinWait1);
    assert_eq!(times(&mut scene), [None, None]);
}

#[test]
fn a_full_table_forgets_the_oldest() {
    let mut scene = Scene::with(Settings {
        max_connections: 2,
        ..Settings::default()
    });
    for sk in 1..=3 {
        scene.connects(&socket(sk));
    }
    let summary = scene.tracker.summary();
    assert_eq!((summary.open, summary.evicted), (2, 1));
    scene.closes(&socket(3), Established, Close, error(104, OPEN));
    scene.closes(&socket(1), Established, Close, error(104, OPEN));
    let told = scene.connections();
    assert!(told[0].complete);
    assert!(told[1].doubts.contains(Doubt::Evicted));
    assert!(!told[1].complete);
    assert_eq!(told[1].owner, None);
}

#[test]
fn open_connections_are_counted_and_not_told_at_the_end_of_the_trace() {
    let mut scene = Scene::new();
    scene.connects(&socket(1));
    let aborted = socket(2);
    scene.connects(&aborted);
    scene.closes_by(APP, &aborted, Established, Close, RELEASED);
    assert_eq!(scene.tracker.summary().open, 1);
    scene.finish();
    let told = scene.connection();
    assert_eq!(told.socket.sk, 2);
    // Its RST would still have followed.
    assert!(told.doubts.contains(Doubt::TraceEnded));
    let summary = scene.tracker.summary();
    assert_eq!((summary.open, summary.connections), (1, 1));
    assert_eq!(summary.closes, [(CloseSequence::ResetSent, 1)]);
    assert_eq!(summary.causes, [(CloseCause::UnreadDataReset, 1)]);
}

#[test]
fn the_cookie_of_a_child_that_shows_itself_at_once_is_its_own() {
    let mut scene = Scene::new();
    let child = Socket {
        cookie: std::num::NonZeroU64::new(5),
        ..socket(1)
    };
    scene.goes(&child, Listen, SynRecv);
    let later = Socket {
        cookie: None,
        ..child
    };
    scene.closes(&later, SynRecv, Close, error(104, OPEN));
    assert_eq!(scene.connection().socket.cookie, child.cookie);
}

#[test]
fn a_connect_that_fails_before_it_has_a_port_keeps_where_it_was_going() {
    let mut scene = Scene::new();
    let c = Socket {
        local: address("10.0.0.1:0"),
        ..socket(1)
    };
    scene.goes_by(APP, &c, Close, SynSent);
    let wiped = Socket {
        remote: address("0.0.0.0:0"),
        ..c
    };
    scene.closes_by(APP, &wiped, SynSent, Close, OPEN);
    assert_eq!(scene.connection().socket.remote, c.remote);
}

#[test]
fn a_socket_of_another_namespace_is_another_socket() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let elsewhere = Socket {
        netns: Some(HOST + 1),
        ..c
    };
    scene.told();
    scene.goes(&elsewhere, Established, CloseWait);
    assert_eq!(scene.transitions()[0].owner, None);
}
