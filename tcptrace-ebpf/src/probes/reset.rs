//! Owns the probes on RSTs: one record for each that a socket or minisocket sends or receives.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use tcptrace_common::{RecordKind, ResetRecord, TcpState};

use crate::{
    checked, emit,
    filter::{self, Ports},
    kernel::{LocalSide, SockCommon, SockRoom},
    memory::place,
    preemption,
    told::config,
};

/// `TP_PROTO(const struct sock *sk, const struct sk_buff *skb, const enum sk_rst_reason reason)`;
/// without the reason before 6.10, when it was not emitted for minisockets either. By
/// net/ipv4/tcp_output.c `tcp_send_active_reset`, tcp_ipv4.c `tcp_v4_send_reset` and
/// net/ipv6/tcp_ipv6.c `tcp_v6_send_reset` (v6.18). Since 4.16.
#[raw_tracepoint(tracepoint = "tcp_send_reset")]
fn tcp_send_reset(ctx: RawTracePointContext) -> i32 {
    preemption::without(|| {
        let reason = if config!(reset_reason) == 0 {
            ResetRecord::NO_REASON
        } else {
            ctx.arg::<u32>(2)
        };
        record(ctx.arg(0), reason, 0);
    });
    0
}

/// `TP_PROTO(struct sock *sk)`, by net/ipv4/tcp_input.c `tcp_reset` (v6.18), which runs for data that
/// an orphan gets, too. Since 4.16.
#[raw_tracepoint(tracepoint = "tcp_receive_reset")]
fn tcp_receive_reset(ctx: RawTracePointContext) -> i32 {
    preemption::without(|| record(ctx.arg(0), ResetRecord::NO_REASON, 1));
    0
}

#[inline(always)]
fn record(sk: u64, reason: u32, received: u8) {
    if sk == 0 {
        // Answers a segment for which there is no socket: no connection ends by it.
        return;
    }
    let mut room = SockRoom::new();
    let Some(common) = room.window(sk) else {
        return emit::count_lost(RecordKind::Reset);
    };
    let state: u8 = common.field(place!(offsets.skc_state));
    if state == TcpState::NewSynRecv.number() || !is_wanted(state, &common) {
        return;
    }
    let Some(mut entry) = emit::reserve::<ResetRecord>(RecordKind::Reset) else {
        return;
    };
    entry.write(ResetRecord {
        header: emit::header(RecordKind::Reset, emit::now_ns()),
        sk,
        reason,
        received,
        state,
        padding: 0,
    });
    emit::submit(entry);
}

/// The filters that a socket alone can be judged by; the model knows whether it follows the socket.
#[inline(always)]
fn is_wanted(state: u8, common: &SockCommon) -> bool {
    let mut lport: u16 = common.field(place!(offsets.skc_num));
    let is_checking = checked::is_under_way();
    if (filter::by_port() || is_checking) && state == TcpState::Close.number() {
        lport = LocalSide::read(common.object()).map_or(lport, |local| local.port);
    }
    filter::common_matches(common, lport) != Ports::No
        || (is_checking && checked::is_checked(common, lport))
}
