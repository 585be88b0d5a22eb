//! A3: four segments, or three.

use anyhow::{Result, ensure};
use tcptrace_model::TcpState;

use crate::lab::{
    actor::{Options, Received, must},
    experiment::Experiment,
    experiments::scripted::{Scripted, Timestamps, fin},
    reading::Source,
    stage::Stage,
    value::Expected,
    wire::{Device, Flags, Version},
};

/// Closes that the actor answers at once: its ACK waits for 40 ms (TCP_ATO_MIN), and on a busy machine the
/// actor may take longer than that for some of them.
const AT_ONCE: u16 = 5;
/// What the actor writes last, in bytes.
const LAST_WORDS: usize = 10;

pub(super) const A3: Experiment = Experiment {
    id: "A3",
    name: "four-segments-or-three",
    claims: &["A3"],
    title: "Four segments close a connection, or three, and a FIN may carry data",
    says: "Four segments close a connection: FIN and ACK in each direction. A FIN may ride on the last data, \
           and the ACK of one FIN may be merged with the other FIN, which makes three.",
    why: "Each direction is closed by itself (RFC 9293 3.6), so there are two FINs with an ACK each. A FIN is \
          a flag, and any segment may have it: close() sets it on the last one that has not been sent yet \
          (net/ipv4/tcp_output.c tcp_send_fin, v6.18). The ACK of the peer's FIN need not go at once: the \
          kernel holds it back for 40 ms, as it hopes for something to send with it (net/ipv4/tcp_input.c \
          tcp_fin, inet_csk_enter_pingpong_mode). If the application closes within that time, its FIN takes \
          the ACK along. Who gets such a FIN goes through FIN_WAIT2 all the same, for no time at all.",
    condition: None,
    seconds: 1,
    play: |stage: &mut Stage| -> Result<()> {
        let device = stage.wire()?;
        four_with_the_kernel_first(stage, &device)?;
        four_with_the_peer_first(stage, &device)?;
        fin_on_data(stage, &device)?;
        three_by_the_peer(stage, &device)?;
        three_by_the_kernel(stage, &device)
    },
};

fn four_with_the_kernel_first(stage: &mut Stage, device: &Device) -> Result<()> {
    let server = stage.actor("server")?;
    let listener = server.listening(Version::V4.local(8000), Options::NONE)?;
    let mut pair = Scripted::served(device, &listener, 40_001, Timestamps::With)?;
    pair.close_to_fin_wait2(stage)?;
    pair.peer.send(fin())?;
    pair.peer.expect(Flags::ACK)?;
    stage.await_state(pair.tuple, TcpState::TimeWait)?;
    let segments = pair.closing_segments(device)?.len() as u64;
    stage
        .reading("segments, the server closes first")
        .claim(4)
        .measured(segments, Source::Segment);
    let states = pair.states(stage)?;
    stage
        .reading("states of the server that closes first")
        .expect(vec![
            TcpState::Established,
            TcpState::FinWait1,
            TcpState::FinWait2,
            TcpState::TimeWait,
        ])
        .measured(states, Source::Finding);
    Ok(())
}

fn four_with_the_peer_first(stage: &mut Stage, device: &Device) -> Result<()> {
    let client = stage.actor("client")?;
    let mut connected = Scripted::connected(device, &client, 9000, Timestamps::With)?;
    connected.peer.send(fin())?;
    connected.peer.expect(Flags::ACK)?;
    ensure!(connected.socket.read()? == Received::Fin, "no FIN came");
    connected.socket.close()?;
    connected.peer.expect(fin())?;
    connected.peer.send(Flags::ACK)?;
    stage.await_state(connected.tuple, TcpState::Close)?;
    let segments = connected.closing_segments(device)?.len() as u64;
    stage
        .reading("segments, a client closes after the ACK")
        .claim(4)
        .measured(segments, Source::Segment);
    let states = connected.states(stage)?;
    stage
        .reading("states of the client that closes second")
        .expect(vec![
            TcpState::Established,
            TcpState::CloseWait,
            TcpState::LastAck,
        ])
        .measured(states, Source::Finding);
    Ok(())
}

fn fin_on_data(stage: &mut Stage, device: &Device) -> Result<()> {
    let server = stage.actor("server")?;
    let listener = server.listening(Version::V4.local(8001), Options::NONE)?;
    let mut pair = Scripted::served(device, &listener, 40_002, Timestamps::With)?;
    must(pair.socket.write(1)?, "send()")?;
    pair.peer.expect(Flags::ACK)?;
    // Nagle's algorithm holds this back, as what was sent before is not acknowledged.
    must(pair.socket.write(LAST_WORDS)?, "send()")?;
    pair.socket.close()?;
    let fin_segment = pair.peer.expect(fin())?;
    stage
        .reading("bytes of data that the FIN carries")
        .claim(LAST_WORDS as u64)
        .measured(u64::from(fin_segment.length), Source::Segment);
    pair.peer.send(Flags::ACK)?;
    stage.await_state(pair.tuple, TcpState::FinWait2)?;
    pair.peer.send(fin())?;
    pair.peer.expect(Flags::ACK)?;
    let segments = pair.closing_segments(device)?.len() as u64;
    stage
        .reading("segments, one of them with data")
        .claim(4)
        .measured(segments, Source::Segment);
    Ok(())
}

fn three_by_the_peer(stage: &mut Stage, device: &Device) -> Result<()> {
    let client = stage.actor("client")?;
    let mut connected = Scripted::connected(device, &client, 9001, Timestamps::With)?;
    connected.close_to_time_wait(stage)?;
    let segments = connected.closing_segments(device)?.len() as u64;
    stage
        .reading("segments, the peer merges ACK and FIN")
        .claim(3)
        .measured(segments, Source::Segment);
    let states = connected.states(stage)?;
    stage
        .reading("states of the client that gets that")
        .expect(vec![
            TcpState::Established,
            TcpState::FinWait1,
            TcpState::FinWait2,
            TcpState::TimeWait,
        ])
        .measured(states, Source::Finding);
    stage.story(connected.tuple)?;
    Ok(())
}

fn three_by_the_kernel(stage: &mut Stage, device: &Device) -> Result<()> {
    let server = stage.actor("server")?;
    let listener = server.listening(Version::V4.local(8002), Options::NONE)?;
    let mut merged = 0_u64;
    for port in 41_000..41_000 + AT_ONCE {
        let mut pair = Scripted::served(device, &listener, port, Timestamps::With)?;
        // Before any data there is no time for which an ACK is held back.
        pair.peer.send_data(Flags::ACK, b"?")?;
        pair.peer.expect(Flags::ACK)?;
        ensure!(pair.socket.read()? == Received::Data(1), "no data to read");
        pair.peer.send(fin())?;
        stage.await_state(pair.tuple, TcpState::CloseWait)?;
        pair.socket.close()?;
        pair.peer.expect(fin())?;
        pair.peer.send(Flags::ACK)?;
        stage.await_state(pair.tuple, TcpState::Close)?;
        if pair.closing_segments(device)?.len() == 3 {
            merged += 1;
        }
    }
    stage
        .reading(format!("of {AT_ONCE} closes at once, with 3 segments"))
        .claim(Expected::AtLeast(1))
        .measured(merged, Source::Segment);
    Ok(())
}
