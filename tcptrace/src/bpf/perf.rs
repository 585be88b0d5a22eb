//! Owns the attaching of a program to a classic tracepoint by its number: aya looks the number up in a
//! tracefs that is mounted, which there may not be.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use aya::programs::ProgramFd;
use aya_obj::generated::{perf_event_attr, perf_type_id::PERF_TYPE_TRACEPOINT};

/// `PERF_FLAG_FD_CLOEXEC` of include/uapi/linux/perf_event.h (v6.18).
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
/// `_IOW('$', 8, __u32)` and `_IO('$', 0)`, as x86, arm and RISC-V make them.
const PERF_EVENT_IOC_SET_BPF: libc::Ioctl = 0x4004_2408;
const PERF_EVENT_IOC_ENABLE: libc::Ioctl = 0x2400;

/// The least value of kernel.perf_event_paranoid by which kernels refuse where Linux itself knows none above 2:
/// those of Debian and Ubuntu, which ask for CAP_SYS_ADMIN then (as measured: 5.10 and 6.1 of Debian).
const RESTRICTED: i32 = 3;

/// What the refusal of perf_event_open(2) comes from, and what to type, if it comes from a setting.
pub(super) fn restriction(error: &io::Error) -> Option<String> {
    if error.raw_os_error() != Some(libc::EACCES) {
        return None;
    }
    let setting = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok()?;
    restricted_by(setting.trim().parse().ok()?)
}

fn restricted_by(paranoid: i32) -> Option<String> {
    (paranoid >= RESTRICTED).then(|| {
        format!(
            "kernel.perf_event_paranoid is {paranoid}, for which it takes CAP_SYS_ADMIN: run as root, or type: sudo sysctl kernel.perf_event_paranoid=2"
        )
    })
}

/// Attaches `program` to the tracepoint with this number. It runs for all tasks on all CPUs, until what is
/// returned is dropped: kernel/trace/bpf_trace.c `perf_event_attach_bpf_prog` (v6.18).
pub(super) fn attach(program: &ProgramFd, tracepoint: u64) -> io::Result<OwnedFd> {
    // SAFETY: the struct is made of integers.
    let mut attributes: perf_event_attr = unsafe { std::mem::zeroed() };
    attributes.type_ = PERF_TYPE_TRACEPOINT as u32;
    attributes.size = u32::try_from(size_of::<perf_event_attr>()).map_err(io::Error::other)?;
    attributes.config = tracepoint;
    let (any_task, cpu, no_group) = (-1, 0, -1);
    // SAFETY: perf_event_open(2) reads the attributes, of the size that they give.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            any_task,
            cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the descriptor is new and nobody else's.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    for (request, argument) in [
        (PERF_EVENT_IOC_SET_BPF, program.as_fd().as_raw_fd()),
        (PERF_EVENT_IOC_ENABLE, 0),
    ] {
        // SAFETY: both requests take an integer.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_setting_beyond_linux_own_is_the_reason() {
        assert_eq!(restricted_by(2), None);
        assert!(restricted_by(3).is_some_and(|why| why.contains("perf_event_paranoid is 3")));
        assert_eq!(
            restriction(&io::Error::from_raw_os_error(libc::EPERM)),
            None
        );
    }
}
