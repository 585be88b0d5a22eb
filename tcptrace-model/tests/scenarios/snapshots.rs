//! What a snapshot of existing sockets adds, and what it never takes back.

use std::num::NonZeroU64;

use tcptrace_model::{
    Certainty, CloseSequence, Connection, Doubt, EndedBy, Existing, Finding, Input, Owner,
    OwnerSource, Phase, Role, Settings, Snapshot, Socket,
    TcpState::{
        self, Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
        TimeWait,
    },
    TimeWaitEnd,
};

use crate::scene::{
    APP, HOST, MINUTE, MS, OPEN, ORPHAN, OTHER, RELEASED, S, Scene, address, error, listener,
    process, socket,
};

fn existing(socket: &Socket, state: TcpState) -> Existing {
    Existing {
        ts_ns: 0,
        cookie: socket.cookie,
        netns: HOST,
        local: socket.local,
        remote: socket.remote,
        state,
        minisocket_expires_in_ns: None,
        process: Some(process(APP)),
    }
}

impl Scene {
    fn snapshot(&mut self, begin_ns: u64, sockets: &[Existing]) {
        self.tracker
            .handle(&Input::Snapshot(Snapshot::Begin { ts_ns: begin_ns }));
        for existing in sockets {
            self.now_ns += MS / 10;
            self.tracker
                .handle(&Input::Snapshot(Snapshot::Socket(Existing {
                    ts_ns: self.now_ns,
                    ..*existing
                })));
        }
        self.now_ns += MS / 10;
        self.tracker.handle(&Input::Snapshot(Snapshot::End {
            ts_ns: self.now_ns,
            complete: true,
        }));
    }

    /// A snapshot of the moment.
    fn looks(&mut self, sockets: &[Existing]) {
        self.now_ns += MS / 10;
        self.snapshot(self.now_ns, sockets);
    }
}

const APP_BY_PROC: Option<Owner> = Some(Owner {
    process: process(APP),
    source: OwnerSource::Proc,
});

#[test]
fn a_connection_older_than_the_trace_has_an_owner_and_a_role() {
    let mut scene = Scene::new();
    let s = socket(1);
    let l = Socket {
        remote: address("0.0.0.0:0"),
        ..s
    };
    scene.looks(&[existing(&s, Established), existing(&l, Listen)]);
    assert_eq!(scene.tracker.summary().open, 1);
    scene.goes(&s, Established, CloseWait);
    let told = scene.transitions();
    assert_eq!(told[0].owner, APP_BY_PROC);
    assert_eq!(told[0].in_state_ns, None);
    scene.closes_by(OTHER, &s, CloseWait, LastAck, RELEASED);
    scene.closes(&s, LastAck, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::RemoteFirst);
    assert_eq!(told.role, Role::Server);
    assert_eq!(told.owner, APP_BY_PROC);
    assert_eq!(told.closed_by, Some(process(OTHER)));
    assert_eq!(told.socket.sk, 1);
    assert!(told.doubts.contains(Doubt::BeforeTrace));
    assert!(!told.complete);
    assert_eq!(scene.tracker.summary().open, 0);
}

#[test]
fn without_a_listener_its_role_is_not_known() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.looks(&[existing(&c, Established)]);
    scene.closes(&c, Established, Close, error(104, OPEN));
    assert_eq!(scene.connection().role, Role::Unknown);
}

#[test]
fn another_cookie_is_another_socket() {
    let mut scene = Scene::new();
    let with = |cookie| Socket {
        cookie: NonZeroU64::new(cookie),
        ..socket(1)
    };
    scene.looks(&[existing(&with(1), Established)]);
    scene.goes(&with(2), Established, CloseWait);
    let told = scene.told();
    let [
        Finding::Connection(gone),
        Finding::Story(_),
        Finding::Transition(next),
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!(gone.close, CloseSequence::Unknown);
    assert_eq!(next.owner, None);
}

#[test]
fn a_listener_older_than_the_trace_owns_its_children() {
    let mut scene = Scene::new();
    scene.looks(&[existing(&listener(1, "0.0.0.0:80"), Listen)]);
    let s = Socket {
        local: address("10.0.0.1:80"),
        remote: address("10.0.0.9:5555"),
        ..socket(2)
    };
    scene.arrives(&s);
    assert_eq!(
        scene.transitions()[1].owner,
        Some(Owner {
            process: process(APP),
            source: OwnerSource::Listener
        })
    );
    scene.goes_by(APP, &listener(1, "0.0.0.0:80"), Listen, Close);
    scene.arrives(&Socket { sk: 3, ..s });
    let told = scene.transitions();
    assert_eq!(told.last().unwrap().owner, None);
}

#[test]
fn what_events_know_wins() {
    let mut scene = Scene::new();
    let c = socket(1);
    let begin_ns = scene.now_ns;
    scene.connects(&c);
    scene.goes(&c, Established, CloseWait);
    let listed = Existing {
        process: Some(process(OTHER)),
        ..existing(&c, Established)
    };
    scene.snapshot(begin_ns, &[listed]);
    scene.closes_by(APP, &c, CloseWait, LastAck, RELEASED);
    scene.closes(&c, LastAck, Close, ORPHAN);
    let told = scene.connection();
    assert!(told.complete);
    assert_eq!(told.certainty, Certainty::Exact);
    assert_eq!(told.owner.unwrap().process, process(APP));
    assert_eq!(scene.tracker.summary().open, 0);
}

#[test]
fn a_snapshot_that_runs_ahead_of_the_records_makes_no_second_connection() {
    let mut scene = Scene::new();
    let c = socket(1);
    let early_ns = scene.now_ns;
    scene.wait(10 * MS);
    scene.looks(&[existing(&c, CloseWait)]);
    // Only now are the records read that were there before.
    scene.now_ns = early_ns;
    scene.connects(&c);
    scene.goes(&c, Established, CloseWait);
    scene.wait(20 * MS);
    scene.closes_by(APP, &c, CloseWait, LastAck, RELEASED);
    scene.closes(&c, LastAck, Close, ORPHAN);
    let told = scene.connection();
    assert!(told.complete, "{told:?}");
    assert_eq!(told.certainty, Certainty::Exact);
    assert_eq!(told.owner.unwrap().source, OwnerSource::Connect);
    assert_eq!(scene.tracker.summary().open, 0);
}

#[test]
fn one_that_ended_while_the_snapshot_was_taken_does_not_come_back() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let begin_ns = scene.now_ns;
    scene
        .tracker
        .handle(&Input::Snapshot(Snapshot::Begin { ts_ns: begin_ns }));
    scene.closes(&c, Established, Close, error(104, OPEN));
    scene
        .tracker
        .handle(&Input::Snapshot(Snapshot::Socket(Existing {
            ts_ns: begin_ns + 1,
            ..existing(&c, Established)
        })));
    let ts_ns = scene.now_ns;
    scene.tracker.handle(&Input::Snapshot(Snapshot::End {
        ts_ns,
        complete: true,
    }));
    assert_eq!(scene.tracker.summary().open, 0);
}

#[test]
fn requests_and_bound_sockets_are_no_connections() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.looks(&[
        existing(&c, SynRecv),
        existing(&c, Close),
        existing(&c, TcpState::BoundInactive),
    ]);
    assert_eq!(scene.tracker.summary().open, 0);
    assert_eq!(scene.told(), []);
}

fn gone(scene: &mut Scene) -> Vec<Connection> {
    scene.advance(10 * MS);
    scene
        .connections()
        .into_iter()
        .inspect(|told| {
            assert_eq!(told.close, CloseSequence::Unknown);
            assert_eq!(told.certainty, Certainty::Unknown);
            assert!(told.doubts.contains(Doubt::RecordsLost));
            assert!(!told.complete);
        })
        .collect()
}

#[test]
fn after_a_loss_a_snapshot_shows_what_is_gone() {
    let mut scene = Scene::new();
    let (stays, goes) = (socket(1), socket(2));
    scene.connects(&stays);
    scene.connects(&goes);
    scene.gap();
    let after = socket(3);
    scene.connects(&after);
    scene.wait(MS);
    scene.looks(&[existing(&stays, FinWait2)]);
    let told = gone(&mut scene);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].socket.sk, 2);
    assert_eq!(scene.tracker.summary().open, 2);
    // What it lists goes on in the state that it shows.
    scene.enters(&stays, 9, Phase::TimeWait);
    scene.closes(&stays, FinWait2, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::LocalFirst);
    assert_eq!(told.owner.unwrap().source, OwnerSource::Connect);
    assert!(!told.complete);
}

#[test]
fn a_state_that_a_snapshot_shows_ahead_is_no_contradiction() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.gap();
    let early_ns = scene.now_ns;
    scene.wait(20 * MS);
    scene.looks(&[existing(&c, LastAck)]);
    scene.now_ns = early_ns;
    scene.goes(&c, Established, CloseWait);
    scene.closes_by(APP, &c, CloseWait, LastAck, RELEASED);
    scene.wait(40 * MS);
    scene.closes(&c, LastAck, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::RemoteFirst);
    let states: Vec<_> = told.states.iter().map(|span| span.state).collect();
    assert_eq!(states, [SynSent, Established, CloseWait, LastAck]);
    assert_eq!(told.states[2].ns, Some(MS / 10));
}

#[test]
fn an_end_still_to_be_read_is_not_taken_for_a_loss() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.gap();
    let early_ns = scene.now_ns;
    scene.wait(10 * MS);
    scene.looks(&[]);
    scene.now_ns = early_ns;
    scene.closes(&c, Established, Close, error(104, OPEN));
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::ResetReceived);
}

#[test]
fn without_a_loss_what_is_not_listed_cannot_be_looked_into() {
    let mut scene = Scene::new();
    scene.connects(&socket(1));
    scene.looks(&[]);
    assert_eq!(gone(&mut scene), []);
    assert_eq!(scene.tracker.summary().open, 1);
}

#[test]
fn an_incomplete_snapshot_shows_nothing_to_be_gone() {
    let mut scene = Scene::new();
    scene.connects(&socket(1));
    scene.gap();
    scene.wait(MS);
    let ts_ns = scene.now_ns;
    for part in [
        Snapshot::Begin { ts_ns },
        Snapshot::End {
            ts_ns,
            complete: false,
        },
    ] {
        scene.tracker.handle(&Input::Snapshot(part));
    }
    assert_eq!(gone(&mut scene), []);
}

#[test]
fn a_socket_that_is_connecting_is_found_by_where_it_goes() {
    let mut scene = Scene::new();
    let c = socket(1);
    let unbound = Socket {
        local: address("10.0.0.1:0"),
        ..c
    };
    scene.goes_by(APP, &unbound, Close, SynSent);
    scene.gap();
    scene.wait(MS);
    scene.looks(&[existing(&c, SynSent)]);
    assert_eq!(gone(&mut scene), []);
    scene.goes(&c, SynSent, Established);
    assert_eq!(scene.tracker.summary().open, 1);
    assert_eq!(
        scene.transitions().last().unwrap().owner.unwrap().source,
        OwnerSource::Connect
    );
}

#[test]
fn a_minisocket_older_than_the_trace() {
    for known_minisockets_only in [false, true] {
        let mut scene = Scene::with(Settings {
            known_minisockets_only,
            ..Settings::default()
        });
        let c = socket(1);
        let waiting = Existing {
            minisocket_expires_in_ns: Some(20 * S),
            process: None,
            ..existing(&c, TimeWait)
        };
        scene.looks(&[waiting]);
        assert_eq!(scene.tracker.summary().waiting, 1);
        let expires_ns = scene.now_ns + 20 * S;
        scene.wait(21 * S);
        scene.ends_at(&c, 9, Phase::TimeWait, EndedBy::Expiry, None, expires_ns);
        let told = scene.time_wait();
        assert_eq!(told.end, TimeWaitEnd::Expired);
        assert_eq!(told.minisocket.tw, 9);
        assert_eq!(told.entered_ns, None);
        assert!(told.doubts.contains(Doubt::BeforeTrace));
        assert_eq!(told.certainty, Certainty::Inferred);
        assert_eq!(told.rearmed, 0);
        assert_eq!(
            told.time_wait_ns,
            Some(scene.now_ns - (expires_ns - MINUTE))
        );
        assert_eq!(scene.tracker.summary().waiting, 0);
    }
}

#[test]
fn an_older_minisocket_whose_fin_comes_is_dated_by_it() {
    let mut scene = Scene::new();
    let c = socket(1);
    let waiting = Existing {
        minisocket_expires_in_ns: Some(20 * S),
        process: None,
        ..existing(&c, FinWait2)
    };
    scene.looks(&[waiting]);
    scene.wait(S);
    scene.rearms(&c, 9, Phase::TimeWait);
    let since_ns = scene.now_ns;
    scene.wait(61 * S);
    scene.ends_at(
        &c,
        9,
        Phase::TimeWait,
        EndedBy::Expiry,
        None,
        since_ns + MINUTE,
    );
    let told = scene.time_wait();
    assert_eq!(told.time_wait_ns, Some(scene.now_ns - since_ns));
    assert_eq!(told.fin_wait2_ns, None);
    assert_eq!((told.rearmed, told.rearmed_at_least), (0, false));
}

#[test]
fn minisockets_that_a_loss_took_the_end_of() {
    let mut scene = Scene::new();
    for sk in [1, 2] {
        let c = socket(sk);
        scene.connects(&c);
        scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
        scene.goes(&c, FinWait1, FinWait2);
        scene.enters(&c, 90 + sk, Phase::TimeWait);
        scene.closes(&c, FinWait2, Close, ORPHAN);
    }
    scene.gap();
    scene.wait(10 * S);
    let stays = Existing {
        minisocket_expires_in_ns: Some(50 * S),
        process: None,
        ..existing(&socket(1), TimeWait)
    };
    scene.looks(&[stays]);
    scene.told();
    scene.advance(MS);
    let told = scene.time_wait();
    assert_eq!(told.minisocket.tw, 92);
    assert_eq!(told.end, TimeWaitEnd::Unknown);
    assert_eq!(told.time_wait_ns, None);
    assert!(told.doubts.contains(Doubt::RecordsLost));
    assert_eq!(scene.tracker.summary().waiting, 1);
}

#[test]
fn a_connection_with_the_ports_of_one_that_a_snapshot_has_shown_is_a_newer_one() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.looks(&[existing(&c, Established)]);
    scene.wait(S);
    scene.connects(&Socket { sk: 2, ..c });
    let told = scene.connection();
    assert_eq!(told.socket.sk, 0);
    assert_eq!(told.close, CloseSequence::Unknown);
    assert_eq!(scene.tracker.summary().open, 1);
}

#[test]
fn without_a_loss_a_snapshot_changes_no_state() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let early_ns = scene.now_ns;
    scene.wait(20 * MS);
    scene.looks(&[existing(&c, LastAck)]);
    scene.now_ns = early_ns;
    scene.goes(&c, Established, CloseWait);
    scene.closes_by(APP, &c, CloseWait, LastAck, RELEASED);
    scene.closes(&c, LastAck, Close, ORPHAN);
    let told = scene.connection();
    assert!(told.complete);
    assert!(told.half_closed_ns.is_some());
    assert_eq!(told.states.len(), 4);
}

#[test]
fn after_a_loss_what_came_after_its_beginning_still_counts_more() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let begin_ns = scene.now_ns;
    scene.goes(&c, Established, CloseWait);
    scene.gap();
    scene.snapshot(begin_ns, &[existing(&c, Established)]);
    scene.closes_by(APP, &c, CloseWait, LastAck, RELEASED);
    scene.closes(&c, LastAck, Close, ORPHAN);
    let told = scene.connection();
    let states: Vec<_> = told.states.iter().map(|span| span.state).collect();
    assert_eq!(states, [SynSent, Established, CloseWait, LastAck]);
}

#[test]
fn a_minisocket_that_a_snapshot_shows_ahead_is_one_and_not_two() {
    let cookie = NonZeroU64::new;
    let c = Socket {
        cookie: cookie(1),
        ..socket(1)
    };
    for (shown_cookie, entered_late, gone) in [
        (cookie(1), false, 0),
        (cookie(2), false, 1),
        (cookie(1), true, 1),
    ] {
        let mut scene = Scene::new();
        let early_ns = scene.now_ns;
        scene.wait(10 * MS);
        let waiting = Existing {
            cookie: shown_cookie,
            minisocket_expires_in_ns: Some(60 * S),
            process: None,
            ..existing(&c, TimeWait)
        };
        scene.looks(&[waiting]);
        if !entered_late {
            scene.now_ns = early_ns;
        }
        scene.enters(&c, 9, Phase::TimeWait);
        let told = scene.time_waits();
        assert_eq!(told.len(), gone);
        assert_eq!(scene.tracker.summary().waiting, 1);
    }
}

#[test]
fn a_second_snapshot_renews_what_only_snapshots_have_shown() {
    let mut scene = Scene::new();
    let c = Socket {
        cookie: NonZeroU64::new(1),
        ..socket(1)
    };
    let waiting = |socket: &Socket, left_ns| Existing {
        minisocket_expires_in_ns: Some(left_ns),
        process: None,
        ..existing(socket, TimeWait)
    };
    scene.looks(&[waiting(&c, 20 * S)]);
    scene.wait(S);
    scene.looks(&[waiting(&c, 60 * S)]);
    let expires_ns = scene.now_ns - MS / 10 + 60 * S;
    assert_eq!(scene.tracker.summary().waiting, 1);
    scene.ends_at(&c, 9, Phase::TimeWait, EndedBy::Expiry, None, expires_ns);
    // It was not set anew after the second.
    assert_eq!(scene.time_wait().rearmed, 0);
    // Another cookie is another minisocket.
    scene.looks(&[waiting(&c, 20 * S)]);
    scene.wait(S);
    let other = Socket {
        cookie: NonZeroU64::new(2),
        ..c
    };
    scene.looks(&[waiting(&other, 60 * S)]);
    assert_eq!(scene.time_wait().end, TimeWaitEnd::Unknown);
    assert_eq!(scene.tracker.summary().waiting, 1);
}
