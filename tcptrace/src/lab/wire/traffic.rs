//! Owns who gets which segment of a device, and the log of all of them.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    time::Duration,
};

use super::{Conversation, Flags, Segment, Sender, Version, segment::Initial};

/// How many segments a log keeps, and how many wait for a peer that does not look: the newest.
const MOST: usize = 10_000;

/// A segment and when it was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Since the device was opened. One that the kernel sent by itself, and not in answer to another, is
    /// there when a peer looks for segments.
    pub at: Duration,
    /// The segment.
    pub segment: Segment,
}

/// What went over a device, the oldest first. As text: one line for each segment, with the ports where
/// there is more than one conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The segments: the newest 10,000.
    pub entries: Vec<Logged>,
    /// How many were before these.
    pub left_out: u64,
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.left_out > 0 {
            writeln!(f, "({} segments before)", self.left_out)?;
        }
        let mut conversations = self.entries.iter().map(|one| one.segment.conversation);
        let first = conversations.next();
        let several = conversations.any(|other| Some(other) != first);
        for Logged { at, segment } in &self.entries {
            let at = at.as_secs_f64();
            if several {
                writeln!(f, "{at:>10.6}  {segment:#}")?;
            } else {
                writeln!(f, "{at:>10.6}  {segment}")?;
            }
        }
        Ok(())
    }
}

/// Names a peer among those of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerId(u64);

/// What a peer is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) version: Version,
    /// The kernel's port; `None` until its SYN shows it.
    pub(super) local_port: Option<u16>,
    /// The peer's port.
    pub(super) port: u16,
}

impl Ports {
    pub(super) fn conversation(self) -> Option<Conversation> {
        Some(Conversation {
            version: self.version,
            local_port: self.local_port?,
            port: self.port,
        })
    }

    /// Whether this is a server that nobody has connected to, and could be the one that is asked for.
    fn awaits(self, asked: Conversation) -> bool {
        self.local_port.is_none() && (self.version, self.port) == (asked.version, asked.port)
    }
}

struct Waiting {
    id: PeerId,
    ports: Ports,
    segments: VecDeque<Segment>,
}

/// The segments of one device.
#[derive(Default)]
pub(super) struct Traffic {
    peers: Vec<Waiting>,
    peers_ever: u64,
    initial: HashMap<Conversation, Initial>,
    log: VecDeque<Logged>,
    left_out: u64,
}

impl Traffic {
    /// From now on there is a peer with these ports.
    pub(super) fn enter(&mut self, ports: Ports) -> PeerId {
        let id = PeerId(self.peers_ever);
        self.peers_ever += 1;
        self.peers.push(Waiting {
            id,
            ports,
            segments: VecDeque::new(),
        });
        id
    }

    /// The peer is gone, and what waits for it.
    pub(super) fn leave(&mut self, id: PeerId) {
        self.peers.retain(|peer| peer.id != id);
    }

    /// The ports of a peer; `None` for one that is gone.
    pub(super) fn ports(&self, id: PeerId) -> Option<Ports> {
        let peer = self.peers.iter().find(|peer| peer.id == id)?;
        Some(peer.ports)
    }

    /// The next segment for this peer.
    pub(super) fn next(&mut self, id: PeerId) -> Option<Segment> {
        let peer = self.peers.iter_mut().find(|peer| peer.id == id)?;
        peer.segments.pop_front()
    }

    /// Writes a segment down, and gives one of the kernel to every peer with its ports, or else to the first
    /// server that waits for a connection, if it asks for one.
    pub(super) fn pass(&mut self, at: Duration, mut segment: Segment) {
        let initial = self.initial.entry(segment.conversation).or_default();
        initial.learn(&segment);
        segment.initial = *initial;
        if self.log.len() == MOST {
            self.log.pop_front();
            self.left_out += 1;
        }
        self.log.push_back(Logged { at, segment });
        match segment.sender {
            Sender::Peer => {}
            Sender::Kernel => self.deliver(segment),
        }
    }

    /// A copy of what was written down.
    pub(super) fn log(&self) -> Log {
        Log {
            entries: self.log.iter().copied().collect(),
            left_out: self.left_out,
        }
    }

    fn deliver(&mut self, segment: Segment) {
        let asked = segment.conversation;
        let known = |peer: &&mut Waiting| peer.ports.conversation() == Some(asked);
        let mut delivered = false;
        for peer in self.peers.iter_mut().filter(known) {
            peer.keep(segment);
            delivered = true;
        }
        if delivered || segment.flags != Flags::SYN {
            return;
        }
        let server = self.peers.iter_mut().find(|peer| peer.ports.awaits(asked));
        if let Some(server) = server {
            server.ports.local_port = Some(asked.local_port);
            server.keep(segment);
        }
    }
}

impl Waiting {
    fn keep(&mut self, segment: Segment) {
        if self.segments.len() == MOST {
            self.segments.pop_front();
        }
        self.segments.push_back(segment);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::segment::tests::{CONVERSATION, segment},
        *,
    };

    const CLIENT: Ports = Ports {
        version: Version::V4,
        local_port: Some(80),
        port: 40_000,
    };
    const SERVER: Ports = Ports {
        local_port: None,
        ..CLIENT
    };

    fn kernel(flags: Flags, local_port: u16) -> Segment {
        Segment {
            conversation: Conversation {
                local_port,
                ..CONVERSATION
            },
            ..segment(Sender::Kernel, flags, 100, 0)
        }
    }

    /// The kernel's ports of the segments that wait for a peer.
    fn waiting(traffic: &mut Traffic, id: PeerId) -> Vec<u16> {
        std::iter::from_fn(|| traffic.next(id))
            .map(|segment| segment.conversation.local_port)
            .collect()
    }

    #[test]
    fn each_peer_gets_the_segments_of_its_ports_in_their_order() {
        let mut traffic = Traffic::default();
        let [one, other] = [80, 81].map(|local_port| {
            traffic.enter(Ports {
                local_port: Some(local_port),
                ..CLIENT
            })
        });
        for local_port in [81, 80, 81, 82] {
            traffic.pass(Duration::ZERO, kernel(Flags::ACK, local_port));
        }
        assert_eq!(waiting(&mut traffic, one), [80]);
        assert_eq!(waiting(&mut traffic, other), [81, 81]);
        assert_eq!(traffic.log().entries.len(), 4);
    }

    #[test]
    fn peers_with_the_same_ports_all_get_them_until_they_leave() {
        let mut traffic = Traffic::default();
        let [one, other] = [CLIENT, CLIENT].map(|ports| traffic.enter(ports));
        traffic.pass(Duration::ZERO, kernel(Flags::ACK, 80));
        traffic.leave(one);
        traffic.pass(Duration::ZERO, kernel(Flags::ACK, 80));
        assert!(waiting(&mut traffic, one).is_empty());
        assert_eq!(traffic.ports(one), None);
        assert_eq!(waiting(&mut traffic, other), [80, 80]);
    }

    #[test]
    fn the_other_protocol_is_another_conversation() {
        let mut traffic = Traffic::default();
        let six = traffic.enter(Ports {
            version: Version::V6,
            ..CLIENT
        });
        traffic.pass(Duration::ZERO, kernel(Flags::ACK, 80));
        assert!(waiting(&mut traffic, six).is_empty());
    }

    #[test]
    fn servers_take_one_client_each_by_its_syn() {
        let mut traffic = Traffic::default();
        let [first, second] = [SERVER, SERVER].map(|ports| traffic.enter(ports));
        // Of a connection from before.
        traffic.pass(Duration::ZERO, kernel(Flags::FIN | Flags::ACK, 1));
        // The first one's SYN comes twice.
        for local_port in [2, 2, 3, 4] {
            traffic.pass(Duration::ZERO, kernel(Flags::SYN, local_port));
        }
        assert_eq!(waiting(&mut traffic, first), [2, 2]);
        assert_eq!(waiting(&mut traffic, second), [3]);
        assert_eq!(
            traffic.ports(second).and_then(Ports::conversation),
            Some(Conversation {
                local_port: 3,
                ..CONVERSATION
            })
        );
    }

    #[test]
    fn what_the_peer_sends_is_logged_and_delivered_to_nobody() {
        let mut traffic = Traffic::default();
        let peer = traffic.enter(CLIENT);
        let sent = segment(Sender::Peer, Flags::SYN, 100, 0);
        traffic.pass(Duration::from_micros(1_500), sent);
        assert_eq!(traffic.next(peer), None);
        assert_eq!(
            traffic.log().to_string(),
            "  0.001500  peer > kernel  SYN seq 0 len 0\n"
        );
    }

    #[test]
    fn a_log_of_several_conversations_shows_ports_and_a_long_one_its_end() {
        let mut traffic = Traffic::default();
        for local_port in [80, 80, 81] {
            traffic.pass(Duration::from_secs(2), kernel(Flags::SYN, local_port));
        }
        assert_eq!(
            traffic.log().to_string(),
            "  2.000000  kernel:80 > peer:40000  SYN seq 0 len 0\n\
             \x20 2.000000  kernel:80 > peer:40000  SYN seq 0 len 0\n\
             \x20 2.000000  kernel:81 > peer:40000  SYN seq 0 len 0\n"
        );
        for _ in 0..MOST {
            traffic.pass(Duration::from_secs(3), kernel(Flags::ACK, 80));
        }
        let log = traffic.log();
        assert_eq!((log.entries.len(), log.left_out), (MOST, 3));
        assert!(log.to_string().starts_with("(3 segments before)\n"));
    }
}
