//! The eBPF programs of a process, and whether the kernel still has them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, Result};

/// include/uapi/linux/bpf.h (v6.18).
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;

/// The numbers of all programs that the process has open, directly or through a link.
pub(crate) fn of_process(pid: u32) -> Result<BTreeSet<u32>> {
    let mut numbers = BTreeSet::new();
    let folder = format!("/proc/{pid}/fdinfo");
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))? {
        // A descriptor may be closed by now.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let number = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        if let Some(number) = number {
            numbers.insert(number.trim().parse()?);
        }
    }
    Ok(numbers)
}

/// Whether the kernel still has this program.
pub(crate) fn exists(number: u32) -> Result<bool> {
    // union bpf_attr of this command: the number, and two words that are zero.
    let attributes = [number, 0, 0, 0];
    // SAFETY: the kernel reads as many bytes as it is told of, and they outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_GET_FD_BY_ID,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if fd < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(false),
            _ => Err(error).with_context(|| format!("cannot ask for program {number}")),
        };
    }
    // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) });
    Ok(true)
}
