//! Owns the events that a port filter cannot judge yet: kept in the kernel until the next event of
//! the same socket, which knows the port, decides. net/ipv4/tcp_ipv4.c `tcp_v4_connect` (v6.18)
//! enters SYN_SENT before it chooses a port, and inet_connection_sock.c `inet_csk_listen_start`
//! enters LISTEN likewise.

use tcptrace_common::{RecordHeader, RecordKind, TASK_COMM_LEN, TcpState, TransitionRecord};

use crate::{
    emit as out,
    filter::{self, Subject},
    maps::UNDECIDED,
};

/// What an entry holds before it is filled.
static BLANK: TransitionRecord = TransitionRecord {
    header: RecordHeader {
        ts_ns: 0,
        lost_before: 0,
        cpu: 0,
        kind: 0,
    },
    sk: 0,
    cookie: 0,
    cgroup_id: 0,
    laddr: [0; 16],
    raddr: [0; 16],
    netns: 0,
    uid: 0,
    pid: 0,
    tid: 0,
    flags: 0,
    lport: 0,
    rport: 0,
    family: 0,
    oldstate: 0,
    newstate: 0,
    comm: [0; TASK_COMM_LEN],
    error: 0,
    shutdown: 0,
    file: 0,
    user_timeout_ms: 0,
    exit_code: 0,
};

/// Where to write the record that is kept until the next event of the socket; `None` when none is.
#[inline(always)]
pub(crate) fn keep(subject: &Subject) -> Option<*mut TransitionRecord> {
    if !filter::by_port() {
        return None;
    }
    if subject.newstate == TcpState::Close.number() {
        // It never had the port that the filter asks for.
        forget(subject.sk, subject.oldstate);
        return None;
    }
    // Filled in place: a record on the stack beside the windows of the socket is too much for the
    // 512 bytes that there are.
    if UNDECIDED.insert(subject.sk, &BLANK, 0).is_err() {
        out::count_lost(RecordKind::Transition);
        return None;
    }
    UNDECIDED.get_ptr_mut(subject.sk)
}

/// Drops the record kept for this socket, if there is one: it does not match after all.
#[inline(always)]
pub(crate) fn forget(sk: u64, oldstate: u8) {
    if filter::by_port() && may_be_kept(oldstate) {
        let _ = UNDECIDED.remove(sk);
    }
}

/// Hands over the record kept for this socket, if there is one: it matches.
#[inline(always)]
pub(crate) fn emit(sk: u64, oldstate: u8) {
    if !filter::by_port() || !may_be_kept(oldstate) {
        return;
    }
    let Some(kept) = UNDECIDED.get_ptr(sk) else {
        return;
    };
    if let Some(mut entry) = out::reserve::<TransitionRecord>(RecordKind::Transition) {
        let record = entry.as_mut_ptr();
        // Word by word: as one value the compiler copies it by a loop over its bytes.
        // SAFETY: a record is so many words, aligned. Only events of this socket use the entry of the table,
        // and it is locked while they happen.
        unsafe {
            for word in 0..size_of::<TransitionRecord>() / 8 {
                let from = kept.cast::<u64>().add(word);
                record.cast::<u64>().add(word).write_volatile(from.read());
            }
            // The records that this one now stands among count losses from here, not from its own time.
            (*record).header.lost_before = out::lost_so_far();
        }
        out::submit(entry);
    }
    let _ = UNDECIDED.remove(sk);
}

/// Whether the event before this one may have been undecided: those into SYN_SENT, LISTEN and
/// SYN_RECV (a child has no remote port yet in kernels up to 6.14).
#[inline(always)]
fn may_be_kept(oldstate: u8) -> bool {
    const SYN_SENT: u8 = TcpState::SynSent.number();
    const SYN_RECV: u8 = TcpState::SynRecv.number();
    const LISTEN: u8 = TcpState::Listen.number();
    matches!(oldstate, SYN_SENT | SYN_RECV | LISTEN)
}
