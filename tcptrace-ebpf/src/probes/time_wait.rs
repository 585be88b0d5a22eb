//! Owns the probes on minisockets where the kernel allows fentry and fexit: their entry, re-arming
//! and end, in the functions that do it.
//!
//! User space loads those programs that fit the running kernel's functions.

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use tcptrace_common::{time_wait, verdict};

use crate::{
    maps::{ENDED, SEGMENT},
    minisocket::{self, Stack},
    preemption,
    told::config,
};

/// The segment that a CPU is judging for a minisocket.
#[repr(C)]
pub(crate) struct Segment {
    /// Address of the minisocket; 0 for none.
    tw: u64,
    /// One of [`verdict`].
    verdict: u32,
    padding: u32,
}

/// net/ipv4/inet_timewait_sock.c `inet_twsk_hashdance_schedule(tw, sk, hashinfo, timeo)` (v6.18), from
/// 6.11 on; `inet_twsk_hashdance(tw, sk, hashinfo)` (v6.1) before, when the timer is set already. At
/// its end the minisocket is complete; it lives for a second at least.
#[fexit(function = "inet_twsk_hashdance_schedule")]
fn inet_twsk_hashdance_schedule(ctx: FExitContext) -> i32 {
    preemption::without(|| minisocket::record(ctx.arg(0), ctx.arg(1), time_wait::ENTERED));
    0
}

/// net/ipv4/inet_timewait_sock.c `__inet_twsk_schedule(tw, timeo, rearm)` (v6.18). Its first call may be
/// inlined; those that re-arm come from another file. At its end the timer is set.
#[fexit(function = "__inet_twsk_schedule")]
fn inet_twsk_schedule(ctx: FExitContext) -> i32 {
    preemption::without(|| {
        if ctx.arg::<u32>(2) & 0xff != 0 {
            minisocket::record(ctx.arg(0), 0, time_wait::REARMED);
        }
    });
    0
}

/// net/ipv4/inet_timewait_sock.c `tw_timer_handler(timer)` (v6.18).
#[fentry(function = "tw_timer_handler")]
fn tw_timer_handler(ctx: FEntryContext) -> i32 {
    preemption::without(|| {
        let timer: u64 = ctx.arg(0);
        let tw = timer - u64::from(config!(offsets.tw_timer));
        mark_ended(tw);
        minisocket::record(tw, 0, time_wait::EXPIRED);
    });
    0
}

/// net/ipv4/inet_timewait_sock.c `inet_twsk_deschedule_put(tw)` (v6.18).
#[fentry(function = "inet_twsk_deschedule_put")]
fn inet_twsk_deschedule_put(ctx: FEntryContext) -> i32 {
    preemption::without(|| {
        let tw: u64 = ctx.arg(0);
        mark_ended(tw);
        descheduled(&ctx, tw);
    });
    0
}

/// net/ipv4/inet_timewait_sock.c `inet_twsk_kill(tw)` (v6.18), which both functions above call. Where a
/// compiler has put `inet_twsk_deschedule_put` into its caller, this is what remains to be seen.
#[fentry(function = "inet_twsk_kill")]
fn inet_twsk_kill(ctx: FEntryContext) -> i32 {
    preemption::without(|| {
        let tw: u64 = ctx.arg(0);
        if !is_marked(tw) {
            descheduled(&ctx, tw);
        }
    });
    0
}

/// net/ipv4/tcp_minisocks.c `tcp_timewait_state_process(tw, skb, th, …)` (v6.18): a segment for a
/// minisocket. Softirq only, so it does not nest on a CPU.
#[fentry(function = "tcp_timewait_state_process")]
fn tcp_timewait_state_process(ctx: FEntryContext) -> i32 {
    preemption::without(|| note(ctx.arg(0), verdict::WITHIN));
    0
}

/// Its end, where it has three arguments (up to 6.9).
#[fexit(function = "tcp_timewait_state_process")]
fn tcp_timewait_state_process_3(ctx: FExitContext) -> i32 {
    preemption::without(|| note(ctx.arg(0), ctx.arg::<u32>(3).wrapping_add(2)));
    0
}

/// Its end, where it has four arguments (from 6.10 on).
#[fexit(function = "tcp_timewait_state_process")]
fn tcp_timewait_state_process_4(ctx: FExitContext) -> i32 {
    preemption::without(|| note(ctx.arg(0), ctx.arg::<u32>(4).wrapping_add(2)));
    0
}

/// Its end, where it has five arguments (from 6.16 on).
#[fexit(function = "tcp_timewait_state_process")]
fn tcp_timewait_state_process_5(ctx: FExitContext) -> i32 {
    preemption::without(|| note(ctx.arg(0), ctx.arg::<u32>(5).wrapping_add(2)));
    0
}

#[inline(always)]
fn descheduled(ctx: &FEntryContext, tw: u64) {
    let verdict = judged(tw);
    let mut stack: Stack = [0; _];
    let frames = minisocket::stack(ctx, &mut stack);
    minisocket::record_descheduled(tw, verdict, &stack, frames);
}

/// Leaves word that the end of this minisocket is recorded.
#[inline(always)]
fn mark_ended(tw: u64) {
    if let Some(ended) = ENDED.get_ptr_mut(0) {
        // SAFETY: the value belongs to this CPU. Whoever interrupts and leaves another word makes the
        // end of this one be recorded twice, of which the model takes the first.
        unsafe { *ended = tw };
    }
}

/// Whether the end of this minisocket is recorded; asked once.
#[inline(always)]
fn is_marked(tw: u64) -> bool {
    let Some(ended) = ENDED.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the value belongs to this CPU.
    unsafe {
        let same = *ended == tw;
        *ended = 0;
        same
    }
}

#[inline(always)]
fn note(tw: u64, verdict: u32) {
    if let Some(segment) = SEGMENT.get_ptr_mut(0) {
        // SAFETY: the value belongs to this CPU, on which these programs do not nest.
        unsafe {
            (*segment).tw = tw;
            (*segment).verdict = verdict;
        }
    }
}

/// What became of the segment for this minisocket that the CPU has judged last. An older one would be
/// of another minisocket: whoever judged it has ended it, or let it be.
#[inline(always)]
fn judged(tw: u64) -> u32 {
    let Some(segment) = SEGMENT.get_ptr_mut(0) else {
        return verdict::NONE;
    };
    // SAFETY: the value belongs to this CPU.
    unsafe {
        if (*segment).tw == tw {
            (*segment).verdict
        } else {
            verdict::NONE
        }
    }
}
