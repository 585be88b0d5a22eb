//! Owns the probe on accept(): which process takes a connection from its listener's queue.

use aya_ebpf::{macros::fexit, programs::FExitContext};
use tcptrace_common::{AcceptRecord, RecordKind};

use crate::{
    emit,
    filter::{self, Ports},
    kernel::SockRoom,
    memory::place,
    preemption, protocol, task,
};

/// net/ipv4/inet_connection_sock.c `inet_csk_accept(sk, arg)` (v6.18), from 6.10 on.
#[fexit(function = "inet_csk_accept")]
fn inet_csk_accept_2(ctx: FExitContext) -> i32 {
    preemption::without(|| record(ctx.arg(2)));
    0
}

/// The same with its older arguments `(sk, flags, err, kern)` (v6.1).
#[fexit(function = "inet_csk_accept")]
fn inet_csk_accept_4(ctx: FExitContext) -> i32 {
    preemption::without(|| record(ctx.arg(4)));
    0
}

/// Records that the current task has accepted the socket at `child`; nothing when that is 0.
#[inline(always)]
pub(super) fn record(child: u64) {
    if child == 0 {
        return;
    }
    let mut room = SockRoom::new();
    let Some(common) = room.window(child) else {
        return emit::count_lost(RecordKind::Accept);
    };
    // The system call serves other sockets, too.
    match protocol::is_tcp(&common, false) {
        Some(true) => {}
        Some(false) => return,
        None => return emit::count_lost(RecordKind::Accept),
    }
    let lport = common.field(place!(offsets.skc_num));
    if filter::common_matches(&common, lport) == Ports::No {
        return;
    }
    let Some(mut entry) = emit::reserve::<AcceptRecord>(RecordKind::Accept) else {
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: a reserved entry is writable memory for exactly this type.
    unsafe {
        (*record).header = emit::header(RecordKind::Accept, emit::now_ns());
        (*record).sk = child;
        task::tell(
            &raw mut (*record).pid,
            &raw mut (*record).tid,
            &raw mut (*record).comm,
        );
    }
    emit::submit(entry);
}
