//! Owns what happens when an event interrupts the program in the middle of another one on the same
//! CPU: a timer or a packet in softirq, while a system call is being recorded.
//!
//! From 6.1 on the kernel skips a program that is running on the CPU already (kernel/trace/bpf_trace.c
//! `__bpf_trace_run`, v6.18). So there are two programs on the hook. The first records and leaves a
//! mark of the event; the second runs right after it, and records what has no mark. On older kernels,
//! which skip nothing, every event has its mark.
//!
//! Where the kernel does not disable preemption around a tracepoint (7.2), another task may take the CPU between
//! the two, and in the middle of one unless that is forbidden ([`crate::preemption`]). Of each program there is
//! still one run at most on a CPU, since the kernel skips the others; but a mark may have to wait there while
//! other tasks leave theirs.

use core::arch::asm;

use crate::{
    identity::Identity,
    kernel::{OwnerRoom, SockRoom},
    maps::{CAUGHT, CPU},
};

/// Marks kept per CPU; a power of two. Two are in use, that of a system call and that of an interrupt, and
/// one more for each task that lost the CPU between the programs. One that the second program could not
/// take away, because it was skipped, stays until its slot is needed.
const MARKS: usize = 16;

/// What the programs know of the CPU they run on.
#[repr(C)]
pub(crate) struct CpuState {
    /// How many runs of the first program are under way, one inside the other.
    depth: u64,
    /// How many marks have been left.
    marked: u64,
    /// The latest marks; 0 for one that has been taken away.
    marks: [u64; MARKS],
    /// For the outermost run, and for one that interrupts it. System calls and softirq make two
    /// levels; TCP sockets do not change their state in hard interrupts.
    scratch: [Scratch; 2],
}

/// What a run has to itself: room for what is copied from a socket, too much for the 512 bytes of stack, and
/// what the runs before it at this level have found out.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) common: SockRoom,
    pub(crate) owner: OwnerRoom,
    pub(crate) identity: Identity,
}

/// What tells an event from those that it may interrupt or be interrupted by: the socket's address,
/// whose upper 8 bits say nothing, and both states, which have 4 bits each.
#[inline(always)]
pub(crate) fn mark(sk: u64, oldstate: u32, newstate: u32) -> u64 {
    sk << 8 | u64::from(oldstate & 15) << 4 | u64::from(newstate & 15)
}

/// Runs `record` as the first program.
#[inline(always)]
pub(crate) fn first(mark: u64, record: impl FnOnce(&mut Scratch)) {
    let Some(cpu) = CPU.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the value belongs to this CPU, on which runs of this program nest (or are skipped) but do
    // not overlap. What others look at is accessed by volatile instructions, so that they stay where they
    // are; an interrupt between two of them leaves at worst a mark unused. What each level uses is its own.
    unsafe {
        let marked = &raw mut (*cpu).marked;
        let mut slot = marked.read_volatile();
        for _ in 0..MARKS {
            if place(cpu, slot).read_volatile() == 0 {
                break;
            }
            slot += 1;
        }
        marked.write_volatile(slot + 1);
        place(cpu, slot).write_volatile(mark);

        let depth = &raw mut (*cpu).depth;
        let outer = depth.read_volatile();
        depth.write_volatile(outer + 1);
        record(&mut *level(cpu, outer));
        depth.write_volatile(outer);
    }
}

/// Runs `record` as the second program, if the first one has been skipped.
#[inline(always)]
pub(crate) fn second(mark: u64, record: impl FnOnce(&mut Scratch)) {
    let Some(cpu) = CPU.get_ptr_mut(0) else {
        return;
    };
    if take(cpu, mark) {
        return;
    }
    if let Some(caught) = CAUGHT.get_ptr_mut(0) {
        // SAFETY: the value belongs to this CPU, on which the second program does not nest.
        unsafe { *caught += 1 };
    }
    // SAFETY: the first program does not run at this level when the second one does.
    record(unsafe { &mut *level(cpu, 1) });
}

/// What belongs to a run inside `outer` others.
#[inline(always)]
fn level(cpu: *mut CpuState, outer: u64) -> *mut Scratch {
    let mut index = usize::from(outer != 0);
    // Masked where the compiler cannot see it: it would make two cases of it, and the verifier would follow
    // the whole program once for each.
    // SAFETY: one instruction on one register.
    unsafe { asm!("{index} &= 1", index = inout(reg) index) };
    // SAFETY: there are two.
    unsafe { (&raw mut (*cpu).scratch).cast::<Scratch>().add(index) }
}

/// Takes the mark away; says whether there was one. Nearly always it is the latest.
#[inline(always)]
fn take(cpu: *mut CpuState, mark: u64) -> bool {
    // SAFETY: as in `first`.
    unsafe {
        let marked = (&raw const (*cpu).marked).read_volatile();
        for back in 1..=MARKS as u64 {
            let place = place(cpu, marked.wrapping_sub(back));
            if place.read_volatile() == mark {
                place.write_volatile(0);
                return true;
            }
        }
    }
    false
}

/// Where the mark with this number is kept.
#[inline(always)]
fn place(cpu: *mut CpuState, number: u64) -> *mut u64 {
    let index = (number & (MARKS as u64 - 1)) as usize;
    // SAFETY: the index is below the number of marks.
    unsafe { (&raw mut (*cpu).marks).cast::<u64>().add(index) }
}
