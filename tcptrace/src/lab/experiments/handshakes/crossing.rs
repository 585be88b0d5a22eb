//! K16: FINs that cross.

use std::time::Duration;

use anyhow::Result;
use tcptrace_model::TcpState;

use crate::lab::{
    actor::Options,
    experiment::Experiment,
    experiments::scripted::{Scripted, Timestamps, ack},
    reading::Source,
    stage::Stage,
    value::Expected,
    wire::{Device, Flags, Sender, Version},
};

pub(super) const K16: Experiment = Experiment {
    id: "K16",
    name: "crossing-fins",
    claims: &["K16"],
    title: "FINs that cross lead through CLOSING into TIME_WAIT",
    says: "When both ends send their FIN before the other's has come, the end goes through CLOSING into \
           TIME_WAIT, server or client.",
    why: "In FIN_WAIT1 there are two things to come: the ACK of this end's FIN and the peer's FIN. If the ACK \
          is first, the end goes to FIN_WAIT2; if the FIN is first, to CLOSING, and the ACK leads from there \
          into TIME_WAIT (RFC 9293 3.6, figure 13; net/ipv4/tcp_input.c tcp_fin and tcp_rcv_state_process, \
          v6.18). It lasts 60 s as any other, and the minisocket never has a phase of FIN_WAIT2.",
    condition: None,
    seconds: 1,
    play: |stage: &mut Stage| -> Result<()> {
        let device = stage.wire()?;
        let server = stage.actor("server")?;
        let listener = server.listening(Version::V4.local(8000), Options::NONE)?;
        let pair = Scripted::served(&device, &listener, 40_000, Timestamps::With)?;
        cross(stage, &device, "server", pair)?;
        let client = stage.actor("client")?;
        let connected = Scripted::connected(&device, &client, 9000, Timestamps::With)?;
        cross(stage, &device, "client", connected)
    },
};

fn cross(stage: &mut Stage, device: &Device, name: &str, mut end: Scripted<'_>) -> Result<()> {
    end.close_crossing(stage)?;
    let states = end.states(stage)?;
    stage
        .reading(format!("states of the {name}"))
        .claim(vec![
            TcpState::Established,
            TcpState::FinWait1,
            TcpState::Closing,
            TcpState::TimeWait,
        ])
        .measured(states, Source::Finding);
    let segments = end.closing_segments(device)?;
    let answer = segments
        .iter()
        .filter(|segment| segment.sender == Sender::Kernel)
        .find(|segment| !segment.flags.intersects(Flags::FIN))
        .map_or_else(|| "nothing".to_owned(), |segment| segment.flags.to_string());
    stage
        .reading(format!("answer of the {name} to the crossing FIN"))
        .expect(ack())
        .measured(answer, Source::Segment);
    let left = end.left(stage)?;
    stage
        .reading(format!("left of the {name}'s new TIME_WAIT"))
        .expect(Expected::between(
            Duration::from_secs(55),
            Duration::from_millis(60_100),
        ))
        .measured(left, Source::SockDiag);
    stage.story(end.tuple)?;
    Ok(())
}
