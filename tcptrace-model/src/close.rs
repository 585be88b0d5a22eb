//! Owns the verdict: how one end of a connection ended and why, from its last transition.
//!
//! Pure functions. What the kernel does at the end of a socket, and in which order it shows it, is in
//! net/ipv4/tcp.c (`__tcp_close`, `tcp_disconnect`, `tcp_abort`), net/ipv4/tcp_input.c (`tcp_reset`,
//! `tcp_rcv_state_process`), net/ipv4/tcp_timer.c (`tcp_write_err`, `tcp_keepalive_timer`) and
//! net/ipv4/tcp_minisocks.c (`tcp_time_wait`), all of v6.18.

use TcpState::{
    BoundInactive, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen,
    NewSynRecv, SynRecv, SynSent, TimeWait,
};

use crate::{
    Certainty, CloseCause, CloseSequence, ClosedFirst, Evidence, File, ResetReason, ResetSeen,
    TcpState,
    verdict::{Action, Closer, Verdict},
};

/// include/uapi/asm-generic/errno-base.h, errno.h (v6.18): what `sk_err` can be when a connection ends.
mod errno {
    /// `tcp_reset` in CLOSE_WAIT.
    pub(super) const EPIPE: u16 = 32;
    /// `tcp_abort`, as SOCK_DESTROY calls it (net/ipv4/tcp_diag.c `tcp_diag_destroy`).
    pub(super) const ECONNABORTED: u16 = 103;
    /// `tcp_reset` in most states.
    pub(super) const ECONNRESET: u16 = 104;
    /// `tcp_write_err`, unless ICMP had left a softer error.
    pub(super) const ETIMEDOUT: u16 = 110;
    /// `tcp_reset` in SYN_SENT.
    pub(super) const ECONNREFUSED: u16 = 111;
}

/// What is known of an end at its transition to CLOSE and a moment after it.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Facts<'a> {
    /// The state that it left.
    pub(crate) oldstate: TcpState,
    pub(crate) evidence: Option<&'a Evidence>,
    /// How long it was in `oldstate`, in ns.
    pub(crate) in_state_ns: Option<u64>,
    /// What the application did first to close it; `None` when nothing was seen.
    pub(crate) action: Option<Action>,
    /// A RST that was received just before.
    pub(crate) received: Option<ResetSeen>,
    /// A RST that was sent just before.
    pub(crate) sent_before: Option<ResetSeen>,
    /// A RST that was sent just after.
    pub(crate) sent_after: Option<ResetSeen>,
    /// Whether a RST may still follow.
    pub(crate) may_follow: bool,
    /// A minisocket took its place.
    pub(crate) minisocket: bool,
    /// No record is missing that could have been that of a RST sent just after.
    pub(crate) reset_would_show: bool,
    /// Minisockets are reported, and no record was lost that could have been this one's.
    pub(crate) minisocket_would_show: bool,
}

/// Whose FIN came first, by the state that an end was in last.
pub(crate) const fn closed_first(last: TcpState) -> Option<ClosedFirst> {
    match last {
        FinWait1 | FinWait2 => Some(ClosedFirst::Local),
        CloseWait | LastAck => Some(ClosedFirst::Remote),
        Closing => Some(ClosedFirst::Both),
        Established | SynSent | SynRecv | TimeWait | Close | Listen | NewSynRecv
        | BoundInactive => None,
    }
}

/// The verdict; `None` when a RST that may still follow would change it or belong to it.
pub(crate) fn decide(facts: &Facts<'_>) -> Option<Verdict> {
    if facts.minisocket {
        // The kernel replaces a socket in FIN_WAIT2 or CLOSING only.
        return Some(orderly(facts));
    }
    let Some(evidence) = facts.evidence else {
        return without_evidence(facts);
    };
    match facts.oldstate {
        SynSent => Some(in_syn_sent(facts, evidence)),
        SynRecv => in_syn_recv(facts, evidence),
        Established | CloseWait | FinWait1 | FinWait2 | Closing | LastAck => match evidence.error {
            0 => without_error(facts, evidence),
            errno::ECONNABORTED => Some(destroyed(facts, evidence)),
            errno::ECONNRESET | errno::EPIPE => reset(facts, evidence),
            errno::ETIMEDOUT => Some(timed_out(facts, evidence)),
            _ => other_error(facts, evidence),
        },
        TimeWait | Close | Listen | NewSynRecv | BoundInactive => Some(Verdict::unknown()),
    }
}

fn in_syn_sent(facts: &Facts<'_>, evidence: &Evidence) -> Verdict {
    let never = CloseSequence::NeverEstablished;
    match evidence.error {
        errno::ECONNREFUSED => Verdict::new(CloseSequence::Refused, CloseCause::Peer)
            .with_reset(facts.received)
            .proven(),
        errno::ECONNABORTED => destroyed(facts, evidence),
        errno::ETIMEDOUT => {
            let limit_ns = u64::from(evidence.user_timeout_ms) * 1_000_000;
            match (limit_ns, facts.in_state_ns) {
                (0, _) => Verdict::new(never, CloseCause::RetransmitTimeout).proven(),
                (_, None) => Verdict::new(never, CloseCause::Unknown).inferred(),
                (limit_ns, Some(waited_ns)) if waited_ns >= limit_ns => {
                    Verdict::new(never, CloseCause::UserTimeout)
                }
                (_, Some(_)) => Verdict::new(never, CloseCause::RetransmitTimeout),
            }
        }
        0 => match evidence.file {
            File::Released => Verdict::after(never, Action::of(evidence))
                .by(Closer::Holder, evidence)
                .proven(),
            // shutdown() leaves this flag only where it does not disconnect: net/ipv4/af_inet.c
            // `inet_shutdown`. Without it, connect() failed or was taken back.
            File::Open if evidence.send_shutdown => Verdict::new(never, CloseCause::Shutdown)
                .by(Closer::Holder, evidence)
                .proven(),
            File::Open | File::None | File::Unknown => Verdict::new(never, CloseCause::Unknown),
        },
        // ICMP: net/ipv4/tcp_ipv4.c `tcp_v4_err`.
        _ => Verdict::new(never, CloseCause::Unknown),
    }
}

fn in_syn_recv(facts: &Facts<'_>, evidence: &Evidence) -> Option<Verdict> {
    let never = CloseSequence::NeverEstablished;
    Some(match (evidence.error, evidence.file) {
        (0, File::Released | File::Open) if !evidence.orphan => return own_abort(facts, evidence),
        (0, File::None) if !evidence.orphan => {
            wait_for_reset(facts)?;
            Verdict::new(never, CloseCause::ListenerClosed)
                .by(Closer::Stranger, evidence)
                .with_reset(facts.sent_after)
                .proven()
        }
        (errno::ECONNABORTED, _) => destroyed(facts, evidence),
        (errno::ECONNRESET, _) => Verdict::new(never, CloseCause::Peer)
            .with_reset(facts.received)
            .proven(),
        (errno::ETIMEDOUT, _) => Verdict::new(never, CloseCause::RetransmitTimeout),
        _ => Verdict::new(never, CloseCause::Unknown),
    })
}

/// SOCK_DESTROY: it sends its RST first.
fn destroyed(facts: &Facts<'_>, evidence: &Evidence) -> Verdict {
    Verdict::new(CloseSequence::Aborted, CloseCause::SocketDestroyed)
        .with_reset(facts.sent_before)
        .by(Closer::Stranger, evidence)
        .proven()
}

/// `tcp_reset` ran: for a RST, or for data that came for an end that nobody reads any more
/// (`tcp_rcv_state_process`), which is answered with a RST only after that.
fn reset(facts: &Facts<'_>, evidence: &Evidence) -> Option<Verdict> {
    let closed = has_sent_fin(facts.oldstate);
    if closed && evidence.receive_shutdown {
        if facts.sent_after.is_some() {
            return Some(
                Verdict::after(CloseSequence::ResetSent, own_action(facts, evidence))
                    .with_reset(facts.sent_after),
            );
        }
        wait_for_reset(facts)?;
    }
    let verdict = if closed {
        Verdict::after(CloseSequence::ResetReceived, own_action(facts, evidence))
    } else {
        Verdict::new(CloseSequence::ResetReceived, CloseCause::Peer).proven()
    };
    Some(verdict.with_reset(facts.received))
}

fn timed_out(facts: &Facts<'_>, evidence: &Evidence) -> Verdict {
    let verdict = if has_sent_fin(facts.oldstate) {
        Verdict::after(CloseSequence::TimedOut, own_action(facts, evidence))
    } else if evidence.user_timeout_ms > 0 {
        Verdict::new(CloseSequence::TimedOut, CloseCause::UserTimeout).proven()
    } else if facts.sent_before.is_some() {
        // Only `tcp_keepalive_timer` sends a RST when it gives up.
        Verdict::new(CloseSequence::TimedOut, CloseCause::Keepalive).proven()
    } else {
        Verdict::new(CloseSequence::TimedOut, CloseCause::RetransmitTimeout)
    };
    verdict.with_reset(facts.sent_before)
}

/// An error that ICMP left: a timer gave up and reports it in place of ETIMEDOUT, or it stood there
/// unread when the application ended the connection itself.
fn other_error(facts: &Facts<'_>, evidence: &Evidence) -> Option<Verdict> {
    if facts.received.is_some() {
        return reset(facts, evidence).map(Verdict::inferred);
    }
    if !evidence.orphan && facts.sent_before.is_none() {
        wait_for_reset(facts)?;
        if facts.sent_after.is_some() {
            return without_error(facts, evidence).map(Verdict::inferred);
        }
    }
    // The user timeout is not read with these errors: it cannot be told from the kernel's own.
    Some(timed_out(facts, evidence).inferred())
}

/// No error: the application ended it, or it ended in good order, or the kernel ran out of memory.
fn without_error(facts: &Facts<'_>, evidence: &Evidence) -> Option<Verdict> {
    match facts.oldstate {
        Established | CloseWait | FinWait1 => own_abort(facts, evidence),
        FinWait2 | Closing => without_minisocket(facts, evidence),
        LastAck => {
            if facts.sent_before.is_some() {
                return Some(out_of_memory(facts, evidence));
            }
            if !evidence.orphan {
                wait_for_reset(facts)?;
                if facts.sent_after.is_some() {
                    return own_abort(facts, evidence);
                }
            }
            Some(Verdict::after(
                CloseSequence::RemoteFirst,
                own_action(facts, evidence),
            ))
        }
        SynSent | SynRecv | TimeWait | Close | Listen | NewSynRecv | BoundInactive => {
            Some(Verdict::unknown())
        }
    }
}

/// FIN_WAIT2 or CLOSING that ended without error and without a minisocket.
fn without_minisocket(facts: &Facts<'_>, evidence: &Evidence) -> Option<Verdict> {
    let action = own_action(facts, evidence);
    if let Some(sent) = facts.sent_before {
        // `tcp_keepalive_timer`: the time of an orphan in FIN_WAIT2 is over and none is left for a
        // minisocket; or `tcp_out_of_resources`.
        if sent.reason == Some(ResetReason::TcpAbortOnMemory) {
            return Some(out_of_memory(facts, evidence));
        }
        return Some(
            Verdict::after(CloseSequence::ResetSent, action).with_reset(facts.sent_before),
        );
    }
    if let Some(sent) = facts.sent_after {
        if sent.reason == Some(ResetReason::TcpAbortOnMemory) {
            return Some(out_of_memory(facts, evidence));
        }
        if !evidence.orphan {
            return own_abort(facts, evidence);
        }
        return Some(Verdict::after(CloseSequence::ResetSent, action).with_reset(facts.sent_after));
    }
    wait_for_reset(facts)?;
    if facts.oldstate == FinWait2 && evidence.orphan && evidence.no_fin_wait2 {
        return Some(Verdict::after(CloseSequence::ResetSent, action));
    }
    if !evidence.receive_shutdown && evidence.file == File::Open {
        // The peer's FIN has not come, so no minisocket was due: connect() with AF_UNSPEC.
        return Some(
            Verdict::new(CloseSequence::ResetSent, CloseCause::Disconnect)
                .by(Closer::Holder, evidence)
                .inferred(),
        );
    }
    Some(Verdict {
        never_entered: facts.minisocket_would_show,
        ..orderly(facts)
    })
}

/// The application ended it by force: `tcp_set_state(TCP_CLOSE)` in process context, then the RST.
fn own_abort(facts: &Facts<'_>, evidence: &Evidence) -> Option<Verdict> {
    wait_for_reset(facts)?;
    let reset = facts.sent_after;
    let reason = reset.and_then(|reset| reset.reason);
    let sent = |cause| Verdict::new(CloseSequence::ResetSent, cause).with_reset(reset);
    if evidence.orphan {
        // `tcp_check_oom` in `__tcp_close`, or `tcp_out_of_resources`.
        return Some(if has_sent_fin(facts.oldstate) {
            out_of_memory(facts, evidence)
        } else {
            Verdict::unknown()
        });
    }
    if reset.is_none() && facts.reset_would_show {
        // `TCP_REPAIR` ends a connection without a word to the peer, or there was no memory for the RST.
        return Some(silent_abort(evidence));
    }
    let unread = reason == Some(ResetReason::TcpAbortOnClose);
    let verdict = match evidence.file {
        // `__tcp_close` looks for unread data first, then for a linger time of 0.
        File::Released if unread || !evidence.linger_zero => sent(CloseCause::UnreadDataReset)
            .by(Closer::Holder, evidence)
            .proven(),
        File::Released => {
            let verdict = sent(CloseCause::LingerReset)
                .by(Closer::Holder, evidence)
                .proven();
            // Before 6.12 the kernel gives no reason, and the data may have been unread as well.
            if reason == Some(ResetReason::TcpState) {
                verdict
            } else {
                verdict.inferred()
            }
        }
        File::Open => sent(CloseCause::Disconnect)
            .by(Closer::Holder, evidence)
            .proven(),
        File::None => sent(CloseCause::ListenerClosed)
            .by(Closer::Stranger, evidence)
            .proven(),
        File::Unknown if unread => sent(CloseCause::UnreadDataReset).proven(),
        File::Unknown => sent(CloseCause::Unknown),
    };
    Some(if reset.is_some() {
        verdict
    } else {
        verdict.inferred()
    })
}

/// The application ended it by force, and no RST was sent.
fn silent_abort(evidence: &Evidence) -> Verdict {
    let unknown = CloseSequence::Unknown;
    let verdict = match evidence.file {
        File::Released => {
            Verdict::after(unknown, Action::of(evidence)).by(Closer::Holder, evidence)
        }
        File::Open => Verdict::new(unknown, CloseCause::Disconnect).by(Closer::Holder, evidence),
        File::None => {
            Verdict::new(unknown, CloseCause::ListenerClosed).by(Closer::Stranger, evidence)
        }
        File::Unknown => Verdict::unknown(),
    };
    Verdict {
        certainty: Certainty::Unknown,
        ..verdict
    }
}

/// `tcp_check_oom`, `tcp_out_of_resources`: too many orphans, or too little memory.
fn out_of_memory(facts: &Facts<'_>, evidence: &Evidence) -> Verdict {
    let reset = facts.sent_before.or(facts.sent_after);
    let verdict =
        Verdict::after(CloseSequence::Aborted, own_action(facts, evidence)).with_reset(reset);
    if reset.and_then(|reset| reset.reason) == Some(ResetReason::TcpAbortOnMemory) {
        verdict
    } else {
        verdict.inferred()
    }
}

/// In good order, with a minisocket or with one that should have come.
fn orderly(facts: &Facts<'_>) -> Verdict {
    let close = match closed_first(facts.oldstate) {
        Some(ClosedFirst::Both) => CloseSequence::Simultaneous,
        Some(ClosedFirst::Remote) => CloseSequence::RemoteFirst,
        Some(ClosedFirst::Local) | None => CloseSequence::LocalFirst,
    };
    let action = match facts.evidence {
        Some(evidence) => own_action(facts, evidence),
        None => facts.action.unwrap_or_else(unknown_action),
    };
    Verdict::after(close, action)
}

/// Without evidence only what came before and after counts.
fn without_evidence(facts: &Facts<'_>) -> Option<Verdict> {
    let action = facts.action.unwrap_or_else(unknown_action);
    let inferred = |close, cause: CloseCause| Verdict::new(close, cause).inferred();
    let verdict = match facts.oldstate {
        SynSent if facts.received.is_some() => {
            inferred(CloseSequence::Refused, CloseCause::Peer).with_reset(facts.received)
        }
        SynSent | SynRecv => inferred(CloseSequence::NeverEstablished, CloseCause::Unknown),
        Established | CloseWait | FinWait1 | FinWait2 | Closing | LastAck => {
            if facts.received.is_some() {
                let verdict = if has_sent_fin(facts.oldstate) {
                    Verdict::after(CloseSequence::ResetReceived, action)
                } else {
                    inferred(CloseSequence::ResetReceived, CloseCause::Peer)
                };
                return Some(verdict.inferred().with_reset(facts.received));
            }
            if facts.oldstate == LastAck && facts.sent_before.is_none() {
                return Some(Verdict::after(CloseSequence::RemoteFirst, action).inferred());
            }
            if facts.sent_before.is_none() {
                wait_for_reset(facts)?;
            }
            let Some(sent) = facts.sent_before.or(facts.sent_after) else {
                return Some(Verdict::unknown());
            };
            match sent.reason {
                Some(ResetReason::TcpAbortOnClose) => {
                    inferred(CloseSequence::ResetSent, CloseCause::UnreadDataReset)
                }
                Some(ResetReason::TcpKeepaliveTimeout) => {
                    inferred(CloseSequence::TimedOut, CloseCause::Keepalive)
                }
                _ => Verdict::after(CloseSequence::ResetSent, action).inferred(),
            }
            .with_reset(Some(sent))
        }
        TimeWait | Close | Listen | NewSynRecv | BoundInactive => Verdict::unknown(),
    };
    Some(verdict)
}

/// What the application did to close an end that has sent its FIN.
fn own_action(facts: &Facts<'_>, evidence: &Evidence) -> Action {
    facts.action.unwrap_or_else(|| {
        // A FIN was sent and a descriptor is still open: it was shutdown().
        if has_sent_fin(facts.oldstate) && evidence.file == File::Open && !evidence.orphan {
            Action::must_have_been_shutdown()
        } else {
            unknown_action()
        }
    })
}

fn unknown_action() -> Action {
    Action {
        cause: CloseCause::Unknown.into(),
        certainty: Certainty::Inferred,
    }
}

const fn has_sent_fin(state: TcpState) -> bool {
    match state {
        FinWait1 | FinWait2 | Closing | LastAck => true,
        Established | SynSent | SynRecv | TimeWait | Close | CloseWait | Listen | NewSynRecv
        | BoundInactive => false,
    }
}

/// `None` while the RST that belongs to this end may still follow.
fn wait_for_reset(facts: &Facts<'_>) -> Option<()> {
    (facts.sent_after.is_some() || !facts.may_follow).then_some(())
}
