//! Owns the records about minisockets, whichever hook they come from.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_stack, bpf_jiffies64},
};
use tcptrace_common::{
    DescheduledRecord, Offsets, RecordKind, STACK_FRAMES, TcpState, TimeWaitRecord, flag, time_wait,
};

use crate::{
    checked, emit,
    filter::{self as filters, Ports},
    kernel::{self, LocalSide, SockCommon, SockRoom},
    memory::{self, Object, place},
    task,
    told::config,
};

/// Return addresses of the kernel.
pub(crate) type Stack = [u64; STACK_FRAMES];

/// Records what happens to the minisocket at `tw`. `sk` is the socket whose place it takes, 0 where
/// the hook does not show it.
#[inline(always)]
pub(crate) fn record(tw: u64, sk: u64, event: u8) {
    let mut room = SockRoom::new();
    let Some(common) = room.window(tw) else {
        return emit::count_lost(RecordKind::TimeWait);
    };
    let Some(wanted) = wanted(&common) else {
        return;
    };
    let Some(mut entry) = emit::reserve::<TimeWaitRecord>(RecordKind::TimeWait) else {
        return;
    };
    fill(
        entry.as_mut_ptr(),
        RecordKind::TimeWait,
        sk,
        event,
        &common,
        wanted,
    );
    emit::submit(entry);
}

/// Records that the minisocket at `tw` is taken away, with the stack of whoever does it.
#[inline(always)]
pub(crate) fn record_descheduled(tw: u64, verdict: u32, stack: &Stack, frames: u32) {
    let mut room = SockRoom::new();
    let Some(common) = room.window(tw) else {
        return emit::count_lost(RecordKind::Descheduled);
    };
    let Some(wanted) = wanted(&common) else {
        return;
    };
    let Some(mut entry) = emit::reserve::<DescheduledRecord>(RecordKind::Descheduled) else {
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: a reserved entry is writable memory for exactly this type.
    unsafe {
        fill(
            &raw mut (*record).time_wait,
            RecordKind::Descheduled,
            0,
            time_wait::DESCHEDULED,
            &common,
            wanted,
        );
        (*record).verdict = verdict;
        (*record).frames = frames;
        (*record).stack = *stack;
    }
    emit::submit(entry);
}

/// Fills `stack` with the return addresses of the kernel, innermost first; returns how many.
#[inline(always)]
pub(crate) fn stack<C: EbpfContext>(ctx: &C, stack: &mut Stack) -> u32 {
    // SAFETY: the buffer is as large as the size given.
    let bytes = unsafe {
        bpf_get_stack(
            ctx.as_ptr(),
            stack.as_mut_ptr().cast(),
            size_of::<Stack>() as u32,
            0,
        )
    };
    u32::try_from(bytes).unwrap_or(0) / 8
}

/// What is known of a minisocket that is wanted.
#[derive(Clone, Copy)]
struct Wanted {
    netns: u32,
    /// [`flag::SELF_CHECK`], or none.
    flags: u32,
}

/// The namespace of the minisocket, if the filters that it can be judged by want it. Whom it belonged
/// to, the model knows.
#[inline(always)]
fn wanted(common: &SockCommon) -> Option<Wanted> {
    let family: u16 = common.field(place!(offsets.skc_family));
    let lport: u16 = common.field(place!(offsets.skc_num));
    if checked::is_checked(common, lport) {
        return Some(Wanted {
            netns: kernel::netns_inode(common.field(place!(offsets.skc_net))),
            flags: flag::SELF_CHECK,
        });
    }
    let rport = u16::from_be(common.field(place!(offsets.skc_dport)));
    if !filters::family_matches(family) || filters::ports_match(lport, rport) != Ports::Yes {
        return None;
    }
    let netns = kernel::netns_inode(common.field(place!(offsets.skc_net)));
    filters::netns_matches(netns).then_some(Wanted { netns, flags: 0 })
}

/// Writes every byte of `record`, which must be writable.
#[inline(always)]
fn fill(
    record: *mut TimeWaitRecord,
    kind: RecordKind,
    sk: u64,
    event: u8,
    common: &SockCommon,
    wanted: Wanted,
) {
    let object = common.object();
    let tw = object.address();
    let substate: u8 = object.load(place!(offsets.tw_substate)).unwrap_or(0);
    let mut flags = kernel::reuse_flags(common) | wanted.flags;
    let mut entry_stamp = 0;
    if is_stamped(object, event, substate) {
        flags |= flag::ENTRY_STAMP;
        entry_stamp = object.load(place!(offsets.tw_entry_stamp)).unwrap_or(0);
    }
    let timer = tw + u64::from(config!(offsets.tw_timer));
    let expires: u64 = memory::load(timer, place!(offsets.timer_expires)).unwrap_or(0);
    let family: u16 = common.field(place!(offsets.skc_family));
    let local = LocalSide::of(common);
    let laddr = kernel::local_address(family, common, local);
    let raddr = kernel::remote_address(family, common);
    let cookie = common.field(place!(offsets.skc_cookie));
    let rport = u16::from_be(common.field(place!(offsets.skc_dport)));
    // SAFETY: the caller vouches for `record`; the helper that reads the clock takes nothing.
    unsafe {
        (*record).header = emit::header(kind, emit::now_ns());
        (*record).tw = tw;
        (*record).sk = sk;
        (*record).cookie = cookie;
        kernel::store_words(&raw mut (*record).laddr, laddr);
        kernel::store_words(&raw mut (*record).raddr, raddr);
        (*record).netns = wanted.netns;
        (*record).expires_in = expires.wrapping_sub(bpf_jiffies64()) as i32;
        (*record).entry_stamp = entry_stamp;
        (*record).flags = flags;
        (*record).lport = local.port;
        (*record).rport = rport;
        (*record).family = family;
        (*record).event = event;
        (*record).substate = substate;
        task::tell(
            &raw mut (*record).pid,
            &raw mut (*record).tid,
            &raw mut (*record).comm,
        );
    }
}

/// Whether `tw_entry_stamp` is that of the real TIME_WAIT, and worth reading: net/ipv4/tcp_minisocks.c
/// `tcp_timewait_state_process` (v6.18) refreshes it at the peer's FIN only if that carries a
/// timestamp, which it does when timestamps were agreed on (`tw_ts_recent_stamp` is not 0).
#[inline(always)]
fn is_stamped(tw: Object, event: u8, substate: u8) -> bool {
    config!(offsets.tw_entry_stamp) != Offsets::ABSENT
        && matches!(event, time_wait::EXPIRED | time_wait::DESCHEDULED)
        && substate == TcpState::TimeWait.number()
        && tw
            .load::<u32, _>(place!(offsets.tw_ts_recent_stamp))
            .unwrap_or(0)
            != 0
}
