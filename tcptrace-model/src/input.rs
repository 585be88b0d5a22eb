//! Owns the inputs: decoded facts about the kernel, in the order in which they were read.

use core::{net::SocketAddr, num::NonZeroU64};

use tcptrace_common::{RecordKind, TASK_COMM_LEN, TcpState};

use crate::{EndedBy, ListedHolder, Phase, ResetReason, SocketCall, Surroundings};

/// One fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A socket changed its state.
    Transition(Transition),
    /// A connection got a minisocket in place of its socket.
    MinisocketEntered(MinisocketEntered),
    /// A minisocket's timer was set anew.
    MinisocketRearmed(MinisocketRearmed),
    /// A minisocket is gone.
    MinisocketEnded(MinisocketEnded),
    /// A RST was sent or received.
    Reset(Reset),
    /// A process took a connection from its listener's queue.
    Accepted(Accepted),
    /// A socket that holds the port of a call that failed.
    Holder(ListedHolder),
    /// What user space has found out about a call that failed.
    Surroundings(Surroundings),
    /// A bind(), listen() or connect() has returned.
    Call(SocketCall),
    /// A snapshot of the sockets that there are: it begins, lists them, and ends.
    Snapshot(Snapshot),
    /// Records are missing between the input before this one and the next. How many, an
    /// [`Input::Lost`] says later.
    Gap {
        /// CLOCK_BOOTTIME ns of the first record after the gap.
        ts_ns: u64,
    },
    /// Records were lost, and this is how many.
    Lost(Loss),
}

/// The socket that an input is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Address of its `struct sock`; recycled within milliseconds.
    pub sk: u64,
    /// `skc_cookie`; `None` when the socket has none yet.
    pub cookie: Option<NonZeroU64>,
    /// Inode number of its network namespace; `None` when it could not be read.
    pub netns: Option<u32>,
    /// Inode number of its cgroup (v2); `None` when it has none of its own or it could not be read.
    pub cgroup_id: Option<u64>,
    /// The user that owns it (`sk_uid`), as seen from the initial user namespace.
    pub uid: u32,
    /// Local address and port (host byte order); port 0 before the kernel has chosen one.
    /// A v4-mapped address is an IPv6 address here, as it is for the socket.
    pub local: SocketAddr,
    /// Remote address and port; port 0 when there is none (yet).
    pub remote: SocketAddr,
    /// `SO_REUSEADDR` was set.
    pub reuseaddr: bool,
    /// `SO_REUSEPORT` was set.
    pub reuseport: bool,
}

/// One `inet_sock_set_state` event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// CLOCK_BOOTTIME in ns.
    pub ts_ns: u64,
    /// The socket whose state changes.
    pub socket: Socket,
    /// The state it leaves.
    pub oldstate: TcpState,
    /// The state it enters. Equal to `oldstate` where the kernel sets the same state again.
    pub newstate: TcpState,
    /// The task on the CPU at that moment. In softirq that is anybody: not the socket's owner.
    pub current: Task,
    /// The CPU.
    pub cpu: u16,
    /// What tells why the socket closes; `None` where the transition does not close it.
    pub evidence: Option<Evidence>,
}

/// What the kernel's structures show, at the moment of a transition that closes a socket, of why.
///
/// Read at transitions into FIN_WAIT1, LAST_ACK and CLOSE, and at those from a state to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Evidence {
    /// `sk_err`, an errno (ECONNRESET is 104); 0 for none. Every path on which the kernel ends a
    /// connection by itself sets it before it sets CLOSE: net/ipv4/tcp.c `tcp_done_with_error`,
    /// `tcp_abort`, net/ipv4/tcp_input.c `tcp_reset`, net/ipv4/tcp_timer.c `tcp_write_err` (v6.18).
    pub error: u16,
    /// `RCV_SHUTDOWN` of `sk_shutdown`: the peer's FIN has come, or the application wants no more.
    pub receive_shutdown: bool,
    /// `SEND_SHUTDOWN` of `sk_shutdown`: the application has shut down or closed.
    pub send_shutdown: bool,
    /// `SOCK_DEAD`: no application has the socket any more (net/core/sock.h `sock_orphan`).
    pub orphan: bool,
    /// Who holds the socket.
    pub file: File,
    /// `SOCK_LINGER` is set and `sk_lingertime` is 0: close() aborts (net/ipv4/tcp.c `__tcp_close`).
    pub linger_zero: bool,
    /// `linger2` is negative (`TCP_LINGER2`): no FIN_WAIT2 without an application. Read at
    /// FIN_WAIT2 → CLOSE only, else false.
    pub no_fin_wait2: bool,
    /// `icsk_user_timeout` (`TCP_USER_TIMEOUT`) in ms; 0 for none. Read where `error` is ETIMEDOUT
    /// only, else 0.
    pub user_timeout_ms: u32,
    /// `PF_EXITING`: the task on the CPU is ending. In softirq that says nothing of the socket.
    pub exiting: bool,
    /// `PF_KTHREAD`: the task on the CPU is the kernel's own, such as a kworker that closes what an
    /// interrupt or io_uring left to it.
    pub kernel_thread: bool,
    /// `exit_code` of the task on the CPU as wait(2) shows it: the signal in the low 7 bits, else
    /// the status in the 8 bits above. Meaningful with `exiting` only.
    pub exit_code: u32,
}

impl Evidence {
    /// That of a socket with an open descriptor and nothing special.
    pub const OPEN: Self = Self {
        error: 0,
        receive_shutdown: false,
        send_shutdown: false,
        orphan: false,
        file: File::Open,
        linger_zero: false,
        no_fin_wait2: false,
        user_timeout_ms: 0,
        exiting: false,
        kernel_thread: false,
        exit_code: 0,
    };

    /// That at close(): the last descriptor is gone, and net/ipv4/tcp.c `__tcp_close` (v6.18) has set both bits
    /// of `sk_shutdown` before it changes the state.
    pub const RELEASED: Self = Self {
        receive_shutdown: true,
        send_shutdown: true,
        file: File::Released,
        ..Self::OPEN
    };

    /// That after close(), when the kernel goes on alone.
    pub const ORPHAN: Self = Self {
        orphan: true,
        file: File::None,
        ..Self::RELEASED
    };
}

/// Who holds a socket (`sk_socket`, and the `struct file` behind it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// There is no `struct socket`: the child has not been accepted, or nobody has it any more.
    None,
    /// A descriptor is open.
    Open,
    /// The last descriptor is gone and the socket is being closed: the reference count of the file
    /// is dead (fs/file_table.c `__fput`, v6.18).
    Released,
    /// It could not be read.
    Unknown,
}

/// A `struct inet_timewait_sock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minisocket {
    /// Its address; recycled within milliseconds.
    pub tw: u64,
    /// `tw_cookie`, that of the socket before it; `None` when that had none.
    pub cookie: Option<NonZeroU64>,
    /// Inode number of its network namespace; `None` when it could not be read.
    pub netns: Option<u32>,
    /// Local address and port (host byte order).
    pub local: SocketAddr,
    /// Remote address and port.
    pub remote: SocketAddr,
    /// `SO_REUSEADDR` of the socket before it, at that moment.
    pub reuseaddr: bool,
    /// `SO_REUSEPORT` of the socket before it, at that moment.
    pub reuseport: bool,
}

/// A connection got a minisocket in place of its socket: net/ipv4/tcp_minisocks.c `tcp_time_wait`
/// (v6.18). The transition of the socket to CLOSE follows at once, on the same CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinisocketEntered {
    /// CLOCK_BOOTTIME in ns.
    pub ts_ns: u64,
    /// The minisocket.
    pub minisocket: Minisocket,
    /// Address of the socket that it replaces; `None` where the hook does not show it (timer).
    pub sk: Option<u64>,
    /// `tw_substate`.
    pub phase: Phase,
    /// For how long its timer was set, in ns (a multiple of the kernel's tick).
    pub timeout_ns: u64,
}

/// A minisocket's timer was set anew: net/ipv4/inet_timewait_sock.c `__inet_twsk_schedule` (v6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinisocketRearmed {
    /// CLOCK_BOOTTIME in ns.
    pub ts_ns: u64,
    /// The minisocket.
    pub minisocket: Minisocket,
    /// `tw_substate` now: [`Phase::TimeWait`] after [`Phase::FinWait2`] is the peer's FIN.
    pub phase: Phase,
    /// For how long the timer was set, in ns (a multiple of the kernel's tick).
    pub timeout_ns: u64,
}

/// A minisocket is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinisocketEnded {
    /// CLOCK_BOOTTIME in ns.
    pub ts_ns: u64,
    /// The minisocket.
    pub minisocket: Minisocket,
    /// `tw_substate` at the end.
    pub phase: Phase,
    /// What ended it, as far as the hook shows it.
    pub by: EndedBy,
    /// The task on the CPU. It is the one that ended it only where `by` happens in a system call.
    pub current: Task,
    /// When the real TIME_WAIT began, CLOCK_BOOTTIME ns, by the kernel's own stamp (`tw_entry_stamp`,
    /// whole ms of CLOCK_MONOTONIC, rounded down); `None` where the kernel has none (before 6.14) or
    /// the phase is FIN_WAIT2.
    pub time_wait_since_ns: Option<u64>,
    /// When the timer runs out, or would have, CLOCK_BOOTTIME ns, within one tick of the kernel. 60 s
    /// before that it was last set in the phase of TIME_WAIT.
    pub expires_ns: u64,
}

/// A RST was sent (tracepoint `tcp_send_reset`) or received (`tcp_receive_reset`; the kernel also
/// calls that when data for an orphan makes it abort the connection).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// CLOCK_BOOTTIME in ns.
    pub ts_ns: u64,
    /// Which way.
    pub direction: Direction,
    /// Address of the socket, or of the minisocket.
    pub sk: u64,
    /// State of the socket at that moment; `TIME_WAIT` for a minisocket of either phase.
    pub state: TcpState,
    /// Why it was sent, where the kernel says so (6.10 and later).
    pub reason: Option<ResetReason>,
}

/// Which way a segment went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From this end.
    Sent,
    /// From the peer.
    Received,
}

/// A process took a connection from its listener's queue: net/ipv4/inet_connection_sock.c
/// `inet_csk_accept` (v6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// CLOCK_BOOTTIME in ns.
    pub ts_ns: u64,
    /// Address of the child.
    pub sk: u64,
    /// The task that called accept().
    pub task: Task,
}

/// A part of a snapshot of existing sockets (sock_diag).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// It begins. What has happened since counts more than what it says.
    Begin {
        /// CLOCK_BOOTTIME ns before the first socket was looked at.
        ts_ns: u64,
    },
    /// A socket that there is.
    Socket(Existing),
    /// It is complete: what it does not list had gone before it began, or its namespace could not be
    /// looked into.
    End {
        /// CLOCK_BOOTTIME ns after the last socket was looked at.
        ts_ns: u64,
        /// Whether every namespace that the trace covers could be looked into.
        complete: bool,
    },
}

/// A socket as a snapshot shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Existing {
    /// CLOCK_BOOTTIME ns at which it was read.
    pub ts_ns: u64,
    /// `SO_COOKIE`.
    pub cookie: Option<NonZeroU64>,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Local address and port (host byte order).
    pub local: SocketAddr,
    /// Remote address and port; port 0 for a listener.
    pub remote: SocketAddr,
    /// Its state; a minisocket has FIN_WAIT2 or TIME_WAIT.
    pub state: TcpState,
    /// For a minisocket (`idiag_timer` is 3): ns until its timer runs out, in whole ms; the wheel's
    /// granularity comes on top. `None` for a full socket.
    pub minisocket_expires_in_ns: Option<u64>,
    /// The process that has it open, by /proc; the lowest pid of several. `None` for one that nobody
    /// has open, or when that process could not be found.
    pub process: Option<Process>,
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id (tgid) in the initial PID namespace.
    pub pid: u32,
    /// Its name.
    pub comm: Comm,
}

/// A task of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Process (tgid) in the initial PID namespace.
    pub pid: u32,
    /// Thread in the initial PID namespace.
    pub tid: u32,
    /// The thread's name.
    pub comm: Comm,
}

/// A task's name: up to 15 bytes that the task chose itself. They may be anything: not UTF-8,
/// control characters, nothing at all. Whoever prints them escapes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comm(pub [u8; TASK_COMM_LEN]);

impl Comm {
    /// The name without its NUL padding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0);
        &self.0[..end.unwrap_or(TASK_COMM_LEN)]
    }
}

/// Records that user space will never see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// CLOCK_BOOTTIME ns at which the loss was noticed; it happened before.
    pub ts_ns: u64,
    /// How many.
    pub records: u64,
    /// Of which kind.
    pub kind: RecordKind,
    /// On which CPU; `None` when the kernel does not tell.
    pub cpu: Option<u32>,
    /// Why.
    pub reason: LossReason,
}

/// Why records were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// The ring buffer (or a table in the kernel) was full, or a socket could not be read.
    BufferFull,
    /// The event interrupted the program while it handled another one on the same CPU, and the
    /// kernel skipped it: kernel/trace/bpf_trace.c `__bpf_trace_run` (v6.18). Filters had not been
    /// applied: it may have been an event that nobody asked for.
    Recursion,
}
