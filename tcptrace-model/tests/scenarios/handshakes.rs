//! Connections that were never established, and why.

use tcptrace_model::{
    CloseCause, CloseSequence, Direction, Evidence, Role,
    TcpState::{Close, Listen, SynRecv, SynSent},
};

use crate::scene::{
    APP, OPEN, OTHER, RELEASED, S, Scene, UNACCEPTED, error, is_exactly, process, socket,
};

#[test]
fn refused() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.goes_by(APP, &c, Close, SynSent);
    scene.receives_reset(1, SynSent);
    scene.closes(&c, SynSent, Close, error(111, OPEN));
    let told = scene.connection();
    is_exactly(&told, CloseSequence::Refused, CloseCause::Peer);
    assert_eq!(told.established_ns, None);
    assert_eq!(told.reset.unwrap().direction, Direction::Received);
}

#[test]
fn a_syn_that_nobody_answers() {
    for (user_timeout_ms, waited, cause) in [
        (0, 130 * S, CloseCause::RetransmitTimeout),
        (3000, 3 * S, CloseCause::UserTimeout),
        (300_000, 130 * S, CloseCause::RetransmitTimeout),
    ] {
        let mut scene = Scene::new();
        let c = socket(1);
        scene.goes_by(APP, &c, Close, SynSent);
        scene.wait(waited);
        let timed_out = Evidence {
            user_timeout_ms,
            ..error(110, OPEN)
        };
        scene.closes(&c, SynSent, Close, timed_out);
        let told = scene.connection();
        is_exactly(&told, CloseSequence::NeverEstablished, cause);
    }
}

#[test]
fn a_connect_that_is_given_up() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.goes_by(APP, &c, Close, SynSent);
    scene.closes_by(APP, &c, SynSent, Close, RELEASED);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::NeverEstablished, CloseCause::Close);
    assert_eq!(told.closed_by, Some(process(APP)));
}

#[test]
fn a_connect_that_fails_in_the_call_says_no_cause() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.goes_by(APP, &c, Close, SynSent);
    scene.closes_by(APP, &c, SynSent, Close, OPEN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::NeverEstablished);
    assert_eq!(told.cause, CloseCause::Unknown);
}

#[test]
fn icmp_ends_a_connect() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.goes_by(APP, &c, Close, SynSent);
    scene.closes(&c, SynSent, Close, error(113, OPEN));
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::NeverEstablished);
    assert_eq!(told.cause, CloseCause::Unknown);
    assert_eq!(told.error, 113);
}

#[test]
fn a_socket_destroyed_while_it_connects() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.goes_by(APP, &c, Close, SynSent);
    scene.closes_by(OTHER, &c, SynSent, Close, error(103, OPEN));
    let told = scene.connection();
    is_exactly(&told, CloseSequence::Aborted, CloseCause::SocketDestroyed);
}

#[test]
fn a_child_that_was_never_established() {
    for (evidence, cause) in [
        (UNACCEPTED, CloseCause::ListenerClosed),
        (error(104, UNACCEPTED), CloseCause::Peer),
        (
            Evidence {
                orphan: true,
                ..UNACCEPTED
            },
            CloseCause::Unknown,
        ),
    ] {
        let mut scene = Scene::new();
        let s = socket(1);
        scene.goes(&s, Listen, SynRecv);
        scene.closes(&s, SynRecv, Close, evidence);
        let told = scene.connection();
        assert_eq!(told.close, CloseSequence::NeverEstablished);
        assert_eq!(told.cause, cause);
        assert_eq!(told.role, Role::Server);
    }
}
