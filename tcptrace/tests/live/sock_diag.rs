//! One socket in sock_diag, by its two ends: its state, and SOCK_DESTROY, which is how `ss -K` ends it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use tcptrace::host::{interface, sock_destroy::destroy_here};

use crate::event::State;
use crate::sys::{self, check};
use crate::{netns, ports};

/// include/uapi/linux/sock_diag.h and inet_diag.h (v6.18).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const ANY_COOKIE: u32 = u32::MAX;
/// struct nlmsghdr and struct inet_diag_req_v2.
const LENGTH: u32 = 16 + 56;

/// Why sockets cannot be destroyed here; `None` where they can.
pub(crate) fn obstacle() -> Result<Option<String>> {
    netns::with_new(|_| {
        let port = ports::next();
        let listener = crate::sockets::Family::V4.listener(port)?;
        let local = SocketAddr::from(([127, 0, 0, 1], port));
        let outcome = destroy_here(local, SocketAddr::from(([0, 0, 0, 0], 0)));
        drop(listener);
        Ok(outcome.err().map(|error| {
            format!(
                "this kernel does not destroy sockets (it needs CONFIG_INET_TCP_DIAG and \
                 CONFIG_INET_DIAG_DESTROY): {error}"
            )
        }))
    })
}

/// What sock_diag says of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// For a minisocket FIN_WAIT2 or TIME_WAIT.
    pub(crate) state: State,
    pub(crate) is_minisocket: bool,
}

/// The socket, or the minisocket, with these ends, in the thread's network namespace; `None` if there is
/// none. A connection of IPv6 sockets with v4-mapped addresses is asked for by its IPv4 ones.
pub(crate) fn find(local: SocketAddr, remote: SocketAddr) -> Result<Option<Found>> {
    let answer = answer_to(&request(local, remote)?)?;
    if let Some(error) = answer.error {
        return match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(None),
            _ => Err(error).with_context(|| format!("cannot look for {local} -> {remote}")),
        };
    }
    // struct nlmsghdr, then family, state and timer of struct inet_diag_msg. A minisocket's timer is 3.
    let (state, timer) = (answer.bytes[17], answer.bytes[18]);
    Ok(Some(Found {
        state: State::from_number(state.into()).context("no such state")?,
        is_minisocket: timer == 3,
    }))
}

/// Destroys the socket, or the minisocket, with these ends, in the thread's network namespace.
pub(crate) fn destroy(local: SocketAddr, remote: SocketAddr) -> Result<()> {
    destroy_here(local, remote).with_context(|| format!("cannot destroy {local} -> {remote}"))
}

struct Answer {
    bytes: [u8; 256],
    /// What NLMSG_ERROR says, if it is one.
    error: Option<io::Error>,
}

fn answer_to(request: &[u8]) -> Result<Answer> {
    let socket = sys::socket_of(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG)
        .context("no sock_diag")?;
    // SAFETY: the kernel reads `request.len()` bytes of `request`. Without an address a netlink
    // message goes to the kernel.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            request.as_ptr().cast(),
            request.len(),
            0,
        )
    };
    ensure!(
        usize::try_from(sent).is_ok_and(|sent| sent == request.len()),
        "cannot ask sock_diag: {}",
        io::Error::last_os_error()
    );
    let mut answer = [0_u8; 256];
    // SAFETY: the kernel writes at most `answer.len()` bytes into `answer`.
    let length = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            answer.len(),
            0,
        )
    };
    let length = check(i32::try_from(length)?).context("no answer from sock_diag")?;
    ensure!(length >= 20, "a short answer from sock_diag");
    // struct nlmsghdr, then the negated errno of struct nlmsgerr.
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    let is_error = i32::from(kind) == libc::NLMSG_ERROR;
    ensure!(
        is_error || kind == SOCK_DIAG_BY_FAMILY,
        "an answer of type {kind} from sock_diag"
    );
    Ok(Answer {
        bytes: answer,
        error: (is_error && error != 0).then(|| io::Error::from_raw_os_error(-error)),
    })
}

fn request(local: SocketAddr, remote: SocketAddr) -> Result<Vec<u8>> {
    let family = if local.is_ipv6() {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    let flags = u16::try_from(libc::NLM_F_REQUEST)?;
    let mut bytes = Vec::new();
    // struct nlmsghdr: length, type, flags, sequence, port.
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    // struct inet_diag_req_v2: family, protocol, extensions, padding, states.
    bytes.extend([
        u8::try_from(family)?,
        u8::try_from(libc::IPPROTO_TCP)?,
        0,
        0,
    ]);
    bytes.extend(u32::MAX.to_ne_bytes());
    // struct inet_diag_sockid: ports, addresses, interface, cookie.
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(address(local.ip()));
    bytes.extend(address(remote.ip()));
    // Also finds what is bound to no interface.
    bytes.extend(interface::index("lo")?.to_ne_bytes());
    bytes.extend(ANY_COOKIE.to_ne_bytes());
    bytes.extend(ANY_COOKIE.to_ne_bytes());
    ensure!(
        bytes.len() == usize::try_from(LENGTH)?,
        "a request of {} bytes",
        bytes.len()
    );
    Ok(bytes)
}

fn address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}
