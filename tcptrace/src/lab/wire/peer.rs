//! Owns `Peer`: one connection from the remote end, told segment by segment what to send.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{
    Conversation, Device, Flags, Segment, Sender, Timestamps, Version,
    segment::Initial,
    traffic::{PeerId, Ports},
};

/// The peer's first sequence number; any will do.
const FIRST_SEQUENCE: u32 = 1_000_000;
/// The peer's first timestamp; any will do.
const FIRST_TIMESTAMP: u32 = 5_000_000;

/// One connection, from the remote end. It acknowledges nothing, retransmits nothing and answers nothing by
/// itself; it only keeps count, so that what a script sends is right unless it is meant not to be.
pub struct Peer {
    device: Device,
    id: PeerId,
    /// Sequence number of what is sent next.
    next: u32,
    /// Sequence number of what is received next.
    expected: u32,
    /// The timestamps option, if both ends agreed on it.
    clock: Option<Clock>,
    /// The numbers of a SYN for a new connection that the kernel has not agreed to.
    proposed: Option<Proposed>,
    passed_over: Vec<Segment>,
}

#[derive(Clone, Copy)]
struct Clock {
    /// What the next segment carries.
    next: u32,
    /// The newest one that was sent.
    newest: u32,
    /// The kernel's newest one, which each segment echoes.
    recent: u32,
}

impl Clock {
    /// Another segment goes out with this value.
    fn stamp(&mut self, value: u32, flags: Flags) -> Timestamps {
        self.next = self.next.wrapping_add(1);
        if value.wrapping_sub(self.newest).cast_signed() > 0 {
            self.newest = value;
        }
        // RFC 7323 3.2: without ACK it must be zero.
        let echo = if flags.intersects(Flags::ACK) {
            self.recent
        } else {
            0
        };
        Timestamps { value, echo }
    }
}

#[derive(Clone, Copy)]
struct Proposed {
    /// Sequence number after the SYN.
    next: u32,
    timestamp: Option<u32>,
}

/// How a segment deviates from what comes next in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odd {
    /// Added to the sequence number.
    pub sequence: i32,
    /// Added to the acknowledgement number.
    pub acknowledgement: i32,
    /// Added to the timestamp.
    pub timestamp: i32,
}

impl Peer {
    /// A client at `port` of the remote host that has not sent anything yet to `local_port` here. It gets
    /// what the kernel sends between these ports from now on, as does any other peer with the same ports.
    ///
    /// # Errors
    /// When there is no IPv6 on the device, or it cannot be read.
    pub fn client(device: &Device, version: Version, local_port: u16, port: u16) -> Result<Self> {
        Self::new(
            device,
            Ports {
                version,
                local_port: Some(local_port),
                port,
            },
        )
    }

    /// A server at `port` of the remote host, before the kernel's SYN. The first SYN from now on that is for
    /// no other peer decides from which port here it gets segments.
    ///
    /// # Errors
    /// When there is no IPv6 on the device, or it cannot be read.
    pub fn server(device: &Device, version: Version, port: u16) -> Result<Self> {
        Self::new(
            device,
            Ports {
                version,
                local_port: None,
                port,
            },
        )
    }

    fn new(device: &Device, ports: Ports) -> Result<Self> {
        Ok(Self {
            id: device.enter(ports)?,
            device: device.clone(),
            next: FIRST_SEQUENCE,
            expected: 0,
            clock: Some(Clock {
                next: FIRST_TIMESTAMP,
                newest: FIRST_TIMESTAMP,
                recent: 0,
            }),
            proposed: None,
            passed_over: Vec::new(),
        })
    }

    /// The same peer without the timestamps option. Of the other options (MSS, window scale, SACK) it
    /// has none anyway.
    #[must_use]
    pub fn without_timestamps(mut self) -> Self {
        self.clock = None;
        self
    }

    /// Between which ports it speaks; `None` for a server before the kernel's SYN.
    #[must_use]
    pub fn conversation(&self) -> Option<Conversation> {
        self.device.ports(self.id)?.conversation()
    }

    /// The three-way handshake with a listener of the kernel.
    ///
    /// # Errors
    /// When the kernel does not answer with SYN+ACK, or the device fails.
    pub fn connect(&mut self) -> Result<()> {
        self.send(Flags::SYN)?;
        self.expect(Flags::SYN | Flags::ACK)?;
        self.send(Flags::ACK)
    }

    /// Waits for the kernel's SYN and answers it: after that, its connect() returns.
    ///
    /// # Errors
    /// When no SYN comes, or no ACK after it, or the device fails.
    pub fn accept(&mut self) -> Result<()> {
        self.await_syn()?;
        self.send(Flags::SYN | Flags::ACK)?;
        self.expect(Flags::ACK).map(drop)
    }

    /// Waits for the kernel's SYN and leaves it unanswered.
    ///
    /// # Errors
    /// When none comes, or the device fails.
    pub fn await_syn(&mut self) -> Result<()> {
        self.expect(Flags::SYN).map(drop)
    }

    /// Sends the next segment in order.
    ///
    /// # Errors
    /// For a server before the kernel's SYN, and when the device fails.
    pub fn send(&mut self, flags: Flags) -> Result<()> {
        self.send_data(flags, b"")
    }

    /// Sends the next segment in order, with data.
    ///
    /// # Errors
    /// As [`send`](Self::send), and for more data than a segment can have.
    pub fn send_data(&mut self, flags: Flags, data: &[u8]) -> Result<()> {
        let timestamp = self.clock.map(|clock| clock.next);
        let sent = self.emit(flags, [self.next, self.expected], timestamp, data)?;
        self.next = self.next.wrapping_add(sent.sequence_numbers());
        Ok(())
    }

    /// Sends a segment that is out of order; what comes next in order remains what it was.
    ///
    /// # Errors
    /// As [`send_data`](Self::send_data).
    pub fn send_odd(&mut self, flags: Flags, odd: Odd, data: &[u8]) -> Result<()> {
        let sequence = self.next.wrapping_add_signed(odd.sequence);
        let acknowledgement = self.expected.wrapping_add_signed(odd.acknowledgement);
        let timestamp = self
            .clock
            .map(|clock| clock.next.wrapping_add_signed(odd.timestamp));
        self.emit(flags, [sequence, acknowledgement], timestamp, data)
            .map(drop)
    }

    /// Sends a SYN for a new connection between the same ports. Its sequence number lies `sequence` after
    /// what comes next in the old one (the kernel's `rcv_nxt`, if it has received all), its timestamp
    /// `timestamp` after the newest that was sent.
    ///
    /// What comes next in order remains what it was, until the kernel's SYN+ACK for this SYN is received: from
    /// then on it is what comes next in the new connection.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn new_syn(&mut self, sequence: i32, timestamp: i32) -> Result<()> {
        let sequence = self.next.wrapping_add_signed(sequence);
        let timestamp = self
            .clock
            .map(|clock| clock.newest.wrapping_add_signed(timestamp));
        self.emit(Flags::SYN, [sequence, 0], timestamp, b"")?;
        self.proposed = Some(Proposed {
            next: sequence.wrapping_add(1),
            timestamp,
        });
        Ok(())
    }

    /// Waits for a segment with exactly these flags (PSH apart) and takes it as received, so that the next one
    /// sent acknowledges it. Others that come before it are [passed over](Self::passed_over).
    ///
    /// # Errors
    /// When none comes within the patience of the device, with those that came; and when the device fails.
    pub fn expect(&mut self, flags: Flags) -> Result<Segment> {
        self.passed_over.clear();
        let patience = self.device.patience();
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(segment) = self.device.receive(self.id, left)? else {
                bail!(
                    "no {flags} came from the kernel within {patience:?}, but {}; {}",
                    listed(&self.passed_over),
                    self.described()
                );
            };
            if segment.flags == flags {
                self.take(&segment);
                return Ok(segment);
            }
            self.passed_over.push(segment);
        }
    }

    /// What the last [`expect`](Self::expect) passed over. They are not acknowledged by what is sent next.
    #[must_use]
    pub fn passed_over(&self) -> &[Segment] {
        &self.passed_over
    }

    /// The next segment from the kernel, whatever it is, taken as received; `None` if none comes in time.
    ///
    /// # Errors
    /// When the device fails.
    pub fn next_segment(&mut self, within: Duration) -> Result<Option<Segment>> {
        let segment = self.device.receive(self.id, within)?;
        if let Some(segment) = &segment {
            self.take(segment);
        }
        Ok(segment)
    }

    /// Waits for all of this time, in which nothing may come.
    ///
    /// # Errors
    /// When a segment comes, or is there already, or the device fails.
    pub fn expect_silence(&mut self, within: Duration) -> Result<()> {
        match self.next_segment(within)? {
            None => Ok(()),
            Some(segment) => bail!(
                "the kernel must be silent for {within:?}, but: {segment}; {}",
                self.described()
            ),
        }
    }

    /// All that has come so far, taken as received.
    ///
    /// # Errors
    /// When the device fails.
    pub fn drain(&mut self) -> Result<Vec<Segment>> {
        let mut segments = Vec::new();
        while let Some(segment) = self.next_segment(Duration::ZERO)? {
            segments.push(segment);
        }
        Ok(segments)
    }

    fn take(&mut self, segment: &Segment) {
        let occupied = segment.sequence_numbers();
        if occupied > 0 {
            self.expected = segment.sequence.wrapping_add(occupied);
        }
        let is_syn = segment.flags.intersects(Flags::SYN);
        if is_syn && segment.flags.intersects(Flags::ACK) {
            self.agreed(segment.acknowledgement);
        }
        match (&mut self.clock, segment.timestamps) {
            (Some(ours), Some(theirs)) => ours.recent = theirs.value,
            // The SYN, or SYN+ACK, says whether the kernel agrees.
            (Some(_), None) if is_syn => self.clock = None,
            (Some(_) | None, _) => {}
        }
    }

    /// The kernel's SYN+ACK acknowledges this number.
    fn agreed(&mut self, acknowledged: u32) {
        let Some(proposed) = self.proposed.take_if(|one| one.next == acknowledged) else {
            return;
        };
        self.next = proposed.next;
        if let (Some(clock), Some(timestamp)) = (&mut self.clock, proposed.timestamp) {
            clock.next = timestamp.wrapping_add(1);
        }
    }

    fn emit(
        &mut self,
        flags: Flags,
        [sequence, acknowledgement]: [u32; 2],
        timestamp: Option<u32>,
        data: &[u8],
    ) -> Result<Segment> {
        let conversation = self
            .conversation()
            .context("nobody to send to: the kernel has not connected yet")?;
        let timestamps = match (&mut self.clock, timestamp) {
            (Some(clock), Some(value)) => Some(clock.stamp(value, flags)),
            (None, _) | (_, None) => None,
        };
        let segment = Segment {
            sender: Sender::Peer,
            conversation,
            flags,
            sequence,
            acknowledgement: if flags.intersects(Flags::ACK) {
                acknowledgement
            } else {
                0
            },
            length: u32::try_from(data.len())?,
            timestamps,
            initial: Initial::default(),
        };
        self.device.send(segment, data)?;
        Ok(segment)
    }

    fn described(&self) -> String {
        match self.device.ports(self.id) {
            Some(Ports {
                local_port: Some(local_port),
                port,
                ..
            }) => format!("this is port {port}, connected with {local_port} here"),
            Some(Ports { port, .. }) => format!("this is port {port}, which waits for a SYN"),
            None => "this peer is gone".to_owned(),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.device.leave(self.id);
    }
}

fn listed(segments: &[Segment]) -> String {
    if segments.is_empty() {
        return "nothing did".to_owned();
    }
    let lines: Vec<String> = segments.iter().map(ToString::to_string).collect();
    format!("these did: {}", lines.join(", "))
}
