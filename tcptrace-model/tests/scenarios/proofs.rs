//! What the last moment of a connection proves though nothing before it was seen, and what it does not.

use tcptrace_model::{
    Certainty, CloseCause, CloseSequence, Direction, Doubt, Evidence, File, ResetReason, Socket,
    TcpState::{
        self, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, SynRecv, SynSent,
    },
};

use crate::scene::{APP, OPEN, ORPHAN, RELEASED, Scene, UNACCEPTED, error, socket};

/// What was seen of a connection, and what is told of it.
struct Case {
    last: TcpState,
    evidence: Option<Evidence>,
    before: Option<(Direction, Option<ResetReason>)>,
    after: Option<ResetReason>,
    told: (CloseSequence, CloseCause, Certainty),
}

const fn case(
    last: TcpState,
    evidence: Evidence,
    told: (CloseSequence, CloseCause, Certainty),
) -> Case {
    Case {
        last,
        evidence: Some(evidence),
        before: None,
        after: None,
        told,
    }
}

const fn without_evidence(last: TcpState, told: (CloseSequence, CloseCause, Certainty)) -> Case {
    Case {
        last,
        evidence: None,
        before: None,
        after: None,
        told,
    }
}

impl Case {
    fn before(mut self, direction: Direction, reason: Option<ResetReason>) -> Self {
        self.before = Some((direction, reason));
        self
    }

    fn after(mut self, reason: ResetReason) -> Self {
        self.after = Some(reason);
        self
    }

    #[track_caller]
    fn holds(&self) {
        let mut scene = Scene::new();
        let c: Socket = socket(1);
        if let Some((direction, reason)) = self.before {
            // A RST shows the socket before its first transition does: it is not known yet.
            scene.goes(&c, self.last, self.last);
            scene.reset(1, direction, self.last, reason);
        }
        match self.evidence {
            Some(evidence) => scene.closes_by(APP, &c, self.last, Close, evidence),
            None => scene.goes(&c, self.last, Close),
        }
        if let Some(reason) = self.after {
            scene.sends_reset(1, Close, reason);
        }
        let told = scene.connection();
        assert_eq!(
            (told.close, told.cause, told.certainty),
            self.told,
            "{told:?}"
        );
        assert!(told.doubts.contains(Doubt::BeforeTrace));
        assert!(!told.complete);
        assert!(!told.never_entered);
        let reset = told.reset.is_some();
        assert_eq!(
            reset,
            self.before.is_some() || self.after.is_some(),
            "{told:?}"
        );
    }
}

#[test]
fn what_the_kernels_error_and_the_file_say() {
    use Certainty::Exact;
    use CloseCause::{
        Close as Closed, Disconnect, Exit, Keepalive, LingerReset, ListenerClosed, Peer,
        RetransmitTimeout, Shutdown, SocketDestroyed, UnreadDataReset, UserTimeout,
    };
    use CloseSequence::{Aborted, NeverEstablished, Refused, ResetReceived, ResetSent, TimedOut};
    use ResetReason::{TcpAbortOnClose, TcpKeepaliveTimeout, TcpState as ByState};

    let linger = Evidence {
        linger_zero: true,
        ..RELEASED
    };
    let limited = Evidence {
        user_timeout_ms: 500,
        ..error(110, OPEN)
    };
    let exits = Evidence {
        exiting: true,
        ..RELEASED
    };
    let half = Evidence {
        send_shutdown: true,
        ..OPEN
    };
    let hidden = Evidence {
        file: File::Unknown,
        ..OPEN
    };
    for case in [
        case(SynSent, error(111, OPEN), (Refused, Peer, Exact)),
        case(
            SynSent,
            error(110, OPEN),
            (NeverEstablished, RetransmitTimeout, Exact),
        ),
        case(SynSent, RELEASED, (NeverEstablished, Closed, Exact)),
        case(SynSent, exits, (NeverEstablished, Exit, Exact)),
        case(SynSent, half, (NeverEstablished, Shutdown, Exact)),
        case(
            SynRecv,
            error(104, UNACCEPTED),
            (NeverEstablished, Peer, Exact),
        ),
        case(
            SynRecv,
            UNACCEPTED,
            (NeverEstablished, ListenerClosed, Exact),
        )
        .after(ByState),
        case(SynRecv, RELEASED, (ResetSent, UnreadDataReset, Exact)).after(TcpAbortOnClose),
        case(Established, UNACCEPTED, (ResetSent, ListenerClosed, Exact)).after(ByState),
        case(Established, linger, (ResetSent, LingerReset, Exact)).after(ByState),
        case(CloseWait, RELEASED, (ResetSent, UnreadDataReset, Exact)).after(TcpAbortOnClose),
        case(Established, hidden, (ResetSent, UnreadDataReset, Exact)).after(TcpAbortOnClose),
        case(Established, OPEN, (ResetSent, Disconnect, Exact)).after(ByState),
        case(LastAck, half, (ResetSent, Disconnect, Exact))
            .after(ResetReason::TcpDisconnectWithData),
        case(Established, error(104, OPEN), (ResetReceived, Peer, Exact))
            .before(Direction::Received, None),
        case(CloseWait, error(32, OPEN), (ResetReceived, Peer, Exact)),
        case(Established, limited, (TimedOut, UserTimeout, Exact)),
        case(Established, error(110, OPEN), (TimedOut, Keepalive, Exact))
            .before(Direction::Sent, Some(TcpKeepaliveTimeout)),
        case(
            FinWait2,
            error(103, ORPHAN),
            (Aborted, SocketDestroyed, Exact),
        ),
    ] {
        case.holds();
    }
}

#[test]
fn what_rests_on_what_came_before() {
    use Certainty::{Inferred, Unknown as NotKnown};
    use CloseCause::{Disconnect, Peer, RetransmitTimeout, Shutdown, Unknown};
    use CloseSequence::{
        Aborted, LocalFirst, NeverEstablished, RemoteFirst, ResetReceived, ResetSent, Simultaneous,
        TimedOut,
    };
    use ResetReason::{TcpAbortOnData, TcpAbortOnMemory, TcpState as ByState};

    let half = Evidence {
        send_shutdown: true,
        ..OPEN
    };
    let both_halves = Evidence {
        receive_shutdown: true,
        ..half
    };
    let limited = Evidence {
        user_timeout_ms: 500,
        ..error(110, OPEN)
    };
    for case in [
        case(SynSent, limited, (NeverEstablished, Unknown, Inferred)),
        case(
            SynRecv,
            error(110, OPEN),
            (NeverEstablished, RetransmitTimeout, Inferred),
        ),
        case(LastAck, ORPHAN, (RemoteFirst, Unknown, Inferred)),
        case(LastAck, half, (RemoteFirst, Shutdown, Inferred)),
        case(FinWait2, ORPHAN, (LocalFirst, Unknown, Inferred)),
        case(FinWait2, both_halves, (LocalFirst, Shutdown, Inferred)),
        case(Closing, ORPHAN, (Simultaneous, Unknown, Inferred)),
        case(FinWait2, half, (ResetSent, Disconnect, Inferred)),
        case(FinWait2, ORPHAN, (ResetSent, Unknown, Inferred)).after(TcpAbortOnData),
        case(FinWait2, ORPHAN, (Aborted, Unknown, Inferred)).after(TcpAbortOnMemory),
        case(FinWait1, ORPHAN, (Aborted, Unknown, Inferred)),
        case(LastAck, ORPHAN, (Aborted, Unknown, Inferred))
            .before(Direction::Sent, Some(TcpAbortOnMemory)),
        case(FinWait2, ORPHAN, (Aborted, Unknown, Inferred))
            .before(Direction::Sent, Some(TcpAbortOnMemory)),
        case(FinWait2, ORPHAN, (ResetSent, Unknown, Inferred))
            .before(Direction::Sent, Some(ByState)),
        case(
            FinWait1,
            error(104, half),
            (ResetReceived, Shutdown, Inferred),
        ),
        case(FinWait1, error(110, ORPHAN), (TimedOut, Unknown, Inferred)),
        case(
            Established,
            error(110, OPEN),
            (TimedOut, RetransmitTimeout, Inferred),
        ),
        case(
            Established,
            error(113, OPEN),
            (ResetReceived, Peer, Inferred),
        )
        .before(Direction::Received, None),
        case(
            Established,
            ORPHAN,
            (CloseSequence::Unknown, Unknown, NotKnown),
        ),
    ] {
        // The RST that does not belong to an unknown end is not named.
        case.holds();
    }
}

#[test]
fn what_is_left_without_evidence() {
    use Certainty::{Inferred, Unknown as NotKnown};
    use CloseCause::{Keepalive, Peer, Unknown, UnreadDataReset};
    use CloseSequence::{
        NeverEstablished, Refused, RemoteFirst, ResetReceived, ResetSent, TimedOut,
    };
    use ResetReason::{TcpAbortOnClose, TcpKeepaliveTimeout, TcpState as ByState};

    for case in [
        without_evidence(SynSent, (NeverEstablished, Unknown, Inferred)),
        without_evidence(SynRecv, (NeverEstablished, Unknown, Inferred)),
        without_evidence(SynSent, (Refused, Peer, Inferred)).before(Direction::Received, None),
        without_evidence(Established, (ResetReceived, Peer, Inferred))
            .before(Direction::Received, None),
        without_evidence(FinWait1, (ResetReceived, Unknown, Inferred))
            .before(Direction::Received, None),
        without_evidence(LastAck, (RemoteFirst, Unknown, Inferred)),
        without_evidence(Established, (ResetSent, UnreadDataReset, Inferred))
            .after(TcpAbortOnClose),
        without_evidence(Established, (ResetSent, Unknown, Inferred)).after(ByState),
        without_evidence(Established, (TimedOut, Keepalive, Inferred))
            .before(Direction::Sent, Some(TcpKeepaliveTimeout)),
        without_evidence(Established, (CloseSequence::Unknown, Unknown, NotKnown)),
        without_evidence(FinWait2, (CloseSequence::Unknown, Unknown, NotKnown)),
    ] {
        case.holds();
    }
}

#[test]
fn without_evidence_all_of_the_way_makes_it_no_surer() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.receives_reset(1, Established);
    scene.goes(&c, Established, Close);
    let told = scene.connection();
    assert_eq!(told.close, CloseSequence::ResetReceived);
    assert_eq!(told.certainty, Certainty::Inferred);
    let c = socket(2);
    scene.connects(&c);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&c, FinWait1, Close);
    scene.sends_reset(2, Close, ResetReason::TcpState);
    let told = scene.connection();
    assert_eq!(told.cause, CloseCause::Close);
    assert_eq!(told.certainty, Certainty::Inferred);
}
