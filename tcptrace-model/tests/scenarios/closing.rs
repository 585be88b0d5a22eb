//! How connections end by FINs, in whichever order, and why.

use tcptrace_model::{
    Certainty, CloseCause, CloseSequence, ClosedFirst, Evidence, File, Phase, ResetReason, Role,
    TcpState::{Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, SynSent},
};

use crate::scene::{APP, MS, OPEN, ORPHAN, OTHER, RELEASED, S, Scene, is_exactly, process, socket};

const SIGSEGV: u32 = 11;
const CORE_DUMPED: u32 = 0x80;

#[test]
fn a_client_that_closes_first() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.wait(20 * MS);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters(&c, 9, Phase::TimeWait);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::LocalFirst, CloseCause::Close);
    assert_eq!(told.role, Role::Client);
    assert_eq!(told.closed_by, Some(process(APP)));
    assert_eq!(told.closed_first, Some(ClosedFirst::Local));
    assert_eq!(told.minisocket, Some(Phase::TimeWait));
    assert_eq!(told.half_closed_ns, None);
    assert_eq!(told.established_ns, Some(20 * MS + MS / 10));
    let states: Vec<_> = told.states.iter().map(|span| span.state).collect();
    assert_eq!(states, [SynSent, Established, FinWait1, FinWait2]);
    assert!(told.states.iter().all(|span| span.ns.is_some()));
    assert!(!told.never_entered);
}

#[test]
fn a_server_that_closes_second() {
    let mut scene = Scene::new();
    let s = socket(1);
    scene.accepts(&s);
    scene.goes(&s, Established, CloseWait);
    scene.wait(30 * MS);
    scene.closes_by(APP, &s, CloseWait, LastAck, RELEASED);
    scene.closes(&s, LastAck, Close, ORPHAN);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::RemoteFirst, CloseCause::Close);
    assert_eq!(told.role, Role::Server);
    assert_eq!(told.closed_first, Some(ClosedFirst::Remote));
    assert_eq!(told.half_closed_ns, Some(30 * MS + MS / 10));
    assert_eq!(told.minisocket, None);
}

#[test]
fn fins_that_cross() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, Closing);
    scene.enters(&c, 9, Phase::TimeWait);
    scene.closes(&c, Closing, Close, ORPHAN);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::Simultaneous, CloseCause::Close);
    assert_eq!(told.closed_first, Some(ClosedFirst::Both));
}

#[test]
fn the_end_of_the_process_and_its_status() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let exit = Evidence {
        exiting: true,
        exit_code: 3 << 8,
        ..RELEASED
    };
    scene.closes_by(APP, &c, Established, FinWait1, exit);
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters(&c, 9, Phase::TimeWait);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::LocalFirst, CloseCause::Exit);
    assert_eq!(told.exit_status, Some(3));
    assert_eq!(told.signal, None);
}

#[test]
fn a_signal_and_which() {
    let mut scene = Scene::new();
    let s = socket(1);
    scene.accepts(&s);
    scene.goes(&s, Established, CloseWait);
    // SIGSEGV with a core dump: bit 7 is not part of the signal.
    let killed = Evidence {
        exiting: true,
        exit_code: CORE_DUMPED | SIGSEGV,
        ..RELEASED
    };
    scene.closes_by(APP, &s, CloseWait, LastAck, killed);
    scene.closes(&s, LastAck, Close, ORPHAN);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::RemoteFirst, CloseCause::Signal);
    assert_eq!(told.signal, Some(11));
    assert_eq!(told.exit_status, None);
}

#[test]
fn a_close_by_the_kernels_own_thread_blames_nobody() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let deferred = Evidence {
        kernel_thread: true,
        ..RELEASED
    };
    scene.closes_by(OTHER, &c, Established, FinWait1, deferred);
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters(&c, 9, Phase::TimeWait);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::LocalFirst);
    assert_eq!(told.cause, CloseCause::Close);
    assert_eq!(told.certainty, Certainty::Inferred);
    assert_eq!(told.closed_by, None);
    assert_eq!(told.owner.unwrap().process, process(APP));
}

#[test]
fn shutdown_and_a_half_open_connection_until_the_peers_fin() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let half = Evidence {
        send_shutdown: true,
        ..OPEN
    };
    scene.closes_by(APP, &c, Established, FinWait1, half);
    scene.goes(&c, FinWait1, FinWait2);
    scene.wait(2 * S);
    scene.enters(&c, 9, Phase::TimeWait);
    scene.closes(&c, FinWait2, Close, half);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::LocalFirst, CloseCause::Shutdown);
    assert_eq!(told.half_closed_ns, Some(2 * S + 3 * MS / 10));
}

#[test]
fn shutdown_then_close_before_the_peers_fin() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let half = Evidence {
        send_shutdown: true,
        ..OPEN
    };
    scene.closes_by(APP, &c, Established, FinWait1, half);
    scene.goes(&c, FinWait1, FinWait2);
    scene.wait(S);
    // close() sets the same state again, and the orphan gets its minisocket at once.
    scene.closes_by(APP, &c, FinWait2, FinWait2, RELEASED);
    scene.enters_for(&c, 9, Phase::FinWait2, 60 * S);
    scene.closes_by(APP, &c, FinWait2, Close, ORPHAN);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::LocalFirst, CloseCause::Shutdown);
    assert_eq!(told.half_closed_ns, Some(S + 2 * MS / 10));
    assert_eq!(told.minisocket, Some(Phase::FinWait2));
    let fin_wait2 = told.states.last().unwrap();
    assert_eq!(
        (fin_wait2.state, fin_wait2.ns),
        (FinWait2, Some(S + 3 * MS / 10))
    );
}

#[test]
fn without_evidence_nothing_is_guessed() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.goes(&c, Established, Close);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::Unknown);
    assert_eq!(told.cause, CloseCause::Unknown);
    assert_eq!(told.certainty, Certainty::Unknown);
}

#[test]
fn without_evidence_the_way_may_show_the_sequence() {
    let mut scene = Scene::new();
    let s = socket(1);
    scene.accepts(&s);
    scene.goes(&s, Established, CloseWait);
    scene.goes(&s, CloseWait, LastAck);
    scene.goes(&s, LastAck, Close);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::RemoteFirst);
    assert_eq!(told.certainty, Certainty::Inferred);
    let c = socket(2);
    scene.connects(&c);
    scene.goes(&c, Established, FinWait1);
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters(&c, 9, Phase::TimeWait);
    scene.goes(&c, FinWait2, Close);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::LocalFirst);
    assert_eq!(told.cause, CloseCause::Unknown);
}

#[test]
fn a_file_that_cannot_be_read_hides_the_cause() {
    let mut scene = Scene::new();
    let c = socket(1);
    let hidden = Evidence {
        file: File::Unknown,
        ..OPEN
    };
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, Close, hidden);
    scene.sends_reset(1, Close, ResetReason::TcpState);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::ResetSent);
    assert_eq!(told.cause, CloseCause::Unknown);
}
