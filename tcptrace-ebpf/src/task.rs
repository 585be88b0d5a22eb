//! Owns what a record tells of the task on the CPU.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_get_current_comm, bpf_get_current_task},
};
use tcptrace_common::TASK_COMM_LEN;

use crate::{
    kernel,
    memory::{self, Object, place},
};

/// The address of the current task.
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_get_current_task() }
}

/// Writes who is on the CPU to their places in a record: process and thread, as the initial PID namespace numbers
/// them, and the name.
///
/// # Safety
/// Each place must be writable and aligned to 4 bytes.
#[inline(always)]
pub(crate) unsafe fn tell(pid: *mut u32, tid: *mut u32, comm: *mut [u8; TASK_COMM_LEN]) {
    if memory::is_direct() {
        let task = Object::at(current());
        let process = task.load(place!(offsets.task_tgid)).unwrap_or(0);
        let thread = task.load(place!(offsets.task_pid)).unwrap_or(0);
        // The kernel pads a name with zeros: fs/exec.c `__set_task_comm` (v6.18).
        let name = task.direct_words(place!(offsets.task_comm));
        // SAFETY: the caller vouches for the places.
        unsafe {
            *pid = process;
            *tid = thread;
            kernel::store_words(comm, name);
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
