//! Owns the question whether a socket is one of those by which the tracer checks itself.

use crate::{
    kernel::{self, SockCommon},
    maps::CHECKED,
    memory::place,
    told::config,
};

/// Whether the tracer checks itself now.
#[inline(always)]
pub(crate) fn is_under_way() -> bool {
    CHECKED.get(0).is_some_and(|checked| checked.port != 0)
}

/// Whether a socket with this cookie, 0 for none yet, is one of those that listen.
#[inline(always)]
pub(crate) fn is_listening(cookie: u64) -> bool {
    cookie != 0 && (cookie == config!(self_check_ipv4) || cookie == config!(self_check_ipv6))
}

/// Whether the socket, or minisocket, is an end of a connection that the check is about. The namespace,
/// which costs a read, is looked at last.
#[inline(always)]
pub(crate) fn is_checked(common: &SockCommon, lport: u16) -> bool {
    let Some(checked) = CHECKED.get(0) else {
        return false;
    };
    let rport = u16::from_be(common.field(place!(offsets.skc_dport)));
    checked.port != 0
        && (checked.port == lport || checked.port == rport)
        && checked.netns == kernel::netns_inode(common.field(place!(offsets.skc_net)))
}
