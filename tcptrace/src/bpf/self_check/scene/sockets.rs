//! Owns the steps of the sockets by which the tracer checks itself, each bounded in time.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tcptrace_model::TcpState;

/// How long a step may take that takes microseconds.
const STEP: Duration = Duration::from_millis(200);
/// Where `tcpi_options` lies in `struct tcp_info`, whose first byte is `tcpi_state`: include/uapi/linux/tcp.h
/// (v6.18).
const TCPI_OPTIONS: usize = 5;
/// Bit of `tcpi_options` in include/uapi/linux/tcp.h (v6.18).
const TCPI_OPT_TIMESTAMPS: u8 = 1;

/// One that does not block, of the family of `address`.
pub(super) fn socket(address: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(SocketAddr::new(address, 0)),
        Type::STREAM,
        None,
    )?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Its own address and port.
pub(super) fn local(socket: &Socket) -> io::Result<SocketAddr> {
    let local = socket.local_addr()?.as_socket();
    local.ok_or_else(|| io::Error::other("the socket has no address"))
}

/// Connects within [`STEP`].
pub(super) fn connect(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            wait(socket, libc::POLLOUT)?;
            match socket.take_error()? {
                Some(error) => Err(error),
                None => Ok(()),
            }
        }
        done => done,
    }
}

/// Accepts within [`STEP`].
pub(super) fn accept(listener: &Socket) -> io::Result<Socket> {
    wait(listener, libc::POLLIN)?;
    listener.accept().map(|(socket, _)| socket)
}

/// Waits for one of these events, or for the end of the connection.
pub(super) fn wait(socket: &Socket, events: i16) -> io::Result<()> {
    let mut asked = libc::pollfd {
        fd: socket.as_raw_fd(),
        events,
        revents: 0,
    };
    let patience = i32::try_from(STEP.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: poll(2) is given one entry, which it may write to.
    let ready = unsafe { libc::poll(&raw mut asked, 1, patience) };
    match ready {
        1 => Ok(()),
        0 => Err(io::Error::other(format!("nothing came within {STEP:?}"))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Binds to what C has just let go of: it is free when the ACK of C's FIN has come, which a busy machine may
/// leave to another thread of the kernel's.
pub(super) fn bind_when_free(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + STEP;
    loop {
        match socket.bind(&address.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_micros(100));
            }
            result => return result,
        }
    }
}

/// Waits for this state.
pub(super) fn wait_for_state(socket: &Socket, state: TcpState) -> io::Result<()> {
    let deadline = Instant::now() + STEP;
    while tcp_info(socket)?[0] != state.number() {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!(
                "no {} within {STEP:?}",
                state.name()
            )));
        }
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// Whether the segments of this connection have timestamps.
pub(super) fn has_timestamps(socket: &Socket) -> io::Result<bool> {
    Ok(tcp_info(socket)?[TCPI_OPTIONS] & TCPI_OPT_TIMESTAMPS != 0)
}

/// The first bytes of `TCP_INFO`.
fn tcp_info(socket: &Socket) -> io::Result<[u8; 8]> {
    let mut info = [0; 8];
    let mut length: libc::socklen_t = 8;
    // SAFETY: getsockopt(2) writes at most `length` bytes to the buffer, which has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(info)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `TCP_LINGER2` in s; negative for no FIN_WAIT2 without a process.
pub(super) fn linger2(socket: &Socket, seconds: i32) -> io::Result<()> {
    // SAFETY: setsockopt(2) reads an int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_LINGER2,
            (&raw const seconds).cast(),
            4,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
