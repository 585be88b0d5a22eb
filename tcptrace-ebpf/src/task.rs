//! Owns what a record tells of the task on the CPU.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_get_current_comm, bpf_get_current_task},
};
use tcptrace_common::TASK_COMM_LEN;

use crate::kernel::{self, config};

/// The address of the current task.
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_get_current_task() }
}

/// The two words that lie at these 8 bytes, in the order of their addresses.
#[inline(always)]
fn halves(bytes: u64) -> [u32; 2] {
    let (low, high) = (bytes as u32, (bytes >> 32) as u32);
    if cfg!(target_endian = "little") {
        [low, high]
    } else {
        [high, low]
    }
}

/// Writes who is on the CPU to their places in a record: process and thread, as the initial PID namespace numbers
/// them, and the name.
///
/// # Safety
/// Each place must be writable and aligned to 4 bytes.
#[inline(always)]
pub(crate) unsafe fn tell(pid: *mut u32, tid: *mut u32, comm: *mut [u8; TASK_COMM_LEN]) {
    if kernel::is_direct() {
        let task = current();
        let process = kernel::load(task, config!(offsets.task_tgid)).unwrap_or(0);
        let thread = kernel::load(task, config!(offsets.task_pid)).unwrap_or(0);
        // The kernel pads a name with zeros: fs/exec.c `__set_task_comm` (v6.18).
        let at = config!(offsets.task_comm);
        // Not by `map` of an array, which the compiler makes a function of its own.
        let [a, b] = halves(kernel::load(task, at).unwrap_or(0));
        let [c, d] = halves(kernel::load(task, at + 8).unwrap_or(0));
        // SAFETY: the caller vouches for the places.
        unsafe {
            *pid = process;
            *tid = thread;
            kernel::store_words(comm, [a, b, c, d]);
        }
        return;
    }
    let ids = bpf_get_current_pid_tgid();
    // SAFETY: as above; the name is as long as the size given.
    unsafe {
        *pid = (ids >> 32) as u32;
        *tid = ids as u32;
        bpf_get_current_comm(comm.cast(), TASK_COMM_LEN as u32);
    }
}
