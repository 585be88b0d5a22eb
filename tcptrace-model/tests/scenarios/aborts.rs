//! How connections end by force: RSTs, timeouts, and what others do to them.

use tcptrace_model::{
    Certainty, CloseCause, CloseSequence, ClosedFirst, Direction, Evidence, ResetReason, Socket,
    TcpState::{Close, CloseWait, Established, FinWait1, FinWait2, LastAck},
};

use crate::scene::{
    APP, MS, OPEN, ORPHAN, OTHER, RELEASED, S, Scene, UNACCEPTED, address, error, is_exactly,
    process, socket,
};

#[test]
fn linger_zero_sends_a_reset() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let linger = Evidence {
        linger_zero: true,
        ..RELEASED
    };
    scene.closes_by(APP, &c, Established, Close, linger);
    scene.sends_reset(1, Close, ResetReason::TcpState);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::ResetSent, CloseCause::LingerReset);
    assert_eq!(told.closed_by, Some(process(APP)));
    assert_eq!(told.closed_first, None);
    let reset = told.reset.unwrap();
    assert_eq!(reset.direction, Direction::Sent);
    assert_eq!(reset.reason, Some(ResetReason::TcpState));
    // The end is the transition, not the RST that was waited for.
    assert_eq!(reset.ts_ns - told.ts_ns, MS / 10);
}

#[test]
fn unread_data_sends_a_reset_even_with_linger_zero() {
    for linger_zero in [false, true] {
        let mut scene = Scene::new();
        let s = socket(1);
        scene.accepts(&s);
        scene.goes(&s, Established, CloseWait);
        let unread = Evidence {
            linger_zero,
            ..RELEASED
        };
        scene.closes_by(APP, &s, CloseWait, Close, unread);
        scene.sends_reset(1, Close, ResetReason::TcpAbortOnClose);
        let told = scene.connection();
        is_exactly(&told, CloseSequence::ResetSent, CloseCause::UnreadDataReset);
        assert_eq!(told.closed_first, Some(ClosedFirst::Remote));
    }
}

#[test]
fn a_socket_in_repair_mode_ends_without_a_word() {
    // `__tcp_close` disconnects it first of all, and `tcp_disconnect` sends no RST for it.
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, Close, RELEASED);
    scene.advance(S);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::Unknown);
    assert_eq!(told.cause, CloseCause::Close);
    assert_eq!(told.closed_by, Some(process(APP)));
    assert_eq!(told.certainty, Certainty::Unknown);
}

#[test]
fn a_process_may_lose_the_cpu_before_it_sends_its_reset() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, Close, RELEASED);
    scene.advance(20 * MS);
    scene.sends_reset(1, Close, ResetReason::TcpAbortOnClose);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::ResetSent, CloseCause::UnreadDataReset);
}

#[test]
fn a_reset_that_was_not_waited_for_is_inferred() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, Close, RELEASED);
    scene.tracker.finish(scene.now_ns);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::ResetSent);
    assert_eq!(told.cause, CloseCause::UnreadDataReset);
    assert_eq!(told.certainty, Certainty::Inferred);
}

#[test]
fn without_a_reason_linger_zero_is_inferred() {
    // Before 6.12 the data may have been unread as well, which the kernel looks at first.
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let linger = Evidence {
        linger_zero: true,
        ..RELEASED
    };
    scene.closes_by(APP, &c, Established, Close, linger);
    scene.reset(1, Direction::Sent, Close, None);
    let told = scene.connection();
    assert_eq!(told.cause, CloseCause::LingerReset);
    assert_eq!(told.certainty, Certainty::Inferred);
}

#[test]
fn a_process_that_exits_with_unread_data() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let unread = Evidence {
        exiting: true,
        ..RELEASED
    };
    scene.closes_by(APP, &c, Established, Close, unread);
    scene.sends_reset(1, Close, ResetReason::TcpAbortOnClose);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::ResetSent, CloseCause::UnreadDataReset);
    assert_eq!(told.closed_by, Some(process(APP)));
}

#[test]
fn close_with_unread_data_after_shutdown_is_no_forbidden_time_wait() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let half = Evidence {
        send_shutdown: true,
        ..OPEN
    };
    scene.closes_by(APP, &c, Established, FinWait1, half);
    scene.goes(&c, FinWait1, FinWait2);
    scene.closes_by(APP, &c, FinWait2, Close, RELEASED);
    scene.sends_reset(1, Close, ResetReason::TcpAbortOnClose);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::ResetSent, CloseCause::UnreadDataReset);
    assert!(!told.never_entered);
    assert_eq!(told.closed_first, Some(ClosedFirst::Local));
}

#[test]
fn connect_with_af_unspec_disconnects() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, Close, OPEN);
    scene.sends_reset(1, Close, ResetReason::TcpState);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::ResetSent, CloseCause::Disconnect);
    assert_eq!(told.closed_by, Some(process(APP)));
}

#[test]
fn disconnect_after_shutdown() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let half = Evidence {
        send_shutdown: true,
        ..OPEN
    };
    scene.closes_by(APP, &c, Established, FinWait1, half);
    scene.goes(&c, FinWait1, FinWait2);
    scene.closes_by(APP, &c, FinWait2, Close, half);
    scene.sends_reset(1, Close, ResetReason::TcpState);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::ResetSent, CloseCause::Disconnect);
}

#[test]
fn a_listener_closed_before_anybody_accepted() {
    let mut scene = Scene::new();
    let s = socket(1);
    scene.arrives(&s);
    scene.closes_by(OTHER, &s, Established, Close, UNACCEPTED);
    scene.sends_reset(1, Close, ResetReason::TcpState);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::ResetSent, CloseCause::ListenerClosed);
    assert_eq!(told.closed_by, Some(process(OTHER)));
    assert_eq!(told.owner, None);
}

#[test]
fn a_reset_from_the_peer() {
    for (state, errno, closed_first) in [
        (Established, 104, None),
        (CloseWait, 32, Some(ClosedFirst::Remote)),
    ] {
        let mut scene = Scene::new();
        let c = socket(1);
        scene.connects(&c);
        if state == CloseWait {
            scene.goes(&c, Established, CloseWait);
        }
        scene.receives_reset(1, state);
        scene.closes(&c, state, Close, error(errno, OPEN));
        let told = scene.connection();
        is_exactly(&told, CloseSequence::ResetReceived, CloseCause::Peer);
        assert_eq!(told.error, errno);
        assert_eq!(told.closed_first, closed_first);
        assert_eq!(told.reset.unwrap().direction, Direction::Received);
        // In softirq anybody may be on the CPU.
        assert_eq!(told.closed_by, None);
    }
}

#[test]
fn a_reset_after_an_own_close_keeps_the_cause() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.receives_reset(1, FinWait1);
    scene.closes(&c, FinWait1, Close, error(104, ORPHAN));
    let told = scene.connection();
    is_exactly(&told, CloseSequence::ResetReceived, CloseCause::Close);
    assert_eq!(told.closed_first, Some(ClosedFirst::Local));
}

#[test]
fn data_after_close_is_answered_with_a_reset_though_none_was_received() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    // tcp_reset() runs, and says that a RST was received.
    scene.receives_reset(1, FinWait1);
    scene.closes(&c, FinWait1, Close, error(104, ORPHAN));
    scene.sends_reset(1, Close, ResetReason::TcpAbortOnData);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::ResetSent, CloseCause::Close);
    assert_eq!(
        told.reset.unwrap().reason,
        Some(ResetReason::TcpAbortOnData)
    );
}

#[test]
fn data_with_the_acknowledgement_of_the_fin_of_an_orphan() {
    // tcp_rcv_state_process(): FIN_WAIT2 for an instant, then CLOSE without an error.
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    scene.sends_reset(1, Close, ResetReason::TcpAbortOnData);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::ResetSent, CloseCause::Close);
    assert!(!told.never_entered);
}

#[test]
fn a_negative_linger2_forbids_fin_wait2() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    let forbidden = Evidence {
        no_fin_wait2: true,
        ..ORPHAN
    };
    scene.closes(&c, FinWait2, Close, forbidden);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::ResetSent, CloseCause::Close);
    assert!(!told.never_entered);
}

#[test]
fn an_orphan_whose_long_fin_wait2_is_over_sends_a_reset() {
    // tcp_keepalive_timer(): first the RST, then the transition.
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, FinWait2);
    scene.wait(20 * S);
    scene.sends_reset(1, FinWait2, ResetReason::TcpState);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::ResetSent, CloseCause::Close);
    assert!(!told.never_entered);
}

#[test]
fn nobody_acknowledges() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes(&c, Established, Close, error(110, OPEN));
    let told = scene.connection();
    is_exactly(
        &told,
        CloseSequence::TimedOut,
        CloseCause::RetransmitTimeout,
    );
    assert_eq!(told.closed_by, None);
}

#[test]
fn tcp_user_timeout() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    let limited = Evidence {
        user_timeout_ms: 500,
        ..error(110, OPEN)
    };
    scene.closes(&c, Established, Close, limited);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::TimedOut, CloseCause::UserTimeout);
}

#[test]
fn keepalive_sends_a_reset_when_it_gives_up() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.sends_reset(1, Established, ResetReason::TcpKeepaliveTimeout);
    scene.closes(&c, Established, Close, error(110, OPEN));
    let told = scene.connection();
    is_exactly(&told, CloseSequence::TimedOut, CloseCause::Keepalive);
    assert_eq!(told.reset.unwrap().direction, Direction::Sent);
}

#[test]
fn a_reset_long_before_is_not_keepalives() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.sends_reset(1, Established, ResetReason::NotSpecified);
    scene.wait(S);
    scene.closes(&c, Established, Close, error(110, OPEN));
    let told = scene.connection();
    is_exactly(
        &told,
        CloseSequence::TimedOut,
        CloseCause::RetransmitTimeout,
    );
}

#[test]
fn a_soft_error_stands_for_a_timeout() {
    // ECONNREFUSED too: of a connection that stands, only ICMP says so.
    for errno in [111, 113] {
        let mut scene = Scene::new();
        let c = socket(1);
        scene.connects(&c);
        scene.closes(&c, Established, Close, error(errno, OPEN));
        let told = scene.connection();
        assert_eq!(told.close, CloseSequence::TimedOut);
        assert_eq!(told.cause, CloseCause::RetransmitTimeout);
        assert_eq!(told.certainty, Certainty::Inferred);
        assert_eq!(told.error, errno);
    }
}

#[test]
fn an_error_that_nobody_had_read_does_not_hide_an_abort() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, Close, error(113, RELEASED));
    scene.sends_reset(1, Close, ResetReason::TcpAbortOnClose);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::ResetSent);
    assert_eq!(told.cause, CloseCause::UnreadDataReset);
}

#[test]
fn an_orphan_that_times_out_keeps_its_cause() {
    for (first, then) in [(Established, FinWait1), (CloseWait, LastAck)] {
        let mut scene = Scene::new();
        let c = socket(1);
        scene.connects(&c);
        if first == CloseWait {
            scene.goes(&c, Established, CloseWait);
        }
        scene.closes_by(APP, &c, first, then, RELEASED);
        scene.wait(100 * S);
        scene.closes(&c, then, Close, error(110, ORPHAN));
        let told = scene.connection();
        is_exactly(&told, CloseSequence::TimedOut, CloseCause::Close);
    }
}

#[test]
fn somebody_destroys_the_socket() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.sends_reset(1, Established, ResetReason::TcpState);
    scene.closes_by(OTHER, &c, Established, Close, error(103, OPEN));
    let told = scene.connection();
    is_exactly(&told, CloseSequence::Aborted, CloseCause::SocketDestroyed);
    assert_eq!(told.closed_by, Some(process(OTHER)));
    assert_eq!(told.owner.unwrap().process, process(APP));
    assert_eq!(told.reset.unwrap().direction, Direction::Sent);
}

#[test]
fn too_many_orphans() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.closes_by(APP, &c, FinWait1, Close, ORPHAN);
    scene.sends_reset(1, Close, ResetReason::TcpAbortOnMemory);
    let told = scene.connection();
    is_exactly(&told, CloseSequence::Aborted, CloseCause::Close);
}

#[test]
fn the_next_life_at_an_address_ends_the_wait_for_a_reset() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, Close, RELEASED);
    let next = Socket {
        local: address("10.0.0.1:5000"),
        ..c
    };
    scene.connects(&next);
    // It belongs to the new life, which goes on.
    scene.sends_reset(1, Established, ResetReason::NotSpecified);
    let told = scene.connection();
    assert_eq!(
        (told.close, told.cause),
        (CloseSequence::Unknown, CloseCause::Close)
    );
    assert_eq!(told.socket.local.port(), c.local.port());
    assert_eq!(told.reset, None);
    assert_eq!(scene.tracker.summary().open, 1);
}

#[test]
fn what_cannot_change_any_more_is_told_at_once() {
    for (last, evidence) in [
        (Established, error(104, OPEN)),
        (
            FinWait1,
            error(
                104,
                Evidence {
                    send_shutdown: true,
                    ..OPEN
                },
            ),
        ),
        (FinWait1, error(110, ORPHAN)),
        (FinWait1, error(113, ORPHAN)),
        (LastAck, ORPHAN),
        (Established, error(103, OPEN)),
    ] {
        let mut scene = Scene::new();
        scene.closes(&socket(1), last, Close, evidence);
        assert!(scene.told().len() > 1, "{last:?} {evidence:?}");
    }
}

#[test]
fn too_many_orphans_is_inferred_without_the_reset_that_says_so() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.closes(&c, FinWait1, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::Aborted);
    assert_eq!(told.certainty, Certainty::Inferred);
}

#[test]
fn a_disconnect_whose_reset_is_not_seen_is_inferred() {
    let mut scene = Scene::new();
    let c = socket(1);
    let half = Evidence {
        send_shutdown: true,
        ..OPEN
    };
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, half);
    scene.goes(&c, FinWait1, FinWait2);
    scene.closes_by(APP, &c, FinWait2, Close, half);
    let told = scene.connection();
    assert_eq!(told.cause, CloseCause::Disconnect);
    assert_eq!(told.certainty, Certainty::Inferred);
}
