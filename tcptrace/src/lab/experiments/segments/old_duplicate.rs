//! B4: an old duplicate, with TIME_WAIT and without.

use anyhow::{Context, Result, bail, ensure};
use tcptrace_model::TcpState;

use super::super::EADDRNOTAVAIL;
use crate::lab::{
    actor::{Actor, Options, Received, Sock, must},
    experiment::Experiment,
    experiments::scripted::{Scripted, Timestamps, ack},
    reading::Source,
    stage::Stage,
    wire::{Device, Flags, Odd, Version},
};

const CLIENT_PORT: u16 = 40_000;
const SERVER_PORT: u16 = 9000;
/// The client's first sequence number, in the old connection and in a new one.
const FIRST: u32 = 2_000_000;
/// What the server says in the old connection.
const OLD: [u8; 100] = [b'o'; 100];
/// What it says in a new one.
const NEW: [u8; 7] = [b'n'; 7];

pub(super) const B4: Experiment = Experiment {
    id: "B4",
    name: "old-duplicates",
    claims: &["B4"],
    title: "What TIME_WAIT is for: old segments stay out of new connections",
    says: "An old duplicate, a segment of a connection that is over, must not enter a new connection with the \
           same addresses and ports. TIME_WAIT keeps it out.",
    why: "A segment may be late: a copy took another route, while the original arrived and the connection was \
          closed. Nothing in it says which connection it belongs to but addresses, ports and numbers. If a \
          new connection has the same addresses and ports, and its numbers happen to cover those of the \
          segment, the kernel must take its data for data of the new connection, and the application gets \
          bytes that nobody sent to it. So one end keeps the pair for as long as segments may be late \
          (RFC 9293 3.6.1): what comes is answered with an ACK and thrown away \
          (net/ipv4/tcp_minisocks.c tcp_timewait_state_process, v6.18), and a connect() between the same ports \
          is refused (net/ipv4/tcp_ipv4.c tcp_twsk_unique) unless timestamps tell old from new (RFC 7323 5). A \
          RST ended the TIME_WAIT here, which is what RFC 1337 warns of, and both ends chose the numbers of \
          the old connection. There is a further fence: first numbers come from a clock (net/core/secure_seq.c \
          secure_tcp_seq, RFC 9293 3.4.1). It makes that unlikely; TIME_WAIT rules it out for as long as it lasts.",
    condition: None,
    seconds: 1,
    play: |stage: &mut Stage| -> Result<()> {
        let device = stage.wire()?;
        let client = stage.actor("client")?;
        let mut old = connected(&device, &client, Some(FIRST))?;
        old.peer.send_data(Flags::ACK, &OLD)?;
        ensure!(read(&old.socket)? == OLD.len() as u64, "no data to read");
        old.peer.expect(Flags::ACK)?;
        old.close_to_time_wait(stage)?;
        in_time_wait(stage, &client, &mut old)?;

        stage.note("a RST ends the TIME_WAIT before its time");
        old.peer.send(Flags::RST)?;
        stage.await_state(old.tuple, TcpState::Close)?;
        drop(old.peer);
        same_numbers(stage, &device, &client)
    },
};

/// The duplicate, and a new connection that it could enter.
fn in_time_wait(stage: &mut Stage, client: &Actor, old: &mut Scripted<'_>) -> Result<()> {
    stage.note("an old duplicate: the same data, with the same numbers");
    let answer = old.answer_to(|peer| {
        // Before the data and the peer's FIN; the client's FIN had not been sent.
        let late = Odd {
            sequence: -i32::try_from(OLD.len() + 1)?,
            acknowledgement: -1,
            timestamp: 0,
        };
        peer.send_odd(Flags::ACK, late, &OLD)
    })?;
    stage
        .reading("answer of TIME_WAIT to an old duplicate")
        .claim(ack())
        .measured(answer, Source::Segment);
    let now = stage.state(old.tuple)?.context("TIME_WAIT is gone")?;
    stage
        .reading("state of the old connection after that")
        .claim(TcpState::TimeWait)
        .measured(now.state, Source::SockDiag);
    let socket = bound(client, None)?;
    let called = socket.connect(Version::V4.remote(SERVER_PORT))?;
    stage
        .reading("connect() between the same ports")
        .claim(EADDRNOTAVAIL)
        .measured(called, Source::Call);
    socket.close()
}

/// TIME_WAIT is gone, and the new connection has the numbers of the old one.
fn same_numbers(stage: &mut Stage, device: &Device, client: &Actor) -> Result<()> {
    let mut new = connected(device, client, Some(FIRST))?;
    stage.note("the old duplicate again: the new server has sent nothing");
    new.peer.send_odd(Flags::ACK, Odd::default(), &OLD)?;
    let bytes = read(&new.socket)?;
    stage
        .reading("without TIME_WAIT: old bytes delivered")
        .control(OLD.len() as u64)
        .measured(bytes, Source::Call);
    new.peer.send_data(Flags::ACK, &NEW)?;
    let answer = new.peer.expect(Flags::ACK)?;
    let acknowledged = answer.relative_acknowledgement().unwrap_or_default();
    stage
        .reading("bytes that it acknowledges to the server")
        .expect(OLD.len() as u64)
        .measured(
            u64::try_from(acknowledged)?.saturating_sub(1),
            Source::Segment,
        );
    new.peer.send_odd(
        Flags::RST | Flags::ACK,
        Odd {
            sequence: i32::try_from(OLD.len() - NEW.len())?,
            ..Odd::default()
        },
        b"",
    )?;
    stage.await_state(new.tuple, TcpState::Close)?;
    new.socket.close()
}

/// A socket at the client's port; `first` is its first sequence number, by the kernel's clock if `None`.
fn bound(client: &Actor, first: Option<u32>) -> Result<Sock<'_>> {
    let socket = client.socket(false, Options::NONE)?;
    if let Some(first) = first {
        socket.begin_at(first)?;
    }
    socket.set(Options::REUSEADDR)?;
    must(socket.bind(Version::V4.local(CLIENT_PORT))?, "bind()")?;
    Ok(socket)
}

fn connected<'a>(device: &Device, client: &'a Actor, first: Option<u32>) -> Result<Scripted<'a>> {
    Scripted::connected_by(
        device,
        bound(client, first)?,
        SERVER_PORT,
        Timestamps::Without,
    )
}

/// How many bytes the application gets.
fn read(socket: &Sock<'_>) -> Result<u64> {
    match socket.read()? {
        Received::Data(bytes) => Ok(bytes as u64),
        other @ (Received::Fin | Received::Refused(_)) => bail!("no data came, but: {other:?}"),
    }
}
