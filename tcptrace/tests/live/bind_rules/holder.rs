//! Owns the making of a holder: real sockets, driven to the state that the case wants.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use tcptrace_model::TcpState;
use tcptrace_model::conflict::{Holder, KernelVersion};

use super::case::{Change, Old, Origin, Status};
use super::judge::{Act, Judge};
use super::stage::{Stage, user};
use crate::event::State;
use crate::sockets::Socket;
use crate::{sock_diag, sys};

/// Since then a socket without a descriptor belongs to who made it, and not to root: net/core/sock.c
/// `sock_i_uid` (v6.16), which the stable series of 6.16 lost with 6.16.6.
const OWN_USER: KernelVersion = KernelVersion {
    patch: 6,
    ..KernelVersion::of(6, 16)
};
/// More than what a peer with a small buffer takes in.
static UNSENT: [u8; 60_000] = [0; 60_000];
/// `TCP_LINGER2`, in seconds: above TCP_TIMEWAIT_LEN the orphan stays a full socket for the rest.
const LONG_FIN_WAIT2: i32 = 120;
/// After so many looks, 5 ms apart, it is not just about to become a minisocket.
const FULL_FOR_GOOD: u32 = 20;

/// A holder that has been made. What keeps it as it is goes with it.
pub(super) struct Made {
    pub(super) old: Old,
    /// As the rules are told of it: one, and one more for a connection in the queue.
    pub(super) holders: Vec<Holder>,
    /// Its descriptor, if it still has one.
    pub(super) socket: Option<Socket>,
    _peers: Vec<Socket>,
}

/// Makes holder `number` of a port that `present` hold already. `None` if the kernel does not allow it
/// beside them: that it is right to is compared, too.
pub(super) fn make(
    stage: &mut Stage,
    judge: &mut Judge,
    number: usize,
    old: &Old,
    port: u16,
    present: &[Holder],
) -> Result<Option<Made>> {
    let socket = stage.socket(old.traits)?;
    if old.kind.origin != Origin::Connect {
        let act = Act::bind(stage, old.traits, &socket, port)?;
        if judge.perform(stage, &act, &socket, present)? != 0 {
            return Ok(None);
        }
    }
    match old.kind.origin {
        Origin::Bind => bound(stage, judge, old, socket, port, present),
        Origin::Accept => {
            let act = Act::listen(stage, old.traits, &socket)?;
            if judge.perform(stage, &act, &socket, present)? != 0 {
                return Ok(None);
            }
            let peer = stage.peer(old.local())?;
            peer.connect(SocketAddr::new(old.local().ip(), port))?;
            let child = sys::as_user(user(old.traits), || socket.accept())?;
            drop(socket);
            connected(stage, old, child, peer).map(Some)
        }
        Origin::BoundConnect | Origin::Connect => {
            if old.kind.origin == Origin::Connect {
                stage.only(port)?;
                stage.cache.chosen_by_connect(stage.kernel);
            }
            let ip = as_seen_by(old, old.local().ip());
            if old.kind.status == Status::SynSent {
                return syn_sent(stage, number, old, socket, ip);
            }
            let (address, server) = stage.server(number, ip)?;
            match socket.connect(address) {
                Ok(()) => {}
                // The port has been bound by another one: connect() does not choose it.
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return Ok(None),
                Err(error) => return Err(error).context("cannot connect"),
            }
            let peer = server.accept()?;
            connected(stage, old, socket, peer).map(Some)
        }
    }
}

fn bound(
    stage: &mut Stage,
    judge: &mut Judge,
    old: &Old,
    socket: Socket,
    port: u16,
    present: &[Holder],
) -> Result<Option<Made>> {
    let mut peers = Vec::new();
    if old.kind.status.listens() {
        let act = Act::listen(stage, old.traits, &socket)?;
        if judge.perform(stage, &act, &socket, present)? != 0 {
            return Ok(None);
        }
    }
    let mut holders = Vec::new();
    if old.kind.status == Status::ListenWithQueued {
        let peer = stage.peer(old.local())?;
        peer.connect(SocketAddr::new(old.local().ip(), port))?;
        let local = SocketAddr::new(as_seen_by(old, old.local().ip()), port);
        let queued = described(stage, old, local, as_seen(old, peer.local_address()?))?;
        holders.push(Holder {
            state: TcpState::Established,
            port_bound: Some(false),
            uid: Some(orphan_user(stage, old)),
            // What is changed later is changed on the listener.
            reuseaddr: Some(old.traits.reuseaddr),
            reuseport: Some(old.traits.reuseport),
            ..queued
        });
        peers.push(peer);
    }
    change(old, &socket)?;
    let none = SocketAddr::new(old.traits.place.ip(), 0);
    let holder = described(stage, old, socket.local_address()?, none)?;
    holders.insert(0, holder);
    Ok(Some(Made {
        old: *old,
        holders,
        socket: Some(socket),
        _peers: peers,
    }))
}

fn syn_sent(
    stage: &mut Stage,
    number: usize,
    old: &Old,
    socket: Socket,
    ip: IpAddr,
) -> Result<Option<Made>> {
    let address = Stage::silent(number, ip)?;
    socket.set_nonblocking()?;
    match socket.connect(address) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return Ok(None),
        other => anyhow::bail!("connect() must wait for an answer, but: {other:?}"),
    }
    change(old, &socket)?;
    let local = socket.local_address()?;
    wait_for(old, local, address)?;
    Ok(Some(Made {
        old: *old,
        holders: vec![described(stage, old, local, address)?],
        socket: Some(socket),
        _peers: Vec::new(),
    }))
}

/// Drives a connection to the state that it shall have.
fn connected(stage: &Stage, old: &Old, socket: Socket, peer: Socket) -> Result<Made> {
    change(old, &socket)?;
    let local = socket.local_address()?;
    let remote = as_seen(old, peer.local_address()?);
    let status = old.kind.status;
    let mut socket = Some(socket);
    let mut peers = Vec::new();
    drive(&mut socket, peer, status, &mut peers)
        .with_context(|| format!("cannot drive {local} -> {remote} to {status:?}"))?;
    let mut now = *old;
    if status != Status::Reset {
        now = wait_for(old, local, remote)?;
    }
    ensure!(
        socket.is_none() == status.is_closed(),
        "a descriptor too many"
    );
    Ok(Made {
        old: now,
        holders: vec![described(stage, &now, local, remote)?],
        socket,
        _peers: peers,
    })
}

fn drive(
    socket: &mut Option<Socket>,
    peer: Socket,
    status: Status,
    peers: &mut Vec<Socket>,
) -> Result<()> {
    let open = socket.as_ref().context("closed already")?;
    match status {
        Status::Bound
        | Status::Listen
        | Status::ListenInBetween
        | Status::ListenWithQueued
        | Status::SynSent => anyhow::bail!("not the state of a connection that was made"),
        Status::Established => {}
        Status::FinWait1 | Status::FinWait1Orphan => {
            fill(open)?;
            finish(socket, status)?;
        }
        Status::FinWait2 | Status::FinWait2Minisocket => {
            finish(socket, status)?;
            acknowledge(&peer)?;
        }
        Status::FinWait2Orphan => {
            open.set(libc::IPPROTO_TCP, libc::TCP_LINGER2, &LONG_FIN_WAIT2)?;
            finish(socket, status)?;
            acknowledge(&peer)?;
        }
        Status::CloseWait => peer.shutdown_write()?,
        Status::LastAck | Status::LastAckOrphan => {
            fill(open)?;
            peer.shutdown_write()?;
            // It must be in CLOSE_WAIT, not in FIN_WAIT1, when it closes.
            open.set_blocking()?;
            crate::endings::expect_fin(open)?;
            finish(socket, status)?;
        }
        Status::Closing | Status::ClosingOrphan => {
            fill(open)?;
            finish(socket, status)?;
            peer.shutdown_write()?;
        }
        Status::TimeWait => {
            finish(socket, status)?;
            // It must not close first, or it is the one in TIME_WAIT.
            crate::endings::expect_fin(&peer)?;
            drop(peer);
            return Ok(());
        }
        Status::Reset => {
            peer.reset_on_close()?;
            drop(peer);
            open.wait_for_error()?;
            return Ok(());
        }
    }
    peers.push(peer);
    Ok(())
}

/// Sends more than the peer takes in: a FIN after that waits behind it.
fn fill(socket: &Socket) -> Result<()> {
    socket.set_nonblocking()?;
    let sent = socket.send(&UNSENT)?;
    ensure!(sent > 8_192, "only {sent} bytes can be sent");
    Ok(())
}

/// Sends the FIN: by close(), or by shutdown() where a descriptor shall stay.
fn finish(socket: &mut Option<Socket>, status: Status) -> Result<()> {
    if status.is_closed() {
        *socket = None;
    } else {
        socket
            .as_ref()
            .context("closed already")?
            .shutdown_write()?;
    }
    Ok(())
}

/// Makes the peer acknowledge the FIN now, and not in 40 ms.
fn acknowledge(peer: &Socket) -> Result<()> {
    crate::endings::expect_fin(peer)?;
    peer.set(libc::IPPROTO_TCP, libc::TCP_QUICKACK, &1_i32)?;
    Ok(())
}

fn change(old: &Old, socket: &Socket) -> Result<()> {
    match old.late {
        None => {}
        Some(Change::Reuseaddr(on)) => socket.set_reuse_address(on)?,
        Some(Change::Reuseport(on)) => socket.set_reuse_port(on)?,
    }
    Ok(())
}

/// Waits until the kernel has it in the state that it shall have, and returns what it has come to.
///
/// An orphan in FIN_WAIT2 becomes a minisocket at once, but not when the peer's acknowledgement finds
/// close() about to return: then it stays a full socket for as long (net/ipv4/tcp_input.c
/// `tcp_rcv_state_process`, the "bad case" of `sock_owned_by_user`, v6.18).
fn wait_for(old: &Old, local: SocketAddr, remote: SocketAddr) -> Result<Old> {
    let mut status = old.kind.status;
    let state = State::from_number(u32::from(status.state().number()));
    let (local, remote) = (without_mapping(local), without_mapping(remote));
    let mut looks = Vec::new();
    let mut full = 0;
    let is = || {
        let found = sock_diag::find(local, remote);
        let look = format!("{found:?}");
        if looks.last() != Some(&look) {
            looks.push(look);
        }
        let Ok(Some(found)) = found else { return false };
        if Some(found.state) != state {
            return false;
        }
        if status == Status::FinWait2Minisocket && !found.is_minisocket {
            full += 1;
            if full > FULL_FOR_GOOD {
                status = Status::FinWait2Orphan;
            }
        }
        found.is_minisocket == status.is_minisocket()
    };
    sys::wait_until(
        is,
        &format!("{local} -> {remote} to be {:?}", old.kind.status),
    )
    .with_context(|| format!("it was {}", looks.join(", then ")))?;
    let mut old = *old;
    old.kind.status = status;
    Ok(old)
}

/// What the rules are told: only what was done and what the socket's own calls say.
fn described(stage: &Stage, old: &Old, local: SocketAddr, remote: SocketAddr) -> Result<Holder> {
    let Old { traits, kind, .. } = old;
    let status = kind.status;
    let (mut reuseaddr, mut reuseport) = (traits.reuseaddr, traits.reuseport);
    match old.late {
        None => {}
        Some(Change::Reuseaddr(on)) => reuseaddr = on,
        Some(Change::Reuseport(on)) => reuseport = on,
    }
    // bind() to a specific IPv6 address is IPv6-only (net/ipv6/af_inet6.c `__inet6_bind`, v6.18).
    let is_specific = match traits.place.ip() {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => !v6.is_unspecified() && v6.to_ipv4_mapped().is_none(),
    };
    let v6only = traits.v6only || (is_specific && kind.origin != Origin::Connect);
    Ok(Holder {
        sk: 0,
        cookie: None,
        state: status.state(),
        minisocket: status.phase(),
        local,
        remote,
        reuseaddr: Some(reuseaddr),
        reuseport: Some(reuseport),
        force_reuse: false,
        v6only: Some(traits.place.is_ipv6_socket() && v6only),
        uid: if status.is_minisocket() {
            None
        } else if status.is_closed() {
            Some(orphan_user(stage, old))
        } else {
            Some(user(*traits))
        },
        device: stage.device(traits.device)?,
        port_bound: (!status.is_minisocket()).then_some(match kind.origin {
            Origin::Bind | Origin::BoundConnect => true,
            Origin::Accept | Origin::Connect => false,
        }),
        timestamps: status.is_minisocket().then_some(true),
    })
}

/// The user of what no descriptor refers to.
fn orphan_user(stage: &Stage, old: &Old) -> u32 {
    if stage.kernel >= OWN_USER {
        user(old.traits)
    } else {
        0
    }
}

/// An address of a connection as the holder's family writes it.
fn as_seen_by(old: &Old, ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if old.traits.place.is_ipv6_socket() => v4.to_ipv6_mapped().into(),
        IpAddr::V4(_) | IpAddr::V6(_) => ip,
    }
}

fn as_seen(old: &Old, address: SocketAddr) -> SocketAddr {
    SocketAddr::new(as_seen_by(old, address.ip().to_canonical()), address.port())
}

fn without_mapping(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
