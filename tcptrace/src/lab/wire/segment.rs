//! Owns `Segment`: a TCP segment of either side, as bytes, as fields, and as a line to read.

use std::{fmt, net::IpAddr, ops::BitOr};

use anyhow::Result;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

use super::{HERE, HERE_V6, THERE, THERE_V6, Version};

/// TTL and hop limit. The recommended value of RFC 1700.
const TIME_TO_LIVE: u8 = 64;
/// As much as there is without the window scale option, which the peer does not have.
const WINDOW: u16 = u16::MAX;

/// Flags of a TCP header (RFC 9293 3.1), without PSH and URG, which say nothing here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// The sequence number is the sender's first one.
    pub const SYN: Self = Self(0x02);
    /// The connection is no more.
    pub const RST: Self = Self(0x04);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);

    const NAMES: [(Self, &str); 4] = [
        (Self::SYN, "SYN"),
        (Self::FIN, "FIN"),
        (Self::RST, "RST"),
        (Self::ACK, "ACK"),
    ];

    /// Whether they have one in common.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// How many sequence numbers they take: SYN and FIN take one each (RFC 9293 3.4).
    #[must_use]
    pub fn sequence_numbers(self) -> u32 {
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
        if names.is_empty() {
            return f.write_str("no flags");
        }
        f.write_str(&names.join("+"))
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who sent a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The kernel that is looked at.
    Kernel,
    /// The remote host: this program.
    Peer,
}

/// What segments belong to: the kernel's port and the remote host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conversation {
    /// The protocol below.
    pub version: Version,
    /// The kernel's port.
    pub local_port: u16,
    /// The remote host's port.
    pub port: u16,
}

/// The timestamps option (RFC 7323 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the newest of the receiver's that the sender has seen.
    pub echo: u32,
}

/// The sequence numbers with which both sides of a connection began; `None` for what was not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Initial {
    pub(super) kernel: Option<u32>,
    pub(super) peer: Option<u32>,
}

impl Initial {
    /// Learns from a segment. Numbers are those of the old connection until the SYN+ACK of a new one: what
    /// a SYN in TIME_WAIT is about is how far it lies from the old numbers.
    pub(super) fn learn(&mut self, segment: &Segment) {
        let (own, other) = match segment.sender {
            Sender::Kernel => (&mut self.kernel, &mut self.peer),
            Sender::Peer => (&mut self.peer, &mut self.kernel),
        };
        if segment.flags == Flags::SYN {
            own.get_or_insert(segment.sequence);
        } else if segment.flags == Flags::SYN | Flags::ACK {
            *own = Some(segment.sequence);
            *other = Some(segment.acknowledgement.wrapping_sub(1));
        }
    }
}

/// A TCP segment that one side has sent.
///
/// As text: `kernel > peer  FIN+ACK seq 1 ack 1 len 0 tsval 123 tsecr 45`, with relative numbers as far as
/// they are known. The alternate form (`{:#}`) shows the ports, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Who sent it.
    pub sender: Sender,
    /// Between which ports.
    pub conversation: Conversation,
    /// Its flags.
    pub flags: Flags,
    /// Its sequence number, as it is in the header.
    pub sequence: u32,
    /// Its acknowledgement number, as it is in the header; 0 without ACK.
    pub acknowledgement: u32,
    /// How many bytes of data it carries.
    pub length: u32,
    /// Its timestamps option.
    pub timestamps: Option<Timestamps>,
    /// What its numbers are relative to.
    pub(super) initial: Initial,
}

impl Segment {
    /// The sequence number, counted from the sender's first one as tcpdump does: the SYN has 0. Negative before
    /// that. `None` where the beginning of the connection was not seen.
    #[must_use]
    pub fn relative_sequence(&self) -> Option<i32> {
        let first = match self.sender {
            Sender::Kernel => self.initial.kernel,
            Sender::Peer => self.initial.peer,
        };
        Some(self.sequence.wrapping_sub(first?).cast_signed())
    }

    /// The acknowledgement number, counted from the receiver's first sequence number. `None` without ACK, and
    /// where the beginning of the connection was not seen.
    #[must_use]
    pub fn relative_acknowledgement(&self) -> Option<i32> {
        if !self.flags.intersects(Flags::ACK) {
            return None;
        }
        let first = match self.sender {
            Sender::Kernel => self.initial.peer,
            Sender::Peer => self.initial.kernel,
        };
        Some(self.acknowledgement.wrapping_sub(first?).cast_signed())
    }

    /// How many sequence numbers it takes: those of its data, SYN and FIN (SEG.LEN of RFC 9293 3.4).
    #[must_use]
    pub fn sequence_numbers(&self) -> u32 {
        self.length + self.flags.sequence_numbers()
    }

    /// The segment as an IP packet from the remote host; the length is that of `data`.
    pub(super) fn encode(&self, data: &[u8]) -> Result<Vec<u8>> {
        let builder = match self.conversation.version {
            Version::V4 => PacketBuilder::ipv4(THERE.octets(), HERE.octets(), TIME_TO_LIVE),
            Version::V6 => PacketBuilder::ipv6(THERE_V6.octets(), HERE_V6.octets(), TIME_TO_LIVE),
        };
        let Conversation {
            local_port, port, ..
        } = self.conversation;
        let mut builder = builder.tcp(port, local_port, self.sequence, WINDOW);
        if self.flags.intersects(Flags::SYN) {
            builder = builder.syn();
        }
        if self.flags.intersects(Flags::FIN) {
            builder = builder.fin();
        }
        if self.flags.intersects(Flags::RST) {
            builder = builder.rst();
        }
        if self.flags.intersects(Flags::ACK) {
            builder = builder.ack(self.acknowledgement);
        }
        if let Some(Timestamps { value, echo }) = self.timestamps {
            builder = builder.options(&[
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::Timestamp(value, echo),
            ])?;
        }
        let mut packet = Vec::with_capacity(builder.size(data.len()));
        builder.write(&mut packet, data)?;
        Ok(packet)
    }

    /// The segment in a packet that the kernel sent to the remote host. `None` for anything else: ICMP, and
    /// what a new interface says of itself with IPv6.
    pub(super) fn decode(packet: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ip(packet).ok()?;
        let (source, destination): (IpAddr, IpAddr) = match packet.net? {
            NetSlice::Ipv4(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            NetSlice::Ipv6(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            NetSlice::Arp(_) => return None,
        };
        let TransportSlice::Tcp(tcp) = packet.transport? else {
            return None;
        };
        let version = [Version::V4, Version::V6]
            .into_iter()
            .find(|version| (source, destination) == (version.here(), version.there()))?;
        let flags = [
            (tcp.syn(), Flags::SYN),
            (tcp.fin(), Flags::FIN),
            (tcp.rst(), Flags::RST),
            (tcp.ack(), Flags::ACK),
        ];
        let timestamps = tcp.options_iterator().find_map(|option| match option {
            Ok(TcpOptionElement::Timestamp(value, echo)) => Some(Timestamps { value, echo }),
            _ => None,
        });
        Some(Self {
            sender: Sender::Kernel,
            conversation: Conversation {
                version,
                local_port: tcp.source_port(),
                port: tcp.destination_port(),
            },
            flags: flags
                .into_iter()
                .filter(|(set, _)| *set)
                .fold(Flags(0), |all, (_, flag)| all | flag),
            sequence: tcp.sequence_number(),
            acknowledgement: tcp.acknowledgment_number(),
            length: u32::try_from(tcp.payload().len()).ok()?,
            timestamps,
            initial: Initial::default(),
        })
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conversation {
            local_port, port, ..
        } = self.conversation;
        match (self.sender, f.alternate()) {
            (Sender::Kernel, false) => f.write_str("kernel > peer  ")?,
            (Sender::Peer, false) => f.write_str("peer > kernel  ")?,
            (Sender::Kernel, true) => write!(f, "kernel:{local_port} > peer:{port}  ")?,
            (Sender::Peer, true) => write!(f, "peer:{port} > kernel:{local_port}  ")?,
        }
        write!(f, "{} seq ", self.flags)?;
        number(f, self.relative_sequence(), self.sequence)?;
        if self.flags.intersects(Flags::ACK) {
            f.write_str(" ack ")?;
            number(f, self.relative_acknowledgement(), self.acknowledgement)?;
        }
        write!(f, " len {}", self.length)?;
        match self.timestamps {
            Some(Timestamps { value, echo }) => write!(f, " tsval {value} tsecr {echo}"),
            None => Ok(()),
        }
    }
}

fn number(f: &mut fmt::Formatter<'_>, relative: Option<i32>, absolute: u32) -> fmt::Result {
    match relative {
        Some(relative) => write!(f, "{relative}"),
        None => write!(f, "{absolute}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const CONVERSATION: Conversation = Conversation {
        version: Version::V4,
        local_port: 80,
        port: 40_000,
    };

    pub(in super::super) fn segment(
        sender: Sender,
        flags: Flags,
        sequence: u32,
        acknowledgement: u32,
    ) -> Segment {
        Segment {
            sender,
            conversation: CONVERSATION,
            flags,
            sequence,
            acknowledgement,
            length: 0,
            timestamps: None,
            initial: Initial::default(),
        }
    }

    /// What is shown of segments that follow each other.
    fn shown(segments: impl IntoIterator<Item = Segment>) -> Vec<String> {
        let mut initial = Initial::default();
        segments
            .into_iter()
            .map(|mut segment| {
                initial.learn(&segment);
                segment.initial = initial;
                segment.to_string()
            })
            .collect()
    }

    fn syn_ack(sequence: u32, acknowledgement: u32) -> Segment {
        segment(
            Sender::Kernel,
            Flags::SYN | Flags::ACK,
            sequence,
            acknowledgement,
        )
    }

    #[test]
    fn flags_are_told_by_name_and_take_sequence_numbers() {
        assert_eq!((Flags::ACK | Flags::FIN).to_string(), "FIN+ACK");
        assert_eq!(Flags(0).to_string(), "no flags");
        assert_eq!((Flags::ACK | Flags::FIN).sequence_numbers(), 1);
        assert_eq!((Flags::ACK | Flags::RST).sequence_numbers(), 0);
        assert!((Flags::ACK | Flags::RST).intersects(Flags::RST));
        assert!(!(Flags::ACK | Flags::RST).intersects(Flags::FIN | Flags::SYN));
    }

    #[test]
    fn numbers_count_from_each_sides_first_one() {
        use Sender::{Kernel, Peer};
        let lines = shown([
            segment(Peer, Flags::SYN, u32::MAX, 0),
            syn_ack(7_000, 0),
            segment(Peer, Flags::ACK, 0, 7_001),
            Segment {
                length: 10,
                timestamps: Some(Timestamps {
                    value: 123,
                    echo: 45,
                }),
                ..segment(Kernel, Flags::FIN | Flags::ACK, 7_001, 0)
            },
            segment(Peer, Flags::RST, u32::MAX - 1, 0),
        ]);
        assert_eq!(
            lines,
            [
                "peer > kernel  SYN seq 0 len 0",
                "kernel > peer  SYN+ACK seq 0 ack 1 len 0",
                "peer > kernel  ACK seq 1 ack 1 len 0",
                "kernel > peer  FIN+ACK seq 1 ack 1 len 10 tsval 123 tsecr 45",
                "peer > kernel  RST seq -1 len 0",
            ]
        );
    }

    #[test]
    fn a_new_connection_counts_from_its_syn_and_ack() {
        use Sender::{Kernel, Peer};
        let lines = shown([
            segment(Peer, Flags::SYN, 100, 0),
            syn_ack(7_000, 101),
            // In TIME_WAIT: far behind, and then beyond what was received.
            segment(Peer, Flags::SYN, 50, 0),
            segment(Kernel, Flags::ACK, 7_002, 102),
            segment(Peer, Flags::SYN, 1_100, 0),
            syn_ack(9_000, 1_101),
            segment(Peer, Flags::ACK, 1_101, 9_001),
        ]);
        assert_eq!(
            lines[2..],
            [
                "peer > kernel  SYN seq -50 len 0",
                "kernel > peer  ACK seq 2 ack 2 len 0",
                "peer > kernel  SYN seq 1000 len 0",
                "kernel > peer  SYN+ACK seq 0 ack 1 len 0",
                "peer > kernel  ACK seq 1 ack 1 len 0",
            ]
        );
    }

    #[test]
    fn numbers_of_unknown_beginning_are_those_of_the_header() {
        let reset = segment(Sender::Kernel, Flags::RST | Flags::ACK, 0, 500);
        assert_eq!(reset.relative_sequence(), None);
        assert_eq!(reset.relative_acknowledgement(), None);
        assert_eq!(
            format!("{reset:#}"),
            "kernel:80 > peer:40000  RST+ACK seq 0 ack 500 len 0"
        );
        let back = Segment {
            sender: Sender::Peer,
            ..reset
        };
        assert_eq!(
            format!("{back:#}"),
            "peer:40000 > kernel:80  RST+ACK seq 0 ack 500 len 0"
        );
    }

    /// Turns a packet of the remote host into one of the kernel by exchanging addresses and ports, which
    /// leaves its checksums right.
    fn reversed(mut packet: Vec<u8>, version: Version) -> Vec<u8> {
        let (addresses, size, ports) = match version {
            Version::V4 => (12, 4, 20),
            Version::V6 => (8, 16, 40),
        };
        let (source, destination) = packet[addresses..].split_at_mut(size);
        source.swap_with_slice(&mut destination[..size]);
        packet.swap(ports, ports + 2);
        packet.swap(ports + 1, ports + 3);
        packet
    }

    #[test]
    fn what_is_written_is_read_again() {
        for version in [Version::V4, Version::V6] {
            let sent = Segment {
                conversation: Conversation {
                    version,
                    ..CONVERSATION
                },
                length: 3,
                timestamps: Some(Timestamps { value: 1, echo: 2 }),
                ..segment(Sender::Peer, Flags::FIN | Flags::ACK, 4, 5)
            };
            let packet = sent.encode(b"abc").expect("it can be written");
            assert_eq!(Segment::decode(&packet), None, "the kernel did not send it");
            let read = Segment::decode(&reversed(packet, version)).expect("it can be read");
            let expected = Segment {
                sender: Sender::Kernel,
                ..sent
            };
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn checksums_cover_header_data_and_addresses() {
        // RFC 1071: the sum over what a checksum covers, itself included, is all ones.
        fn sum(bytes: &[u8]) -> u32 {
            let sum: u32 = bytes
                .chunks(2)
                .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
                .sum();
            (sum & 0xffff) + (sum >> 16)
        }
        let packet = segment(Sender::Peer, Flags::ACK, 1, 2)
            .encode(b"odd")
            .expect("it can be written");
        let (header, rest) = packet.split_at(20);
        assert_eq!(sum(header), 0xffff);
        let length = u16::try_from(rest.len()).expect("it is short");
        let pseudo = [&header[12..20], &[0, 6], &length.to_be_bytes(), rest].concat();
        assert_eq!(sum(&pseudo), 0xffff);
    }

    #[test]
    fn other_packets_are_none_of_ours() {
        assert_eq!(Segment::decode(&[]), None);
        assert_eq!(Segment::decode(&[0xff; 60]), None);
        let mut udp = Vec::new();
        PacketBuilder::ipv4(HERE.octets(), THERE.octets(), TIME_TO_LIVE)
            .udp(80, 40_000)
            .write(&mut udp, b"")
            .expect("it can be written");
        assert_eq!(Segment::decode(&udp), None);
        let mut elsewhere = Vec::new();
        PacketBuilder::ipv4(HERE.octets(), [10, 9, 0, 3], TIME_TO_LIVE)
            .tcp(80, 40_000, 0, 0)
            .write(&mut elsewhere, b"")
            .expect("it can be written");
        assert_eq!(Segment::decode(&elsewhere), None);
    }
}
