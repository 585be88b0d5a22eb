//! The packet socket on loopback: segments in, segments out.

use std::fmt;
use std::io::{self, ErrorKind};
use std::mem::size_of;
use std::ops::BitOr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

use super::{HERE, THERE};
use crate::sys::{self, check};

/// Loopback has Ethernet frames with addresses of zero; IPv4 is type 0x0800.
const ETHERNET_HEADER: [u8; 14] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0];
const TIME_TO_LIVE: u8 = 64;
const WINDOW: u16 = u16::MAX;
/// The tests send a few bytes at a time.
const LARGEST: usize = 4096;

/// Flags of a TCP header (RFC 9293 3.1), without PSH and URG, which say nothing here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    pub(crate) const FIN: Self = Self(0x01);
    pub(crate) const SYN: Self = Self(0x02);
    pub(crate) const RST: Self = Self(0x04);
    pub(crate) const ACK: Self = Self(0x10);

    const NAMES: [(Self, &str); 4] = [
        (Self::SYN, "SYN"),
        (Self::FIN, "FIN"),
        (Self::RST, "RST"),
        (Self::ACK, "ACK"),
    ];

    pub(crate) fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// SYN and FIN each take one sequence number.
    pub(super) fn sequence_numbers(self) -> u32 {
        u32::from(self.intersects(Self::SYN)) + u32::from(self.intersects(Self::FIN))
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Self::NAMES
            .iter()
            .filter(|(flag, _)| self.intersects(*flag))
            .map(|(_, name)| *name)
            .collect();
        f.write_str(&names.join("+"))
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A segment from the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) flags: Flags,
    pub(crate) sequence: u32,
    /// How many bytes of data it carries.
    pub(crate) length: u32,
    /// The timestamps option's first value.
    pub(crate) timestamp: Option<u32>,
}

/// The numbers of a segment to send.
#[derive(Clone, Copy)]
pub(super) struct Options {
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    /// The timestamps option: value and echo.
    pub(super) timestamps: Option<(u32, u32)>,
}

/// The wire between one port of the kernel and one of the remote host.
pub(super) struct Link {
    socket: OwnedFd,
    /// The kernel's port; `None` until its first segment shows it.
    local_port: Option<u16>,
    port: u16,
}

impl Link {
    pub(super) fn between(local_port: u16, port: u16) -> Result<Self> {
        Ok(Self {
            local_port: Some(local_port),
            ..Self::to(port)?
        })
    }

    pub(super) fn to(port: u16) -> Result<Self> {
        Ok(Self {
            socket: packet_socket().context("no packet socket on loopback")?,
            local_port: None,
            port,
        })
    }

    /// The remote host's port.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn send(&self, flags: Flags, options: Options, data: &[u8]) -> Result<()> {
        let local_port = self
            .local_port
            .context("nobody to send to: the kernel has not connected yet")?;
        let mut builder = PacketBuilder::ipv4(THERE.octets(), HERE.octets(), TIME_TO_LIVE).tcp(
            self.port,
            local_port,
            options.sequence,
            WINDOW,
        );
        if flags.intersects(Flags::SYN) {
            builder = builder.syn();
        }
        if flags.intersects(Flags::FIN) {
            builder = builder.fin();
        }
        if flags.intersects(Flags::RST) {
            builder = builder.rst();
        }
        if flags.intersects(Flags::ACK) {
            builder = builder.ack(options.acknowledgement);
        }
        if let Some((value, echo)) = options.timestamps {
            builder = builder.options(&[
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::Timestamp(value, echo),
            ])?;
        }
        let mut frame = ETHERNET_HEADER.to_vec();
        builder.write(&mut frame, data)?;
        self.write(&frame)
            .context("cannot put a segment onto loopback")
    }

    /// The next segment from the kernel's port to ours; `None` if none comes in time.
    pub(super) fn receive(&mut self, within: Duration) -> Result<Option<Segment>> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.readable(left)? {
                return Ok(None);
            }
            let mut frame = [0; LARGEST];
            let length = self.read(&mut frame)?;
            if let Some(segment) = self.decode(&frame[..length])? {
                return Ok(Some(segment));
            }
        }
    }

    /// `None` for what is between others.
    fn decode(&mut self, frame: &[u8]) -> Result<Option<Segment>> {
        let packet = SlicedPacket::from_ethernet(frame).context("not an IPv4 packet")?;
        let (Some(etherparse::NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
            (&packet.net, &packet.transport)
        else {
            return Ok(None);
        };
        let addresses = (
            ip.header().source_addr(),
            ip.header().destination_addr(),
            tcp.destination_port(),
        );
        if addresses != (HERE, THERE, self.port)
            || self
                .local_port
                .is_some_and(|port| port != tcp.source_port())
        {
            return Ok(None);
        }
        self.local_port = Some(tcp.source_port());
        let flags = [
            (tcp.syn(), Flags::SYN),
            (tcp.fin(), Flags::FIN),
            (tcp.rst(), Flags::RST),
            (tcp.ack(), Flags::ACK),
        ];
        let timestamp = tcp.options_iterator().find_map(|option| match option {
            Ok(TcpOptionElement::Timestamp(value, _)) => Some(value),
            _ => None,
        });
        Ok(Some(Segment {
            flags: flags
                .into_iter()
                .filter(|(set, _)| *set)
                .fold(Flags(0), |all, (_, flag)| all | flag),
            sequence: tcp.sequence_number(),
            length: u32::try_from(tcp.payload().len())?,
            timestamp,
        }))
    }

    fn readable(&self, within: Duration) -> Result<bool> {
        let mut poll = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let milliseconds = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, which outlives the call.
        match check(unsafe { libc::poll(&raw mut poll, 1, milliseconds) }) {
            Ok(ready) => Ok(ready > 0),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error).context("cannot wait for a segment"),
        }
    }

    fn read(&self, frame: &mut [u8]) -> Result<usize> {
        // SAFETY: the kernel writes at most `frame.len()` bytes into `frame`.
        let length = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                0,
            )
        };
        usize::try_from(length)
            .map_err(|_| io::Error::last_os_error())
            .context("cannot read a segment")
    }

    fn write(&self, frame: &[u8]) -> Result<()> {
        let to = loopback(sys::loopback_index()?);
        let to: *const libc::sockaddr_ll = &raw const to;
        // SAFETY: the kernel reads `frame.len()` bytes of `frame`, and an address of its own size.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                to.cast(),
                address_length(),
            )
        };
        let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
        ensure!(sent == frame.len(), "{sent} bytes of {}", frame.len());
        Ok(())
    }
}

/// One that sees the IPv4 packets that arrive on loopback. All that is sent there does.
fn packet_socket() -> Result<OwnedFd> {
    let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW)?;
    let address = loopback(sys::loopback_index()?);
    let raw: *const libc::sockaddr_ll = &raw const address;
    // SAFETY: an address of its own size, which outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), raw.cast(), address_length()) })?;
    Ok(socket)
}

fn loopback(index: i32) -> libc::sockaddr_ll {
    // SAFETY: sockaddr_ll is plain integers, for which zero is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = 0x0800_u16.to_be();
    address.sll_ifindex = index;
    address
}

fn address_length() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default()
}
