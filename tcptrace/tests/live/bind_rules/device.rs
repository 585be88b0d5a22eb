//! Owns a second network interface, on which nothing is ever sent.

use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use tcptrace::host::interface;

use crate::sys::{self, check};

/// include/uapi/linux/rtnetlink.h, if_link.h (v6.18).
const RTM_NEWLINK: u16 = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;

const NAME: &str = "other0";
/// What there is on one kernel or another, best first: both do nothing until they are told to.
const DRIVERS: [&[u8]; 2] = [b"dummy", b"veth"];

/// Makes one in the thread's network namespace and returns its number; `None` where the kernel has no
/// driver for one.
pub(super) fn add() -> Result<Option<u32>> {
    for driver in DRIVERS {
        match add_with(driver) {
            Ok(()) => return interface::index(NAME).map(Some).context("no interface"),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => return Err(error).context("cannot make a network interface"),
        }
    }
    Ok(None)
}

fn add_with(driver: &[u8]) -> io::Result<()> {
    let socket = sys::socket_of(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let mut body = vec![0; 16];
    attribute(&mut body, IFLA_IFNAME, &[NAME.as_bytes(), b"\0"].concat());
    let mut kind = Vec::new();
    attribute(&mut kind, IFLA_INFO_KIND, driver);
    attribute(&mut body, IFLA_LINKINFO, &kind);
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(
        u16::try_from(flags)
            .map_err(io::Error::other)?
            .to_ne_bytes(),
    );
    message.extend([0; 8]);
    message.extend(body);
    // SAFETY: the kernel reads as many bytes as the message has.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            0,
        )
    };
    check(i32::try_from(sent).map_err(io::Error::other)?)?;
    let mut answer = [0_u8; 128];
    // SAFETY: the kernel writes at most as many bytes as there is room for.
    let length = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            answer.len(),
            0,
        )
    };
    check(i32::try_from(length).map_err(io::Error::other)?)?;
    // struct nlmsghdr, then the negated errno of struct nlmsgerr: 0 is an acknowledgement.
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// struct nlattr, padded to four bytes.
fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}
