//! Every way in which a TIME_WAIT ends before its time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::expected::{Expected, Phases, check_all};
use super::observers::Observers;
use crate::endings::{expect_fin, expect_reset};
use crate::event::State;
use crate::peer::{Flags, Odd, Peer, Wire};
use crate::sockets::{Family, Pair, Socket};
use crate::{kernel_table, netns, ports, sock_diag, sys};

/// How long each phase is held.
const HELD: Duration = Duration::from_millis(120);
/// More than the second that a TIME_WAIT must last before an automatic port may be used again.
const REUSABLE: Duration = Duration::from_millis(1100);
/// The kernel's choice of ports in a new network namespace.
const AUTOMATIC_PORTS: &str = "32768 60999";

type Scene = (&'static str, fn(&Stage) -> Result<Expected>);

/// Where a scene is played.
struct Stage {
    /// The scene's.
    name: &'static str,
    /// To a scripted peer.
    wire: Wire,
}

const SCENES: &[Scene] = &[
    ("connect() from the same port", reused_by_bound_connect),
    (
        "connect() from the same port, in FIN_WAIT2",
        reused_in_fin_wait2,
    ),
    ("connect() from an automatic port", reused_by_automatic_port),
    ("SYN of a client on this host", reused_by_syn_of_client),
    ("SYN with a newer timestamp", reused_by_syn_of_peer),
    ("SYN with a later number", reused_by_syn_without_timestamps),
    ("RST", reset),
    ("RST in FIN_WAIT2", reset_in_fin_wait2),
    ("RST after the FIN came again", reset_after_rearm),
    ("RST after crossing FINs", reset_after_closing),
    ("data", data),
    ("data of a client on this host", data_of_client),
    ("FIN with data", fin_with_data),
    ("SYN in FIN_WAIT2", syn_in_fin_wait2),
];

const DESTROYED: &[Scene] = &[
    ("destroyed", destroyed_in_time_wait),
    ("destroyed in FIN_WAIT2", destroyed_in_fin_wait2),
];

pub(super) fn all() -> Result<()> {
    observed(SCENES)
}

pub(super) fn destroyed() -> Result<()> {
    if destroys_minisockets() {
        observed(DESTROYED)
    } else {
        netns::with_new(|_| not_destroyed())
    }
}

/// net/ipv4/tcp.c `tcp_abort`: v5.10 answers EOPNOTSUPP for a minisocket, v6.1 gives it up.
fn destroys_minisockets() -> bool {
    sys::kernel_is_at_least(6, 1)
}

/// What an older kernel makes of the same: it refuses, and the minisocket stays.
fn not_destroyed() -> Result<()> {
    let waiting = Closed::new(false)?.into_time_wait()?;
    let [local, remote] =
        [waiting.client_port, waiting.port].map(|port| Family::V4.connects_to(port));
    let Err(error) = sock_diag::destroy(local, remote) else {
        bail!("this kernel destroys minisockets: it is to be tested as those are that do");
    };
    let refused = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::raw_os_error);
    ensure!(refused == Some(libc::EOPNOTSUPP), "{error:#}");
    ensure!(
        !kernel_table::rows(&[waiting.client_port])?.is_empty(),
        "it is gone, though the kernel refused"
    );
    Ok(())
}

/// Plays every end that is none of [`play_destroyed`]'s in the network namespace of this thread.
pub(crate) fn play_ends() -> Result<()> {
    played(SCENES).map(drop)
}

/// Likewise those that are destroyed.
pub(crate) fn play_destroyed() -> Result<()> {
    if destroys_minisockets() {
        played(DESTROYED).map(drop)
    } else {
        not_destroyed()
    }
}

fn observed(scenes: &'static [Scene]) -> Result<()> {
    netns::with_new(move |_| {
        let observers = Observers::here()?;
        let expected = played(scenes)?;
        observers.check(|observed| check_all(&expected, observed))
    })
}

fn played(scenes: &[Scene]) -> Result<Vec<Expected>> {
    let wire = Wire::default();
    let mut expected = Vec::new();
    for (name, play) in scenes {
        let stage = Stage {
            name,
            wire: wire.clone(),
        };
        expected.push(play(&stage).context(*name)?);
    }
    Ok(expected)
}

/// A limit of none makes the kernel skip TIME_WAIT, and its last transition looks the same.
pub(super) fn never_entered() -> Result<()> {
    netns::with_new(|_| {
        let observers = Observers::here()?;
        let local = play_never_entered()?;
        observers.check(|observed| {
            let report = &observed.report;
            ensure!(
                report.entered.is_empty(),
                "nothing was entered: {:?}",
                report.entered
            );
            let ends: Vec<&str> = report
                .time_waits
                .iter()
                .map(|one| one.end.as_str())
                .collect();
            ensure!(ends == ["never_entered"], "{:?}", report.time_waits);
            report.time_waits[0].sure.is_exact()?;
            let mine = report
                .connections
                .iter()
                .find(|one| one.ends.lport == local);
            let mine = mine.context("nothing is told of the client")?;
            ensure!(
                mine.never_entered && mine.minisocket.is_none() && mine.close == "local_first",
                "it closed first and got no TIME_WAIT: {mine:?}"
            );
            mine.sure.is_exact()
        })
    })
}

/// Forbids TIME_WAIT in the network namespace of this thread and closes a connection; returns the port of its
/// client, which closes first.
pub(crate) fn play_never_entered() -> Result<u16> {
    netns::set_sysctl("ipv4/tcp_max_tw_buckets", "0")?;
    let overflows = kernel_table::counter("TCPTimeWaitOverflow")?;
    let port = ports::next();
    let listener = Family::V4.listener(port)?;
    let Pair { client, server } = Family::V4.pair(&listener, port)?;
    let local = client.local_port()?;
    client.shutdown_write()?;
    expect_fin(&server)?;
    kernel_table::wait_for_state(local, port, State::FIN_WAIT2)?;
    drop(server);
    expect_fin(&client)?;
    kernel_table::wait_until_closed(&[local])?;
    let rows = kernel_table::rows(&[local])?;
    ensure!(
        rows.is_empty(),
        "the limit forbids TIME_WAIT, but: {rows:?}"
    );
    let overflows = kernel_table::counter("TCPTimeWaitOverflow")? - overflows;
    ensure!(overflows == 1, "the kernel counted {overflows} overflows");
    Ok(local)
}

/// A connection of two sockets here whose client, at a port of its own, closes first.
struct Closed {
    listener: Socket,
    client_port: u16,
    port: u16,
    phases: Phases,
    /// The other end, which has not closed yet.
    other: Socket,
}

impl Closed {
    /// `server_first` says who closes.
    fn new(server_first: bool) -> Result<Self> {
        let [client_port, port] = [ports::next(), ports::next()];
        let listener = Family::V4.listener(port)?;
        let client = bound(client_port)?;
        client.connect(Family::V4.connects_to(port))?;
        let server = listener.accept()?;
        let began = Instant::now();
        let (first, other) = if server_first {
            (server, client)
        } else {
            (client, server)
        };
        let (local, remote) = (first.local_port()?, other.local_port()?);
        drop(first);
        expect_fin(&other)?;
        kernel_table::wait_for_state(local, remote, State::FIN_WAIT2)?;
        let phases = Phases::made_since(began);
        std::thread::sleep(HELD);
        Ok(Self {
            listener,
            client_port,
            port,
            phases,
            other,
        })
    }

    /// The other end closes too, and TIME_WAIT is held for a while.
    fn into_time_wait(self) -> Result<TimeWaiting> {
        let Self {
            listener,
            client_port,
            port,
            mut phases,
            other,
        } = self;
        let local = other.local_port()?;
        let remote = if local == port { client_port } else { port };
        let began = Instant::now();
        drop(other);
        kernel_table::wait_for_state(remote, local, State::TIME_WAIT)?;
        phases.waits_since(began);
        std::thread::sleep(HELD);
        Ok(TimeWaiting {
            listener,
            client_port,
            port,
            phases,
        })
    }
}

struct TimeWaiting {
    listener: Socket,
    client_port: u16,
    port: u16,
    phases: Phases,
}

/// A socket with a port of its own, which may be one that is in TIME_WAIT.
fn bound(port: u16) -> Result<Socket> {
    let socket = Socket::new(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(Family::V4.connects_to(port))?;
    Ok(socket)
}

/// Ends a connection so that it leaves no TIME_WAIT of its own.
fn reset_pair(client: Socket, server: &Socket) -> Result<()> {
    client.reset_on_close()?;
    drop(client);
    expect_reset(server)
}

fn reused_by_bound_connect(stage: &Stage) -> Result<Expected> {
    let TimeWaiting {
        listener,
        client_port,
        port,
        phases,
    } = Closed::new(false)?.into_time_wait()?;
    let recycled = kernel_table::counter("TWRecycled")?;
    let again = bound(client_port)?;
    let ending = Instant::now();
    again.connect(Family::V4.connects_to(port))?;
    let expected = phases.ended(stage.name, (client_port, port), "reused_by_connect", ending);
    let recycled = kernel_table::counter("TWRecycled")? - recycled;
    ensure!(recycled == 1, "the kernel counted {recycled} recycled");
    reset_pair(again, &listener.accept()?)?;
    Ok(expected.by_us())
}

/// The server has not closed yet: it answers the new SYN with an ACK, the client that with a RST, and
/// the SYN is sent again a second later.
fn reused_in_fin_wait2(stage: &Stage) -> Result<Expected> {
    let Closed {
        listener,
        client_port,
        port,
        phases,
        other,
    } = Closed::new(false)?;
    let again = bound(client_port)?;
    again.set_nonblocking()?;
    let ending = Instant::now();
    match again.connect(Family::V4.connects_to(port)) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        result => anyhow::bail!("the old server must answer first, but: {result:?}"),
    }
    let expected = phases.ended(stage.name, (client_port, port), "reused_by_connect", ending);
    let reset = listener.accept()?;
    drop(other);
    again.set_blocking()?;
    reset_pair(again, &reset)?;
    Ok(expected.by_us())
}

fn reused_by_automatic_port(stage: &Stage) -> Result<Expected> {
    let (only, port) = (ports::next(), ports::next());
    netns::set_sysctl("ipv4/ip_local_port_range", &format!("{only} {only}"))?;
    netns::set_sysctl("ipv4/tcp_tw_reuse", "1")?;
    let listener = Family::V4.listener(port)?;
    let Pair { client, server } = Family::V4.pair(&listener, port)?;
    let began = Instant::now();
    drop(client);
    expect_fin(&server)?;
    kernel_table::wait_for_state(only, port, State::FIN_WAIT2)?;
    let mut phases = Phases::made_since(began);
    let began = Instant::now();
    drop(server);
    kernel_table::wait_for_state(only, port, State::TIME_WAIT)?;
    phases.waits_since(began);
    std::thread::sleep(REUSABLE);
    let ending = Instant::now();
    let Pair { client, server } = Family::V4.pair(&listener, port)?;
    let expected = phases.ended(stage.name, (only, port), "reused_by_connect", ending);
    reset_pair(client, &server)?;
    netns::set_sysctl("ipv4/ip_local_port_range", AUTOMATIC_PORTS)?;
    Ok(expected.by_us())
}

/// The client has no TIME_WAIT, so it may use its port at once; the server's end has.
fn reused_by_syn_of_client(stage: &Stage) -> Result<Expected> {
    let TimeWaiting {
        listener,
        client_port,
        port,
        phases,
    } = Closed::new(true)?.into_time_wait()?;
    let again = bound(client_port)?;
    let ending = Instant::now();
    again.connect(Family::V4.connects_to(port))?;
    let expected = phases.ended(stage.name, (port, client_port), "reused_by_syn", ending);
    reset_pair(again, &listener.accept()?)?;
    Ok(expected)
}

/// A connection of the scripted peer whose end here closes first.
struct Served {
    peer: Peer,
    /// Takes the place of a TIME_WAIT that a SYN ends.
    listener: Socket,
    port: u16,
    peer_port: u16,
    phases: Phases,
}

impl Served {
    fn new(wire: &Wire, timestamps: bool) -> Result<Self> {
        let (mut served, socket, began) = Self::open(wire, timestamps)?;
        drop(socket);
        served.peer.expect(Flags::FIN | Flags::ACK)?;
        served.peer.send(Flags::ACK)?;
        kernel_table::wait_for_state(served.port, served.peer_port, State::FIN_WAIT2)?;
        served.phases = Phases::made_since(began);
        std::thread::sleep(HELD);
        Ok(served)
    }

    fn open(wire: &Wire, timestamps: bool) -> Result<(Self, Socket, Instant)> {
        let [port, peer_port] = [ports::next(), ports::next()];
        let listener = wire.listener(port)?;
        let mut peer = wire.client(port, peer_port)?;
        if !timestamps {
            peer = peer.without_timestamps();
        }
        peer.connect()?;
        let socket = listener.accept()?;
        let began = Instant::now();
        let served = Self {
            peer,
            listener,
            port,
            peer_port,
            phases: Phases::made_since(began),
        };
        Ok((served, socket, began))
    }

    fn in_time_wait(wire: &Wire, timestamps: bool) -> Result<Self> {
        let mut served = Self::new(wire, timestamps)?;
        let began = Instant::now();
        served.peer.send(Flags::FIN | Flags::ACK)?;
        kernel_table::wait_for_state(served.port, served.peer_port, State::TIME_WAIT)?;
        served.phases.waits_since(began);
        served.peer.expect(Flags::ACK)?;
        std::thread::sleep(HELD);
        Ok(served)
    }

    /// Waits until the kernel has nothing of the connection.
    fn ended(self, name: &str, end: &'static str, ending: Instant) -> Result<Expected> {
        let ports = (self.port, self.peer_port);
        kernel_table::wait_until_gone(&[self.peer_port])?;
        Ok(self.phases.ended(name, ports, end, ending))
    }
}

fn reused_by_syn_of_peer(stage: &Stage) -> Result<Expected> {
    // Older than what it has acknowledged, but with a newer timestamp.
    syn_of_peer(stage, true, -1001)
}

fn reused_by_syn_without_timestamps(stage: &Stage) -> Result<Expected> {
    syn_of_peer(stage, false, 1000)
}

fn syn_of_peer(stage: &Stage, timestamps: bool, beyond: i32) -> Result<Expected> {
    let mut served = Served::in_time_wait(&stage.wire, timestamps)?;
    let ending = Instant::now();
    served.peer.new_syn(beyond, 1)?;
    served.peer.expect(Flags::SYN | Flags::ACK)?;
    let ports = (served.port, served.peer_port);
    let expected = served
        .phases
        .ended(stage.name, ports, "reused_by_syn", ending);
    served.peer.send(Flags::RST | Flags::ACK)?;
    drop(served.listener);
    Ok(expected)
}

fn reset(stage: &Stage) -> Result<Expected> {
    let mut served = Served::in_time_wait(&stage.wire, true)?;
    let ending = Instant::now();
    served.peer.send(Flags::RST)?;
    served.ended(stage.name, "reset", ending)
}

fn reset_in_fin_wait2(stage: &Stage) -> Result<Expected> {
    let mut served = Served::new(&stage.wire, true)?;
    let ending = Instant::now();
    served.peer.send(Flags::RST)?;
    served.ended(stage.name, "reset", ending)
}

fn reset_after_rearm(stage: &Stage) -> Result<Expected> {
    let mut served = Served::in_time_wait(&stage.wire, true)?;
    let again = Odd {
        sequence: -1,
        ..Odd::default()
    };
    served.peer.send_odd(Flags::FIN | Flags::ACK, again, b"")?;
    // The kernel sets its timer anew, and says so.
    served.peer.expect(Flags::ACK)?;
    std::thread::sleep(HELD);
    let ending = Instant::now();
    served.peer.send(Flags::RST)?;
    let expected = served.ended(stage.name, "reset", ending)?;
    Ok(Expected {
        rearmed: 1,
        ..expected
    })
}

fn reset_after_closing(stage: &Stage) -> Result<Expected> {
    let (mut served, socket, _) = Served::open(&stage.wire, true)?;
    drop(socket);
    served.peer.send(Flags::FIN | Flags::ACK)?;
    kernel_table::wait_for_state(served.port, served.peer_port, State::CLOSING)?;
    served.peer.expect(Flags::FIN | Flags::ACK)?;
    let began = Instant::now();
    served.peer.send(Flags::ACK)?;
    kernel_table::wait_for_state(served.port, served.peer_port, State::TIME_WAIT)?;
    served.phases = Phases::made_since(began);
    served.phases.waits_since(began);
    std::thread::sleep(HELD);
    let ending = Instant::now();
    served.peer.send(Flags::RST)?;
    Ok(served
        .ended(stage.name, "reset", ending)?
        .without_fin_wait2())
}

fn data(stage: &Stage) -> Result<Expected> {
    let mut served = Served::new(&stage.wire, true)?;
    let ending = Instant::now();
    served.peer.send_data(Flags::ACK, b"too late")?;
    served.peer.expect(Flags::RST)?;
    served.ended(stage.name, "data_after_close", ending)
}

fn data_of_client(stage: &Stage) -> Result<Expected> {
    let closed = Closed::new(true)?;
    let ports = (closed.port, closed.client_port);
    let ending = Instant::now();
    closed.other.send(b"too late")?;
    drop(closed.listener);
    kernel_table::wait_until_gone(&[closed.client_port])?;
    Ok(closed
        .phases
        .ended(stage.name, ports, "data_after_close", ending))
}

fn fin_with_data(stage: &Stage) -> Result<Expected> {
    let mut served = Served::new(&stage.wire, true)?;
    let ending = Instant::now();
    served
        .peer
        .send_data(Flags::FIN | Flags::ACK, b"too late")?;
    served.peer.expect(Flags::RST)?;
    served.ended(stage.name, "data_after_close", ending)
}

fn syn_in_fin_wait2(stage: &Stage) -> Result<Expected> {
    let mut served = Served::new(&stage.wire, true)?;
    let ending = Instant::now();
    served.peer.new_syn(1000, 1)?;
    served.peer.expect(Flags::RST | Flags::ACK)?;
    served.ended(stage.name, "data_after_close", ending)
}

fn destroyed_in_time_wait(stage: &Stage) -> Result<Expected> {
    let waiting = Closed::new(false)?.into_time_wait()?;
    destroy(
        stage.name,
        waiting.client_port,
        waiting.port,
        waiting.phases,
    )
}

fn destroyed_in_fin_wait2(stage: &Stage) -> Result<Expected> {
    let closed = Closed::new(false)?;
    destroy(stage.name, closed.client_port, closed.port, closed.phases)
}

fn destroy(name: &str, lport: u16, rport: u16, phases: Phases) -> Result<Expected> {
    let ending = Instant::now();
    let [local, remote] = [lport, rport].map(|port| Family::V4.connects_to(port));
    sock_diag::destroy(local, remote)?;
    let is = |row: &kernel_table::Row| (row.lport, row.rport) == (lport, rport);
    kernel_table::wait_for(&[lport], |rows| !rows.iter().any(is), "it to be destroyed")?;
    Ok(phases
        .ended(name, (lport, rport), "socket_destroyed", ending)
        .by_us())
}
