//! Owns the phrases: what the vocabulary of closing means, for a person who has never seen it.

use std::fmt::Write as _;

use tcptrace_model::{
    CloseCause, CloseSequence, Comm, Connection, Doubt, Doubts, Owner, OwnerSource, Phase, Process,
    ResetReason, Task, TcpState, TimeWait, TimeWaitEnd,
};

use crate::render::{escape::Escaped, names, time};

/// FIN_WAIT2 without the socket: a minisocket waits for the peer's FIN in its place.
pub(super) const FIN_WAIT2_MINISOCKET: &str = "FIN_WAIT2*";

/// Why a minisocket never came to be: net/ipv4/inet_timewait_sock.c `inet_twsk_alloc` (v6.18).
pub(super) const NEVER_ENTERED: &str =
    "tcp_max_tw_buckets of them were in use, or there was no memory";

/// A wait for the peer's FIN that is told of beside the TIME_WAIT that followed it, in ns.
const LONG_FIN_WAIT2_NS: u64 = 1_000_000_000;

/// `curl[812]`
pub(super) fn process(process: &Process) -> String {
    let Process { pid, comm } = process;
    numbered(comm, *pid)
}

/// The process of a task that called, by the name of the thread: `curl[812]`.
pub(super) fn task(task: &Task) -> String {
    let Task { pid, tid: _, comm } = task;
    numbered(comm, *pid)
}

/// In one piece: each story names several.
fn numbered(comm: &Comm, pid: u32) -> String {
    let mut text = String::with_capacity("a name of fifteen[4294967295]".len());
    // Writing to a String cannot fail.
    let _ = write!(text, "{}", Escaped(comm.as_bytes()));
    text.push('[');
    text.push_str(itoa::Buffer::new().format(pid));
    text.push(']');
    text
}

/// `nginx[77] (owner of the listener)`: with the source where the process did not itself open the
/// socket before our eyes.
pub(super) fn owner(owner: &Owner) -> String {
    let name = process(&owner.process);
    match owner.source {
        OwnerSource::Connect | OwnerSource::Listen | OwnerSource::Accept => name,
        OwnerSource::Proc => format!("{name} (by /proc)"),
        OwnerSource::Bind => format!("{name} (bound it)"),
        OwnerSource::Closer => format!("{name} (known as its closer)"),
        OwnerSource::Listener => format!("{name} (owner of the listener)"),
    }
}

/// What made this end close, to be put behind "closed": `with close()`.
pub(super) fn cause(connection: &Connection) -> String {
    let owner = connection.owner.map(|owner| owner.process.pid);
    let other = connection
        .closed_by
        .filter(|closer| Some(closer.pid) != owner);
    let called = |call: &str| match &other {
        Some(closer) => format!("with {call}, called by {}", process(closer)),
        None => format!("with {call}"),
    };
    let ended = || other.as_ref().map_or("its process".to_owned(), process);
    match connection.cause {
        CloseCause::Close => called("close()"),
        CloseCause::Shutdown => called("shutdown()"),
        CloseCause::Exit => match connection.exit_status {
            Some(status) => format!("because {} exited (status {status})", ended()),
            None => format!("because {} exited", ended()),
        },
        CloseCause::Signal => match connection.signal {
            Some(number) => format!("because {} ended {}", signal(number), ended()),
            None => format!("because a signal ended {}", ended()),
        },
        CloseCause::LingerReset => called("close() and SO_LINGER 0"),
        CloseCause::UnreadDataReset => called("close() and data unread"),
        CloseCause::ListenerClosed => {
            "because its listener was closed before anybody had accepted it".to_owned()
        }
        CloseCause::Disconnect => called("connect(AF_UNSPEC)"),
        CloseCause::Keepalive => "because keepalive probes were not answered".to_owned(),
        CloseCause::RetransmitTimeout => {
            "because the peer acknowledged nothing, however often it was sent again".to_owned()
        }
        CloseCause::UserTimeout => "because TCP_USER_TIMEOUT ran out".to_owned(),
        CloseCause::SocketDestroyed => match &other {
            Some(closer) => format!(
                "because {} destroyed the socket, as ss -K does",
                process(closer)
            ),
            None => "because the socket was destroyed, as ss -K does".to_owned(),
        },
        CloseCause::Peer => "because the peer reset it".to_owned(),
        CloseCause::Unknown => "(why is not known)".to_owned(),
    }
}

/// What made this end send its FIN, before the connection ended in another way; empty when what is
/// known as the cause is that other way.
pub(super) fn cause_of_fin(connection: &Connection) -> String {
    match connection.cause {
        CloseCause::Close | CloseCause::Shutdown | CloseCause::Exit | CloseCause::Signal => {
            cause(connection)
        }
        CloseCause::LingerReset
        | CloseCause::UnreadDataReset
        | CloseCause::ListenerClosed
        | CloseCause::Disconnect
        | CloseCause::Keepalive
        | CloseCause::RetransmitTimeout
        | CloseCause::UserTimeout
        | CloseCause::SocketDestroyed
        | CloseCause::Peer
        | CloseCause::Unknown => String::new(),
    }
}

/// Why this end gave up, or somebody ended it, whatever had made it close before.
pub(super) fn cause_of_end(connection: &Connection) -> String {
    match connection.cause {
        CloseCause::Keepalive
        | CloseCause::RetransmitTimeout
        | CloseCause::UserTimeout
        | CloseCause::SocketDestroyed => cause(connection),
        CloseCause::Close
        | CloseCause::Shutdown
        | CloseCause::Exit
        | CloseCause::Signal
        | CloseCause::LingerReset
        | CloseCause::UnreadDataReset
        | CloseCause::ListenerClosed
        | CloseCause::Disconnect
        | CloseCause::Peer
        | CloseCause::Unknown => match connection.reset.and_then(|reset| reset.reason) {
            Some(reason) => reset_reason(reason),
            None if connection.close == CloseSequence::TimedOut => {
                "because the peer did not answer".to_owned()
            }
            None => "(why is not known)".to_owned(),
        },
    }
}

/// Why this end sent a RST, to be put behind "reset it".
pub(super) fn reset(connection: &Connection) -> String {
    let reason = connection.reset.and_then(|reset| reset.reason);
    match connection.cause {
        CloseCause::LingerReset
        | CloseCause::UnreadDataReset
        | CloseCause::ListenerClosed
        | CloseCause::Disconnect
        | CloseCause::Keepalive
        | CloseCause::SocketDestroyed => cause(connection),
        CloseCause::Close
        | CloseCause::Shutdown
        | CloseCause::Exit
        | CloseCause::Signal
        | CloseCause::RetransmitTimeout
        | CloseCause::UserTimeout
        | CloseCause::Peer
        | CloseCause::Unknown => match reason {
            Some(reason) => reset_reason(reason),
            None => cause(connection),
        },
    }
}

fn reset_reason(reason: ResetReason) -> String {
    let plain = match reason {
        ResetReason::TcpAbortOnData => "because data came after the close",
        ResetReason::TcpAbortOnClose => "because data was unread at the close",
        ResetReason::TcpAbortOnLinger => "because TCP_LINGER2 forbids FIN_WAIT2",
        ResetReason::TcpAbortOnMemory => "for lack of memory, or because of too many orphans",
        ResetReason::TcpKeepaliveTimeout => "because keepalive probes were not answered",
        ResetReason::NoSocket => "because there is no socket any more",
        ResetReason::NotSpecified
        | ResetReason::TcpInvalidAckSequence
        | ResetReason::TcpRfc7323Paws
        | ResetReason::TcpTooOldAck
        | ResetReason::TcpAckUnsentData
        | ResetReason::TcpFlags
        | ResetReason::TcpOldAck
        | ResetReason::TcpTimewaitSocket
        | ResetReason::InvalidSyn
        | ResetReason::TcpState
        | ResetReason::TcpDisconnectWithData
        | ResetReason::MptcpRstEunspec
        | ResetReason::MptcpRstEmptcp
        | ResetReason::MptcpRstEresource
        | ResetReason::MptcpRstEprohibit
        | ResetReason::MptcpRstEwq2big
        | ResetReason::MptcpRstEbadperf
        | ResetReason::MptcpRstEmiddlebox
        | ResetReason::Error
        | ResetReason::Other => {
            return format!("(the kernel's reason: {})", reason.name());
        }
    };
    plain.to_owned()
}

/// `signal 9 (SIGKILL)`
fn signal(number: u8) -> String {
    match names::signal(number) {
        Some(name) => format!("signal {number} ({name})"),
        None => format!("signal {number}"),
    }
}

/// What ended a minisocket, with all that is to be said of it.
pub(super) fn time_wait(found: &TimeWait) -> String {
    let by = |what: &str, joint: &str| match &found.by {
        Some(by) => format!("{what} {joint} {}", process(by)),
        None => what.to_owned(),
    };
    let mut text = match found.end {
        TimeWaitEnd::Expired => match found.last_phase {
            Phase::TimeWait => "expired".to_owned(),
            Phase::FinWait2 => "expired, the peer's FIN has not come".to_owned(),
        },
        TimeWaitEnd::ReusedByConnect => by("reused by connect()", "of"),
        TimeWaitEnd::ReusedBySyn => "reused by a new SYN of the peer".to_owned(),
        TimeWaitEnd::Reset => "ended by a RST of the peer".to_owned(),
        TimeWaitEnd::DataAfterClose => "the peer sent data after the close: reset".to_owned(),
        TimeWaitEnd::SocketDestroyed => by("destroyed (ss -K)", "by"),
        TimeWaitEnd::NetnsExit => "its network namespace was taken down".to_owned(),
        TimeWaitEnd::NeverEntered => format!("never began: {NEVER_ENTERED}"),
        TimeWaitEnd::Unknown => "ended, why is not known".to_owned(),
    };
    if found.rearmed > 0 {
        let least = if found.rearmed_at_least {
            "at least "
        } else {
            ""
        };
        let times = match found.rearmed {
            1 => "once".to_owned(),
            times => format!("{times} times"),
        };
        // Writing to a String cannot fail; so below.
        let _ = write!(text, ", timer restarted {least}{times}");
    }
    if let (Phase::TimeWait, Some(before_ns)) = (found.last_phase, found.fin_wait2_ns)
        && before_ns >= LONG_FIN_WAIT2_NS
    {
        let before = time::brief(before_ns);
        let _ = write!(text, ", after {before} in {FIN_WAIT2_MINISOCKET}");
    }
    let told = [Doubt::RecordsLost, Doubt::BeforeTrace, Doubt::Evicted];
    let told = told.into_iter().filter(|one| found.doubts.contains(*one));
    let told: Vec<&str> = told.map(doubt).collect();
    if !told.is_empty() {
        let _ = write!(text, " ({})", told.join(", "));
    }
    text
}

/// What weakens a finding, as parts of a sentence.
pub(super) fn doubts(doubts: Doubts) -> String {
    doubts.iter().map(doubt).collect::<Vec<_>>().join(", ")
}

/// One of them.
pub(super) fn doubt(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::RecordsLost => "records were lost",
        Doubt::BeforeTrace => "older than the trace",
        Doubt::Evicted => "forgotten to make room",
        Doubt::DateFromStamp => "dated by the kernel's stamp, in whole ms",
        Doubt::DateFromTimer => "dated by the timer's expiry",
        Doubt::EndNotShown => "the hook does not show what ended it",
        Doubt::TraceEnded => "not ended when the trace did",
        Doubt::HoldersNotListed => "the kernel did not list who holds the port",
        Doubt::RulesDisagree => "the rules as known here do not give this error",
        Doubt::OptionsUnknown => "options of a holder not known",
        Doubt::CloseNotShown => "a socket that is only bound may have been closed unseen",
    }
}

/// What the kernel waits for in a state that should pass; empty for states that need not.
pub(super) fn waits_for(state: TcpState) -> &'static str {
    match state {
        TcpState::SynSent => "the peer has not answered",
        TcpState::SynRecv | TcpState::NewSynRecv => {
            "the last ACK of the handshake has not come from the peer"
        }
        TcpState::FinWait1 | TcpState::Closing => {
            "the peer has not acknowledged all that was sent and the FIN behind it"
        }
        TcpState::FinWait2 => "the peer has acknowledged the FIN, its own FIN has not come",
        TcpState::CloseWait => "the peer's FIN has come, the application here has not closed",
        TcpState::LastAck => "the peer has not acknowledged the last FIN",
        TcpState::TimeWait => "its timer has not run out",
        TcpState::Established | TcpState::Close | TcpState::Listen | TcpState::BoundInactive => "",
    }
}

/// A row of the summary.
pub(super) fn close_sequence(close: CloseSequence) -> &'static str {
    match close {
        CloseSequence::LocalFirst => "closed first by this end",
        CloseSequence::RemoteFirst => "closed first by the peer",
        CloseSequence::Simultaneous => "closed by both at once",
        CloseSequence::ResetSent => "reset by this end",
        CloseSequence::ResetReceived => "reset by the peer",
        CloseSequence::TimedOut => "timed out",
        CloseSequence::Refused => "refused",
        CloseSequence::Aborted => "aborted",
        CloseSequence::NeverEstablished => "never established",
        CloseSequence::Unknown => "not known",
    }
}

/// A row of the summary.
pub(super) fn close_cause(cause: CloseCause) -> &'static str {
    match cause {
        CloseCause::Close => "close()",
        CloseCause::Shutdown => "shutdown()",
        CloseCause::Exit => "exit of the process",
        CloseCause::Signal => "signal",
        CloseCause::LingerReset => "close(), SO_LINGER 0",
        CloseCause::UnreadDataReset => "close(), data unread",
        CloseCause::ListenerClosed => "listener closed",
        CloseCause::Disconnect => "connect(AF_UNSPEC)",
        CloseCause::Keepalive => "keepalive",
        CloseCause::RetransmitTimeout => "retransmissions",
        CloseCause::UserTimeout => "TCP_USER_TIMEOUT",
        CloseCause::SocketDestroyed => "socket destroyed",
        CloseCause::Peer => "reset by the peer",
        CloseCause::Unknown => "not known",
    }
}

/// A row of the summary.
pub(super) fn time_wait_end(end: TimeWaitEnd) -> &'static str {
    match end {
        TimeWaitEnd::Expired => "expired",
        TimeWaitEnd::ReusedByConnect => "reused by connect()",
        TimeWaitEnd::ReusedBySyn => "reused by a SYN of the peer",
        TimeWaitEnd::Reset => "ended by a RST of the peer",
        TimeWaitEnd::DataAfterClose => "data after the close: reset",
        TimeWaitEnd::SocketDestroyed => "destroyed (ss -K)",
        TimeWaitEnd::NetnsExit => "network namespace taken down",
        TimeWaitEnd::NeverEntered => "never began: tcp_max_tw_buckets, or no memory",
        TimeWaitEnd::Unknown => "not known",
    }
}
