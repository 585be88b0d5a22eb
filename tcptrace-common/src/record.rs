//! Owns the records of the ring buffer: the header that all share and one struct per kind.

use core::mem::{offset_of, size_of};

use crate::TASK_COMM_LEN;

/// What a record tells. The numbers are fixed: recordings keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum RecordKind {
    /// One `inet_sock_set_state` event: a [`TransitionRecord`].
    Transition = 1,
    /// A minisocket was entered, its timer set anew, or it expired: a [`TimeWaitRecord`].
    TimeWait = 2,
    /// A minisocket was taken away before its time: a [`DescheduledRecord`].
    Descheduled = 3,
    /// A RST was sent or received: a [`ResetRecord`].
    Reset = 4,
    /// A process accepted a connection: an [`AcceptRecord`].
    Accept = 5,
    /// A bind(), listen() or connect() has returned: a [`crate::CallRecord`].
    Call = 6,
    /// A socket that holds a port: a [`crate::HolderRecord`].
    Holder = 7,
}

/// How many slots the loss counters have: one per possible kind number, slot 0 unused.
pub const KIND_COUNT: u32 = 16;

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Transition,
        Self::TimeWait,
        Self::Descheduled,
        Self::Reset,
        Self::Accept,
        Self::Call,
        Self::Holder,
    ];

    /// The kind with this number; `None` if there is none.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Transition),
            2 => Some(Self::TimeWait),
            3 => Some(Self::Descheduled),
            4 => Some(Self::Reset),
            5 => Some(Self::Accept),
            6 => Some(Self::Call),
            7 => Some(Self::Holder),
            _ => None,
        }
    }

    /// The number of this kind, as the header of a record holds it.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The name that output uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transition => "transition",
            Self::TimeWait => "time_wait",
            Self::Descheduled => "descheduled",
            Self::Reset => "reset",
            Self::Accept => "accept",
            Self::Call => "call",
            Self::Holder => "holder",
        }
    }
}

/// What every record begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RecordHeader {
    /// CLOCK_BOOTTIME in ns when the program ran (`bpf_ktime_get_boot_ns`).
    pub ts_ns: u64,
    /// How many records of any kind had been lost when this one was reserved (wraps around).
    /// A change from one record to the next dates a loss between the two.
    pub lost_before: u32,
    /// The CPU that the program ran on.
    pub cpu: u16,
    /// [`RecordKind`] as a number.
    pub kind: u16,
}

/// Bits of [`TransitionRecord::flags`] and [`TimeWaitRecord::flags`].
pub mod flag {
    /// `SO_REUSEADDR` was set (`skc_reuse` != 0).
    pub const REUSEADDR: u32 = 1 << 0;
    /// `SO_REUSEPORT` was set (`skc_reuseport`).
    pub const REUSEPORT: u32 = 1 << 1;
    /// The record is there for the tracer's check of itself only, whatever the filters say.
    pub const SELF_CHECK: u32 = 1 << 2;
    /// The fields of a [`super::TransitionRecord`] that tell why the socket closes are filled in, and
    /// so are the flags below.
    pub const EVIDENCE: u32 = 1 << 3;
    /// `SOCK_DEAD`: no application has the socket any more.
    pub const ORPHAN: u32 = 1 << 4;
    /// `SOCK_LINGER` with a time of 0.
    pub const LINGER_ZERO: u32 = 1 << 5;
    /// `tcp_sock.linger2` is negative.
    pub const NO_FIN_WAIT2: u32 = 1 << 6;
    /// `PF_EXITING` of the task on the CPU.
    pub const EXITING: u32 = 1 << 7;
    /// `PF_KTHREAD` of the task on the CPU.
    pub const KERNEL_THREAD: u32 = 1 << 8;
    /// [`super::TimeWaitRecord::entry_stamp`] is that of the real TIME_WAIT.
    pub const ENTRY_STAMP: u32 = 1 << 9;
}

/// Values of [`TransitionRecord::file`].
pub mod file {
    /// It could not be read.
    pub const UNKNOWN: u8 = 0;
    /// The socket has no `struct socket`.
    pub const NONE: u8 = 1;
    /// A descriptor is open.
    pub const OPEN: u8 = 2;
    /// The file is being released.
    pub const RELEASED: u8 = 3;
}

/// Values of [`TimeWaitRecord::event`].
pub mod time_wait {
    /// It took the place of a socket.
    pub const ENTERED: u8 = 1;
    /// Its timer was set anew.
    pub const REARMED: u8 = 2;
    /// Its timer ran out.
    pub const EXPIRED: u8 = 3;
    /// It was taken away before.
    pub const DESCHEDULED: u8 = 4;
}

/// Values of [`DescheduledRecord::verdict`]: what net/ipv4/tcp_minisocks.c
/// `tcp_timewait_state_process` made of the segment, as `enum tcp_tw_status` of include/net/tcp.h
/// numbers it, plus 2.
pub mod verdict {
    /// No segment, or the hook that shows it is not there.
    pub const NONE: u32 = 0;
    /// It has not returned yet: a RST.
    pub const WITHIN: u32 = 1;
    /// `TCP_TW_RST`, which is 1 (v6.18).
    pub const RST: u32 = 3;
    /// `TCP_TW_SYN`, which is 3 (v6.18).
    pub const SYN: u32 = 5;
}

/// Frames of a kernel stack that a [`DescheduledRecord`] holds.
pub const STACK_FRAMES: usize = 16;

/// One state change, as the raw tracepoint `inet_sock_set_state` reports it.
///
/// Source: net/ipv4/af_inet.c `inet_sk_set_state`, `inet_sk_state_store` (v6.18); the event is
/// emitted just before the new state is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TransitionRecord {
    /// Time, loss count, CPU, kind.
    pub header: RecordHeader,
    /// Address of the `struct sock`. Recycled within milliseconds.
    pub sk: u64,
    /// `skc_cookie`; 0 when the socket has none yet (nobody has asked for it).
    pub cookie: u64,
    /// Inode number of the socket's cgroup (v2); 0 when unknown.
    pub cgroup_id: u64,
    /// Local address in network byte order; IPv4 uses the first 4 bytes.
    pub laddr: [u8; 16],
    /// Remote address in network byte order; IPv4 uses the first 4 bytes.
    pub raddr: [u8; 16],
    /// Inode number of the socket's network namespace.
    pub netns: u32,
    /// `sk_uid`: the user that owns the socket, as seen from the initial user namespace.
    pub uid: u32,
    /// Process (tgid) on the CPU at that moment, in the initial PID namespace. Not the owner.
    pub pid: u32,
    /// Thread on the CPU at that moment.
    pub tid: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Local port in host byte order; 0 before the kernel has chosen it.
    pub lport: u16,
    /// Remote port in host byte order; 0 when there is none (yet).
    pub rport: u16,
    /// `skc_family`: [`crate::AF_INET`] or [`crate::AF_INET6`].
    pub family: u16,
    /// The state it leaves, as the kernel numbers it.
    pub oldstate: u8,
    /// The state it enters, as the kernel numbers it.
    pub newstate: u8,
    /// Name of the thread on the CPU, NUL padded.
    pub comm: [u8; TASK_COMM_LEN],
    /// `sk_err`; 0 for none.
    pub error: u16,
    /// `sk_shutdown`: 1 receive, 2 send.
    pub shutdown: u8,
    /// One of [`mod@file`].
    pub file: u8,
    /// `icsk_user_timeout` in ms, where `error` is `ETIMEDOUT`.
    pub user_timeout_ms: u32,
    /// `task_struct.exit_code`, where [`flag::EXITING`] is set.
    pub exit_code: u32,
}

/// What happens to a minisocket (`struct inet_timewait_sock`).
///
/// Source: net/ipv4/inet_timewait_sock.c `inet_twsk_hashdance_schedule`, `__inet_twsk_schedule`,
/// `tw_timer_handler`, or the events of its timer: kernel/time/timer.c (v6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TimeWaitRecord {
    /// Time, loss count, CPU, kind.
    pub header: RecordHeader,
    /// Address of the minisocket.
    pub tw: u64,
    /// Address of the socket whose place it takes; 0 where the hook does not show it.
    pub sk: u64,
    /// `tw_cookie`; 0 when the socket had none.
    pub cookie: u64,
    /// Local address in network byte order; IPv4 uses the first 4 bytes.
    pub laddr: [u8; 16],
    /// Remote address in network byte order; IPv4 uses the first 4 bytes.
    pub raddr: [u8; 16],
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Jiffies from now until the timer runs out; negative when that is over.
    pub expires_in: i32,
    /// `tw_entry_stamp`: low 32 bits of CLOCK_MONOTONIC in ms, with [`flag::ENTRY_STAMP`].
    pub entry_stamp: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Process (tgid) on the CPU.
    pub pid: u32,
    /// Thread on the CPU.
    pub tid: u32,
    /// Local port in host byte order.
    pub lport: u16,
    /// Remote port in host byte order.
    pub rport: u16,
    /// `skc_family`.
    pub family: u16,
    /// One of [`time_wait`].
    pub event: u8,
    /// `tw_substate`, as the kernel numbers TCP states.
    pub substate: u8,
    /// Name of the thread on the CPU, NUL padded.
    pub comm: [u8; TASK_COMM_LEN],
}

/// A minisocket that was taken away before its time: net/ipv4/inet_timewait_sock.c
/// `inet_twsk_deschedule_put` (v6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DescheduledRecord {
    /// The minisocket.
    pub time_wait: TimeWaitRecord,
    /// One of [`verdict`].
    pub verdict: u32,
    /// How many of `stack` are filled in.
    pub frames: u32,
    /// Return addresses of the kernel, innermost first.
    pub stack: [u64; STACK_FRAMES],
}

/// A RST: tracepoints `tcp_send_reset` and `tcp_receive_reset` (include/trace/events/tcp.h, v6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ResetRecord {
    /// Time, loss count, CPU, kind.
    pub header: RecordHeader,
    /// Address of the socket or minisocket.
    pub sk: u64,
    /// `enum sk_rst_reason` as this kernel numbers it; [`ResetRecord::NO_REASON`] where it has none.
    pub reason: u32,
    /// 1 when it was received, 0 when it was sent.
    pub received: u8,
    /// `skc_state`.
    pub state: u8,
    /// Always 0.
    pub padding: u16,
}

impl ResetRecord {
    /// In place of a reason: this kernel or this hook does not tell.
    pub const NO_REASON: u32 = u32::MAX;
}

/// A process accepted a connection: net/ipv4/inet_connection_sock.c `inet_csk_accept` (v6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AcceptRecord {
    /// Time, loss count, CPU, kind.
    pub header: RecordHeader,
    /// Address of the child.
    pub sk: u64,
    /// Process (tgid) that accepted it.
    pub pid: u32,
    /// Thread that accepted it.
    pub tid: u32,
    /// Its name, NUL padded.
    pub comm: [u8; TASK_COMM_LEN],
}

const _: () = {
    assert!(size_of::<RecordHeader>() == 16);
    assert!(offset_of!(RecordHeader, ts_ns) == 0);
    assert!(offset_of!(RecordHeader, lost_before) == 8);
    assert!(offset_of!(RecordHeader, cpu) == 12);
    assert!(offset_of!(RecordHeader, kind) == 14);

    assert!(size_of::<TransitionRecord>() == 128);
    assert!(align_of::<TransitionRecord>() == 8);
    assert!(offset_of!(TransitionRecord, header) == 0);
    assert!(offset_of!(TransitionRecord, sk) == 16);
    assert!(offset_of!(TransitionRecord, cookie) == 24);
    assert!(offset_of!(TransitionRecord, cgroup_id) == 32);
    assert!(offset_of!(TransitionRecord, laddr) == 40);
    assert!(offset_of!(TransitionRecord, raddr) == 56);
    assert!(offset_of!(TransitionRecord, netns) == 72);
    assert!(offset_of!(TransitionRecord, uid) == 76);
    assert!(offset_of!(TransitionRecord, pid) == 80);
    assert!(offset_of!(TransitionRecord, tid) == 84);
    assert!(offset_of!(TransitionRecord, flags) == 88);
    assert!(offset_of!(TransitionRecord, lport) == 92);
    assert!(offset_of!(TransitionRecord, rport) == 94);
    assert!(offset_of!(TransitionRecord, family) == 96);
    assert!(offset_of!(TransitionRecord, oldstate) == 98);
    assert!(offset_of!(TransitionRecord, newstate) == 99);
    assert!(offset_of!(TransitionRecord, comm) == 100);
    assert!(offset_of!(TransitionRecord, error) == 116);
    assert!(offset_of!(TransitionRecord, shutdown) == 118);
    assert!(offset_of!(TransitionRecord, file) == 119);
    assert!(offset_of!(TransitionRecord, user_timeout_ms) == 120);
    assert!(offset_of!(TransitionRecord, exit_code) == 124);

    assert!(size_of::<TimeWaitRecord>() == 120);
    assert!(align_of::<TimeWaitRecord>() == 8);
    assert!(offset_of!(TimeWaitRecord, tw) == 16);
    assert!(offset_of!(TimeWaitRecord, sk) == 24);
    assert!(offset_of!(TimeWaitRecord, cookie) == 32);
    assert!(offset_of!(TimeWaitRecord, laddr) == 40);
    assert!(offset_of!(TimeWaitRecord, raddr) == 56);
    assert!(offset_of!(TimeWaitRecord, netns) == 72);
    assert!(offset_of!(TimeWaitRecord, expires_in) == 76);
    assert!(offset_of!(TimeWaitRecord, entry_stamp) == 80);
    assert!(offset_of!(TimeWaitRecord, flags) == 84);
    assert!(offset_of!(TimeWaitRecord, pid) == 88);
    assert!(offset_of!(TimeWaitRecord, tid) == 92);
    assert!(offset_of!(TimeWaitRecord, lport) == 96);
    assert!(offset_of!(TimeWaitRecord, rport) == 98);
    assert!(offset_of!(TimeWaitRecord, family) == 100);
    assert!(offset_of!(TimeWaitRecord, event) == 102);
    assert!(offset_of!(TimeWaitRecord, substate) == 103);
    assert!(offset_of!(TimeWaitRecord, comm) == 104);

    assert!(size_of::<DescheduledRecord>() == 256);
    assert!(offset_of!(DescheduledRecord, time_wait) == 0);
    assert!(offset_of!(DescheduledRecord, verdict) == 120);
    assert!(offset_of!(DescheduledRecord, frames) == 124);
    assert!(offset_of!(DescheduledRecord, stack) == 128);

    assert!(size_of::<ResetRecord>() == 32);
    assert!(offset_of!(ResetRecord, sk) == 16);
    assert!(offset_of!(ResetRecord, reason) == 24);
    assert!(offset_of!(ResetRecord, received) == 28);
    assert!(offset_of!(ResetRecord, state) == 29);
    assert!(offset_of!(ResetRecord, padding) == 30);

    assert!(size_of::<AcceptRecord>() == 48);
    assert!(offset_of!(AcceptRecord, sk) == 16);
    assert!(offset_of!(AcceptRecord, pid) == 24);
    assert!(offset_of!(AcceptRecord, tid) == 28);
    assert!(offset_of!(AcceptRecord, comm) == 32);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_go_to_numbers_and_back_and_have_a_loss_counter() {
        for kind in RecordKind::ALL {
            assert_eq!(RecordKind::from_number(kind.number()), Some(kind));
            assert!(u32::from(kind.number()) < KIND_COUNT);
        }
        assert_eq!(RecordKind::from_number(0), None);
    }
}
