//! B3: the last ACK is lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use tcptrace_model::TcpState;

use crate::lab::{
    actor::{Actor, Options, Received},
    experiment::Experiment,
    experiments::scripted::{Scripted, Timestamps, ack, fin},
    reading::Source,
    stage::{Stage, known},
    value::Expected,
    wire::{Device, Flags, Odd, Sender, Version},
};

/// How long TIME_WAIT has lasted when the FIN comes again.
const LATER: Duration = Duration::from_secs(5);
/// TCP_TIMEWAIT_LEN (include/net/tcp.h, v6.18).
const TIME_WAIT: Duration = Duration::from_secs(60);
/// For a machine that is busy.
const BUSY: Duration = Duration::from_secs(3);

pub(super) const B3: Experiment = Experiment {
    id: "B3",
    name: "last-ack-lost",
    claims: &["B3"],
    title: "TIME_WAIT answers a FIN that comes again, and starts over",
    says: "If the last ACK of a close is lost, the peer sends its FIN again, and TIME_WAIT is there to answer \
           it.",
    why: "The last ACK is not acknowledged itself, so the end that sent it cannot know whether it arrived. The \
          other end waits for it in LAST_ACK and sends its FIN again after a retransmission timeout (RFC 9293 \
          3.6, 3.8.1). TIME_WAIT answers with the ACK, and its 60 s begin anew, as that ACK may be lost, too: \
          net/ipv4/tcp_minisocks.c tcp_timewait_state_process, inet_twsk_reschedule (v6.18). Without \
          TIME_WAIT the answer would be a RST, and a close that went well would end as an error.",
    condition: None,
    seconds: 69,
    play: |stage: &mut Stage| -> Result<()> {
        let device = stage.wire()?;
        let server = stage.actor("server")?;
        let listener = server.listening(Version::V4.local(8000), Options::NONE)?;
        let mut pair = Scripted::served(&device, &listener, 40_000, Timestamps::With)?;
        pair.close_to_time_wait(stage)?;
        stage.let_pass(LATER)?;
        let before = pair.left(stage)?;
        let answer = pair.answer_to(|peer| {
            let again = Odd {
                sequence: -1,
                ..Odd::default()
            };
            peer.send_odd(fin(), again, b"")
        })?;
        let after = pair.left(stage)?;
        stage
            .reading("answer to the FIN that comes again")
            .claim(ack())
            .measured(answer, Source::Segment);
        stage
            .reading("left of TIME_WAIT before that")
            .expect(Expected::between(
                Duration::from_secs(30),
                TIME_WAIT.saturating_sub(LATER) + Duration::from_millis(100),
            ))
            .measured(before, Source::SockDiag);
        stage
            .reading("left of TIME_WAIT after that")
            .expect(Expected::between(
                TIME_WAIT.saturating_sub(BUSY),
                TIME_WAIT + Duration::from_millis(100),
            ))
            .measured(after, Source::SockDiag);
        kernel_sends_again(stage, &device, &server)?;

        let ended = stage.time_wait(pair.tuple)?;
        stage
            .reading("how TIME_WAIT ended")
            .expect("expired")
            .measured(ended.end.name(), Source::Finding);
        let granularity = stage.kernel().granularity(TIME_WAIT);
        stage
            .reading("how long it lasted")
            .expect(Expected::between(
                LATER + TIME_WAIT,
                LATER + TIME_WAIT + granularity + BUSY,
            ))
            .measured(known(ended.time_wait_ns, "its duration")?, Source::Finding);
        Ok(())
    },
};

/// The other side of it: this kernel's FIN is not acknowledged.
fn kernel_sends_again(stage: &mut Stage, device: &Device, server: &Actor) -> Result<()> {
    let listener = server.listening(Version::V4.local(8001), Options::NONE)?;
    let mut pair = Scripted::served(device, &listener, 40_001, Timestamps::With)?;
    pair.peer.send(fin())?;
    ensure!(pair.socket.read()? == Received::Fin, "no FIN came");
    pair.socket.close()?;
    pair.peer.expect(fin())?;
    stage.await_state(pair.tuple, TcpState::LastAck)?;
    stage.note("the last ACK is lost: the scripted peer does not send it");
    pair.peer.expect(fin())?;
    let fins = pair.closing_segments(device)?;
    let fins = fins
        .iter()
        .filter(|one| one.sender == Sender::Kernel && one.flags.intersects(Flags::FIN));
    stage
        .reading("FINs of a kernel that gets no last ACK")
        .claim(Expected::AtLeast(2))
        .measured(fins.count() as u64, Source::Segment);
    pair.peer.send(Flags::ACK)?;
    stage.await_state(pair.tuple, TcpState::Close)
}
