//! Owns the way of a record to user space: reserve, fill, submit, and count what did not fit.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_smp_processor_id, generated::bpf_ktime_get_boot_ns},
    maps::ring_buf::RingBufEntry,
};
use tcptrace_common::{RecordHeader, RecordKind};

use crate::{
    maps::{EVENTS, LOST, LOST_SO_FAR},
    told::config,
};

/// Makes room for a record of this kind. A failure is counted: nothing is lost silently.
#[inline(always)]
pub(crate) fn reserve<T: 'static>(kind: RecordKind) -> Option<RingBufEntry<T>> {
    let entry = EVENTS.reserve::<T>(0);
    if entry.is_none() {
        count_lost(kind);
    }
    entry
}

/// CLOCK_BOOTTIME in ns.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper takes nothing and only reads the clock.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Records lost on all CPUs until now (wraps around).
#[inline(always)]
pub(crate) fn lost_so_far() -> u32 {
    // Volatile, because the instruction set of kernel 5.8 has no atomic load to compile to.
    // SAFETY: an aligned 8-byte load of a static.
    unsafe { LOST_SO_FAR.as_ptr().read_volatile() as u32 }
}

/// The header of a record about what happened at `ts_ns`.
#[inline(always)]
pub(crate) fn header(kind: RecordKind, ts_ns: u64) -> RecordHeader {
    RecordHeader {
        ts_ns,
        lost_before: lost_so_far(),
        // SAFETY: the helper takes nothing and only reads.
        cpu: unsafe { bpf_get_smp_processor_id() } as u16,
        kind: kind.number(),
    }
}

/// Hands a filled record over. The reader looks by itself many times a second; it is woken only once in
/// `wakeup_bytes` of records: by that one across whose end another multiple of them lies.
#[inline(always)]
pub(crate) fn submit<T: 'static>(mut entry: RingBufEntry<T>) {
    const { assert!(size_of::<T>().is_multiple_of(8)) };
    // Records lie one behind the other, each behind a header of 8 bytes (kernel/bpf/ringbuf.c
    // `__bpf_ringbuf_reserve`, v6.18), in a buffer of so many steps. Where it begins is nobody's business: the
    // verifier lets a program take the address of a record for a number only as the distance to another.
    let end = (entry.as_mut_ptr().addr() as u64)
        .wrapping_sub(LOST_SO_FAR.as_ptr().addr() as u64)
        .wrapping_add(size_of::<T>() as u64);
    let begin = end.wrapping_sub(size_of::<T>() as u64 + 8);
    let step = u64::from(config!(wakeup_bytes));
    // `step` is a power of two: the bits above it differ when a multiple lies between.
    let flags = if (begin ^ end) & !(step - 1) != 0 {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    entry.submit(u64::from(flags));
}

/// Counts a record of this kind that user space will never see.
#[inline(always)]
pub(crate) fn count_lost(kind: RecordKind) {
    // SAFETY: the pointer is to a static of 8 bytes, aligned as an atomic is.
    unsafe { add(LOST_SO_FAR.as_ptr(), 1) };
    if let Some(count) = LOST.get_ptr_mut(u32::from(kind.number())) {
        // An interrupt on this CPU may count at the same moment, hence atomic although per CPU.
        // SAFETY: a map value is 8-byte aligned and lives as long as the map.
        unsafe { add(count, 1) };
    }
}

/// Adds `more` in one instruction (`BPF_XADD`, in every kernel with eBPF). `core` has no read-modify-write
/// atomics for this target.
///
/// # Safety
/// `counter` must be 8-byte aligned and writable, and nothing but atomics may write to it.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, more: i64) {
    // SAFETY: the caller vouches for the pointer; the instruction touches those 8 bytes only.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {more}",
            counter = in(reg) counter,
            more = in(reg) more,
        );
    }
}
