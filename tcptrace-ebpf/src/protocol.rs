//! Owns the question whether a socket is one of TCP: the hooks serve others, too.

use tcptrace_common::{AF_INET6, IPPROTO_TCP};

use crate::{kernel::SockCommon, maps::TCP_PROT, memory::place};

/// Whether this is a TCP socket; `None` when that cannot be read. SCTP and MPTCP use the tracepoint
/// too, with sockets of their own.
#[inline(always)]
pub(crate) fn is_tcp(common: &SockCommon<'_>, self_check: bool) -> Option<bool> {
    let prot: u64 = common.field(place!(offsets.skc_prot));
    if prot == 0 {
        // No socket is without one: what has been read is not there.
        return None;
    }
    let [ipv4, ipv6] = &TCP_PROT;
    // SAFETY: aligned 8-byte accesses to statics; volatile, because kernel 5.8 has no atomic load
    // or store to compile to.
    unsafe {
        if prot == ipv4.as_ptr().read_volatile() || prot == ipv6.as_ptr().read_volatile() {
            return Some(true);
        }
    }
    // TLS, sockmap and others put a `struct proto` of their own in place: ask the socket.
    let is_tcp = common
        .object()
        .load::<u16, _>(place!(offsets.sk_protocol))?
        == IPPROTO_TCP;
    if self_check && is_tcp {
        let family: u16 = common.field(place!(offsets.skc_family));
        let known = if family == AF_INET6 { ipv6 } else { ipv4 };
        // SAFETY: as above.
        unsafe { known.as_ptr().write_volatile(prot) };
    }
    Some(is_tcp)
}
