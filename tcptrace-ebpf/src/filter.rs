//! Owns the decision which sockets user space wants to hear of. A filter never drops the early
//! events of a connection that it should show: an event whose port is not known yet is undecided,
//! and kept until a later one decides.

use core::arch::asm;

use tcptrace_common::{PORT_BITMAP_BYTES, PortSet, filter};

use crate::{
    follow,
    kernel::{self, Owner, SockCommon},
    maps::{NETNS_WANTED, PORTS},
    memory::place,
    told::config,
};

/// How deep below the wanted cgroup a socket's cgroup may lie.
const CGROUP_DEPTH: u32 = 16;

/// What is known of the socket whose state changes.
pub(crate) struct Subject {
    pub(crate) sk: u64,
    pub(crate) cookie: u64,
    pub(crate) family: u16,
    pub(crate) lport: u16,
    /// IPv4 in the first word; network byte order.
    pub(crate) laddr: [u32; 4],
    pub(crate) owner: Owner,
    pub(crate) netns: u32,
    pub(crate) oldstate: u8,
    pub(crate) newstate: u8,
}

/// What the port filters say of an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ports {
    /// Nobody asked for it.
    No,
    /// A port that the filters need is still 0: a later event of the same socket decides.
    Undecided,
    /// It matches.
    Yes,
}

/// Whether the socket's address family is wanted.
#[inline(always)]
pub(crate) fn family_matches(family: u16) -> bool {
    config!(filters) & filter::FAMILY == 0 || u32::from(family) == config!(family)
}

/// The filters that need nothing but the beginning of a socket: on family, ports and namespace. The
/// latter, which costs a read, comes last. `lport` is the local port, 0 where it is not known.
#[inline(always)]
pub(crate) fn common_matches(common: &SockCommon, lport: u16) -> Ports {
    if !family_matches(common.field(place!(offsets.skc_family))) {
        return Ports::No;
    }
    let rport = u16::from_be(common.field(place!(offsets.skc_dport)));
    let ports = ports_match(lport, rport);
    if ports == Ports::No || config!(filters) & (filter::NETNS | filter::NETNS_SET) == 0 {
        return ports;
    }
    if netns_matches(kernel::netns_inode(common.field(place!(offsets.skc_net)))) {
        ports
    } else {
        Ports::No
    }
}

/// The filters on the network namespace, for one with this inode number.
#[inline(always)]
pub(crate) fn netns_matches(netns: u32) -> bool {
    let filters = config!(filters);
    if filters & filter::NETNS != 0 && netns != config!(netns) {
        return false;
    }
    // SAFETY: the value is never used, only its presence.
    filters & filter::NETNS_SET == 0 || unsafe { NETNS_WANTED.get(netns) }.is_some()
}

/// The port filters. All that are on must match.
#[inline(always)]
pub(crate) fn ports_match(lport: u16, rport: u16) -> Ports {
    let filters = config!(filters);
    let mut verdict = Ports::Yes;
    if filters & filter::PORT != 0 {
        verdict = match (is_in(PortSet::Either, lport), is_in(PortSet::Either, rport)) {
            (Ports::Yes, _) | (_, Ports::Yes) => Ports::Yes,
            (Ports::No, Ports::No) => return Ports::No,
            _ => Ports::Undecided,
        };
    }
    if filters & filter::LOCAL_PORT != 0 {
        match is_in(PortSet::Local, lport) {
            Ports::No => return Ports::No,
            Ports::Undecided => verdict = Ports::Undecided,
            Ports::Yes => {}
        }
    }
    if filters & filter::REMOTE_PORT != 0 {
        match is_in(PortSet::Remote, rport) {
            Ports::No => return Ports::No,
            Ports::Undecided => verdict = Ports::Undecided,
            Ports::Yes => {}
        }
    }
    verdict
}

/// Whether any port filter is on, so that events can be undecided.
#[inline(always)]
pub(crate) fn by_port() -> bool {
    config!(filters) & (filter::PORT | filter::LOCAL_PORT | filter::REMOTE_PORT) != 0
}

/// The filters on the socket's namespace, user and cgroup, and `--pid`.
#[inline(always)]
pub(crate) fn socket_matches<C: aya_ebpf::EbpfContext>(ctx: &C, subject: &Subject) -> bool {
    owner_matches(subject.netns, subject.owner)
        && (config!(filters) & filter::PID == 0 || follow::is_followed(ctx, subject))
}

/// The filters on namespace, user and cgroup.
#[inline(always)]
pub(crate) fn owner_matches(netns: u32, owner: Owner) -> bool {
    if !netns_matches(netns) {
        return false;
    }
    let filters = config!(filters);
    if filters & filter::UID != 0 && owner.uid != config!(uid) {
        return false;
    }
    filters & filter::CGROUP == 0 || in_cgroup(owner)
}

#[inline(always)]
fn is_in(set: PortSet, port: u16) -> Ports {
    if port == 0 {
        return Ports::Undecided;
    }
    let Some(bitmap) = PORTS.get_ptr(set as u32) else {
        return Ports::No;
    };
    let mut byte = usize::from(port >> 3);
    // The compiler knows that a port has 16 bits and drops a mask written in Rust; verifiers up to
    // 6.1 at least do not, once the port has been on the stack.
    // SAFETY: one instruction on one register.
    unsafe { asm!("{byte} &= {mask}", byte = inout(reg) byte, mask = const PORT_BITMAP_BYTES - 1) };
    // SAFETY: `byte` is below the size of the bitmap, which is a map value.
    let bits = unsafe { core::ptr::read((bitmap.cast::<u8>()).add(byte)) };
    if bits & (1 << (port & 7)) == 0 {
        Ports::No
    } else {
        Ports::Yes
    }
}

#[inline(always)]
fn in_cgroup(owner: Owner) -> bool {
    let wanted = config!(cgroup_id);
    let Some(mut node) = owner.cgroup.and_then(kernel::cgroup_node) else {
        return false;
    };
    for _ in 0..CGROUP_DEPTH {
        if kernel::node_id(node) == wanted {
            return true;
        }
        node = kernel::node_parent(node);
        if node == 0 {
            return false;
        }
    }
    false
}
