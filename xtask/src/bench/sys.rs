//! Owns thin wrappers of system calls that the standard library has none for.

use std::{
    ffi::{CStr, OsStr},
    io,
    mem::{size_of, zeroed},
    net::SocketAddrV4,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// A new IPv4 socket.
pub(super) fn socket(kind: libc::c_int) -> Result<OwnedFd> {
    // SAFETY: socket(2) takes three integers and returns a new descriptor or -1.
    let fd = unsafe { libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("cannot open a socket");
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bind(2).
pub(super) fn bind(socket: &OwnedFd, address: SocketAddrV4) -> io::Result<()> {
    let (address, length) = raw(address)?;
    // SAFETY: the kernel reads `address`, of the length given.
    succeeded(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })
}

/// connect(2).
pub(super) fn connect(socket: &OwnedFd, address: SocketAddrV4) -> io::Result<()> {
    let (address, length) = raw(address)?;
    // SAFETY: the kernel reads `address`, of the length given.
    succeeded(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) })
}

/// Lets this process and those that it starts see tracefs, which peers look for and do not mount: where it is mounted
/// nowhere, in a mount namespace of their own. To be called before there are threads.
pub(super) fn make_tracefs_visible() -> Result<()> {
    const PLACES: [&CStr; 2] = [c"/sys/kernel/tracing", c"/sys/kernel/debug/tracing"];
    let is_mounted = |place: &&CStr| {
        let events = Path::new(OsStr::from_bytes(place.to_bytes())).join("events");
        events.exists()
    };
    if PLACES.iter().any(is_mounted) {
        return Ok(());
    }
    let refused = "cannot mount tracefs, which some peers need";
    // SAFETY: unshare(2) takes an integer.
    succeeded(unsafe { libc::unshare(libc::CLONE_NEWNS) }).context(refused)?;
    // What is mounted here is not to be seen elsewhere.
    mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE).context(refused)?;
    mount(Some(c"tracefs"), PLACES[0], 0).context(refused)
}

/// mount(2) of a filesystem that needs no device.
fn mount(kind: Option<&CStr>, place: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let kind = kind.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: the kernel reads strings that end with NUL, or nothing.
    succeeded(unsafe { libc::mount(kind, place.as_ptr(), kind, flags, ptr::null()) })
}

/// Lets the calling thread have the CPU before others that want it, as a trace does: nice -10.
pub(super) fn before_others() -> io::Result<()> {
    // SAFETY: it takes integers; 0 is the calling thread.
    succeeded(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) })
}

/// The CPU time of a process, all its threads, those that have ended too, in user space and in the kernel.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let pid = libc::pid_t::try_from(pid)?;
    let mut clock = 0;
    // SAFETY: the C library writes one clock id.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error)).context("the process has no CPU clock");
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot read the CPU clock of a process");
    }
    Ok(Duration::new(
        u64::try_from(time.tv_sec)?,
        u32::try_from(time.tv_nsec)?,
    ))
}

/// Sends a signal to a child that has not been waited for.
pub(super) fn signal(pid: u32, signal: libc::c_int) -> Result<()> {
    // SAFETY: kill(2) takes two integers; the process is a child that has not been waited for.
    succeeded(unsafe { libc::kill(libc::pid_t::try_from(pid)?, signal) })
        .context("cannot signal a process")
}

/// A pseudo-terminal: its two ends, the one of the program that writes to it last.
pub(super) fn terminal() -> Result<(OwnedFd, OwnedFd)> {
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: the C library writes two descriptors; the other arguments may be null.
    let result = unsafe {
        libc::openpty(
            &raw mut ours,
            &raw mut theirs,
            ptr::null_mut(),
            ptr::null(),
            ptr::null(),
        )
    };
    succeeded(result).context("cannot open a pseudo-terminal")?;
    // SAFETY: both are new and nobody else's.
    Ok(unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) })
}

fn raw(address: SocketAddrV4) -> io::Result<(libc::sockaddr_in, libc::socklen_t)> {
    // SAFETY: made of integers and arrays of them, for which all zeros are valid.
    let mut raw: libc::sockaddr_in = unsafe { zeroed() };
    raw.sin_family = libc::sa_family_t::try_from(libc::AF_INET).map_err(io::Error::other)?;
    raw.sin_port = address.port().to_be();
    raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>());
    Ok((raw, length.map_err(io::Error::other)?))
}

fn succeeded(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_a_process_grows_with_its_work() {
        let before = cpu_time(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while cpu_time(std::process::id()).unwrap() < before + Duration::from_millis(5) {
            sum = std::hint::black_box(sum + 1);
        }
    }

    #[test]
    fn a_bind_to_a_held_port_fails_for_the_port() {
        let held = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        let std::net::SocketAddr::V4(address) = held.local_addr().unwrap() else {
            panic!("it is an IPv4 socket");
        };
        let error = bind(&socket(libc::SOCK_STREAM).unwrap(), address).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
    }
}
