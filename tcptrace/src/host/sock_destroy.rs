//! Owns SOCK_DESTROY, with which `ss -K` ends a TCP socket or minisocket.

use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::{Buf, BufMut};
use socket2::{Domain, Protocol, Socket, Type};

/// Message type of include/uapi/linux/sock_diag.h (v6.18).
const SOCK_DESTROY: u16 = 21;
/// `NLM_F_REQUEST | NLM_F_ACK` of include/uapi/linux/netlink.h (v6.18).
const REQUEST_ANSWER: u16 = 0x5;
/// `NLMSG_ERROR` of include/uapi/linux/netlink.h (v6.18): the answer, also when it says that all went well.
const ANSWER: u16 = 2;
/// `IPPROTO_TCP` of include/uapi/linux/in.h (v6.18).
const IPPROTO_TCP: u8 = 6;
/// `INET_DIAG_NOCOOKIE` of include/uapi/linux/inet_diag.h (v6.18), twice.
const ANY_COOKIE: u64 = u64::MAX;
/// Loopback, the first interface of every network namespace: include/net/net_namespace.h
/// `LOOPBACK_IFINDEX` (v6.18). Sockets that are bound to no interface are found by it as well.
const LOOPBACK: u32 = 1;
/// `struct nlmsghdr` and `struct inet_diag_req_v2`, in bytes.
const REQUEST: u32 = 16 + 56;
/// How long the kernel may take for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Destroys the socket, or the minisocket, with these two ends in the network namespace of the calling thread.
/// A connection of IPv6 sockets with v4-mapped addresses is asked for by its IPv4 ones; a listener has the
/// remote port 0.
///
/// # Errors
/// The kernel's own errno: EOPNOTSUPP where it has no CONFIG_INET_DIAG_DESTROY, and before 6.1 for minisockets
/// (net/ipv4/tcp.c `tcp_abort`); ENOENT where there is no such socket.
pub fn destroy_here(local: SocketAddr, remote: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(libc::NETLINK_SOCK_DIAG)),
    )?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&request(local, remote))?;
    let mut answer = [0; 256];
    let length = (&socket).read(&mut answer)?;
    outcome(&answer[..length])
}

fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    // struct nlmsghdr: the kernel fills in who asks.
    bytes.put_u32_ne(REQUEST);
    bytes.put_u16_ne(SOCK_DESTROY);
    bytes.put_u16_ne(REQUEST_ANSWER);
    bytes.put_u64_ne(0);
    // struct inet_diag_req_v2: no extensions, any state, and the socket's id.
    let family = if local.is_ipv6() {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    bytes.put_slice(&[family.to_le_bytes()[0], IPPROTO_TCP, 0, 0]);
    bytes.put_u32_ne(u32::MAX);
    bytes.put_u16(local.port());
    bytes.put_u16(remote.port());
    bytes.put_slice(&address(local.ip()));
    bytes.put_slice(&address(remote.ip()));
    bytes.put_u32_ne(LOOPBACK);
    bytes.put_u64_ne(ANY_COOKIE);
    bytes
}

/// An IPv4 address stands in the first of the four words.
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

/// What a `struct nlmsghdr` and `struct nlmsgerr` say: 0, or an errno with a minus.
fn outcome(mut answer: &[u8]) -> io::Result<()> {
    let strange = || io::Error::other("the kernel's answer to SOCK_DESTROY cannot be read");
    if answer.len() < 20 {
        return Err(strange());
    }
    answer.advance(4);
    let kind = answer.get_u16_ne();
    answer.advance(10);
    match (kind, answer.get_i32_ne()) {
        (ANSWER, 0) => Ok(()),
        (ANSWER, number @ ..0) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        _ => Err(strange()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_kernels_layout() {
        let bytes = request(
            "127.0.0.1:8000".parse().unwrap(),
            "127.0.0.2:9".parse().unwrap(),
        );
        assert_eq!(bytes.len(), REQUEST as usize);
        assert_eq!(bytes[..4], REQUEST.to_ne_bytes());
        assert_eq!(bytes[24..28], [0x1f, 0x40, 0, 9]);
        assert_eq!(bytes[28..32], [127, 0, 0, 1]);
        assert_eq!(bytes[44..48], [127, 0, 0, 2]);
        assert_eq!(bytes[64..], [0xff; 8]);
    }

    #[test]
    fn an_answer_is_an_errno() {
        let answer = |number: i32| {
            let mut bytes = Vec::new();
            bytes.put_u32_ne(36);
            bytes.put_u16_ne(ANSWER);
            bytes.put_bytes(0, 10);
            bytes.put_i32_ne(number);
            outcome(&bytes)
        };
        answer(0).unwrap();
        let error = answer(-libc::EOPNOTSUPP).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
        assert!(outcome(&[0; 19]).is_err());
    }
}
