//! Owns the decision which sockets user space wants to hear of. A filter never drops the early
//! events of a connection that it should show: an event whose port is not known yet is undecided,
//! and kept until a later one decides.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_log_ebpf::warn;
use tcptrace_common::{PORT_BITMAP_BYTES, PortSet, TcpState, filter};

use crate::{
    kernel::{self, Owner, config},
    maps::{AUTOBOUND, AUTOBOUND_SLOTS, FOLLOWED, FOLLOWED_COOKIES, FOLLOWED_PORTS, PORTS},
};

/// How deep below the wanted cgroup a socket's cgroup may lie.
const CGROUP_DEPTH: u32 = 16;

/// What is known of the socket whose state changes.
pub(crate) struct Subject {
    pub(crate) sk: u64,
    pub(crate) cookie: u64,
    pub(crate) lport: u16,
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
    let filters = config!(filters);
    if filters & filter::NETNS != 0 && subject.netns != config!(netns) {
        return false;
    }
    if filters & filter::UID != 0 && subject.owner.uid != config!(uid) {
        return false;
    }
    if filters & filter::CGROUP != 0 && !in_cgroup(subject.owner) {
        return false;
    }
    !(filters & filter::PID != 0 && !is_followed(ctx, subject))
}

#[inline(always)]
fn is_in(set: PortSet, port: u16) -> Ports {
    if port == 0 {
        return Ports::Undecided;
    }
    let Some(bitmap) = PORTS.get_ptr(set as u32) else {
        return Ports::No;
    };
    let byte = usize::from(port >> 3) & (PORT_BITMAP_BYTES - 1);
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

/// Whether the socket is one that the wanted process connects, listens on, accepts or closes.
///
/// The task on the CPU says so only for the changes that happen inside a system call on that very
/// socket; in softirq it is whoever was interrupted. A socket once recognised is followed by its
/// address until CLOSE.
#[inline(always)]
fn is_followed<C: aya_ebpf::EbpfContext>(ctx: &C, subject: &Subject) -> bool {
    let recognised = by_current_task(subject)
        // SAFETY: the values are never used, only their presence.
        || unsafe { FOLLOWED.get(subject.sk) }.is_some()
        || by_cookie(subject)
        || by_listener(subject);
    if !recognised {
        return false;
    }
    if subject.newstate == TcpState::Close.number() {
        let _ = FOLLOWED.remove(subject.sk);
    } else if FOLLOWED.insert(subject.sk, 1, 0).is_err() {
        warn!(
            ctx,
            "too many sockets of one process: later events of sk {:x} may be missed", subject.sk
        );
    }
    true
}

/// net/ipv4/tcp_ipv4.c `tcp_v4_connect`, inet_connection_sock.c `inet_csk_listen_start` and
/// `inet_csk_listen_stop`, tcp.c `tcp_close_state` (v6.18) run in the caller's system call only.
#[inline(always)]
fn by_current_task(subject: &Subject) -> bool {
    const CLOSE: u8 = TcpState::Close.number();
    const SYN_SENT: u8 = TcpState::SynSent.number();
    const LISTEN: u8 = TcpState::Listen.number();
    const ESTABLISHED: u8 = TcpState::Established.number();
    const FIN_WAIT1: u8 = TcpState::FinWait1.number();
    const CLOSE_WAIT: u8 = TcpState::CloseWait.number();
    const LAST_ACK: u8 = TcpState::LastAck.number();
    let in_system_call = matches!(
        (subject.oldstate, subject.newstate),
        (CLOSE, SYN_SENT | LISTEN)
            | (LISTEN, CLOSE)
            | (ESTABLISHED, FIN_WAIT1)
            | (CLOSE_WAIT, LAST_ACK)
    );
    if !in_system_call || (bpf_get_current_pid_tgid() >> 32) as u32 != config!(pid) {
        return false;
    }
    if subject.newstate == LISTEN {
        if subject.lport == 0 {
            remember_autobound(subject.sk);
        } else {
            let _ = FOLLOWED_PORTS.insert(port_key(subject), 1, 0);
        }
    }
    true
}

#[inline(always)]
fn by_cookie(subject: &Subject) -> bool {
    // SAFETY: the value is never used, only its presence.
    subject.cookie != 0 && unsafe { FOLLOWED_COOKIES.get(subject.cookie) }.is_some()
}

/// A child is created in softirq; what ties it to the process is the port of its listener.
#[inline(always)]
fn by_listener(subject: &Subject) -> bool {
    if subject.oldstate != TcpState::Listen.number()
        || subject.newstate != TcpState::SynRecv.number()
    {
        return false;
    }
    // SAFETY: the value is never used, only its presence.
    if unsafe { FOLLOWED_PORTS.get(port_key(subject)) }.is_some() {
        return true;
    }
    for slot in 1..=AUTOBOUND_SLOTS as u32 {
        let Some(listener) = AUTOBOUND.get(slot).copied().filter(|sk| *sk != 0) else {
            return false;
        };
        if kernel::LocalSide::read(listener).is_some_and(|side| side.port == subject.lport) {
            let _ = FOLLOWED_PORTS.insert(port_key(subject), 1, 0);
            return true;
        }
    }
    false
}

#[inline(always)]
fn remember_autobound(sk: u64) {
    let Some(count) = AUTOBOUND.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the pointers are to values of the map; a race between two CPUs costs one slot at most.
    unsafe {
        let slot = (*count & (AUTOBOUND_SLOTS - 1)) as u32 + 1;
        *count += 1;
        if let Some(place) = AUTOBOUND.get_ptr_mut(slot) {
            *place = sk;
        }
    }
}

#[inline(always)]
fn port_key(subject: &Subject) -> u64 {
    u64::from(subject.netns) << 32 | u64::from(subject.lport)
}
