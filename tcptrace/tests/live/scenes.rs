//! What sockets do besides being connected and closed: refusals, listeners, failures, odd connects.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::endings::close_in_order;
use crate::event::State;
use crate::sockets::{Family, Socket};
use crate::{netns, ports};

/// A scene, played on one server port.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    /// Plays it; returns the port under which its events are found, if that is not the one given.
    pub(crate) run: fn(Family, u16) -> Result<u16>,
    /// Transitions that the kernel must record, or the test did not do what its name says.
    pub(crate) shows: &'static [(State, State)],
    /// Whether the port is known before the scene is played, so that a filter can name it.
    pub(crate) port_is_known: bool,
}

/// All of them; each works for IPv4, IPv6 and v4-mapped sockets.
pub(crate) const SCENES: &[Scene] = &[
    scene(
        "refused",
        refused,
        &[
            (State::CLOSE, State::SYN_SENT),
            (State::SYN_SENT, State::CLOSE),
        ],
    ),
    scene("listen and close", listen_and_close, LISTENED),
    scene("listen and shutdown", listen_and_shutdown, LISTENED),
    scene("second listener fails", second_listener_fails, LISTENED),
    Scene {
        port_is_known: false,
        ..scene("listen without bind", listen_without_bind, LISTENED)
    },
    scene(
        "bound client",
        bound_client,
        &[(State::SYN_SENT, State::ESTABLISHED)],
    ),
    scene(
        "connect to itself",
        connect_to_itself,
        &[(State::SYN_SENT, State::SYN_RECV)],
    ),
    scene("no answer", no_answer, &[(State::SYN_SENT, State::CLOSE)]),
    scene(
        "closed before accept",
        closed_before_accept,
        &[(State::ESTABLISHED, State::CLOSE)],
    ),
    scene(
        "no port left",
        no_port_left,
        &[(State::SYN_SENT, State::CLOSE)],
    ),
    scene(
        "fast open",
        fast_open,
        &[(State::SYN_RECV, State::ESTABLISHED)],
    ),
    scene("bind and close", bind_and_close, &[]),
    scene("no route", no_route, &[]),
];

const LISTENED: &[(State, State)] = &[(State::CLOSE, State::LISTEN), (State::LISTEN, State::CLOSE)];

/// The kernel's choice of ports in a new network namespace.
const AUTOMATIC_PORTS: &str = "32768 60999";

const fn scene(
    name: &'static str,
    run: fn(Family, u16) -> Result<u16>,
    shows: &'static [(State, State)],
) -> Scene {
    Scene {
        name,
        run,
        shows,
        port_is_known: true,
    }
}

fn refused(family: Family, port: u16) -> Result<u16> {
    let client = family.client()?;
    expect(
        client.connect(family.connects_to(port)),
        ErrorKind::ConnectionRefused,
    )?;
    Ok(port)
}

fn listen_and_close(family: Family, port: u16) -> Result<u16> {
    drop(family.listener(port)?);
    Ok(port)
}

fn listen_and_shutdown(family: Family, port: u16) -> Result<u16> {
    family.listener(port)?.shutdown_read()?;
    Ok(port)
}

/// Both may bind, since both have SO_REUSEADDR; the kernel finds the conflict when the second one
/// is in LISTEN already, and takes it back.
fn second_listener_fails(family: Family, port: u16) -> Result<u16> {
    let address = family.listens_on(port);
    let (first, second) = (
        Socket::new(address.is_ipv6())?,
        Socket::new(address.is_ipv6())?,
    );
    for socket in [&first, &second] {
        socket.set_reuse_address(true)?;
        socket.bind(address)?;
    }
    first.listen(1)?;
    expect(second.listen(1), ErrorKind::AddrInUse)?;
    Ok(port)
}

/// The port is the kernel's choice, of one that no other test has: its own record does not tell namespaces
/// apart, and a listener of another test that got the same one would be taken for this one.
fn listen_without_bind(family: Family, _port: u16) -> Result<u16> {
    let only = ports::next();
    with_one_automatic_port(only, || {
        let listener = Socket::new(family.listens_on(0).is_ipv6())?;
        listener.listen(1)?;
        ensure!(listener.local_port()? == only, "there is one port only");
        Ok(only)
    })
}

fn bound_client(family: Family, port: u16) -> Result<u16> {
    let listener = family.listener(port)?;
    let client = family.client()?;
    client.bind(family.connects_to(ports::next()))?;
    client.connect(family.connects_to(port))?;
    let server = listener.accept()?;
    drop(client);
    ensure!(server.receive()? == 0, "the client's FIN must arrive");
    Ok(port)
}

/// A socket that connects to its own port: two crossing SYNs, from and to the same socket.
fn connect_to_itself(family: Family, port: u16) -> Result<u16> {
    let socket = family.client()?;
    let address = family.connects_to(port);
    socket.bind(address)?;
    socket.connect(address)?;
    Ok(port)
}

/// The listener's queue is full, so it ignores the next SYN; the client gives up by closing.
fn no_answer(family: Family, port: u16) -> Result<u16> {
    let address = family.listens_on(port);
    let listener = Socket::new(address.is_ipv6())?;
    listener.bind(address)?;
    listener.listen(0)?;
    // A backlog of 0 means one connection in the queue.
    let queued = family.connect(port)?;
    let ignored = family.client()?;
    ignored.set_nonblocking()?;
    match ignored.connect(family.connects_to(port)) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        other => anyhow::bail!("a non-blocking connect must be in progress, but: {other:?}"),
    }
    drop(ignored);
    drop(queued);
    Ok(port)
}

fn closed_before_accept(family: Family, port: u16) -> Result<u16> {
    let listener = family.listener(port)?;
    let client = family.connect(port)?;
    drop(listener);
    expect(client.receive(), ErrorKind::ConnectionReset)?;
    Ok(port)
}

/// The one automatic port is taken, so the client never gets one: its own port stays 0.
fn no_port_left(family: Family, port: u16) -> Result<u16> {
    with_one_automatic_port(ports::next(), || {
        let listener = family.listener(port)?;
        let first = family.connect(port)?;
        let second = family.client()?;
        expect(
            second.connect(family.connects_to(port)),
            ErrorKind::AddrNotAvailable,
        )?;
        first.reset_on_close()?;
        drop(first);
        drop(listener);
        Ok(port)
    })
}

/// Plays what needs the kernel's choice of ports to be this one.
fn with_one_automatic_port(only: u16, play: impl FnOnce() -> Result<u16>) -> Result<u16> {
    netns::set_sysctl("ipv4/ip_local_port_range", &format!("{only} {only}"))?;
    let played = play();
    netns::set_sysctl("ipv4/ip_local_port_range", AUTOMATIC_PORTS)?;
    played
}

/// TCP Fast Open: connect() sends nothing yet, and the listener's child exists from the SYN on.
fn fast_open(family: Family, port: u16) -> Result<u16> {
    netns::set_sysctl("ipv4/tcp_fastopen", "3")?;
    let listener = family.listener(port)?;
    listener.accept_fast_open()?;
    // The first connection gets a cookie, the second one uses it.
    for _ in 0..2 {
        let client = family.client()?;
        client.defer_connect()?;
        client.connect(family.connects_to(port))?;
        ensure!(client.send(b"hello")? == 5, "five bytes must be sent");
        let server = listener.accept()?;
        ensure!(server.receive()? == 5, "five bytes must arrive");
        close_in_order(client, &server)?;
    }
    let unsent = family.client()?;
    unsent.defer_connect()?;
    unsent.connect(family.connects_to(port))?;
    drop(unsent);
    Ok(port)
}

/// bind() is not a transition: nothing may be reported.
fn bind_and_close(family: Family, port: u16) -> Result<u16> {
    let address = family.listens_on(port);
    Socket::new(address.is_ipv6())?.bind(address)?;
    Ok(port)
}

/// Only loopback exists here: the call fails before the socket changes its state.
fn no_route(family: Family, port: u16) -> Result<u16> {
    let outside = match family {
        Family::V4 | Family::MappedServer => "192.0.2.1",
        Family::V6 => "2001:db8::1",
        Family::MappedClient | Family::MappedBoth => "::ffff:192.0.2.1",
    };
    let address = SocketAddr::new(outside.parse()?, port);
    expect(
        family.client()?.connect(address),
        ErrorKind::NetworkUnreachable,
    )?;
    Ok(port)
}

fn expect<T: std::fmt::Debug>(result: std::io::Result<T>, wanted: ErrorKind) -> Result<()> {
    match result {
        Err(error) if error.kind() == wanted => Ok(()),
        Err(error) => Err(error).with_context(|| format!("expected {wanted:?}")),
        Ok(value) => anyhow::bail!("expected {wanted:?}, but the call succeeded: {value:?}"),
    }
}
