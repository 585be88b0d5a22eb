//! Owns the records of the ring buffer: the header that all share and one struct per kind.

use core::mem::{offset_of, size_of};

use crate::TASK_COMM_LEN;

/// What a record tells. The numbers are fixed: recordings keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum RecordKind {
    /// One `inet_sock_set_state` event: a [`TransitionRecord`].
    Transition = 1,
}

/// How many slots the loss counters have: one per possible kind number, slot 0 unused.
pub const KIND_COUNT: u32 = 16;

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 1] = [Self::Transition];

    /// The kind with this number; `None` if there is none.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Transition),
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

/// Bits of [`TransitionRecord::flags`].
pub mod flag {
    /// `SO_REUSEADDR` was set (`skc_reuse` != 0).
    pub const REUSEADDR: u32 = 1 << 0;
    /// `SO_REUSEPORT` was set (`skc_reuseport`).
    pub const REUSEPORT: u32 = 1 << 1;
    /// The record is there for the tracer's check of itself only, whatever the filters say.
    pub const SELF_CHECK: u32 = 1 << 2;
}

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
    /// Always 0.
    pub padding: u32,
}

const _: () = {
    assert!(size_of::<RecordHeader>() == 16);
    assert!(offset_of!(RecordHeader, ts_ns) == 0);
    assert!(offset_of!(RecordHeader, lost_before) == 8);
    assert!(offset_of!(RecordHeader, cpu) == 12);
    assert!(offset_of!(RecordHeader, kind) == 14);

    // With the ring buffer's own 8 bytes a record fills two cache lines exactly.
    assert!(size_of::<TransitionRecord>() == 120);
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
    assert!(offset_of!(TransitionRecord, padding) == 116);
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
