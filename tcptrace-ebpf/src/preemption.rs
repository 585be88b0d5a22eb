//! Owns that a program keeps its CPU until it is done, where the kernel lets it ask for that.
//!
//! The kernel skips a program that is running on the CPU already (kernel/bpf/trampoline.c
//! `__bpf_prog_enter_recur`, kernel/trace/bpf_trace.c `__bpf_trace_run`, v6.18). Where a task can lose its CPU in
//! the middle of one, all tasks that run there until it comes back are missed: around fentry and fexit the
//! kernel disables migration only, and on 7.2 around tracepoints, too.

use core::mem::{self, MaybeUninit};

use tcptrace_common::kfunc;

/// Runs `run`, the whole of a program, on this CPU without another task in between.
///
/// What wants the CPU meanwhile would get it as soon as preemption is enabled again, which is before the kernel
/// knows that the program is done. It does not while interrupts are off (kernel/sched/core.c `preempt_schedule`,
/// v6.18), and finds its next opportunity after the program.
///
/// The calls are of kernel/bpf/helpers.c `bpf_preempt_disable`, `bpf_local_irq_save` and their opposites (v6.18;
/// since 6.14). User space puts their numbers here before it loads the object, or nothing where they are not
/// wanted.
#[inline(always)]
pub(crate) fn without(run: impl FnOnce()) {
    // SAFETY: those of preemption take nothing, those of interrupts the address of 8 bytes, which the first one
    // fills. Each is called once on every way.
    unsafe {
        call(kfunc::PREEMPT_DISABLE)();
        run();
        let mut flags = MaybeUninit::<u64>::uninit();
        call_with(kfunc::LOCAL_IRQ_SAVE)(flags.as_mut_ptr());
        call(kfunc::PREEMPT_ENABLE)();
        call_with(kfunc::LOCAL_IRQ_RESTORE)(flags.as_mut_ptr());
    }
}

/// What user space puts in the place of helper `number`: a helper is called by the address that is its number.
#[inline(always)]
fn call(number: u32) -> unsafe extern "C" fn() {
    // SAFETY: any number is one; whoever calls it vouches for the rest.
    unsafe { mem::transmute(number as usize) }
}

/// Likewise, with an argument.
#[inline(always)]
fn call_with(number: u32) -> unsafe extern "C" fn(*mut u64) {
    // SAFETY: as above.
    unsafe { mem::transmute(number as usize) }
}
