//! Owns the evidence of why a socket closes: what its structures, and the task on the CPU, show at the
//! moment of the transition. Everything is there on every kernel, without a hook of its own.

use tcptrace_common::{TcpState, TransitionRecord, file, flag};

use crate::{
    kernel::{self, OwnerRoom, SockCommon},
    memory::{self, Object, place},
    task,
    told::config,
};

/// `ETIMEDOUT` of include/uapi/asm-generic/errno.h (v6.18).
const ETIMEDOUT: u16 = 110;
/// `PF_EXITING` and `PF_KTHREAD` of include/linux/sched.h (v6.18).
const PF_EXITING: u32 = 0x0000_0004;
const PF_KTHREAD: u32 = 0x0020_0000;

/// Whether a transition closes a socket: net/ipv4/tcp.c `tcp_close_state` (which sets the same state
/// again after shutdown()), `tcp_done`, `tcp_disconnect` (v6.18).
#[inline(always)]
pub(crate) fn is_wanted(oldstate: u8, newstate: u8) -> bool {
    const FIN_WAIT1: u8 = TcpState::FinWait1.number();
    const LAST_ACK: u8 = TcpState::LastAck.number();
    const CLOSE: u8 = TcpState::Close.number();
    const LISTEN: u8 = TcpState::Listen.number();
    matches!(newstate, FIN_WAIT1 | LAST_ACK | CLOSE) || oldstate == newstate && oldstate != LISTEN
}

/// Looks at the socket, whose windows have been filled, and at the task on the CPU; adds what is seen
/// to `record`, which must be writable and filled.
///
/// Each fact goes to the record at once: kept in registers, the verifier would have to follow every
/// combination of them.
#[inline(always)]
pub(crate) fn add(
    record: *mut TransitionRecord,
    oldstate: u8,
    common: &SockCommon<'_>,
    owner: &OwnerRoom,
) {
    let sk = common.object();
    let error = kernel::owner_field::<u32, _>(sk, owner, place!(offsets.sk_err)) as u16;
    let shutdown = kernel::owner_field(sk, owner, place!(offsets.sk_shutdown));
    let file = file_of(kernel::owner_field(sk, owner, place!(offsets.sk_socket)));
    // SAFETY: the caller vouches for `record`; so everywhere below.
    unsafe {
        (*record).error = error;
        (*record).shutdown = shutdown;
        (*record).file = file;
    }
    set(record, flag::EVIDENCE);
    let sock_flags: u32 = common.field(place!(offsets.skc_flags));
    if sock_flags & config!(offsets.sock_dead_mask) != 0 {
        set(record, flag::ORPHAN);
    }
    if sock_flags & config!(offsets.sock_linger_mask) != 0
        && kernel::owner_field::<u64, _>(sk, owner, place!(offsets.sk_lingertime)) == 0
    {
        set(record, flag::LINGER_ZERO);
    }
    if oldstate == TcpState::FinWait2.number()
        && sk
            .load::<u32, _>(place!(offsets.linger2))
            .is_some_and(|linger2| linger2.cast_signed() < 0)
    {
        set(record, flag::NO_FIN_WAIT2);
    }
    if error == ETIMEDOUT {
        let timeout = sk.load(place!(offsets.icsk_user_timeout)).unwrap_or(0);
        // SAFETY: as above.
        unsafe { (*record).user_timeout_ms = timeout };
    }
    let task = Object::at(task::current());
    let task_flags: u32 = task.load(place!(offsets.task_flags)).unwrap_or(0);
    if task_flags & PF_EXITING != 0 {
        set(record, flag::EXITING);
        let exit_code = task.load(place!(offsets.task_exit_code)).unwrap_or(0);
        // SAFETY: as above.
        unsafe { (*record).exit_code = exit_code };
    }
    if task_flags & PF_KTHREAD != 0 {
        set(record, flag::KERNEL_THREAD);
    }
}

/// Sets a flag in the record itself.
#[inline(always)]
fn set(record: *mut TransitionRecord, flag: u32) {
    // SAFETY: the caller vouches for `record`. Volatile, so that the flags are not gathered first.
    unsafe {
        let flags = &raw mut (*record).flags;
        flags.write_volatile(flags.read_volatile() | flag);
    }
}

/// What the `struct file` behind a `struct socket` shows of those who hold it: while fs/file_table.c
/// `__fput` (v6.18) releases it, its reference count is dead. That tells close() and the end of a
/// process from shutdown().
#[inline(always)]
fn file_of(socket: u64) -> u8 {
    if socket == 0 {
        return file::NONE;
    }
    let Some(address) = memory::load::<u64, _>(socket, place!(offsets.socket_file)) else {
        return file::UNKNOWN;
    };
    if address == 0 {
        // A socket of the kernel's own.
        return file::UNKNOWN;
    }
    let Some(count) = memory::load::<u64, _>(address, place!(offsets.file_count)) else {
        return file::UNKNOWN;
    };
    let is_dead = if config!(offsets.file_dead_is_negative) != 0 {
        count.cast_signed() < 0
    } else {
        count == 0
    };
    if is_dead { file::RELEASED } else { file::OPEN }
}
