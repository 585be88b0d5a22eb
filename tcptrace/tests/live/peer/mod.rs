//! A remote host played by the test: it sends the segments that the test says, and no other.
//!
//! The kernel's end has the address [`HERE`], the peer's is [`THERE`], and both are reached through
//! loopback. No socket has [`THERE`], so the kernel drops what it has sent there after a packet socket
//! has seen it, and nothing answers but the test. Unlike a TUN device this needs no module.

mod link;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result, bail};

pub(crate) use self::link::{Flags, Segment};
use self::link::{Link, Options};
use crate::{PATIENCE, sys};

/// The address of the kernel's end.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The address of the peer.
pub(crate) const THERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// The peer's first sequence number; any will do.
const FIRST_SEQUENCE: u32 = 1_000_000;
/// The peer's first timestamp; it grows by one with each segment.
const FIRST_TIMESTAMP: u32 = 5_000_000;

/// One connection, from the remote end.
pub(crate) struct Peer {
    link: Link,
    /// Sequence number of what is sent next.
    next: u32,
    /// Sequence number of what is received next.
    expected: u32,
    /// The timestamps option, if both ends agreed on it.
    timestamps: Option<Timestamps>,
}

#[derive(Clone, Copy)]
struct Timestamps {
    /// What the next segment carries.
    next: u32,
    /// The kernel's newest one, which each segment echoes.
    recent: u32,
}

/// How a segment deviates from what comes next in order.
#[derive(Clone, Copy, Default)]
pub(crate) struct Odd {
    /// Added to the sequence number.
    pub(crate) sequence: i32,
    /// Added to the acknowledgement number.
    pub(crate) acknowledgement: i32,
    /// Added to the timestamp.
    pub(crate) timestamp: i32,
}

/// Gives the calling thread's network namespace the kernel's end and the way to the peer.
pub(crate) fn set_up() -> Result<()> {
    sys::add_address(HERE).context("cannot give loopback the address of the kernel's end")?;
    sys::add_host_route(THERE).context("cannot make a route to the scripted peer")
}

/// Where the kernel's sockets connect to.
pub(crate) fn address(port: u16) -> SocketAddr {
    (THERE, port).into()
}

/// Where the kernel's sockets listen.
pub(crate) fn local(port: u16) -> SocketAddr {
    (HERE, port).into()
}

impl Peer {
    /// A client at `port` of the remote host that has not sent anything yet to `local_port` here.
    pub(crate) fn client(local_port: u16, port: u16) -> Result<Self> {
        Ok(Self::new(Link::between(local_port, port)?))
    }

    /// A server at `port` of the remote host, before the kernel's SYN.
    pub(crate) fn server(port: u16) -> Result<Self> {
        Ok(Self::new(Link::to(port)?))
    }

    fn new(link: Link) -> Self {
        Self {
            link,
            next: FIRST_SEQUENCE,
            expected: 0,
            timestamps: Some(Timestamps {
                next: FIRST_TIMESTAMP,
                recent: 0,
            }),
        }
    }

    /// The same peer without the timestamps option.
    pub(crate) fn without_timestamps(mut self) -> Self {
        self.timestamps = None;
        self
    }

    /// The three-way handshake with a listener of the kernel.
    pub(crate) fn connect(&mut self) -> Result<()> {
        self.send(Flags::SYN)?;
        self.expect(Flags::SYN | Flags::ACK)?;
        self.send(Flags::ACK)
    }

    /// Waits for the kernel's SYN and answers it: after that, its connect() returns.
    pub(crate) fn accept(&mut self) -> Result<()> {
        self.await_syn()?;
        self.send(Flags::SYN | Flags::ACK)?;
        self.expect(Flags::ACK).map(drop)
    }

    /// Waits for the kernel's SYN and leaves it unanswered.
    pub(crate) fn await_syn(&mut self) -> Result<()> {
        let syn = self.expect(Flags::SYN)?;
        if syn.timestamp.is_none() {
            self.timestamps = None;
        }
        Ok(())
    }

    /// Sends the next segment in order.
    pub(crate) fn send(&mut self, flags: Flags) -> Result<()> {
        self.send_data(flags, b"")
    }

    /// Sends the next segment in order, with data.
    pub(crate) fn send_data(&mut self, flags: Flags, data: &[u8]) -> Result<()> {
        let sequence = self.next;
        self.emit(flags, sequence, self.expected, 0, data)?;
        let length = u32::try_from(data.len())? + flags.sequence_numbers();
        self.next = self.next.wrapping_add(length);
        Ok(())
    }

    /// Sends a segment that is out of order; what comes next in order remains what it was.
    pub(crate) fn send_odd(&mut self, flags: Flags, odd: Odd, data: &[u8]) -> Result<()> {
        let sequence = self.next.wrapping_add_signed(odd.sequence);
        let acknowledgement = self.expected.wrapping_add_signed(odd.acknowledgement);
        self.emit(flags, sequence, acknowledgement, odd.timestamp, data)
    }

    /// Sends a new SYN for the same ports, its sequence number this much after the last one.
    pub(crate) fn send_new_syn(&mut self, beyond: u32) -> Result<()> {
        self.next = self.next.wrapping_add(beyond);
        self.send(Flags::SYN)
    }

    /// Waits for a segment with exactly these flags (PSH apart) and takes it as received, so that
    /// the next one sent acknowledges it. Others that come before it are passed over.
    pub(crate) fn expect(&mut self, flags: Flags) -> Result<Segment> {
        let deadline = Instant::now() + PATIENCE;
        let mut others = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(segment) = self.link.receive(left)? else {
                bail!(
                    "no {flags} came from the kernel within {PATIENCE:?}, only {others:?}, seen at \
                     port {}",
                    self.link.port()
                );
            };
            if segment.flags == flags {
                self.take(&segment);
                return Ok(segment);
            }
            others.push(segment);
        }
    }

    fn take(&mut self, segment: &Segment) {
        let occupied = segment.length + segment.flags.sequence_numbers();
        if segment.flags.intersects(Flags::SYN) || occupied > 0 {
            self.expected = segment.sequence.wrapping_add(occupied);
        }
        match (&mut self.timestamps, segment.timestamp) {
            (Some(ours), Some(theirs)) => ours.recent = theirs,
            // The SYN and ACK says whether the kernel agrees.
            (Some(_), None) if segment.flags.intersects(Flags::SYN) => self.timestamps = None,
            (Some(_) | None, _) => {}
        }
    }

    fn emit(
        &mut self,
        flags: Flags,
        sequence: u32,
        acknowledgement: u32,
        later: i32,
        data: &[u8],
    ) -> Result<()> {
        let timestamps = self.timestamps.as_mut().map(|timestamps| {
            let value = timestamps.next.wrapping_add_signed(later);
            timestamps.next = timestamps.next.wrapping_add(1);
            (value, timestamps.recent)
        });
        let options = Options {
            sequence,
            acknowledgement,
            timestamps,
        };
        self.link.send(flags, options, data)
    }
}
