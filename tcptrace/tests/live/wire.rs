//! The scripted peer itself: what it sends reaches this kernel's TCP, and what that answers reaches it.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tcptrace::lab::wire::{Device, Flags, Odd, Peer, THERE, Unavailable, Version};

use crate::endings::expect_fin;
use crate::event::State;
use crate::sockets::Socket;
use crate::{Needs, PATIENCE, Scenario, kernel_table, netns, ports, sys};

const NOBODY: u32 = 65_534;
/// More than a device holds for whoever reads it.
const BURST: usize = 2_000;
/// Long enough for what the kernel sends at once, shorter than its first retransmission.
const A_MOMENT: Duration = Duration::from_millis(100);

pub(crate) fn scenarios() -> Vec<Scenario> {
    [
        (
            "wire: a whole connection, IPv4 and IPv6",
            both_protocols as fn() -> Result<()>,
        ),
        ("wire: a SYN in TIME_WAIT", syn_in_time_wait),
        ("wire: several peers on a device", several_peers),
        ("wire: a deaf peer holds nothing up", deaf),
        ("wire: a device in each namespace", in_each_namespace),
        ("wire: refused without privileges", without_privileges),
    ]
    .map(|(name, run)| Scenario::new(name, run).needing(Needs::Tun))
    .into()
}

fn listener(version: Version, port: u16) -> Result<Socket> {
    let listener = Socket::new(version == Version::V6)?;
    listener.set_reuse_address(true)?;
    listener.bind(version.local(port))?;
    listener.listen(2)?;
    Ok(listener)
}

/// A connection of the peer, and the socket here.
fn served(device: &Device, listener: &Socket, ports: [u16; 2]) -> Result<(Peer, Socket)> {
    let mut peer = Peer::client(device, Version::V4, ports[0], ports[1])?;
    peer.connect()?;
    Ok((peer, listener.accept()?))
}

/// A socket whose SYN is on its way to the peer.
fn connecting(version: Version, port: u16) -> Result<Socket> {
    let socket = Socket::new(version == Version::V6)?;
    socket.set_nonblocking()?;
    match socket.connect(version.remote(port)) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        other => bail!("the connection must be under way, but: {other:?}"),
    }
}

/// The lines of a log without their times and timestamps.
fn lines(device: &Device) -> Result<Vec<String>> {
    let log = device.log()?.to_string();
    let bare = |line: &str| {
        let (_, segment) = line.trim_start().split_once("  ")?;
        Some(segment.split(" tsval").next()?.to_owned())
    };
    log.lines()
        .map(|line| bare(line).with_context(|| format!("an odd line: {line}")))
        .collect()
}

fn both_protocols() -> Result<()> {
    for version in [Version::V4, Version::V6] {
        netns::with_new(|_| whole_connection(version)).with_context(|| format!("{version:?}"))?;
    }
    Ok(())
}

fn whole_connection(version: Version) -> Result<()> {
    let device = Device::open(PATIENCE)?;
    let [port, peer_port] = [ports::next(), ports::next()];
    let listener = listener(version, port)?;
    let mut peer = Peer::client(&device, version, port, peer_port)?;
    peer.connect()?;
    let socket = listener.accept()?;
    peer.send_data(Flags::ACK, b"four")?;
    let acknowledged = peer.next_segment(PATIENCE)?.context("no ACK of the data")?;
    ensure!(
        acknowledged.relative_acknowledgement() == Some(5) && acknowledged.timestamps.is_some(),
        "{acknowledged}"
    );
    ensure!(socket.receive()? == 4, "the data must arrive");
    drop(socket);
    peer.expect(Flags::FIN | Flags::ACK)?;
    peer.send(Flags::FIN | Flags::ACK)?;
    peer.expect(Flags::ACK)?;
    peer.expect_silence(A_MOMENT)?;
    let told = lines(&device)?;
    let expected = [
        "peer > kernel  SYN seq 0 len 0",
        "kernel > peer  SYN+ACK seq 0 ack 1 len 0",
        "peer > kernel  ACK seq 1 ack 1 len 0",
        "peer > kernel  ACK seq 1 ack 1 len 4",
        "kernel > peer  ACK seq 1 ack 5 len 0",
        "kernel > peer  FIN+ACK seq 1 ack 5 len 0",
        "peer > kernel  FIN+ACK seq 5 ack 2 len 0",
        "kernel > peer  ACK seq 2 ack 6 len 0",
    ];
    ensure!(told == expected, "{told:#?}");
    Ok(())
}

/// An old SYN is answered with what the kernel still knows; one that is newer begins a new connection,
/// whose numbers the peer goes on with: net/ipv4/tcp_minisocks.c `tcp_timewait_state_process` (v6.18).
fn syn_in_time_wait() -> Result<()> {
    netns::with_new(|_| {
        let device = Device::open(PATIENCE)?;
        let ports = [ports::next(), ports::next()];
        let listener = listener(Version::V4, ports[0])?;
        let (mut peer, socket) = served(&device, &listener, ports)?;
        drop(socket);
        peer.expect(Flags::FIN | Flags::ACK)?;
        peer.send(Flags::FIN | Flags::ACK)?;
        peer.expect(Flags::ACK)?;
        kernel_table::wait_for_state(ports[0], ports[1], State::TIME_WAIT)?;

        peer.new_syn(-1_000, -100)?;
        let answer = peer.expect(Flags::ACK)?;
        ensure!(answer.relative_acknowledgement() == Some(2), "{answer}");
        kernel_table::wait_for_state(ports[0], ports[1], State::TIME_WAIT)?;
        // Neither has changed what the next one is relative to.
        peer.new_syn(1_000, 1)?;
        let answer = peer.expect(Flags::SYN | Flags::ACK)?;
        ensure!(answer.relative_acknowledgement() == Some(1), "{answer}");
        peer.send(Flags::ACK)?;
        let again = listener.accept()?;
        peer.send_data(Flags::ACK, b"new")?;
        ensure!(again.receive()? == 3, "the data must arrive");
        let told = lines(&device)?;
        let syns: Vec<&String> = told
            .iter()
            .filter(|line| line.contains(" SYN seq"))
            .collect();
        ensure!(
            syns == [
                "peer > kernel  SYN seq 0 len 0",
                "peer > kernel  SYN seq -998 len 0",
                "peer > kernel  SYN seq 1002 len 0"
            ],
            "{told:#?}"
        );
        Ok(())
    })
}

/// Two clients and two servers of one port, and what is meant for the one waits while another is asked.
fn several_peers() -> Result<()> {
    netns::with_new(|_| {
        let device = Device::open(PATIENCE)?;
        let [port, first_port, second_port, server_port] = std::array::from_fn(|_| ports::next());
        let listener = listener(Version::V4, port)?;
        let (mut first, socket) = served(&device, &listener, [port, first_port])?;
        drop(socket);
        // The first one's FIN is there before the handshake of the second one.
        let (mut second, other) = served(&device, &listener, [port, second_port])?;
        let mut servers = [(); 2].map(|()| Peer::server(&device, Version::V4, server_port));
        let mut clients = Vec::new();
        for server in &mut servers {
            let client = connecting(Version::V4, server_port)?;
            let server = server
                .as_mut()
                .map_err(|error| anyhow::anyhow!("{error:#}"))?;
            server.accept()?;
            let conversation = server.conversation().context("it has a client")?;
            ensure!(
                conversation.local_port == client.local_port()?,
                "{conversation:?} is another one's"
            );
            clients.push(client);
        }
        drop(other);
        second.expect(Flags::FIN | Flags::ACK)?;
        first.expect(Flags::FIN | Flags::ACK)?;
        ensure!(
            first.passed_over().is_empty(),
            "these are of others: {:?}",
            first.passed_over()
        );
        // An old duplicate, from the side.
        let mut side = Peer::client(&device, Version::V4, port, second_port)?.without_timestamps();
        side.send_odd(
            Flags::RST,
            Odd {
                sequence: -70_000,
                ..Odd::default()
            },
            b"",
        )?;
        second.send(Flags::FIN | Flags::ACK)?;
        second.expect(Flags::ACK)?;
        kernel_table::wait_for_state(port, second_port, State::TIME_WAIT)?;
        let log = device.log()?.to_string();
        ensure!(
            log.contains(&format!(
                "kernel:{port} > peer:{first_port}  FIN+ACK seq 1 ack 1"
            )),
            "each line is to show the ports:\n{log}"
        );
        Ok(())
    })
}

/// The kernel sends more than the device holds, and retransmits, while nobody reads.
fn deaf() -> Result<()> {
    netns::with_new(|_| {
        let device = Device::open(PATIENCE)?;
        let ports = [ports::next(), ports::next()];
        let listener = listener(Version::V4, ports[0])?;
        let (mut peer, socket) = served(&device, &listener, ports)?;
        let datagrams = UdpSocket::bind((Version::V4.local(0).ip(), 0))?;
        for _ in 0..BURST {
            datagrams.send_to(b"to nobody", (THERE, 9))?;
        }
        drop(socket);
        // It is lost, or it is not: then another one follows.
        let fin = peer.expect(Flags::FIN | Flags::ACK)?;
        let again = peer.expect(Flags::FIN | Flags::ACK)?;
        ensure!(again.sequence == fin.sequence, "{fin}, then {again}");
        peer.drain()?;
        ensure!(
            peer.expect_silence(PATIENCE).is_err(),
            "the kernel retransmits its FIN"
        );
        peer.send(Flags::RST | Flags::ACK)?;
        peer.drain()?;
        peer.expect_silence(A_MOMENT)?;
        // The other end of a connection that the peer has closed.
        let mut server = Peer::server(&device, Version::V4, ports[1])?;
        let client = connecting(Version::V4, ports[1])?;
        server.accept()?;
        client.set_blocking()?;
        server.send(Flags::FIN | Flags::ACK)?;
        expect_fin(&client)
    })
}

/// At the same time, with the same addresses and ports.
fn in_each_namespace() -> Result<()> {
    let ports = [ports::next(), ports::next()];
    let opened = || -> Result<(Device, Peer, Socket)> {
        let device = Device::open(PATIENCE)?;
        let listener = listener(Version::V4, ports[0])?;
        let (peer, socket) = served(&device, &listener, ports)?;
        Ok((device, peer, socket))
    };
    let [one, other] = [(); 2].map(|()| netns::with_new(|_| opened()));
    let ((device, mut one, socket), (_, mut other, _open)) = (one?, other?);
    drop(socket);
    one.expect(Flags::FIN | Flags::ACK)?;
    other.expect_silence(A_MOMENT)?;
    ensure!(device.log()?.entries.len() == 4, "{}", device.log()?);
    Ok(())
}

fn without_privileges() -> Result<()> {
    netns::with_new(|_| {
        sys::become_user_in_this_thread(NOBODY)?;
        let Err(error) = Device::open(PATIENCE) else {
            bail!("a user without privileges has made a device");
        };
        let unavailable = error
            .downcast_ref::<Unavailable>()
            .with_context(|| format!("it must be told apart: {error:#}"))?;
        ensure!(unavailable.to_string().contains("sudo"), "{unavailable}");
        Ok(())
    })
}
