//! Owns the probes on minisockets where the kernel forbids fentry: the events of their timers, told
//! from those of other timers by the function that they call.
//!
//! kernel/time/timer.c (v6.18) emits all but `timer_expire_entry` with interrupts off, and that one in
//! the timer softirq, so none of these programs interrupts another one.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use tcptrace_common::{time_wait, verdict};

use crate::{
    maps::{CANCELLED, TIMER_CODE},
    memory::{self, place},
    minisocket::{self, Stack},
    told::config,
};

/// How many of the innermost frames can be those of whoever gives a timer up: this program, the
/// tracepoint, up to three functions of kernel/time/timer.c. Further out an expiry has the code that
/// its interrupt has interrupted, which may be anything.
const NEAR: usize = 8;

/// `TP_PROTO(struct timer_list *timer, …)`, by `enqueue_timer` and `__mod_timer`. A re-arming into the
/// same bucket of the wheel emits nothing; one into another bucket emits `timer_cancel` just before.
#[raw_tracepoint(tracepoint = "timer_start")]
fn timer_start(ctx: RawTracePointContext) -> i32 {
    let timer = ctx.arg(0);
    if let Some(tw) = minisocket_of(timer) {
        let event = if was_cancelled(timer) {
            time_wait::REARMED
        } else {
            time_wait::ENTERED
        };
        minisocket::record(tw, 0, event);
    }
    0
}

/// `TP_PROTO(struct timer_list *timer, unsigned long baseclk)`, by `call_timer_fn`.
#[raw_tracepoint(tracepoint = "timer_expire_entry")]
fn timer_expire_entry(ctx: RawTracePointContext) -> i32 {
    let timer = ctx.arg(0);
    if let Some(tw) = minisocket_of(timer) {
        // The cancellation before was this; the next minisocket may have the same address.
        was_cancelled(timer);
        minisocket::record(tw, 0, time_wait::EXPIRED);
    }
    0
}

/// `TP_PROTO(struct timer_list *timer)`, by `detach_timer`: before the timer runs, when it is set anew,
/// and when it is given up. Only then is `inet_twsk_deschedule_put` on the stack.
#[raw_tracepoint(tracepoint = "timer_cancel")]
fn timer_cancel(ctx: RawTracePointContext) -> i32 {
    let timer = ctx.arg(0);
    let Some(tw) = minisocket_of(timer) else {
        return 0;
    };
    let mut stack: Stack = [0; _];
    let frames = minisocket::stack(&ctx, &mut stack);
    let Some(code) = TIMER_CODE.get(0) else {
        return 0;
    };
    for address in stack.into_iter().take(NEAR) {
        if is_within(address, code.deschedule) || is_within(address, code.purge) {
            minisocket::record_descheduled(tw, verdict::NONE, &stack, frames);
            return 0;
        }
    }
    if let Some(cancelled) = CANCELLED.get_ptr_mut(0) {
        // SAFETY: the value belongs to this CPU, on which the programs do not nest.
        unsafe { *cancelled = timer };
    }
    0
}

/// Whether a return address lies in the function between these bounds. A call at its very end returns
/// to the next function.
#[inline(always)]
fn is_within(address: u64, [start, end]: [u64; 2]) -> bool {
    address > start && address <= end
}

/// The minisocket that the timer belongs to, if it belongs to one.
#[inline(always)]
fn minisocket_of(timer: u64) -> Option<u64> {
    let function: u64 = memory::load(timer, place!(offsets.timer_function))?;
    let code = TIMER_CODE.get(0)?;
    (function == code.handler).then(|| timer - u64::from(config!(offsets.tw_timer)))
}

/// Whether the timer was cancelled on this CPU just before, which is asked once: to be set anew, or to
/// run.
#[inline(always)]
fn was_cancelled(timer: u64) -> bool {
    let Some(cancelled) = CANCELLED.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the value belongs to this CPU.
    unsafe {
        let same = *cancelled == timer;
        *cancelled = 0;
        same
    }
}
