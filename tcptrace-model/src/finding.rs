//! Owns the findings: what is worth telling a person.

use alloc::{boxed::Box, vec::Vec};

use crate::{
    CallFailed, CallSucceeded, Certainty, CloseCause, CloseSequence, Direction, Doubts, Loss,
    Minisocket, OwnerSource, Phase, Process, ResetReason, Role, Socket, TcpState, TimeWaitEnd,
    Transition,
    conflict::{Call, Rule},
};

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A state change, and how long the socket had been in the state it leaves.
    Transition(Box<TransitionFinding>),
    /// A connection got a minisocket in place of its socket. Comes after the transition to CLOSE.
    TimeWaitEntered(Box<TimeWaitEntered>),
    /// A minisocket is gone, or never came to be.
    TimeWait(Box<TimeWait>),
    /// One end of a connection has ended, as far as its socket goes (its TIME_WAIT may last on).
    Connection(Box<Connection>),
    /// A connection has ended, told as one story: both ends if both are on this host. The same ends
    /// have been told one by one as [`Finding::Connection`].
    Story(Box<Story>),
    /// A connection has been in a state for long that it should pass through.
    Stuck(Box<Stuck>),
    /// A bind(), listen() or connect() failed, and why.
    CallFailed(Box<CallFailed>),
    /// A bind() or listen() succeeded.
    CallSucceeded(Box<CallSucceeded>),
    /// Records were lost.
    Lost(Loss),
}

/// A state change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransitionFinding {
    /// The event itself.
    pub transition: Transition,
    /// Time spent in `oldstate`, in ns. `None` when it is not known: the socket was not seen to
    /// enter that state, or records were lost since.
    pub in_state_ns: Option<u64>,
    /// Who owns the socket, as far as known at that moment.
    pub owner: Option<Owner>,
    /// The phase of the minisocket that takes the socket's place; `None` for none. So FIN_WAIT2 →
    /// CLOSE with [`Phase::TimeWait`] is what RFC 9293 calls FIN_WAIT2 → TIME_WAIT.
    pub minisocket: Option<Phase>,
}

/// Who owns a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The process.
    pub process: Process,
    /// Where that is known from.
    pub source: OwnerSource,
}

/// A connection got a minisocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWaitEntered {
    /// CLOCK_BOOTTIME in ns.
    pub ts_ns: u64,
    /// The minisocket.
    pub minisocket: Minisocket,
    /// Address of the socket it replaces; `None` when that is not known.
    pub sk: Option<u64>,
    /// Who owned the connection.
    pub owner: Option<Owner>,
    /// The phase it begins with.
    pub phase: Phase,
    /// For how long its timer was set, in ns.
    pub timeout_ns: u64,
    /// How sure this is.
    pub certainty: Certainty,
    /// What weakens it.
    pub doubts: Doubts,
}

/// A minisocket from its beginning to its end, or one that never came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWait {
    /// CLOCK_BOOTTIME in ns of the end.
    pub ts_ns: u64,
    /// The minisocket. Its address is 0 for one that never came to be or was only seen in a snapshot.
    pub minisocket: Minisocket,
    /// Who owned the connection.
    pub owner: Option<Owner>,
    /// CLOCK_BOOTTIME in ns at which it took the socket's place; `None` for older than the trace.
    pub entered_ns: Option<u64>,
    /// How long it waited for the peer's FIN, in ns; 0 if it had come before. `None` when not known.
    pub fin_wait2_ns: Option<u64>,
    /// How long the real TIME_WAIT lasted, in ns; 0 if it never came to that. `None` when not known.
    pub time_wait_ns: Option<u64>,
    /// How often the timer was set anew within the real TIME_WAIT, as far as seen.
    pub rearmed: u32,
    /// Whether it may have been more often: the hook misses those that do not move the timer to
    /// another bucket of the wheel.
    pub rearmed_at_least: bool,
    /// What ended it.
    pub end: TimeWaitEnd,
    /// Phase at the end: one that expired in FIN_WAIT2 never saw the peer's FIN.
    pub last_phase: Phase,
    /// Who ended it, where that is a system call (connect, SOCK_DESTROY).
    pub by: Option<Process>,
    /// How sure the durations and the reason are.
    pub certainty: Certainty,
    /// What weakens them.
    pub doubts: Doubts,
}

/// One state that a connection was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSpan {
    /// The state. TIME_WAIT is not among them: see [`TimeWait`].
    pub state: TcpState,
    /// CLOCK_BOOTTIME in ns at which it was entered; `None` when that was not seen.
    pub entered_ns: Option<u64>,
    /// How long it lasted, in ns; `None` when that is not known.
    pub ns: Option<u64>,
}

/// A RST that belongs to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetSeen {
    /// CLOCK_BOOTTIME in ns.
    pub ts_ns: u64,
    /// Which way it went.
    pub direction: Direction,
    /// Why it was sent, where the kernel says so.
    pub reason: Option<ResetReason>,
}

/// Which end's FIN came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedFirst {
    /// This end's.
    Local,
    /// The peer's.
    Remote,
    /// They crossed.
    Both,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// CLOCK_BOOTTIME in ns of its end: the transition to CLOSE.
    pub ts_ns: u64,
    /// The socket as it was last seen with all its addresses and ports.
    pub socket: Socket,
    /// What this end was in the handshake.
    pub role: Role,
    /// Who owned it.
    pub owner: Option<Owner>,
    /// The process that closed or shut it down, where it did so itself; may differ from the owner.
    pub closed_by: Option<Process>,
    /// How it ended.
    pub close: CloseSequence,
    /// What made this side close.
    pub cause: CloseCause,
    /// The signal that ended the process; `None` unless `cause` is [`CloseCause::Signal`].
    pub signal: Option<u8>,
    /// The status with which the process ended; `None` unless `cause` is [`CloseCause::Exit`].
    pub exit_status: Option<u8>,
    /// `sk_err` at the end, an errno; 0 for none.
    pub error: u16,
    /// Whose FIN came first; `None` when there was none, or it is not known.
    pub closed_first: Option<ClosedFirst>,
    /// From this end's shutdown() or the peer's FIN until the other direction was closed too, in ns:
    /// how long the connection was half open. `None` when it was not, or it is not known.
    pub half_closed_ns: Option<u64>,
    /// The RST that ended it; `None` when there was none, or it was not seen.
    pub reset: Option<ResetSeen>,
    /// The states it went through, oldest first; at most 16.
    pub states: Vec<StateSpan>,
    /// How long it was ESTABLISHED, in ns; `None` when it never was, or it is not known.
    pub established_ns: Option<u64>,
    /// The phase of the minisocket that took its place; `None` for none.
    pub minisocket: Option<Phase>,
    /// The minisocket that should have come was forbidden: `tcp_max_tw_buckets`, or no memory.
    pub never_entered: bool,
    /// The other end, when it is on this host too.
    pub peer: Option<PeerEnd>,
    /// Whether all of it was seen, from the first state to the last.
    pub complete: bool,
    /// How sure `close` and `cause` are.
    pub certainty: Certainty,
    /// What weakens them.
    pub doubts: Doubts,
}

/// The other end of a connection, on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerEnd {
    /// Address of its `struct sock`.
    pub sk: u64,
    /// Inode number of its network namespace.
    pub netns: Option<u32>,
    /// Who owns it.
    pub owner: Option<Owner>,
}

/// A connection that has ended, from all ends that are on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    /// The end that ended first.
    pub first: Connection,
    /// The other end, if it is on this host and has ended.
    pub second: Option<Connection>,
    /// The other end is on this host and has not ended: it is in this state.
    pub open_peer: Option<(PeerEnd, TcpState)>,
}

/// A connection that stays in a state for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// CLOCK_BOOTTIME in ns.
    pub ts_ns: u64,
    /// The socket.
    pub socket: Socket,
    /// The state.
    pub state: TcpState,
    /// For how long so far, in ns; at least so long when the connection is older than the trace.
    pub for_ns: u64,
    /// What this end was in the handshake.
    pub role: Role,
    /// Who owns it.
    pub owner: Option<Owner>,
    /// How sure this is.
    pub certainty: Certainty,
    /// What weakens it.
    pub doubts: Doubts,
}

/// What a trace amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// State changes handled.
    pub transitions: u64,
    /// Records lost, of all kinds and for all reasons.
    pub lost: u64,
    /// Connections and minisockets that were forgotten because the tables were full.
    pub evicted: u64,
    /// Ends of connections that have been told.
    pub connections: u64,
    /// Of these, by close sequence; only those that occurred, in the order of [`CloseSequence::ALL`].
    pub closes: Vec<(CloseSequence, u64)>,
    /// Likewise by cause.
    pub causes: Vec<(CloseCause, u64)>,
    /// Minisockets seen to be entered.
    pub time_waits_entered: u64,
    /// Minisockets seen to end, by reason; only those that occurred. `NeverEntered` counts here too.
    pub time_wait_ends: Vec<(TimeWaitEnd, u64)>,
    /// Durations of the real TIME_WAIT of those that expired; `None` when none did.
    pub time_wait: Option<Durations>,
    /// Durations of the phase FIN_WAIT2 of those that expired in it; `None` when none did.
    pub fin_wait2: Option<Durations>,
    /// Connections told to be stuck.
    pub stuck: u64,
    /// Calls that failed, by call, errno and rule; only those that occurred, in this order.
    pub calls_failed: Vec<((Call, u16, Rule), u64)>,
    /// Connections that are open now.
    pub open: u64,
    /// Minisockets that there are now.
    pub waiting: u64,
}

/// How durations are distributed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durations {
    /// How many.
    pub count: u64,
    /// The shortest, in ns.
    pub min_ns: u64,
    /// Half are not longer, in ns, rounded to ms as all quantiles.
    pub median_ns: u64,
    /// 90 % are not longer.
    pub p90_ns: u64,
    /// 99 % are not longer.
    pub p99_ns: u64,
    /// The longest, in ns.
    pub max_ns: u64,
    /// How many from each bound (in ns) to the next: at most 20 ranges of equal width, a round number,
    /// that cover all; the last bound is where the last range begins.
    pub histogram: Vec<(u64, u64)>,
    /// Width of each range of the histogram, in ns.
    pub width_ns: u64,
}
