//! Owns the place where cases are performed: a network namespace with two interfaces, servers to connect
//! to, ports that nobody has used, and its settings.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use tcptrace::host::interface;
use tcptrace_model::conflict::{BindSysctls, KernelVersion};

use super::cache::Cache;
use super::case::{Device, OTHER_USER, OTHER_V6, Place, Traits};
use super::device;
use crate::netns;
use crate::sockets::Socket;
use crate::sys;

/// The most holders that a case has: each has a server of its own, or two clients on one port would be
/// the same connection.
pub(super) const MOST_HOLDERS: usize = 3;

const SERVER_PORT: u16 = 9_000;
const FULL_PORT: u16 = 9_010;
const FIRST_PORT: u16 = 10_000;
const FIRST_PEER_PORT: u16 = 40_000;
/// The smallest that there is: what does not fit waits at the sender, in front of its FIN.
const SMALL_BUFFER: i32 = 1;

/// The place.
pub(super) struct Stage {
    servers: Vec<Socket>,
    /// Listeners whose queue is full, so that a SYN is not answered, and what fills them.
    full: Vec<[Socket; 2]>,
    pub(super) kernel: KernelVersion,
    pub(super) sysctls: BindSysctls,
    /// What the port of the case at hand remembers.
    pub(super) cache: Cache,
    loopback: u32,
    other: Option<u32>,
    next_port: u16,
    next_peer_port: u16,
}

impl Stage {
    /// In the calling thread's network namespace, which is new.
    pub(super) fn set_up() -> Result<Self> {
        interface::add_ipv6("lo", OTHER_V6, 128)
            .with_context(|| format!("cannot give loopback the address {OTHER_V6}"))?;
        // The kernel first looks, in a thread of its own, whether somebody else has it.
        let is_usable = || {
            Socket::new(true)
                .is_ok_and(|socket| socket.bind((OTHER_V6, FIRST_PORT - 1).into()).is_ok())
        };
        sys::wait_until(is_usable, &format!("{OTHER_V6} to be usable"))?;
        let mut stage = Self {
            servers: Vec::new(),
            full: Vec::new(),
            kernel: kernel_version()?,
            sysctls: BindSysctls::default(),
            cache: Cache::default(),
            loopback: interface::index("lo")?,
            other: device::add()?,
            next_port: FIRST_PORT,
            next_peer_port: FIRST_PEER_PORT,
        };
        // Emulated machines have little memory, and a low limit by it.
        netns::set_sysctl("ipv4/tcp_max_tw_buckets", "65536")?;
        for number in 0..u16::try_from(MOST_HOLDERS)? {
            stage.servers.push(server(SERVER_PORT + number, 64)?);
            let port = FULL_PORT + number;
            // Room for one (net/core/sock.h `sk_acceptq_is_full`, v6.18: more than the backlog).
            let full = server(port, 0)?;
            let filler = stage.peer(Place::V6One)?;
            filler.connect((Ipv6Addr::LOCALHOST, port).into())?;
            stage.full.push([full, filler]);
        }
        Ok(stage)
    }

    /// Whether cases with a second interface can be performed.
    pub(super) fn has_other_device(&self) -> bool {
        self.other.is_some()
    }

    /// A port that nobody has used here.
    pub(super) fn fresh_port(&mut self) -> Result<u16> {
        let port = self.next_port;
        self.next_port += 1;
        self.cache = Cache::default();
        anyhow::ensure!(port < FIRST_PEER_PORT, "too many cases for one namespace");
        Ok(port)
    }

    /// A socket that can reach, or be, the other end of a connection with this address: it has a port of
    /// its own, whatever the range is at the moment, and a small buffer.
    pub(super) fn peer(&mut self, of: Place) -> Result<Socket> {
        let ipv6 = of.is_ipv6_socket();
        let socket = Socket::new(ipv6)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, &SMALL_BUFFER)?;
        socket.set_reuse_address(true)?;
        let port = self.next_peer_port;
        self.next_peer_port = port.checked_add(1).context("too many peers")?;
        let any = if ipv6 { Place::V6Any } else { Place::V4Any };
        socket.bind(SocketAddr::new(any.ip(), port))?;
        Ok(socket)
    }

    /// A socket with these options, of the user, not bound yet.
    pub(super) fn socket(&self, traits: Traits) -> Result<Socket> {
        let ipv6 = traits.place.is_ipv6_socket();
        let socket = sys::as_user(user(traits), || Socket::new(ipv6))?;
        if ipv6 && traits.v6only {
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32)?;
        }
        if traits.reuseaddr {
            socket.set_reuse_address(true)?;
        }
        if traits.reuseport {
            socket.set_reuse_port(true)?;
        }
        let device = self.device(traits.device)?;
        if device != 0 {
            socket.set(libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &device)?;
        }
        Ok(socket)
    }

    /// The interface's number; 0 for none.
    pub(super) fn device(&self, device: Device) -> Result<u32> {
        match device {
            Device::None => Ok(0),
            Device::Loopback => Ok(self.loopback),
            Device::Other => self.other.context("no second interface here"),
        }
    }

    /// Where holder `number` connects to, by an address of this host, and who accepts it there.
    pub(super) fn server(&self, number: usize, ip: IpAddr) -> Result<(SocketAddr, &Socket)> {
        let server = self.servers.get(number).context("too many holders")?;
        Ok((
            SocketAddr::new(ip, SERVER_PORT + u16::try_from(number)?),
            server,
        ))
    }

    /// Where a SYN of holder `number` is not answered.
    pub(super) fn silent(number: usize, ip: IpAddr) -> Result<SocketAddr> {
        Ok(SocketAddr::new(ip, FULL_PORT + u16::try_from(number)?))
    }

    /// Makes `port` the only one that the kernel may choose.
    pub(super) fn only(&mut self, port: u16) -> Result<()> {
        netns::set_sysctl("ipv4/ip_local_port_range", &format!("{port} {port}"))?;
        self.sysctls.port_range = (port, port);
        Ok(())
    }

    /// Takes `port` out of what the kernel may choose; `None` for nothing.
    pub(super) fn reserve(&mut self, port: Option<u16>) -> Result<()> {
        let text = port.map_or_else(|| "\n".to_owned(), |port| port.to_string());
        netns::set_sysctl("ipv4/ip_local_reserved_ports", &text)?;
        self.sysctls.reserved_in_range = u32::from(port.is_some());
        Ok(())
    }

    /// `ip_autobind_reuse`
    pub(super) fn autobind_reuse(&mut self, on: bool) -> Result<()> {
        netns::set_sysctl("ipv4/ip_autobind_reuse", if on { "1" } else { "0" })?;
        self.sysctls.autobind_reuse = on;
        Ok(())
    }
}

/// The user of a socket.
pub(super) fn user(traits: Traits) -> u32 {
    if traits.other_user { OTHER_USER } else { 0 }
}

fn server(port: u16, backlog: i32) -> Result<Socket> {
    let socket = Socket::new(true)?;
    socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, &SMALL_BUFFER)?;
    socket.bind((Ipv6Addr::UNSPECIFIED, port).into())?;
    socket.listen(backlog)?;
    Ok(socket)
}

fn kernel_version() -> Result<KernelVersion> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|one: char| !one.is_ascii_digit());
    let mut next = || -> Result<u16> {
        let number = numbers.next().context("a short kernel release")?;
        Ok(number.parse()?)
    };
    Ok(KernelVersion {
        major: next()?,
        minor: next()?,
        // "7.3-rc2" has none.
        patch: next().unwrap_or(0),
    })
}
