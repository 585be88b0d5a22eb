//! Owns the inputs: decoded facts about the kernel, in the order in which they were read.

use core::{net::SocketAddr, num::NonZeroU64};

use tcptrace_common::{RecordKind, TASK_COMM_LEN, TcpState};

/// One fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A socket changed its state.
    Transition(Transition),
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
