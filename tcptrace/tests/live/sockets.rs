//! TCP sockets with every option that a test needs to set before it binds, listens or connects.

use std::io::{self, ErrorKind};
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

use crate::PATIENCE;
use crate::sys::{self, check};

/// Longer than any call on loopback takes on the slowest machine; then the test fails, not hangs.
const CALL_LIMIT_SECONDS: libc::time_t = 60;

/// A TCP socket; dropping it is close().
pub(crate) struct Socket(OwnedFd);

/// Which addresses the two ends of a connection use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// 127.0.0.1 on both ends.
    V4,
    /// ::1 on both ends.
    V6,
    /// An IPv4 client at a dual-stack listener on `::`.
    MappedServer,
    /// An IPv6 socket that connects to `::ffff:127.0.0.1`, an IPv4 listener.
    MappedClient,
    /// IPv6 sockets with v4-mapped addresses on both ends.
    MappedBoth,
}

/// A connection with both of its ends.
pub(crate) struct Pair {
    pub(crate) client: Socket,
    pub(crate) server: Socket,
}

impl Family {
    pub(crate) const ALL: [Self; 5] = [
        Self::V4,
        Self::V6,
        Self::MappedServer,
        Self::MappedClient,
        Self::MappedBoth,
    ];

    /// What a test's name calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
            Self::MappedServer => "v4-mapped server",
            Self::MappedClient => "v4-mapped client",
            Self::MappedBoth => "v4-mapped both ends",
        }
    }

    /// Where the server listens.
    pub(crate) fn listens_on(self, port: u16) -> SocketAddr {
        let address: IpAddr = match self {
            Self::V4 | Self::MappedClient => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
            Self::MappedServer => Ipv6Addr::UNSPECIFIED.into(),
            Self::MappedBoth => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        };
        SocketAddr::new(address, port)
    }

    /// Where the client connects to.
    pub(crate) fn connects_to(self, port: u16) -> SocketAddr {
        let address: IpAddr = match self {
            Self::V4 | Self::MappedServer => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
            Self::MappedClient | Self::MappedBoth => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        };
        SocketAddr::new(address, port)
    }

    /// A listener on the port.
    pub(crate) fn listener(self, port: u16) -> io::Result<Socket> {
        let address = self.listens_on(port);
        let listener = Socket::new(address.is_ipv6())?;
        listener.set_reuse_address(true)?;
        listener.bind(address)?;
        listener.listen(128)?;
        Ok(listener)
    }

    /// A socket of the kind that connects.
    pub(crate) fn client(self) -> io::Result<Socket> {
        Socket::new(self.connects_to(0).is_ipv6())
    }

    /// A client connected to the port.
    pub(crate) fn connect(self, port: u16) -> io::Result<Socket> {
        let client = self.client()?;
        client.connect(self.connects_to(port))?;
        Ok(client)
    }

    /// A connection through `listener`, which listens on the port.
    pub(crate) fn pair(self, listener: &Socket, port: u16) -> io::Result<Pair> {
        let client = self.connect(port)?;
        Ok(Pair {
            client,
            server: listener.accept()?,
        })
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Socket {
    /// A TCP socket; an IPv6 one is dual-stack, whatever the machine's default is.
    pub(crate) fn new(ipv6: bool) -> io::Result<Self> {
        let domain = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        let socket = Self(sys::socket(domain, libc::SOCK_STREAM)?);
        if ipv6 {
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &0_i32)?;
        }
        let limit = libc::timeval {
            tv_sec: CALL_LIMIT_SECONDS,
            tv_usec: 0,
        };
        socket.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &limit)?;
        socket.set(libc::SOL_SOCKET, libc::SO_SNDTIMEO, &limit)?;
        Ok(socket)
    }

    pub(crate) fn bind(&self, address: SocketAddr) -> io::Result<()> {
        let (raw, length) = raw_address(address);
        // SAFETY: `raw` is a socket address of `length` bytes or more and outlives the call.
        check(unsafe { libc::bind(self.0.as_raw_fd(), (&raw const raw).cast(), length) }).map(drop)
    }

    /// bind() to an address of which family, length and scope may be wrong.
    pub(crate) fn bind_oddly(
        &self,
        address: SocketAddr,
        family: u16,
        length: u32,
        scope: u32,
    ) -> io::Result<()> {
        let (mut raw, _) = raw_address(address);
        if address.is_ipv6() {
            // SAFETY: the storage holds an IPv6 address, and every scope is valid.
            unsafe { (*(&raw mut raw).cast::<libc::sockaddr_in6>()).sin6_scope_id = scope };
        }
        raw.ss_family = family;
        if length > socklen::<libc::sockaddr_storage>() {
            return Err(ErrorKind::InvalidInput.into());
        }
        // SAFETY: `raw` has `length` bytes at least, and outlives the call.
        check(unsafe { libc::bind(self.0.as_raw_fd(), (&raw const raw).cast(), length) }).map(drop)
    }

    pub(crate) fn listen(&self, backlog: libc::c_int) -> io::Result<()> {
        // SAFETY: listen takes integers only.
        check(unsafe { libc::listen(self.0.as_raw_fd(), backlog) }).map(drop)
    }

    pub(crate) fn connect(&self, address: SocketAddr) -> io::Result<()> {
        let (raw, length) = raw_address(address);
        self.connect_raw(&raw, length)
    }

    /// connect() with AF_UNSPEC: the socket is as before it was connected.
    pub(crate) fn disconnect(&self) -> io::Result<()> {
        // SAFETY: sockaddr_storage is plain integers; zero is valid, and AF_UNSPEC is zero.
        let raw: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        self.connect_raw(&raw, socklen::<libc::sockaddr_in>())
    }

    pub(crate) fn accept(&self) -> io::Result<Self> {
        let none = std::ptr::null_mut();
        // SAFETY: accept4 may be given no room for the peer's address.
        let fd = check(unsafe {
            libc::accept4(self.0.as_raw_fd(), none, none.cast(), libc::SOCK_CLOEXEC)
        })?;
        // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The port that the kernel or the test has chosen for this socket.
    pub(crate) fn local_port(&self) -> io::Result<u16> {
        self.local_address().map(|address| address.port())
    }

    /// Its own address; that of an IPv6 socket is an IPv6 one, v4-mapped or not.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        // SAFETY: sockaddr_storage is plain integers, for which zero is a valid value.
        let mut raw: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut length = socklen::<libc::sockaddr_storage>();
        // SAFETY: `raw` has room for `length` bytes.
        check(unsafe {
            libc::getsockname(self.0.as_raw_fd(), (&raw mut raw).cast(), &raw mut length)
        })?;
        if raw.ss_family == family_number(libc::AF_INET) {
            // SAFETY: it is an IPv4 address, and the storage is larger than any.
            let v4 = unsafe { (&raw const raw).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            return Ok((ip, u16::from_be(v4.sin_port)).into());
        }
        // SAFETY: as above; the socket is of one of the two families.
        let v6 = unsafe { (&raw const raw).cast::<libc::sockaddr_in6>().read() };
        let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
        Ok((ip, u16::from_be(v6.sin6_port)).into())
    }

    /// The socket's cookie, which the kernel makes when it is first asked for.
    pub(crate) fn cookie(&self) -> io::Result<u64> {
        let mut cookie = 0_u64;
        let mut length = socklen::<u64>();
        // SAFETY: SO_COOKIE writes eight bytes, and that is the room it is told of.
        check(unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        })?;
        Ok(cookie)
    }

    pub(crate) fn set_reuse_address(&self, on: bool) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, &i32::from(on))
    }

    pub(crate) fn set_reuse_port(&self, on: bool) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_REUSEPORT, &i32::from(on))
    }

    /// SO_LINGER with zero seconds: close() sends a reset.
    pub(crate) fn reset_on_close(&self) -> io::Result<()> {
        let now = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        self.set(libc::SOL_SOCKET, libc::SO_LINGER, &now)
    }

    /// `TCP_LINGER2` below zero: no FIN_WAIT2 once the descriptor is closed, but a reset.
    pub(crate) fn reset_in_fin_wait2(&self) -> io::Result<()> {
        self.set(libc::IPPROTO_TCP, libc::TCP_LINGER2, &-1_i32)
    }

    /// SO_KEEPALIVE: one probe after a second of silence, and the end a second later.
    pub(crate) fn keep_alive_for_seconds(&self) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1_i32)?;
        for option in [libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL, libc::TCP_KEEPCNT] {
            self.set(libc::IPPROTO_TCP, option, &1_i32)?;
        }
        Ok(())
    }

    /// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged.
    pub(crate) fn give_up_after(&self, milliseconds: u32) -> io::Result<()> {
        self.set(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &milliseconds)
    }

    /// A listener that takes data with the first SYN, of up to 16 connections at once.
    pub(crate) fn accept_fast_open(&self) -> io::Result<()> {
        self.set(libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &16_i32)
    }

    /// A client whose connect() waits for the first data to send (TCP Fast Open).
    pub(crate) fn defer_connect(&self) -> io::Result<()> {
        self.set(libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &1_i32)
    }

    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        self.set_status_flags(libc::O_NONBLOCK)
    }

    pub(crate) fn set_blocking(&self) -> io::Result<()> {
        self.set_status_flags(0)
    }

    fn set_status_flags(&self, flags: libc::c_int) -> io::Result<()> {
        // SAFETY: F_SETFL takes an integer.
        check(unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
    }

    /// Waits until the connection has failed; the next call on the socket says how.
    pub(crate) fn wait_for_error(&self) -> io::Result<()> {
        // POLLERR and POLLHUP come unasked; POLLHUP alone is that of a socket not yet connected.
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: 0,
            revents: 0,
        };
        let deadline = Instant::now() + PATIENCE;
        while poll.revents & libc::POLLERR == 0 {
            if Instant::now() > deadline {
                return Err(ErrorKind::TimedOut.into());
            }
            // SAFETY: one pollfd, which outlives the call.
            check(unsafe { libc::poll(&raw mut poll, 1, 20) })?;
        }
        Ok(())
    }

    /// Says that nothing more will be sent (FIN), with the descriptor still open.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        self.shutdown(libc::SHUT_WR)
    }

    /// On a listener this ends the listening.
    pub(crate) fn shutdown_read(&self) -> io::Result<()> {
        self.shutdown(libc::SHUT_RD)
    }

    pub(crate) fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.send_with(data, 0)
    }

    /// Like [`Self::send`], but leaves the data to go with what comes next, such as the FIN.
    pub(crate) fn send_later(&self, data: &[u8]) -> io::Result<usize> {
        self.send_with(data, libc::MSG_MORE)
    }

    fn send_with(&self, data: &[u8], flags: libc::c_int) -> io::Result<usize> {
        // SAFETY: the kernel reads `data.len()` bytes of `data`.
        let sent = unsafe {
            libc::send(
                self.0.as_raw_fd(),
                data.as_ptr().cast(),
                data.len(),
                libc::MSG_NOSIGNAL | flags,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Receives at most 16 bytes and returns how many; 0 is the peer's FIN.
    pub(crate) fn receive(&self) -> io::Result<usize> {
        self.receive_with(0)
    }

    /// Like [`Self::receive`], but leaves what there is in the queue.
    pub(crate) fn peek(&self) -> io::Result<usize> {
        self.receive_with(libc::MSG_PEEK)
    }

    fn receive_with(&self, flags: libc::c_int) -> io::Result<usize> {
        let mut buffer = [0_u8; 16];
        // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`.
        let received = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                flags,
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    fn connect_raw(&self, raw: &libc::sockaddr_storage, length: libc::socklen_t) -> io::Result<()> {
        let raw: *const libc::sockaddr_storage = raw;
        // SAFETY: `raw` is a socket address of `length` bytes or more and outlives the call.
        check(unsafe { libc::connect(self.0.as_raw_fd(), raw.cast(), length) }).map(drop)
    }

    fn shutdown(&self, how: libc::c_int) -> io::Result<()> {
        // SAFETY: shutdown takes integers only.
        check(unsafe { libc::shutdown(self.0.as_raw_fd(), how) }).map(drop)
    }

    /// setsockopt()
    pub(crate) fn set<T>(
        &self,
        level: libc::c_int,
        name: libc::c_int,
        value: &T,
    ) -> io::Result<()> {
        let value: *const T = value;
        // SAFETY: the kernel reads the size of `T` at `value`, which is a `T`.
        check(unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                name,
                value.cast(),
                socklen::<T>(),
            )
        })
        .map(drop)
    }
}

fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: sockaddr_storage is plain integers, for which zero is a valid value.
    let mut raw: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    match address {
        SocketAddr::V4(address) => {
            let v4 = libc::sockaddr_in {
                sin_family: family_number(libc::AF_INET),
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from(*address.ip()).to_be(),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is larger than any socket address and aligned for all of them.
            unsafe { (&raw mut raw).cast::<libc::sockaddr_in>().write(v4) };
            (raw, socklen::<libc::sockaddr_in>())
        }
        SocketAddr::V6(address) => {
            let v6 = libc::sockaddr_in6 {
                sin6_family: family_number(libc::AF_INET6),
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: address.ip().octets(),
                },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { (&raw mut raw).cast::<libc::sockaddr_in6>().write(v6) };
            (raw, socklen::<libc::sockaddr_in6>())
        }
    }
}

fn socklen<T>() -> libc::socklen_t {
    // Socket options and addresses are at most 128 bytes.
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

fn family_number(family: libc::c_int) -> libc::sa_family_t {
    // The kernel's own type for it is this narrow, so every family fits.
    libc::sa_family_t::try_from(family).unwrap_or(libc::sa_family_t::MAX)
}
