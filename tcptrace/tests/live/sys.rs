//! The few system calls that std does not wrap, each as a safe function that returns a `Result`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

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

/// Mounts `source` on `target`; `kind` is the file system's name, empty where the flags need none.
pub(crate) fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) -> Result<()> {
    let text = |value: &str| std::ffi::CString::new(value).context("a mount argument with a NUL");
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

/// A socket of `domain` and `kind`, closed on exec.
pub(crate) fn socket(domain: libc::c_int, kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket takes integers only.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Brings the loopback interface of this thread's network namespace up, without the `ip` program.
pub(crate) fn loopback_up() -> Result<()> {
    let control =
        socket(libc::AF_INET, libc::SOCK_DGRAM).context("no socket for interface calls")?;
    // SAFETY: ifreq is plain integers and unions of them, for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the request names its interface with a NUL and outlives the call.
    check(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })
        .context("cannot read the flags of lo")?;
    // SAFETY: SIOCGIFFLAGS has just filled in ifru_flags, and every bit pattern of it is valid.
    unsafe { request.ifr_ifru.ifru_flags |= i16::try_from(libc::IFF_UP)? };
    // SAFETY: as above; the kernel only reads the request.
    check(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })
        .context("cannot bring lo up")?;
    Ok(())
}
