//! The few system calls that std does not wrap, each as a safe function that returns a `Result`.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::PATIENCE;

/// Turns the kernel's "-1 and errno" into an `io::Result`.
pub(crate) fn check(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(returned)
    }
}

/// Sends `signal` to a process that this test started and has not yet reaped.
pub(crate) fn signal(pid: u32, signal: libc::c_int) -> Result<()> {
    let pid = libc::pid_t::try_from(pid).context("a process id larger than pid_t")?;
    // SAFETY: kill takes two integers and touches no memory of ours.
    check(unsafe { libc::kill(pid, signal) })
        .with_context(|| format!("cannot send signal {signal} to our child {pid}"))?;
    Ok(())
}

/// Gives every signal its default disposition, whatever this process was started with.
pub(crate) fn default_signals() {
    for number in 1..=31 {
        // SAFETY: the default disposition runs no code of ours. SIGKILL and SIGSTOP have no other one, and
        // the refusal for them changes nothing.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// Waits until something holds; `what` says what, for the error.
pub(crate) fn wait_until(mut holds: impl FnMut() -> bool, what: &str) -> Result<()> {
    let began = Instant::now();
    while !holds() {
        ensure!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// `CLOCK_BOOTTIME` in nanoseconds, the clock of the tracer and of the kernel's trace.
pub(crate) fn boottime_ns() -> Result<u64> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills in the timespec that it is given.
    check(unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) })
        .context("cannot read CLOCK_BOOTTIME")?;
    Ok(u64::try_from(now.tv_sec)? * 1_000_000_000 + u64::try_from(now.tv_nsec)?)
}

/// Gives the calling thread a name: what the kernel calls its `comm`.
pub(crate) fn name_this_thread(name: &CStr) -> Result<()> {
    // SAFETY: prctl reads the name, which ends with NUL, and keeps a copy of it.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) })
        .with_context(|| format!("cannot call this thread {name:?}"))?;
    Ok(())
}

/// Keeps the calling thread on the CPU on which it is.
pub(crate) fn stay_on_this_cpu() -> Result<()> {
    // SAFETY: sched_getcpu takes nothing; the set is plain memory that zeroes make an empty one, and
    // CPU_SET writes within it.
    unsafe {
        let cpu = check(libc::sched_getcpu()).context("cannot tell on which CPU this is")?;
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(usize::try_from(cpu)?, &mut set);
        check(libc::sched_setaffinity(
            0,
            size_of_val(&set),
            &raw const set,
        ))
        .context("cannot stay on one CPU")?;
    }
    Ok(())
}

/// Lets this thread, and all that it starts, give the CPU away only when they wait (SCHED_FIFO).
pub(crate) fn keep_the_cpu() -> Result<()> {
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: sched_setscheduler(2) reads `parameter`.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) })
        .context("cannot set SCHED_FIFO")?;
    Ok(())
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Moves the calling thread, and only it, into new namespaces.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare takes flags only; CLONE_NEWNET and CLONE_NEWNS work on a single thread.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

/// Gives the calling thread, and the threads it will start, a table of descriptors of their own, with
/// nothing in it but stdin, stdout and stderr.
///
/// A process that another test starts holds a copy of that test's table until it runs its program. With
/// one table for all tests it would hold these sockets too, and be the one that closes them.
pub(crate) fn own_descriptors() -> Result<()> {
    // SAFETY: takes integers only. Whoever owned a descriptor in this table was the test before this one
    // on the same thread, or is on another thread, whose table stays as it is.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_UNSHARE,
        )
    };
    check(libc::c_int::try_from(returned)?)
        .context("cannot have a table of descriptors for a test")?;
    Ok(())
}

/// Mounts `source` on `target`; `kind` is the file system's name, empty where the flags need none.
pub(crate) fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) -> Result<()> {
    let text = |value: &str| CString::new(value).context("a mount argument with a NUL");
    let (source_c, target_c, kind_c) = (text(source)?, text(target)?, text(kind)?);
    // SAFETY: three NUL-terminated strings that outlive the call; no file system here takes data.
    let returned = unsafe {
        libc::mount(
            source_c.as_ptr(),
            target_c.as_ptr(),
            kind_c.as_ptr(),
            flags,
            std::ptr::null(),
        )
    };
    check(returned).with_context(|| format!("cannot mount {source} on {target}"))?;
    Ok(())
}

/// Sets the name of the calling thread to raw bytes, as a hostile program would.
pub(crate) fn set_comm(name: &[u8]) -> io::Result<()> {
    let mut bytes = [0_u8; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name[..length]);
    // SAFETY: PR_SET_NAME reads at most 16 bytes, and this array has 16 with a NUL at the end.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr()) }).map(drop)
}

/// Makes the calling process, all threads, run as `uid` for good.
pub(crate) fn become_user(uid: u32) -> io::Result<()> {
    // SAFETY: setresuid takes integers only.
    check(unsafe { libc::setresuid(uid, uid, uid) }).map(drop)
}

/// Makes the calling thread alone run as `uid` for good, without capabilities.
pub(crate) fn become_user_in_this_thread(uid: u32) -> io::Result<()> {
    // SAFETY: the system call takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    check(libc::c_int::try_from(result).unwrap_or(-1)).map(drop)
}

/// Does something with sockets of this user: what the calling thread makes meanwhile is its.
pub(crate) fn as_user<T>(uid: u32, body: impl FnOnce() -> T) -> T {
    // SAFETY: setfsuid takes an integer, and changes this thread alone. It never fails for root.
    let before = unsafe { libc::setfsuid(uid) };
    let done = body();
    // SAFETY: as above; it is the number that setfsuid has returned.
    unsafe { libc::setfsuid(before.unsigned_abs()) };
    done
}

/// Does something without CAP_NET_BIND_SERVICE, which the calling thread has again afterwards.
pub(crate) fn without_net_bind_service<T>(body: impl FnOnce() -> T) -> io::Result<T> {
    /// include/uapi/linux/capability.h (v6.18): `_LINUX_CAPABILITY_VERSION_3`, CAP_NET_BIND_SERVICE.
    const VERSION: u32 = 0x2008_0522;
    const NET_BIND_SERVICE: u32 = 1 << 10;
    // struct __user_cap_header_struct: the version, and 0 for the calling thread.
    let mut header = [VERSION, 0];
    // struct __user_cap_data_struct, twice: effective, permitted, inheritable.
    let mut data = [0_u32; 6];
    let mut call = |number, data: &mut [u32; 6]| {
        // SAFETY: both have the size that the kernel takes this version to have, and outlive the call.
        let returned = unsafe { libc::syscall(number, header.as_mut_ptr(), data.as_mut_ptr()) };
        check(libc::c_int::try_from(returned).unwrap_or(-1)).map(drop)
    };
    call(libc::SYS_capget, &mut data)?;
    let mut less = data;
    less[0] &= !NET_BIND_SERVICE;
    call(libc::SYS_capset, &mut less)?;
    let done = body();
    call(libc::SYS_capset, &mut data)?;
    Ok(done)
}

/// Gives whoever runs this file these capabilities, as `setcap …+ep` does.
pub(crate) fn set_file_capabilities(path: &Path, capabilities: u64) -> Result<()> {
    /// include/uapi/linux/capability.h (v6.18): `VFS_CAP_REVISION_2`, `VFS_CAP_FLAGS_EFFECTIVE`.
    const REVISION: u32 = 0x0200_0001;
    // struct vfs_cap_data: permitted and inheritable, the low halves first; little-endian everywhere.
    let low = u32::try_from(capabilities & 0xffff_ffff)?;
    let high = u32::try_from(capabilities >> 32)?;
    let data = [REVISION, low, 0, high, 0].map(u32::to_le_bytes).concat();
    let file = CString::new(path.as_os_str().as_bytes())?;
    let name = c"security.capability";
    // SAFETY: two strings that end with NUL, and as many bytes as are said; all outlive the call.
    let set = unsafe {
        libc::setxattr(
            file.as_ptr(),
            name.as_ptr(),
            data.as_ptr().cast(),
            data.len(),
            0,
        )
    };
    check(set).with_context(|| format!("cannot give {} capabilities", path.display()))?;
    Ok(())
}

/// A socket of `domain` and `kind`, closed on exec.
pub(crate) fn socket(domain: libc::c_int, kind: libc::c_int) -> io::Result<OwnedFd> {
    socket_of(domain, kind, 0)
}

/// The same, of a protocol that is not the usual one.
pub(crate) fn socket_of(
    domain: libc::c_int,
    kind: libc::c_int,
    protocol: libc::c_int,
) -> io::Result<OwnedFd> {
    // SAFETY: socket takes integers only.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the running kernel is of this version or a later one; not if it does not say.
pub(crate) fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(|one: char| !one.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}
