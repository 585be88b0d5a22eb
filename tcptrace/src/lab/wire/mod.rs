//! A remote host played by this program: it sends the segments that a script says, and no other.
//!
//! The remote host is behind a TUN device, a network interface whose cable is a file: what the kernel sends
//! to the host is read from the file, what the host sends is written to it. The kernel's end has the
//! addresses [`HERE`] and [`HERE_V6`], the host's are [`THERE`] and [`THERE_V6`].
//!
//! Why TUN: with another kernel's TCP, or this one's, at the far end, most of what happens when connections
//! close cannot be asked for: FINs that cross, an ACK that never comes, an old duplicate, a SYN with a
//! chosen number. Here no kernel owns the far end, so nothing answers that the script does not send.
//! A packet socket on loopback can do that too, and needs no driver. But there the kernel gets each packet
//! back that it has sent to the host, and drops it, and the host's address and route stay when the script
//! is gone. A TUN device is a way to somewhere else, as a network card is, and vanishes with its descriptor.
//!
//! What the kernel answers to a segment it answers while the segment is written (drivers/net/tun.c
//! `tun_rx_batched`, v6.18, hands it to the protocols at once), so a script needs no waiting for that.
//!
//! ```no_run
//! use std::{net::TcpListener, time::Duration};
//! use tcptrace::lab::wire::{Device, Flags, Peer, Version};
//!
//! # fn main() -> anyhow::Result<()> {
//! // In a network namespace of its own.
//! let device = Device::open(Duration::from_secs(5))?;
//! let listener = TcpListener::bind(Version::V4.local(80))?;
//! let mut peer = Peer::client(&device, Version::V4, 80, 40_000)?;
//! peer.connect()?;
//! let (stream, _) = listener.accept()?;
//! drop(stream);
//! peer.expect(Flags::FIN | Flags::ACK)?;
//! // FIN_WAIT1, and both FINs have crossed.
//! peer.send(Flags::FIN | Flags::ACK)?;
//! # Ok(())
//! # }
//! ```

mod device;
mod peer;
mod segment;
mod traffic;
mod tun;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use self::{
    device::Device,
    peer::{Odd, Peer},
    segment::{Conversation, Flags, Segment, Sender, Timestamps},
    traffic::{Log, Logged},
    tun::Unavailable,
};

/// The IPv4 address of the kernel's end.
pub const HERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The IPv4 address of the remote host.
pub const THERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The IPv6 address of the kernel's end.
pub const HERE_V6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
/// The IPv6 address of the remote host.
pub const THERE_V6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);

/// The internet protocol below TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// The kernel's end: where its sockets listen.
    #[must_use]
    pub const fn local(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.here(), port)
    }

    /// The remote host: where the kernel's sockets connect to.
    #[must_use]
    pub const fn remote(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.there(), port)
    }

    const fn here(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(HERE),
            Self::V6 => IpAddr::V6(HERE_V6),
        }
    }

    const fn there(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(THERE),
            Self::V6 => IpAddr::V6(THERE_V6),
        }
    }
}
