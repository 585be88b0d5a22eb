//! How minisockets begin, how long they last, and what ends them.

use tcptrace_model::{
    Certainty, Doubt, EndedBy, OwnerSource, Phase, Settings, Socket,
    TcpState::{Close, Established, FinWait1, FinWait2},
    TimeWait, TimeWaitEnd,
};

use crate::scene::{
    APP, CONTAINER, MINUTE, MS, ORPHAN, OTHER, RELEASED, S, Scene, process, socket,
};

/// `APP` closes, and the peer's FIN comes with the acknowledgement: straight into TIME_WAIT.
fn closes_into_time_wait(scene: &mut Scene, c: &Socket, tw: u64) {
    scene.connects(c);
    scene.closes_by(APP, c, Established, FinWait1, RELEASED);
    scene.goes(c, FinWait1, FinWait2);
    scene.enters(c, tw, Phase::TimeWait);
    scene.closes(c, FinWait2, Close, ORPHAN);
}

/// `APP` closes, and the peer's FIN does not come for now.
fn closes_into_fin_wait2(scene: &mut Scene, c: &Socket, tw: u64) {
    scene.connects(c);
    scene.closes_by(APP, c, Established, FinWait1, RELEASED);
    scene.goes(c, FinWait1, FinWait2);
    scene.enters(c, tw, Phase::FinWait2);
    scene.closes(c, FinWait2, Close, ORPHAN);
}

#[track_caller]
fn is_exactly(told: &TimeWait, end: TimeWaitEnd) {
    assert_eq!(told.end, end);
    assert_eq!(told.certainty, Certainty::Exact, "{told:?}");
    assert!(told.doubts.is_empty(), "{told:?}");
}

#[test]
fn expiry_keeps_the_owner_of_the_connection() {
    let mut scene = Scene::new();
    let c = socket(1);
    closes_into_time_wait(&mut scene, &c, 9);
    let entered_ns = scene.now_ns - MS / 10;
    assert_eq!(scene.tracker.summary().waiting, 1);
    scene.wait(61 * S);
    scene.ends_at(
        &c,
        9,
        Phase::TimeWait,
        EndedBy::Expiry,
        None,
        entered_ns + MINUTE,
    );
    let told = scene.time_wait();
    is_exactly(&told, TimeWaitEnd::Expired);
    assert_eq!(told.entered_ns, Some(entered_ns));
    assert_eq!(told.fin_wait2_ns, Some(0));
    assert_eq!(told.time_wait_ns, Some(61 * S + 2 * MS / 10));
    assert_eq!((told.rearmed, told.rearmed_at_least), (0, false));
    let owner = told.owner.unwrap();
    assert_eq!(
        (owner.process, owner.source),
        (process(APP), OwnerSource::Connect)
    );
    assert_eq!(told.by, None);
    let summary = scene.tracker.summary();
    assert_eq!((summary.waiting, summary.time_waits_entered), (0, 1));
    assert_eq!(summary.time_wait_ends, [(TimeWaitEnd::Expired, 1)]);
    assert_eq!(summary.time_wait.unwrap().count, 1);
    assert_eq!(summary.fin_wait2, None);
}

#[test]
fn the_peers_fin_begins_the_real_time_wait() {
    let mut scene = Scene::new();
    let c = socket(1);
    closes_into_fin_wait2(&mut scene, &c, 9);
    scene.wait(3 * S);
    scene.rearms(&c, 9, Phase::TimeWait);
    let since_ns = scene.now_ns;
    scene.wait(62 * S);
    scene.ends_at(
        &c,
        9,
        Phase::TimeWait,
        EndedBy::Expiry,
        None,
        since_ns + MINUTE,
    );
    let told = scene.time_wait();
    is_exactly(&told, TimeWaitEnd::Expired);
    assert_eq!(told.fin_wait2_ns, Some(3 * S + 2 * MS / 10));
    assert_eq!(told.time_wait_ns, Some(62 * S + MS / 10));
    assert_eq!((told.rearmed, told.rearmed_at_least), (0, false));
}

#[test]
fn a_timer_set_anew_within_time_wait_is_counted() {
    for rearms_exact in [true, false] {
        let mut scene = Scene::with(Settings {
            rearms_exact,
            ..Settings::default()
        });
        let c = socket(1);
        closes_into_time_wait(&mut scene, &c, 9);
        scene.wait(10 * S);
        scene.rearms(&c, 9, Phase::TimeWait);
        scene.rearms(&c, 9, Phase::TimeWait);
        let expires_ns = scene.now_ns + MINUTE;
        scene.ends_at(&c, 9, Phase::TimeWait, EndedBy::Expiry, None, expires_ns);
        let told = scene.time_wait();
        is_exactly(&told, TimeWaitEnd::Expired);
        assert_eq!((told.rearmed, told.rearmed_at_least), (2, !rearms_exact));
    }
}

/// Where settings of the timer may go unseen, the first one that shows the real TIME_WAIT need not be
/// the peer's FIN; the kernel's stamp tells.
#[test]
fn a_setting_that_may_be_a_later_one_dates_the_fin_only_if_the_stamp_agrees() {
    for (stamp_before_ns, certainty, doubt, rearmed) in [
        (None, Certainty::Inferred, Some(Doubt::DateFromTimer), 0),
        (Some(MS), Certainty::Exact, None, 0),
        (
            Some(2 * S),
            Certainty::Inferred,
            Some(Doubt::DateFromStamp),
            1,
        ),
    ] {
        let mut scene = Scene::with(Settings {
            rearms_exact: false,
            ..Settings::default()
        });
        let c = socket(1);
        closes_into_fin_wait2(&mut scene, &c, 9);
        scene.wait(3 * S);
        scene.rearms(&c, 9, Phase::TimeWait);
        let set_ns = scene.now_ns;
        scene.wait(61 * S);
        let stamp_ns = stamp_before_ns.map(|before_ns| set_ns - before_ns);
        scene.ends_at(
            &c,
            9,
            Phase::TimeWait,
            EndedBy::Expiry,
            stamp_ns,
            set_ns + MINUTE,
        );
        let told = scene.time_wait();
        assert_eq!(told.certainty, certainty, "{told:?}");
        assert_eq!(told.doubts.iter().next(), doubt, "{told:?}");
        assert_eq!(told.rearmed, rearmed, "{told:?}");
        assert_eq!(
            told.rearmed_at_least,
            certainty != Certainty::Exact,
            "{told:?}"
        );
        let waited_ns = told.time_wait_ns.unwrap();
        let since_set_ns = told.ts_ns - set_ns;
        assert!(
            waited_ns.abs_diff(since_set_ns) <= stamp_before_ns.unwrap_or(0) + MS,
            "{told:?}"
        );
    }
}

#[test]
fn a_timer_that_runs_longer_than_seen_was_set_anew() {
    let mut scene = Scene::new();
    let c = socket(1);
    closes_into_time_wait(&mut scene, &c, 9);
    let set_ns = scene.now_ns - MS / 10;
    scene.wait(61 * S);
    scene.ends_at(
        &c,
        9,
        Phase::TimeWait,
        EndedBy::Expiry,
        None,
        set_ns + MINUTE + 19 * MS,
    );
    assert_eq!(scene.time_wait().rearmed, 0);
    closes_into_time_wait(&mut scene, &c, 9);
    let set_ns = scene.now_ns - MS / 10;
    scene.wait(61 * S);
    scene.ends_at(
        &c,
        9,
        Phase::TimeWait,
        EndedBy::Expiry,
        None,
        set_ns + MINUTE + 70 * MS,
    );
    let told = scene.time_wait();
    assert_eq!((told.rearmed, told.rearmed_at_least), (1, true));
}

#[test]
fn a_fin_that_no_hook_shows_is_dated_by_the_kernels_stamp() {
    let mut scene = Scene::new();
    let c = socket(1);
    closes_into_fin_wait2(&mut scene, &c, 9);
    let entered_ns = scene.now_ns - MS / 10;
    let stamp_ns = entered_ns + 70 * MS;
    scene.wait(61 * S);
    scene.ends_at(
        &c,
        9,
        Phase::TimeWait,
        EndedBy::Expiry,
        Some(stamp_ns),
        stamp_ns + MINUTE + 4 * MS,
    );
    let told = scene.time_wait();
    assert_eq!(told.fin_wait2_ns, Some(70 * MS));
    assert_eq!(told.time_wait_ns, Some(scene.now_ns - stamp_ns));
    assert_eq!(told.certainty, Certainty::Inferred);
    assert_eq!(
        told.doubts.iter().collect::<Vec<_>>(),
        [Doubt::DateFromStamp]
    );
    assert_eq!((told.rearmed, told.rearmed_at_least), (0, false));
}

#[test]
fn without_a_stamp_the_timer_dates_it() {
    let mut scene = Scene::new();
    let c = socket(1);
    closes_into_fin_wait2(&mut scene, &c, 9);
    let entered_ns = scene.now_ns - MS / 10;
    scene.wait(61 * S);
    let expires_ns = entered_ns + 70 * MS + MINUTE;
    scene.ends_at(&c, 9, Phase::TimeWait, EndedBy::Expiry, None, expires_ns);
    let told = scene.time_wait();
    assert_eq!(told.fin_wait2_ns, Some(70 * MS));
    assert_eq!(told.certainty, Certainty::Inferred);
    assert_eq!(
        told.doubts.iter().collect::<Vec<_>>(),
        [Doubt::DateFromTimer]
    );
    assert!(told.rearmed_at_least);
    // A date before it was entered is the rounding of the tick.
    closes_into_fin_wait2(&mut scene, &c, 9);
    let entered_ns = scene.now_ns - MS / 10;
    scene.wait(61 * S);
    scene.ends_at(
        &c,
        9,
        Phase::TimeWait,
        EndedBy::Expiry,
        None,
        entered_ns + MINUTE - 3 * MS,
    );
    let told = scene.time_wait();
    assert_eq!(told.fin_wait2_ns, Some(0));
    assert_eq!(told.time_wait_ns, Some(scene.now_ns - entered_ns));
}

#[test]
fn an_orphan_that_never_sees_the_peers_fin() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters_for(&c, 9, Phase::FinWait2, 5 * S);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    scene.wait(5 * S);
    scene.ends(&c, 9, Phase::FinWait2, EndedBy::Expiry);
    let told = scene.time_wait();
    is_exactly(&told, TimeWaitEnd::Expired);
    assert_eq!(told.last_phase, Phase::FinWait2);
    assert_eq!(told.time_wait_ns, Some(0));
    assert_eq!(told.fin_wait2_ns, Some(5 * S + 2 * MS / 10));
    let summary = scene.tracker.summary();
    assert_eq!(summary.time_wait, None);
    assert_eq!(summary.fin_wait2.unwrap().count, 1);
}

#[test]
fn every_early_end() {
    for (by, end, who) in [
        (EndedBy::Connect, TimeWaitEnd::ReusedByConnect, true),
        (EndedBy::Syn, TimeWaitEnd::ReusedBySyn, false),
        (EndedBy::Data, TimeWaitEnd::DataAfterClose, false),
        (EndedBy::Reset, TimeWaitEnd::Reset, false),
        (EndedBy::Destroyed, TimeWaitEnd::SocketDestroyed, true),
        (EndedBy::NetnsExit, TimeWaitEnd::NetnsExit, false),
    ] {
        let mut scene = Scene::new();
        let c = socket(1);
        closes_into_time_wait(&mut scene, &c, 9);
        scene.ends(&c, 9, Phase::TimeWait, by);
        let told = scene.time_wait();
        is_exactly(&told, end);
        assert_eq!(told.by, who.then(|| process(OTHER)));
        assert_eq!(scene.tracker.summary().time_wait, None);
    }
}

#[test]
fn the_reset_tells_data_from_a_syn() {
    for (minisocket_resets, resets, end, certainty) in [
        (true, true, TimeWaitEnd::DataAfterClose, Certainty::Exact),
        (true, false, TimeWaitEnd::ReusedBySyn, Certainty::Exact),
        (false, false, TimeWaitEnd::Unknown, Certainty::Unknown),
    ] {
        let mut scene = Scene::with(Settings {
            minisocket_resets,
            ..Settings::default()
        });
        let c = socket(1);
        closes_into_time_wait(&mut scene, &c, 9);
        // Of another one, and too long ago.
        scene.minisocket_sends_reset(8);
        scene.minisocket_sends_reset(9);
        scene.wait(20 * MS);
        if resets {
            scene.minisocket_sends_reset(9);
        }
        scene.ends(&c, 9, Phase::TimeWait, EndedBy::SynOrData);
        let told = scene.time_wait();
        assert_eq!((told.end, told.certainty), (end, certainty));
        assert_eq!(
            told.doubts.contains(Doubt::EndNotShown),
            end == TimeWaitEnd::Unknown
        );
    }
}

#[test]
fn an_end_that_no_hook_explains() {
    let mut scene = Scene::new();
    let c = socket(1);
    closes_into_time_wait(&mut scene, &c, 9);
    scene.ends(&c, 9, Phase::TimeWait, EndedBy::Unknown);
    let told = scene.time_wait();
    assert_eq!(told.end, TimeWaitEnd::Unknown);
    assert_eq!(told.certainty, Certainty::Unknown);
    assert!(told.doubts.contains(Doubt::EndNotShown));
    assert!(told.time_wait_ns.is_some());
}

#[test]
fn the_second_end_of_one_minisocket_is_nothing_new() {
    // inet_twsk_deschedule_put() may lose against a running handler: both are reported.
    let mut scene = Scene::with(Settings {
        known_minisockets_only: true,
        ..Settings::default()
    });
    let c = socket(1);
    closes_into_time_wait(&mut scene, &c, 9);
    scene.ends(&c, 9, Phase::TimeWait, EndedBy::Expiry);
    scene.ends(&c, 9, Phase::TimeWait, EndedBy::Syn);
    assert_eq!(scene.time_wait().end, TimeWaitEnd::Expired);
}

#[test]
fn a_recycled_minisocket_means_that_an_end_was_missed() {
    let mut scene = Scene::new();
    let (first, second) = (socket(1), socket(2));
    closes_into_time_wait(&mut scene, &first, 9);
    closes_into_time_wait(&mut scene, &second, 9);
    let told = scene.time_wait();
    assert_eq!(told.minisocket.local, first.local);
    assert_eq!(told.end, TimeWaitEnd::Unknown);
    assert!(told.doubts.contains(Doubt::RecordsLost));
    scene.ends(&second, 9, Phase::TimeWait, EndedBy::Expiry);
    is_exactly(&scene.time_wait(), TimeWaitEnd::Expired);
}

#[test]
fn one_older_than_the_trace_ends() {
    let mut scene = Scene::new();
    let c = socket(1);
    let since_ns = scene.now_ns - 30 * S;
    scene.ends_at(
        &c,
        9,
        Phase::TimeWait,
        EndedBy::Expiry,
        Some(since_ns),
        since_ns + MINUTE,
    );
    let told = scene.time_wait();
    assert_eq!(told.end, TimeWaitEnd::Expired);
    assert_eq!(told.entered_ns, None);
    assert_eq!(told.fin_wait2_ns, None);
    assert_eq!(told.time_wait_ns, Some(scene.now_ns - since_ns));
    assert_eq!(told.certainty, Certainty::Inferred);
    assert!(told.doubts.contains(Doubt::BeforeTrace));
}

#[test]
fn a_full_table_forgets_the_oldest() {
    let mut scene = Scene::with(Settings {
        max_minisockets: 2,
        ..Settings::default()
    });
    for sk in 1..=3 {
        closes_into_time_wait(&mut scene, &socket(sk), 90 + sk);
    }
    let summary = scene.tracker.summary();
    assert_eq!((summary.waiting, summary.evicted), (2, 1));
    scene.told();
    scene.ends(&socket(1), 91, Phase::TimeWait, EndedBy::Expiry);
    let told = scene.time_wait();
    assert!(told.doubts.contains(Doubt::Evicted));
    assert_eq!(told.certainty, Certainty::Inferred);
    scene.ends(&socket(2), 92, Phase::TimeWait, EndedBy::Expiry);
    is_exactly(&scene.time_wait(), TimeWaitEnd::Expired);
}

#[test]
fn another_minisocket_at_the_same_address_is_not_it() {
    let c = socket(1);
    let elsewhere = Socket {
        netns: Some(CONTAINER),
        ..c
    };
    for (shown, phase) in [
        (socket(2), Phase::TimeWait),
        (elsewhere, Phase::TimeWait),
        // There is no way back to FIN_WAIT2.
        (c, Phase::FinWait2),
    ] {
        let mut scene = Scene::new();
        closes_into_time_wait(&mut scene, &c, 9);
        scene.told();
        scene.ends(&shown, 9, phase, EndedBy::Expiry);
        let told = scene.time_waits();
        assert_eq!(told.len(), 2);
        assert_eq!(told[0].end, TimeWaitEnd::Unknown);
        assert_eq!(told[0].time_wait_ns, None);
        assert_eq!(told[1].end, TimeWaitEnd::Expired);
        assert_eq!(told[1].owner, None);
        assert_eq!(told[1].entered_ns, None);
    }
}

#[test]
fn one_older_than_the_trace_whose_timer_is_set_anew() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.rearms(&c, 9, Phase::TimeWait);
    assert_eq!(scene.tracker.summary().waiting, 1);
    let set_ns = scene.now_ns;
    scene.wait(61 * S);
    scene.ends_at(
        &c,
        9,
        Phase::TimeWait,
        EndedBy::Expiry,
        None,
        set_ns + MINUTE,
    );
    let told = scene.time_wait();
    // Whether that was the peer's FIN or a later segment was not seen.
    assert_eq!((told.rearmed, told.rearmed_at_least), (0, true));
    assert!(told.doubts.contains(Doubt::BeforeTrace));
    assert!(told.doubts.contains(Doubt::DateFromTimer));
    assert_eq!(told.time_wait_ns, Some(scene.now_ns - set_ns));
    // Set anew once more, without being reported.
    scene.rearms(&c, 9, Phase::TimeWait);
    let set_ns = scene.now_ns;
    scene.ends_at(
        &c,
        9,
        Phase::TimeWait,
        EndedBy::Reset,
        None,
        set_ns + MINUTE + S,
    );
    assert_eq!(scene.time_wait().rearmed, 1);
}
