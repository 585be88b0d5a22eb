//! Owns `--pid`: which sockets a process connects, listens on, accepts or closes.
//!
//! The task on the CPU says so only for the changes that happen inside a system call on that very
//! socket; in softirq it is whoever was interrupted. A socket once recognised is followed by its
//! address until CLOSE.

use aya_ebpf::{EbpfContext, helpers::bpf_get_current_pid_tgid};
use aya_log_ebpf::warn;
use tcptrace_common::{ListenerKey, RecordKind, TcpState, filter};

use crate::{
    emit,
    filter::Subject,
    kernel::LocalSide,
    maps::{AUTOBOUND, AUTOBOUND_SLOTS, FOLLOWED, FOLLOWED_COOKIES, FOLLOWED_LISTENERS},
    memory::Object,
    told::config,
};

const ESTABLISHED: u8 = TcpState::Established.number();
const SYN_SENT: u8 = TcpState::SynSent.number();
const SYN_RECV: u8 = TcpState::SynRecv.number();
const FIN_WAIT1: u8 = TcpState::FinWait1.number();
const CLOSE: u8 = TcpState::Close.number();
const CLOSE_WAIT: u8 = TcpState::CloseWait.number();
const LAST_ACK: u8 = TcpState::LastAck.number();
const LISTEN: u8 = TcpState::Listen.number();

/// Whether the socket belongs to what the wanted process does.
#[inline(always)]
pub(crate) fn is_followed<C: EbpfContext>(ctx: &C, subject: &Subject) -> bool {
    let is_born = matches!(
        (subject.oldstate, subject.newstate),
        (CLOSE, _) | (LISTEN, SYN_RECV)
    );
    let recognised = by_current_task(subject)
        // Whoever had this address before was another socket.
        // SAFETY: the values are never used, only their presence.
        || (!is_born && unsafe { FOLLOWED.get(subject.sk) }.is_some())
        || by_cookie(subject)
        || by_listener(subject);
    if !recognised {
        forget(subject.sk);
        return false;
    }
    match (subject.oldstate, subject.newstate) {
        (CLOSE, LISTEN) => begins_to_listen(subject),
        (LISTEN, CLOSE) => ends_to_listen(subject),
        _ => {}
    }
    if subject.newstate == CLOSE {
        let _ = FOLLOWED.remove(subject.sk);
    } else if FOLLOWED.insert(subject.sk, 1, 0).is_err() {
        // At least one later event of this socket will be missed.
        emit::count_lost(RecordKind::Transition);
        warn!(
            ctx,
            "too many sockets of one process: cannot follow {:x}", subject.sk
        );
    }
    true
}

/// Stops following the socket at this address, if it was followed.
#[inline(always)]
pub(crate) fn forget(sk: u64) {
    if config!(filters) & filter::PID != 0 {
        let _ = FOLLOWED.remove(sk);
    }
}

/// net/ipv4/tcp_ipv4.c `tcp_v4_connect`, inet_connection_sock.c `inet_csk_listen_start` and
/// `inet_csk_listen_stop`, tcp.c `tcp_close_state` (v6.18) run in the caller's system call only.
#[inline(always)]
fn by_current_task(subject: &Subject) -> bool {
    let in_system_call = matches!(
        (subject.oldstate, subject.newstate),
        (CLOSE, SYN_SENT | LISTEN)
            | (LISTEN, CLOSE)
            | (ESTABLISHED, FIN_WAIT1)
            | (CLOSE_WAIT, LAST_ACK)
    );
    in_system_call && (bpf_get_current_pid_tgid() >> 32) as u32 == config!(pid)
}

#[inline(always)]
fn by_cookie(subject: &Subject) -> bool {
    // SAFETY: the value is never used, only its presence.
    subject.cookie != 0 && unsafe { FOLLOWED_COOKIES.get(subject.cookie) }.is_some()
}

/// A child is created in softirq; what ties it to the process is where its listener listens. The
/// same holds for one that is older than the trace: it may have waited to be accepted then, and no
/// event tells of accept().
#[inline(always)]
fn by_listener(subject: &Subject) -> bool {
    let is_new = (subject.oldstate, subject.newstate) == (LISTEN, SYN_RECV);
    let is_open = matches!(subject.oldstate, SYN_RECV | ESTABLISHED | CLOSE_WAIT);
    if !is_new && !is_open {
        return false;
    }
    let mut key = key(subject);
    // SAFETY: the values are never used, only their presence.
    unsafe {
        if FOLLOWED_LISTENERS.get(&key).is_some() {
            return true;
        }
        key.address = [0; 4];
        if FOLLOWED_LISTENERS.get(&key).is_some() {
            return true;
        }
    }
    if is_child_of_autobound(subject.lport) {
        count_listener(&key);
        return true;
    }
    false
}

#[inline(always)]
fn begins_to_listen(subject: &Subject) {
    if subject.lport == 0 {
        // Its port is chosen after this event: net/ipv4/inet_connection_sock.c
        // `inet_csk_listen_start` (v6.18).
        remember_autobound(subject.sk);
    } else {
        count_listener(&key(subject));
    }
}

#[inline(always)]
fn ends_to_listen(subject: &Subject) {
    for slot in 1..=AUTOBOUND_SLOTS as u32 {
        if let Some(place) = AUTOBOUND.get_ptr_mut(slot) {
            // SAFETY: the pointer is to a value of the map.
            unsafe {
                if *place == subject.sk {
                    *place = 0;
                }
            }
        }
    }
    let key = key(subject);
    let Some(count) = FOLLOWED_LISTENERS.get_ptr_mut(&key) else {
        return;
    };
    // SAFETY: the pointer is to a value of the map. Two listeners of one process that close on two
    // CPUs at once may count as one: then a child too many is shown, none too few.
    unsafe {
        *count -= 1;
        if *count == 0 {
            let _ = FOLLOWED_LISTENERS.remove(&key);
        }
    }
}

#[inline(always)]
fn count_listener(key: &ListenerKey) {
    if let Some(count) = FOLLOWED_LISTENERS.get_ptr_mut(key) {
        // SAFETY: the pointer is to a value of the map.
        unsafe { *count += 1 };
    } else if FOLLOWED_LISTENERS.insert(key, 1, 0).is_err() {
        // At least one event of a child will be missed.
        emit::count_lost(RecordKind::Transition);
    }
}

#[inline(always)]
fn is_child_of_autobound(lport: u16) -> bool {
    for slot in 1..=AUTOBOUND_SLOTS as u32 {
        let listener = AUTOBOUND.get(slot).copied().unwrap_or(0);
        if listener != 0
            && LocalSide::read(Object::at(listener)).is_some_and(|side| side.port == lport)
        {
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
fn key(subject: &Subject) -> ListenerKey {
    ListenerKey {
        netns: subject.netns,
        port: subject.lport,
        family: subject.family,
        address: subject.laddr,
    }
}
