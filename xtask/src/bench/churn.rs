//! Owns the workload: connections over loopback, opened, accepted and closed at once.

use std::{
    io,
    mem::size_of,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Instant,
};

use anyhow::{Context as _, Result};

/// Moves this process into a network namespace of its own, with loopback up.
pub(super) fn enter_namespace() -> Result<()> {
    // SAFETY: unshare(2) takes one integer.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot make a network namespace");
    }
    // SAFETY: socket(2) takes three integers and returns a new descriptor or -1.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("cannot open a socket");
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: made of integers and arrays of them, for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP)?;
    // SAFETY: the kernel reads the name and the flags of `request`.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot bring loopback up");
    }
    Ok(())
}

/// How the connections are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Close {
    /// By a RST: no TIME_WAIT
    Reset,
    /// By two FINs, the client's first: each leaves a TIME_WAIT
    Orderly,
}

/// Makes `connections` connections, one after the other, and returns how many there were a second.
/// Those that leave a TIME_WAIT get a network namespace of their own, or the ports would run out.
pub(super) fn drive(connections: u32, close: Close) -> Result<f64> {
    if close == Close::Orderly {
        enter_namespace()?;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    let address = listener.local_addr()?;
    let begun = Instant::now();
    for _ in 0..connections {
        let client = TcpStream::connect(address).context("cannot connect")?;
        let (server, _) = listener.accept().context("cannot accept")?;
        match close {
            Close::Reset => reset_at_close(&client)?,
            Close::Orderly => {}
        }
        drop(client);
        drop(server);
    }
    Ok(f64::from(connections) / begun.elapsed().as_secs_f64())
}

fn reset_at_close(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the kernel reads `linger`, of the size given.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            libc::socklen_t::try_from(size_of::<libc::linger>())?,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("cannot set SO_LINGER");
    }
    Ok(())
}
