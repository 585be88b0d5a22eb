//! D7: all that decides whether a TIME_WAIT may be taken over.

use std::time::Duration;

use anyhow::Result;

use super::super::EADDRNOTAVAIL;
use crate::lab::{
    actor::{Options, Sock},
    experiment::Experiment,
    experiments::scripted::{Scripted, Timestamps, ack, syn_ack},
    reading::Source,
    stage::Stage,
    value::Called,
    wire::{Device, Flags, Peer, Version},
};

/// The only port that connect() may choose.
const ONLY: u16 = 40_000;
/// More than the second that a TIME_WAIT must have lasted: net.ipv4.tcp_tw_reuse_delay, and before 6.14 the
/// next second of the clock (net/ipv4/tcp_ipv4.c tcp_twsk_unique).
const REUSABLE: Duration = Duration::from_millis(1200);

pub(super) const D7: Experiment = Experiment {
    id: "D7",
    name: "taking-over-a-time-wait",
    claims: &["D7"],
    title: "What decides whether a TIME_WAIT may be taken over",
    says: "Whether a new connection may take the place of a TIME_WAIT is decided by net.ipv4.tcp_tw_reuse, by \
           sequence numbers and by timestamps.",
    why: "There are two sides. At the end that has the TIME_WAIT, a connect() chooses a port that is free, or \
          one in TIME_WAIT if net.ipv4.tcp_tw_reuse and timestamps allow it (net/ipv4/tcp_ipv4.c \
          tcp_twsk_unique, v6.18). A SYN that comes in from the peer is another matter: it is judged by its \
          sequence number and its timestamp alone, in this order: an older timestamp refuses it, a newer \
          number or a newer timestamp accepts it (net/ipv4/tcp_minisocks.c tcp_timewait_state_process; RFC \
          6191, RFC 7323 5.3). So tcp_tw_reuse does nothing for a server that closes first and whose clients \
          come back. net.ipv4.tcp_rfc1337 is about a RST only: with 1, none ends a TIME_WAIT.",
    condition: Some(
        "it is a connect() of the end in TIME_WAIT; for a SYN that comes in, tcp_tw_reuse does not count",
    ),
    seconds: 3,
    play: |stage: &mut Stage| -> Result<()> {
        let device = stage.wire()?;
        tw_reuse_and_connect(stage, &device)?;
        let server = stage.actor("server")?;
        let listener = server.listening(Version::V4.local(8000), Options::NONE)?;
        let mut scene = Scene {
            stage,
            device: &device,
            listener: &listener,
            port: 50_000,
        };
        scene.numbers_and_timestamps()?;
        scene.tw_reuse_and_syn()?;
        scene.rfc1337_and_reset()
    },
};

/// Connections of the scripted peer that the server closes first.
struct Scene<'a> {
    stage: &'a mut Stage,
    device: &'a Device,
    listener: &'a Sock<'a>,
    /// The peer's last one.
    port: u16,
}

/// SYNs, by their sequence number.
const NUMBERS: [(&str, i32); 3] = [("older", -1000), ("next", 0), ("newer", 1000)];
/// SYNs, by their timestamp; `None`: the old connection did not use timestamps.
const TIMESTAMPS: [(&str, Option<i32>); 4] = [
    ("no timestamps", None),
    ("timestamp older", Some(-1)),
    ("same timestamp", Some(0)),
    ("timestamp newer", Some(1)),
];

impl Scene<'_> {
    /// What a TIME_WAIT of its own answers to this SYN.
    fn answer(&mut self, sequence: i32, timestamp: Option<i32>) -> Result<String> {
        self.port += 1;
        let timestamps = match timestamp {
            Some(_) => Timestamps::With,
            None => Timestamps::Without,
        };
        let mut pair = Scripted::served(self.device, self.listener, self.port, timestamps)?;
        pair.close_to_time_wait(self.stage)?;
        pair.answer_to_syn(sequence, timestamp.unwrap_or_default())
    }

    /// All kinds of SYNs.
    fn numbers_and_timestamps(&mut self) -> Result<()> {
        let mut answers = Vec::new();
        for (by_timestamp, timestamp) in TIMESTAMPS {
            for (by_number, sequence) in NUMBERS {
                let answer = self.answer(sequence, timestamp)?;
                let accepted = match timestamp {
                    Some(..0) => false,
                    None | Some(0) => sequence > 0,
                    Some(1..) => true,
                };
                self.stage
                    .reading(format!("SYN: number {by_number}, {by_timestamp}"))
                    .expect(if accepted { syn_ack() } else { ack() })
                    .measured(answer.as_str(), Source::Segment);
                answers.push(answer);
            }
        }
        let row = |index: usize| &answers[index * NUMBERS.len()..][..NUMBERS.len()];
        let by_number = row(0).first() != row(0).last();
        let by_timestamp = row(1) != row(3);
        self.stage
            .reading("the sequence number decides on a SYN")
            .claim(true)
            .measured(by_number, Source::Computed);
        self.stage
            .reading("the timestamp decides on a SYN")
            .claim(true)
            .measured(by_timestamp, Source::Computed);
        Ok(())
    }

    /// The same SYNs with every value of tcp_tw_reuse.
    fn tw_reuse_and_syn(&mut self) -> Result<()> {
        let mut rows = Vec::new();
        for reuse in [0, 1, 2] {
            self.stage.set_sysctl("net.ipv4.tcp_tw_reuse", reuse)?;
            let mut row = Vec::new();
            for (_, sequence) in NUMBERS {
                row.push(self.answer(sequence, None)?);
            }
            rows.push(row);
        }
        let decides = rows.iter().any(|row| *row != rows[0]);
        self.stage
            .reading("tcp_tw_reuse 0, 1 or 2 decides on a SYN")
            .claim(true)
            .expect(false)
            .measured(decides, Source::Computed);
        Ok(())
    }

    /// A RST at the number that comes next, with both values of tcp_rfc1337.
    fn rfc1337_and_reset(&mut self) -> Result<()> {
        for rfc1337 in [0, 1] {
            self.stage.set_sysctl("net.ipv4.tcp_rfc1337", rfc1337)?;
            self.port += 1;
            let mut pair =
                Scripted::served(self.device, self.listener, self.port, Timestamps::Without)?;
            pair.close_to_time_wait(self.stage)?;
            pair.peer.send(Flags::RST)?;
            // It has no answer. A SYN has one when the RST has been dealt with; with an older number it is
            // accepted only where there is no TIME_WAIT any more.
            let answer = pair.answer_to_syn(-1000, 0)?;
            self.stage
                .reading(format!("a RST ends it, tcp_rfc1337={rfc1337}"))
                .expect(rfc1337 == 0)
                .measured(answer == syn_ack(), Source::Segment);
        }
        Ok(())
    }
}

/// connect() from the only port there is, which is in TIME_WAIT.
fn tw_reuse_and_connect(stage: &mut Stage, device: &Device) -> Result<()> {
    let client = stage.actor("client")?;
    stage.set_sysctl("net.ipv4.ip_local_port_range", format!("{ONLY} {ONLY}"))?;
    let mut connected = Scripted::connected(device, &client, 9000, Timestamps::With)?;
    connected.close_to_time_wait(stage)?;
    // So that its segments are those of the next connection.
    drop(connected.peer);
    stage.let_pass(REUSABLE)?;

    stage.set_sysctl("net.ipv4.tcp_tw_reuse", 0)?;
    let remote = Version::V4.remote(9000);
    let (_, without) = client.try_connect(remote, Options::NONE)?;
    stage
        .reading("connect() with tcp_tw_reuse=0")
        .expect(EADDRNOTAVAIL)
        .measured(without, Source::Call);

    stage.set_sysctl("net.ipv4.tcp_tw_reuse", 1)?;
    let mut peer = Peer::server(device, Version::V4, 9000)?;
    let connecting = client.connecting(remote, Options::NONE)?;
    peer.accept()?;
    let (_, with) = connecting.returned()?;
    stage
        .reading("connect() with tcp_tw_reuse=1")
        .expect(Called::Ok(()))
        .measured(with, Source::Call);
    stage
        .reading("tcp_tw_reuse decides on a connect()")
        .claim(true)
        .measured(without != with, Source::Computed);
    peer.send(Flags::RST | Flags::ACK)
}
