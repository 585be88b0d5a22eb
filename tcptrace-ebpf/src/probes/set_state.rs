//! Owns the probe on `inet_sock_set_state`: one record per TCP state change.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use aya_log_ebpf::debug;
use tcptrace_common::{RecordKind, TcpState, TransitionRecord, file, flag};

use crate::{
    checked, emit, evidence,
    filter::{self, Ports, Subject},
    follow,
    identity::{self, Identity},
    kernel::{self, LocalSide, Owner, OwnerRoom, SockCommon},
    memory::place,
    nesting::{self, Scratch},
    preemption, protocol, task, undecided,
};

/// `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, emitted by
/// net/ipv4/af_inet.c `inet_sk_set_state` and `inet_sk_state_store` (v6.18). Since 4.16; this
/// program needs 5.8 for the ring buffer and the boot-time clock.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
    preemption::without(|| {
        let change = Change::of(&ctx);
        nesting::first(change.mark(), |scratch| record(&ctx, change, scratch));
    });
    0
}

/// The same hook: takes over what interrupted the program above and was skipped for that.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn inet_sock_set_state_nested(ctx: RawTracePointContext) -> i32 {
    preemption::without(|| {
        let change = Change::of(&ctx);
        nesting::second(change.mark(), |scratch| record(&ctx, change, scratch));
    });
    0
}

/// The arguments of the tracepoint.
#[derive(Clone, Copy)]
struct Change {
    sk: u64,
    oldstate: u32,
    newstate: u32,
}

impl Change {
    #[inline(always)]
    fn of(ctx: &RawTracePointContext) -> Self {
        Self {
            sk: ctx.arg(0),
            oldstate: ctx.arg(1),
            newstate: ctx.arg(2),
        }
    }

    #[inline(always)]
    fn mark(self) -> u64 {
        nesting::mark(self.sk, self.oldstate, self.newstate)
    }
}

#[inline(always)]
fn record(ctx: &RawTracePointContext, change: Change, scratch: &mut Scratch) {
    let Change {
        sk,
        oldstate,
        newstate,
    } = change;
    let Scratch {
        common,
        owner,
        identity: known,
    } = scratch;
    let Some(common) = &common.window(sk) else {
        return unreadable(ctx, sk);
    };
    let self_check = checked::is_listening(common.field(place!(offsets.skc_cookie)));
    match protocol::is_tcp(common, self_check) {
        Some(true) => {}
        Some(false) => return,
        None => return unreadable(ctx, sk),
    }
    let newstate = newstate as u8;
    let local = if newstate == TcpState::Close.number() || newstate == TcpState::Listen.number() {
        match LocalSide::read(common.object()) {
            Some(local) => local,
            None => return unreadable(ctx, sk),
        }
    } else {
        LocalSide::of(common)
    };
    let self_check = self_check || checked::is_checked(common, local.port);
    let self_check = kernel::forgotten(self_check.into(), sk) != 0;
    let newstate = kernel::forgotten(newstate.into(), sk) as u8;
    transition(
        ctx,
        known,
        sk,
        oldstate as u8,
        newstate,
        common,
        owner,
        local,
        self_check,
    );
}

#[expect(
    clippy::too_many_arguments,
    reason = "inlined: each is a register, not an argument"
)]
#[inline(always)]
fn transition(
    ctx: &RawTracePointContext,
    known: &mut Identity,
    sk: u64,
    oldstate: u8,
    newstate: u8,
    common: &SockCommon<'_>,
    owner: &mut OwnerRoom,
    local: LocalSide,
    self_check: bool,
) {
    let mut ports = Ports::Yes;
    if !self_check {
        let family: u16 = common.field(place!(offsets.skc_family));
        let rport = u16::from_be(common.field(place!(offsets.skc_dport)));
        ports = filter::ports_match(local.port, rport);
        if ports == Ports::No || !filter::family_matches(family) {
            undecided::forget(sk, oldstate);
            if newstate == TcpState::Close.number() {
                follow::forget(sk);
            }
            return;
        }
    }
    let is_undecided = kernel::forgotten((ports == Ports::Undecided).into(), sk) != 0;
    let now_ns = emit::now_ns();
    let family: u16 = common.field(place!(offsets.skc_family));
    let subject = Subject {
        sk,
        cookie: common.field(place!(offsets.skc_cookie)),
        family,
        lport: local.port,
        laddr: kernel::local_address(family, common, local),
        owner: Owner::read(common.object(), owner),
        netns: identity::netns(known, common.field(place!(offsets.skc_net)), now_ns),
        oldstate,
        newstate,
    };
    if !self_check && !filter::socket_matches(ctx, &subject) {
        undecided::forget(sk, oldstate);
        return;
    }
    if is_undecided {
        if let Some(record) = undecided::keep(&subject) {
            // Nothing closes before it has its ports: there is no evidence to look for.
            fill(record, known, now_ns, &subject, common, false);
        }
        return;
    }
    undecided::emit(sk, oldstate);
    let Some(mut entry) = emit::reserve::<TransitionRecord>(RecordKind::Transition) else {
        return;
    };
    fill(
        entry.as_mut_ptr(),
        known,
        now_ns,
        &subject,
        common,
        self_check,
    );
    if evidence::is_wanted(oldstate, newstate) {
        evidence::add(entry.as_mut_ptr(), oldstate, common, owner);
    }
    emit::submit(entry);
}

/// Writes every byte of `record`, which must be writable.
#[inline(always)]
fn fill(
    record: *mut TransitionRecord,
    known: &mut Identity,
    now_ns: u64,
    subject: &Subject,
    common: &SockCommon,
    self_check: bool,
) {
    let rport = u16::from_be(common.field(place!(offsets.skc_dport)));
    let raddr = kernel::remote_address(subject.family, common);
    let cgroup = subject.owner.cgroup;
    let cgroup_id = cgroup.map_or(0, |cgroup| identity::cgroup_id(known, cgroup, now_ns));
    // SAFETY: `record` points to writable memory for exactly this type: a reserved entry of the
    // ring buffer or a variable on the stack.
    unsafe {
        (*record).header = emit::header(RecordKind::Transition, now_ns);
        (*record).sk = subject.sk;
        (*record).cookie = subject.cookie;
        (*record).cgroup_id = cgroup_id;
        kernel::store_words(&raw mut (*record).laddr, subject.laddr);
        kernel::store_words(&raw mut (*record).raddr, raddr);
        (*record).netns = subject.netns;
        (*record).uid = subject.owner.uid;
        (*record).flags = flags(common, self_check);
        (*record).lport = subject.lport;
        (*record).rport = rport;
        (*record).family = subject.family;
        (*record).oldstate = subject.oldstate;
        (*record).newstate = subject.newstate;
        task::tell(
            &raw mut (*record).pid,
            &raw mut (*record).tid,
            &raw mut (*record).comm,
        );
        // Volatile: the compiler would make a call of one of them that writes byte by byte.
        (&raw mut (*record).error).write_volatile(0);
        (&raw mut (*record).shutdown).write_volatile(0);
        (&raw mut (*record).file).write_volatile(file::UNKNOWN);
        (&raw mut (*record).user_timeout_ms).write_volatile(0);
        (&raw mut (*record).exit_code).write_volatile(0);
    }
}

#[inline(always)]
fn flags(common: &SockCommon, self_check: bool) -> u32 {
    let mut flags = kernel::reuse_flags(common);
    if self_check {
        flags |= flag::SELF_CHECK;
    }
    flags
}

/// A socket whose fields cannot be read is a transition that user space will not see.
#[inline(always)]
fn unreadable(ctx: &RawTracePointContext, sk: u64) {
    emit::count_lost(RecordKind::Transition);
    debug!(ctx, "cannot read the socket at {:x}", sk);
}
