//! K14: a SYN in TIME_WAIT.

use anyhow::Result;
use tcptrace_model::TcpState;

use crate::lab::{
    actor::{Options, Sock},
    experiment::Experiment,
    experiments::scripted::{Scripted, Timestamps, ack, syn_ack},
    reading::Source,
    stage::Stage,
    wire::{Device, Version},
};

pub(super) const K14: Experiment = Experiment {
    id: "K14",
    name: "syn-in-time-wait",
    claims: &["K14"],
    title: "Which SYN may take the place of a TIME_WAIT",
    says: "A SYN that comes in TIME_WAIT is accepted if its sequence number or its timestamp is newer than the \
           last of the old connection; else it is answered with an ACK.",
    why: "A new connection may begin in TIME_WAIT if no segment of the old one can be mistaken for its own: its \
          numbers lie beyond the old ones, or its timestamps do (RFC 9293 3.6.1, RFC 6191). The rules are in \
          net/ipv4/tcp_minisocks.c tcp_timewait_state_process (v6.18): PAWS first, so that an older timestamp \
          refuses a newer number, too (RFC 7323 5.3); then a number after the last one, or a timestamp after \
          the last one; the same number is not enough. A refused SYN gets the ACK that TIME_WAIT sends to \
          anything odd, to which a client that is alive answers with a RST. Where nobody listens, no SYN is \
          accepted, and TIME_WAIT stays (net/ipv4/tcp_ipv4.c tcp_v4_rcv). Kernels from 6.16 on count PAWS in \
          TIME_WAIT as PAWSTimewait, earlier ones as PAWSEstab.",
    condition: Some("somebody listens and the SYN's timestamp is not older"),
    seconds: 1,
    play: |stage: &mut Stage| -> Result<()> {
        let device = stage.wire()?;
        let server = stage.actor("server")?;
        let listener = server.listening(Version::V4.local(8000), Options::NONE)?;
        for (case, port) in CASES.iter().zip(40_000..) {
            judged(stage, &device, &listener, port, case)?;
        }
        nobody_listens(stage, &device)
    },
};

/// A SYN, and what is said of it.
struct Case {
    what: &'static str,
    timestamps: Timestamps,
    /// Its sequence number, relative to what comes next in the old connection.
    sequence: i32,
    /// Its timestamp, relative to the newest of the old connection.
    timestamp: i32,
    claimed: bool,
    accepted: bool,
}

const CASES: &[Case] = &[
    Case {
        what: "number newer by 1",
        timestamps: Timestamps::Without,
        sequence: 1,
        timestamp: 0,
        claimed: true,
        accepted: true,
    },
    Case {
        what: "the number that comes next",
        timestamps: Timestamps::Without,
        sequence: 0,
        timestamp: 0,
        claimed: false,
        accepted: false,
    },
    Case {
        what: "number older",
        timestamps: Timestamps::Without,
        sequence: -1000,
        timestamp: 0,
        claimed: false,
        accepted: false,
    },
    Case {
        what: "number older, timestamp newer",
        timestamps: Timestamps::With,
        sequence: -1000,
        timestamp: 1,
        claimed: true,
        accepted: true,
    },
    Case {
        what: "number newer, timestamp older",
        timestamps: Timestamps::With,
        sequence: 1000,
        timestamp: -1,
        claimed: true,
        accepted: false,
    },
];

fn judged(
    stage: &mut Stage,
    device: &Device,
    listener: &Sock<'_>,
    port: u16,
    case: &Case,
) -> Result<()> {
    let mut pair = Scripted::served(device, listener, port, case.timestamps)?;
    pair.close_to_time_wait(stage)?;
    let counted = paws(stage)?;
    let answer = pair.answer_to_syn(case.sequence, case.timestamp)?;
    let counted = paws(stage)? - counted;
    stage
        .reading(case.what)
        .claim(answer_if(case.claimed))
        .expect(answer_if(case.accepted))
        .measured(answer, Source::Segment);
    if case.timestamps == Timestamps::With {
        stage
            .reading(format!("PAWS counts: {}", case.what))
            .expect(u64::from(case.timestamp < 0))
            .measured(counted, Source::Counter);
    }
    if case.accepted {
        let ended = stage.time_wait(pair.tuple)?;
        let by_syn = stage.ended_by_syn();
        stage
            .reading(format!("how it ended: {}", case.what))
            .expect(by_syn)
            .measured(ended.end.name(), Source::Finding);
    } else {
        still_waits(stage, &pair, case.what)?;
    }
    Ok(())
}

fn nobody_listens(stage: &mut Stage, device: &Device) -> Result<()> {
    let gone = stage.actor("gone")?;
    let listener = gone.listening(Version::V4.local(8001), Options::NONE)?;
    let mut pair = Scripted::served(device, &listener, 41_000, Timestamps::Without)?;
    pair.close_to_time_wait(stage)?;
    listener.close()?;
    let answer = pair.answer_to_syn(1000, 0)?;
    stage
        .reading("number newer, but nobody listens")
        .claim(syn_ack())
        .expect(ack())
        .measured(answer, Source::Segment);
    still_waits(stage, &pair, "nobody listens")
}

fn still_waits(stage: &mut Stage, pair: &Scripted<'_>, what: &str) -> Result<()> {
    let now = stage.state(pair.tuple)?;
    stage
        .reading(format!("it stays: {what}"))
        .expect(true)
        .measured(
            now.is_some_and(|now| now.state == TcpState::TimeWait),
            Source::SockDiag,
        );
    Ok(())
}

fn answer_if(accepted: bool) -> String {
    if accepted { syn_ack() } else { ack() }
}

/// Segments that PAWS has refused, in TIME_WAIT or in a connection. The first counter is there from 6.16 on
/// (commit c449d5f3a3d7); before that both are counted by the second.
fn paws(stage: &Stage) -> Result<u64> {
    Ok(stage.counter("TcpExt", "PAWSTimewait")? + stage.counter("TcpExt", "PAWSEstab")?)
}
