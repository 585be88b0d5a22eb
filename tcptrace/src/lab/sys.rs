//! The few system calls of the lab that std and socket2 do not wrap, each as a safe function.

use std::{
    ffi::CString,
    io,
    mem::{size_of, size_of_val},
    os::fd::RawFd,
};

/// Moves the calling thread, and the threads and processes that it will start, into a new network
/// namespace. The kernel takes it down when the last of them has gone.
pub(super) fn new_network_namespace() -> io::Result<()> {
    // SAFETY: unshare(2) takes an integer; CLONE_NEWNET moves the calling thread alone.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Lets the calling process end by SIGKILL when the thread that has started it does.
pub(super) fn end_with_parent() -> io::Result<()> {
    // SAFETY: prctl(2) takes integers for this option.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
}

/// Gives every signal its default disposition: a shell in the background hands on that SIGINT is ignored.
pub(super) fn default_signals() {
    for number in 1..=31 {
        // SAFETY: the default disposition runs no code of ours. SIGKILL and SIGSTOP have no other one, and
        // the refusal for them changes nothing.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// Gives the calling thread a name of up to 15 bytes: its `comm`.
pub(super) fn set_comm(name: &str) -> io::Result<()> {
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: prctl(2) reads the name, which ends with NUL, and keeps a copy of its first 15 bytes.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) })
}

/// Makes the calling process, all threads, run as `uid` for good.
pub(super) fn become_user(uid: u32) -> io::Result<()> {
    // SAFETY: setresuid(2) takes integers only.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}

/// Ends the process and runs no destructors.
pub(super) fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes an integer and does not return.
    unsafe { libc::_exit(status) }
}

/// Sends a signal to a process that this one has started and not yet reaped.
pub(super) fn signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill(2) takes two integers.
    check(unsafe { libc::kill(pid, signal) })
}

/// connect() with AF_UNSPEC: dissolves the connection of a socket.
pub(super) fn disconnect(socket: RawFd) -> io::Result<()> {
    // SAFETY: sockaddr is plain integers, for which zero is a valid value; AF_UNSPEC is 0.
    let address: libc::sockaddr = unsafe { std::mem::zeroed() };
    let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: connect(2) reads `length` bytes of an address that outlives the call.
    check(unsafe { libc::connect(socket, &raw const address, length) })
}

/// Sets an option of a socket that is an integer, such as `TCP_LINGER2`.
pub(super) fn set_option(socket: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?;
    // SAFETY: setsockopt(2) reads an integer that outlives the call.
    check(unsafe { libc::setsockopt(socket, level, name, (&raw const value).cast(), length) })
}

/// Chooses the first sequence number of a TCP socket that will connect: net/ipv4/tcp_ipv4.c `tcp_v4_connect`
/// (v6.18) takes one from its clock only where there is none. `TCP_REPAIR` is how one gets there, and
/// leaving it sets `SO_REUSEADDR` to off (net/ipv4/tcp.c `do_tcp_setsockopt`, v6.18).
pub(super) fn choose_first_sequence(socket: RawFd, sequence: u32) -> io::Result<()> {
    /// TCP_SEND_QUEUE (include/uapi/linux/tcp.h, v6.18)
    const SEND_QUEUE: i32 = 2;
    let set = |name, value| set_option(socket, libc::IPPROTO_TCP, name, value);
    set(libc::TCP_REPAIR, 1)?;
    set(libc::TCP_REPAIR_QUEUE, SEND_QUEUE)?;
    set(libc::TCP_QUEUE_SEQ, sequence.cast_signed())?;
    set(libc::TCP_REPAIR, 0)
}

/// Turns the kernel's "-1 and errno" into a result.
fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
