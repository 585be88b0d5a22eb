//! SOCK_DESTROY, which is how `ss -K` ends a socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};

use crate::sys::{self, check};
use crate::{netns, ports};

/// include/uapi/linux/inet_diag.h and sock_diag.h (v6.18).
const SOCK_DESTROY: u16 = 21;
const ANY_COOKIE: u32 = u32::MAX;
/// struct nlmsghdr and struct inet_diag_req_v2.
const LENGTH: u32 = 16 + 56;

/// Why sockets cannot be destroyed here; `None` where they can.
pub(crate) fn obstacle() -> Result<Option<String>> {
    netns::with_new(|_| {
        let port = ports::next();
        let listener = crate::sockets::Family::V4.listener(port)?;
        let local = SocketAddr::from(([127, 0, 0, 1], port));
        let outcome = destroy(local, SocketAddr::from(([0, 0, 0, 0], 0)));
        drop(listener);
        Ok(outcome.err().map(|error| {
            format!(
                "this kernel does not destroy sockets (it needs CONFIG_INET_TCP_DIAG and \
                 CONFIG_INET_DIAG_DESTROY): {error:#}"
            )
        }))
    })
}

/// Destroys the socket, or the minisocket, with these ends, in the thread's network namespace.
pub(crate) fn destroy(local: SocketAddr, remote: SocketAddr) -> Result<()> {
    let socket = sys::socket_of(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG)
        .context("no sock_diag")?;
    let request = request(local, remote)?;
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
    if i32::from(kind) != libc::NLMSG_ERROR {
        bail!("an answer of type {kind} from sock_diag");
    }
    if error != 0 {
        return Err(io::Error::from_raw_os_error(-error))
            .with_context(|| format!("cannot destroy {local} -> {remote}"));
    }
    Ok(())
}

fn request(local: SocketAddr, remote: SocketAddr) -> Result<Vec<u8>> {
    let family = if local.is_ipv6() {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK)?;
    let mut bytes = Vec::new();
    // struct nlmsghdr: length, type, flags, sequence, port.
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(SOCK_DESTROY.to_ne_bytes());
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
    bytes.extend(0_u32.to_ne_bytes());
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
