//! The few system calls of the lab that std and socket2 do not wrap, each as a safe function.

use std::{
    ffi::CString,
    io,
    mem::{size_of, size_of_val},
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
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

/// Brings the loopback interface of this thread's network namespace up.
pub(super) fn loopback_up() -> io::Result<()> {
    let control = control(libc::AF_INET)?;
    let mut request = interface(b"lo");
    // SAFETY: the request names its interface with a NUL and outlives the call.
    check(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    let up = libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    // SAFETY: SIOCGIFFLAGS has just filled in ifru_flags, and every bit pattern of it is valid.
    unsafe { request.ifr_ifru.ifru_flags |= up };
    // SAFETY: as above; the kernel only reads the request.
    check(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })
}

/// Gives loopback one more IPv4 address, of this host alone. `label` tells several from each other.
pub(super) fn add_address(label: u8, address: Ipv4Addr) -> io::Result<()> {
    let control = control(libc::AF_INET)?;
    let mut request = interface(format!("lo:{label}").as_bytes());
    for (call, value) in [
        (libc::SIOCSIFADDR, address),
        (libc::SIOCSIFNETMASK, Ipv4Addr::BROADCAST),
    ] {
        request.ifr_ifru.ifru_addr = socket_address(value);
        // SAFETY: the request names its interface with a NUL and outlives the call.
        check(unsafe { libc::ioctl(control.as_raw_fd(), call, &raw mut request) })?;
    }
    Ok(())
}

/// Gives loopback one more IPv6 address, of this host alone.
pub(super) fn add_address_v6(address: Ipv6Addr) -> io::Result<()> {
    let control = control(libc::AF_INET6)?;
    let request = libc::in6_ifreq {
        ifr6_addr: libc::in6_addr {
            s6_addr: address.octets(),
        },
        ifr6_prefixlen: 128,
        // Loopback is the first interface of every network namespace: net/core/dev.c
        // `dev_new_index` (v6.18), include/net/net_namespace.h `LOOPBACK_IFINDEX`.
        ifr6_ifindex: 1,
    };
    // SAFETY: the kernel reads a request of this type, which outlives the call.
    check(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFADDR, &raw const request) })
}

fn control(family: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes integers only.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the kernel has just given out this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A request about the interface of this name, of up to 15 bytes.
fn interface(name: &[u8]) -> libc::ifreq {
    // SAFETY: ifreq is plain integers and unions of them, for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let longest = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(name.iter().take(longest)) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    // After the port: sockaddr_in has it first.
    for (to, from) in data[2..].iter_mut().zip(address.octets()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default(),
        sa_data: data,
    }
}

/// Turns the kernel's "-1 and errno" into a result.
fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
