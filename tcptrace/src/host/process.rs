//! Owns what /proc and pidfds tell of another process: whether it is there, and its TCP sockets.

use std::{
    fs, io,
    net::SocketAddr,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use socket2::{Protocol, Socket};
use tcptrace_common::TASK_COMM_LEN;

/// `PROC_PID_INIT_INO` of include/linux/proc_ns.h (v6.18): inode of the initial PID namespace.
const INIT_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Whether this process sees the PIDs that the kernel reports: those of the initial PID namespace.
#[must_use]
pub fn in_initial_pid_namespace() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INIT_PID_NAMESPACE)
}

/// The ids of this process and of the calling thread, in their PID namespace.
#[must_use]
pub fn own_ids() -> [u32; 2] {
    // SAFETY: gettid(2) takes nothing.
    let thread = unsafe { libc::gettid() };
    [std::process::id(), thread.cast_unsigned()]
}

/// The name of the calling thread, padded with zeros; `None` where the kernel does not tell.
#[must_use]
pub fn own_comm() -> Option<[u8; TASK_COMM_LEN]> {
    let mut name = [0; TASK_COMM_LEN];
    // SAFETY: prctl(2) writes at most so many bytes for this option: kernel/sys.c `prctl` (v6.18).
    let result = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    (result == 0).then_some(name)
}

/// Whether there is a process with this id.
#[must_use]
pub fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// What tells an open TCP socket of a process from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSocket {
    /// Its cookie (`SO_COOKIE`); asking for it makes the kernel give it one.
    pub cookie: u64,
    /// Where it listens, if it does.
    pub listens_at: Option<SocketAddr>,
}

/// The TCP sockets that process `pid` has open now.
///
/// # Errors
/// When the process is gone, or its descriptors cannot be duplicated (`CAP_SYS_PTRACE`, kernel 5.6).
pub fn tcp_sockets(pid: u32) -> io::Result<Vec<OpenSocket>> {
    // SAFETY: pidfd_open(2) takes two integers and returns a new descriptor or -1.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let mut sockets = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let is_socket = fs::read_link(entry.path()).is_ok_and(|target| {
            target
                .as_os_str()
                .as_encoded_bytes()
                .starts_with(b"socket:")
        });
        let Some(number) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<RawFd>().ok())
        else {
            continue;
        };
        if !is_socket {
            continue;
        }
        // SAFETY: pidfd_getfd(2) takes three integers and returns a new descriptor or -1.
        match owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })
        {
            Ok(socket) => sockets.extend(describe(&Socket::from(socket))),
            // Closed in the meantime.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

/// The user that this process acts as, and that owns the sockets it opens.
#[must_use]
pub fn effective_uid() -> u32 {
    // SAFETY: geteuid(2) takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

fn describe(socket: &Socket) -> Option<OpenSocket> {
    (socket.protocol().ok()?? == Protocol::TCP).then_some(())?;
    let listens = socket.is_listener().ok()?;
    let address = || socket.local_addr().ok()?.as_socket();
    Some(OpenSocket {
        cookie: socket.cookie().ok()?,
        listens_at: listens.then(address).flatten(),
    })
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the system call has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let expected = OpenSocket {
            cookie: socket2::SockRef::from(&listener).cookie().unwrap(),
            listens_at: Some(listener.local_addr().unwrap()),
        };
        let found = tcp_sockets(std::process::id()).unwrap();
        assert!(found.contains(&expected), "{expected:?} not in {found:?}");
    }

    #[test]
    fn processes_exist_or_not() {
        assert!(exists(std::process::id()));
        assert!(!exists(u32::MAX));
    }
}
