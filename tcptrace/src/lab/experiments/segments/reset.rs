//! K15: a RST in TIME_WAIT.

use anyhow::Result;
use tcptrace_model::TcpState;

use crate::lab::{
    actor::{Options, Sock},
    experiment::Experiment,
    experiments::scripted::{Scripted, Timestamps},
    reading::Source,
    stage::Stage,
    wire::{Device, Flags, Odd, Version},
};

pub(super) const K15: Experiment = Experiment {
    id: "K15",
    name: "rst-in-time-wait",
    claims: &["K15"],
    title: "Which RST ends a TIME_WAIT before its time",
    says: "A RST at exactly the sequence number that comes next ends TIME_WAIT, unless net.ipv4.tcp_rfc1337 is \
           1. One beside it never does. In FIN_WAIT2 it always does.",
    why: "RFC 1337 calls it TIME_WAIT assassination: a RST makes an end forget that it has to wait, and late \
          segments find nobody who remembers. It advises to ignore every RST in TIME_WAIT; Linux does so only \
          with net.ipv4.tcp_rfc1337=1, and otherwise takes one with the exact number, which a client sends \
          whose SYN TIME_WAIT has answered with an ACK: net/ipv4/tcp_minisocks.c tcp_timewait_state_process \
          (v6.18). An orphan in FIN_WAIT2, though a minisocket already, still has a peer that may break off, \
          so the sysctl does not matter there, and anything in the window counts.",
    condition: None,
    seconds: 1,
    play: |stage: &mut Stage| -> Result<()> {
        let device = stage.wire()?;
        let server = stage.actor("server")?;
        let listener = server.listening(Version::V4.local(8000), Options::NONE)?;
        let mut port = 40_000;
        for rfc1337 in [0, 1] {
            stage.set_sysctl("net.ipv4.tcp_rfc1337", rfc1337)?;
            for (sequence, where_to) in [(0, "next"), (1, "next + 1"), (-1, "next - 1")] {
                port += 1;
                let mut pair = Scripted::served(&device, &listener, port, Timestamps::With)?;
                pair.close_to_time_wait(stage)?;
                let what = format!("RST at {where_to}, rfc1337={rfc1337}");
                let ends = sequence == 0 && rfc1337 == 0;
                reset(stage, &mut pair, sequence, &what, ends)?;
            }
            port += 1;
            in_fin_wait2(stage, &device, &listener, port, rfc1337)?;
        }
        Ok(())
    },
};

/// Sends a RST in TIME_WAIT and sees what has become of that.
fn reset(
    stage: &mut Stage,
    pair: &mut Scripted<'_>,
    sequence: i32,
    what: &str,
    ends: bool,
) -> Result<()> {
    let odd = Odd {
        sequence,
        ..Odd::default()
    };
    pair.peer.send_odd(Flags::RST, odd, b"")?;
    // A RST has no answer. A FIN has one after it: an ACK of TIME_WAIT, or a RST where there is none.
    let again = Odd {
        sequence: -1,
        ..Odd::default()
    };
    let answer = pair.answer_to(|peer| peer.send_odd(Flags::FIN | Flags::ACK, again, b""))?;
    let now = stage.state(pair.tuple)?;
    stage
        .reading(format!("{what}: ended"))
        .claim(ends)
        .measured(now.is_none(), Source::SockDiag);
    let gone = Flags::RST.to_string();
    stage
        .reading(format!("{what}: answer to a FIN"))
        .expect(if ends { gone } else { Flags::ACK.to_string() })
        .measured(answer, Source::Segment);
    if ends {
        let ended = stage.time_wait(pair.tuple)?;
        stage
            .reading(format!("{what}: ended by"))
            .expect("reset")
            .measured(ended.end.name(), Source::Finding);
    }
    Ok(())
}

fn in_fin_wait2(
    stage: &mut Stage,
    device: &Device,
    listener: &Sock<'_>,
    port: u16,
    rfc1337: u8,
) -> Result<()> {
    let mut pair = Scripted::served(device, listener, port, Timestamps::With)?;
    pair.close_to_fin_wait2(stage)?;
    let what = format!("RST in FIN_WAIT2, rfc1337={rfc1337}");
    pair.peer.send(Flags::RST)?;
    let answer = pair.answer_to(|peer| peer.send(Flags::FIN | Flags::ACK))?;
    let now = stage.state(pair.tuple)?;
    stage
        .reading(format!("{what}: ended"))
        .claim(true)
        .measured(now.is_none(), Source::SockDiag);
    stage
        .reading(format!("{what}: answer to FIN"))
        .expect(Flags::RST.to_string())
        .measured(answer, Source::Segment);
    let ended = stage.time_wait(pair.tuple)?;
    stage
        .reading(format!("{what}: last phase"))
        .expect(TcpState::FinWait2.name().to_lowercase())
        .measured(ended.last_phase.name(), Source::Finding);
    Ok(())
}
