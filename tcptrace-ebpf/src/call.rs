//! Owns the life of a bind(), listen() or connect() from its beginning to its record, whichever hooks
//! show it.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_probe_read_kernel, bpf_probe_read_user},
};
use tcptrace_common::{
    AF_INET, AF_INET6, CALLS_KEPT, CallRecord, RecordKind, SOCKADDR_BYTES, call, filter,
    socket_flag,
};

use crate::{
    bucket, checked, emit,
    filter::{self as filters, Ports},
    kernel::{self, Owner, SockCommon, SockRoom},
    maps::{CALLS, CALLS_HELD, FOLLOWED, FOLLOWED_COOKIES},
    memory::{self, place},
    protocol, socket_options, task,
    told::config,
};

/// Errnos of include/uapi/asm-generic/errno.h and include/linux/errno.h (v6.18).
const ERESTARTSYS: i32 = 512;
const ERESTART_RESTARTBLOCK: i32 = 516;
const EINPROGRESS: i32 = 115;
const EADDRINUSE: i32 = 98;
const EADDRNOTAVAIL: i32 = 99;

/// The filters that look at to whom a socket belongs.
const BY_OWNER: u32 =
    filter::NETNS | filter::NETNS_SET | filter::UID | filter::CGROUP | filter::PID;

/// `sizeof(struct sockaddr_in)` and `SIN6_LEN_RFC2133` of include/uapi/linux/in.h, include/net/ipv6.h
/// (v6.18): what IPv4 and IPv6 sockets ask for at least.
const SOCKADDR_IN_BYTES: u32 = 16;
const SIN6_LEN_RFC2133: u32 = 24;

/// What only the tracepoint of a system call shows.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Syscall {
    /// The kernel's number of it.
    pub(crate) number: u32,
    /// The descriptor of the socket.
    pub(crate) fd: u32,
}

impl Syscall {
    /// The hook is another one.
    pub(crate) const UNKNOWN: Self = Self { number: 0, fd: 0 };
}

/// `struct sockaddr_in` or `sockaddr_in6`, as given.
type Asked = [u32; SOCKADDR_BYTES / 4];

/// A call that has not returned.
#[repr(C)]
pub(crate) struct UnderWay {
    sk: u64,
    /// The socket that the kernel has found in the way last; 0 for none.
    guilty: u64,
    began_ns: u64,
    /// Zeros where it could not be read.
    asked: Asked,
    /// Bytes of the address that was given; the backlog of listen().
    number: u32,
    lport: u16,
    state: u8,
    /// 0 when it has returned, and this waits for the task's next one.
    call: u8,
    /// 1 when `asked` could be read.
    asked_known: u32,
    /// The system call, where the hook shows it.
    syscall: Syscall,
    /// Bits of [`socket_flag`] for the record to come.
    flags: u32,
    /// How many holders have been listed.
    holders: u32,
    /// 1 when a port filter wants a port that is to be chosen yet.
    undecided: u32,
    /// The port asked for, host byte order; 0 for none.
    asked_port: u16,
}

impl UnderWay {
    /// What an entry holds before its task's first call.
    const BLANK: Self = Self {
        sk: 0,
        guilty: 0,
        began_ns: 0,
        asked: [0; _],
        number: 0,
        lport: 0,
        state: 0,
        call: 0,
        asked_known: 0,
        syscall: Syscall::UNKNOWN,
        flags: 0,
        holders: 0,
        undecided: 0,
        asked_port: 0,
    };
}

/// A field of a `*mut UnderWay`.
macro_rules! field {
    ($under_way:ident.$field:ident) => {{
        // SAFETY: the entry is there until it is removed, and only its task uses it.
        unsafe { (*$under_way).$field }
    }};
    ($under_way:ident.$field:ident = $value:expr) => {{
        let value = $value;
        // SAFETY: as above.
        unsafe { (*$under_way).$field = value }
    }};
}

/// Where the address of a call lies.
#[derive(Clone, Copy)]
pub(crate) enum Address {
    /// listen() has none.
    None,
    /// The kernel's own copy.
    Kernel(u64),
    /// The application's memory.
    User(u64),
}

/// Remembers that the current task calls `call` for the TCP socket at `sk`, if the filters want it. `number`
/// is the length of the address, or the backlog.
#[inline(always)]
pub(crate) fn begin(sk: u64, call: u8, syscall: Syscall, address: Address, number: u32) {
    let mut room = SockRoom::new();
    let Some(common) = room.window(sk) else {
        return;
    };
    let family: u16 = common.field(place!(offsets.skc_family));
    if (family != AF_INET && family != AF_INET6) || !filters::family_matches(family) {
        return;
    }
    // The hooks serve datagrams, too.
    if protocol::is_tcp(&common, false) != Some(true) {
        return;
    }
    let cookie: u64 = common.field(place!(offsets.skc_cookie));
    if checked::is_listening(cookie) {
        return;
    }
    // Before what makes the states many that the verifier has to follow through the loop over cgroups.
    if config!(filters) & BY_OWNER != 0 && !is_of_owner(sk, &common, cookie) {
        return;
    }
    let Some(entry) = entry() else {
        return emit::count_lost(RecordKind::Call);
    };
    // What a call before has left there, which was not seen to return.
    field!(entry.call = 0);
    // SAFETY: as for every field of the entry.
    let asked_known = read_address(address, unsafe { &raw mut (*entry).asked });
    // SAFETY: as above.
    let first: u32 = unsafe { (*entry).asked[0] };
    let asked_port = if call != call::LISTEN && number >= 4 {
        u16::from_be((first >> 16) as u16)
    } else {
        0
    };
    let lport = common.field(place!(offsets.skc_num));
    let mut undecided = 0;
    if filters::by_port() {
        match ports_match(call, lport, asked_port) {
            Ports::Yes => {}
            Ports::No => return forget(entry),
            Ports::Undecided => undecided = 1,
        }
    }
    field!(entry.sk = sk);
    field!(entry.guilty = 0);
    field!(entry.began_ns = emit::now_ns());
    field!(entry.number = number);
    field!(entry.lport = lport);
    field!(entry.state = common.field(place!(offsets.skc_state)));
    field!(entry.asked_known = asked_known.into());
    field!(entry.syscall = syscall);
    field!(entry.flags = 0);
    field!(entry.holders = 0);
    field!(entry.undecided = undecided);
    field!(entry.asked_port = asked_port);
    field!(entry.call = call);
}

/// The entry of the current task, with what an earlier call has left there; `None` when there is no room for one.
#[inline(always)]
fn entry() -> Option<*mut UnderWay> {
    let task = bpf_get_current_pid_tgid();
    if let Some(entry) = CALLS.get_ptr_mut(task) {
        return Some(entry);
    }
    CALLS.insert(task, &UnderWay::BLANK, 0).ok()?;
    count_entries(1);
    CALLS.get_ptr_mut(task)
}

/// The current task's call.
#[inline(always)]
fn current() -> Option<*mut UnderWay> {
    let entry = CALLS.get_ptr_mut(bpf_get_current_pid_tgid())?;
    (field!(entry.call) != 0).then_some(entry)
}

/// Forgets the current task's call. Its entry stays for the next one, which is then spared the most of what a
/// beginning costs; but no more than [`CALLS_KEPT`] do, so that tasks that are gone take nobody's place.
#[inline(always)]
fn forget(entry: *mut UnderWay) {
    // SAFETY: an aligned 8-byte load of a static; volatile, as everywhere else where it changes meanwhile.
    if unsafe { CALLS_HELD.as_ptr().read_volatile() } <= u64::from(CALLS_KEPT) {
        field!(entry.call = 0);
    } else if CALLS.remove(bpf_get_current_pid_tgid()).is_ok() {
        count_entries(-1);
    }
}

#[inline(always)]
fn count_entries(more: i64) {
    // SAFETY: a static of 8 bytes, aligned as an atomic is.
    unsafe { emit::add(CALLS_HELD.as_ptr(), more) };
}

/// What the port filters say. The port asked for is the local one of bind() and the remote one of
/// connect().
#[inline(always)]
fn ports_match(call: u8, lport: u16, asked: u16) -> Ports {
    let (lport, rport) = match call {
        call::CONNECT => (lport, asked),
        call::BIND if asked != 0 => (asked, 0),
        _ => (lport, 0),
    };
    match filters::ports_match(lport, rport) {
        // No other port will be known than that which bind() or listen() may choose.
        Ports::Undecided if lport != 0 || call == call::CONNECT => Ports::No,
        verdict => verdict,
    }
}

/// Whether the filters on namespace, user, cgroup and process want the socket.
#[inline(always)]
fn is_of_owner(sk: u64, common: &SockCommon, cookie: u64) -> bool {
    let uid = memory::read(sk, config!(offsets.sk_uid)).unwrap_or(u32::MAX);
    let cgroup = memory::read(sk, config!(offsets.sk_cgrp_data)).and_then(kernel::untagged);
    let netns = kernel::netns_inode(common.field(place!(offsets.skc_net)));
    filters::owner_matches(netns, Owner { uid, cgroup })
        && (config!(filters) & filter::PID == 0 || is_followed(sk, cookie))
}

/// Notes that the kernel has found the socket at `holder` in the way of the current task's bind() or
/// listen().
#[inline(always)]
pub(crate) fn in_the_way(asker: u64, holder: u64) {
    if let Some(under_way) = current()
        && field!(under_way.sk) == asker
    {
        field!(under_way.guilty = holder);
    }
}

/// A call that the current task has begun by a system call.
#[derive(Clone, Copy)]
pub(crate) struct Begun {
    entry: *mut UnderWay,
    pub(crate) call: u8,
    pub(crate) sk: u64,
    /// The descriptor of the socket.
    pub(crate) fd: u32,
}

impl Begun {
    /// The one by the system call with this number.
    #[inline(always)]
    pub(crate) fn by(number: u32) -> Option<Self> {
        let entry = current()?;
        let Syscall { number: begun, fd } = field!(entry.syscall);
        (begun == number).then(|| Self {
            entry,
            call: field!(entry.call),
            sk: field!(entry.sk),
            fd,
        })
    }

    /// Forgets it.
    #[inline(always)]
    pub(crate) fn forget(self) {
        forget(self.entry);
    }
}

/// Whether a call that returns this has met with the holders of a port.
#[inline(always)]
pub(crate) fn may_have_holders(result: i32) -> bool {
    matches!(result.wrapping_neg(), EADDRINUSE | EADDRNOTAVAIL)
}

/// Lists who holds the port of the current task's call of `call` for the socket at `sk`, if it has failed
/// with `result` for that: a port that was asked for, or that the socket had.
///
/// For a program of its own, which runs before that of [`end`]: up to 6.3, verifiers follow every value of a
/// program that calls functions (kernel/bpf/verifier.c `__mark_reg_unknown`, v6.1), and one that did all
/// would be too large for them.
#[inline(always)]
pub(crate) fn list_holders(call: u8, sk: u64, result: i32) {
    let error = if call == call::CONNECT {
        EADDRNOTAVAIL
    } else {
        EADDRINUSE
    };
    if result == -error
        && let Some(under_way) = current()
        && field!(under_way.call) == call
    {
        list(under_way, sk);
    }
}

/// Likewise for a bind() or listen(), whichever it is, that gets no port.
#[inline(always)]
pub(crate) fn list_holders_of_port(sk: u64) {
    if let Some(under_way) = current()
        && field!(under_way.call) != call::CONNECT
    {
        list(under_way, sk);
    }
}

#[inline(always)]
fn list(under_way: *mut UnderWay, sk: u64) {
    let port = if field!(under_way.call) == call::BIND {
        field!(under_way.asked_port)
    } else {
        field!(under_way.lport)
    };
    if field!(under_way.sk) != sk || port == 0 || field!(under_way.undecided) != 0 {
        return;
    }
    if !bucket::is_known() {
        return;
    }
    // The same number, but for the verifier of 5.10 none that it knows to be a pointer: it lets no function
    // have such a one.
    // SAFETY: the entry is there until it is removed.
    let sk = unsafe { (&raw const (*under_way).sk).read_volatile() };
    let Some(net) = memory::read(sk, config!(offsets.skc_net)) else {
        return;
    };
    let device = memory::read(sk, config!(calls.skc_bound_dev_if)).unwrap_or(0);
    let listed = bucket::list(sk, net, port, device);
    field!(under_way.holders = listed.count);
    field!(under_way.flags = socket_flag::HOLDERS_LISTED);
    if listed.cut {
        field!(under_way.flags = socket_flag::HOLDERS_LISTED | socket_flag::HOLDERS_CUT);
    }
}

/// Records the current task's call of `call` for the socket at `sk`, which has returned `result`, if it
/// was seen to begin and is wanted. `flags` are bits of [`socket_flag`].
#[inline(always)]
pub(crate) fn end(call: u8, sk: u64, result: i32, flags: u32) {
    let Some(under_way) = current() else {
        return;
    };
    if field!(under_way.sk) == sk
        && field!(under_way.call) == call
        && is_worth_telling(call, result)
    {
        record(under_way, call, result, flags);
    }
    forget(under_way);
}

/// Transitions tell of a connect() that succeeds, or goes on; a call that a signal has interrupted in this
/// way goes on likewise, or returns EINTR where the application wants that, which is not shown here.
#[inline(always)]
pub(crate) fn is_worth_telling(call: u8, result: i32) -> bool {
    if result >= 0 || result == -EINPROGRESS {
        return call != call::CONNECT;
    }
    !(-ERESTART_RESTARTBLOCK..=-ERESTARTSYS).contains(&result)
}

#[inline(always)]
fn record(under_way: *mut UnderWay, call: u8, result: i32, flags: u32) {
    let sk = field!(under_way.sk);
    let mut room = SockRoom::new();
    let Some(common) = room.window(sk) else {
        return emit::count_lost(RecordKind::Call);
    };
    let lport: u16 = common.field(place!(offsets.skc_num));
    if field!(under_way.undecided) != 0 && filters::ports_match(lport, 0) != Ports::Yes {
        return;
    }
    let netns = kernel::netns_inode(common.field(place!(offsets.skc_net)));
    let uid = memory::read(sk, config!(offsets.sk_uid)).unwrap_or(u32::MAX);
    let cgroup_id = memory::read(sk, config!(offsets.sk_cgrp_data))
        .and_then(kernel::untagged)
        .and_then(kernel::cgroup_node)
        .map_or(0, kernel::node_id);
    let Some(mut entry) = emit::reserve::<CallRecord>(RecordKind::Call) else {
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the entry is there until it is removed, and only its task uses it.
    let begun = unsafe { &*under_way };
    let family: u16 = common.field(place!(offsets.skc_family));
    let laddr = kernel::local_address(family, &common, kernel::LocalSide::of(&common));
    let raddr = kernel::remote_address(family, &common);
    let cookie = common.field(place!(offsets.skc_cookie));
    let rport = u16::from_be(common.field(place!(offsets.skc_dport)));
    let state = common.field(place!(offsets.skc_state));
    // SAFETY: a reserved entry is writable memory for exactly this type. Every byte is written.
    unsafe {
        (*record).cgroup_id = cgroup_id;
        kernel::store_words(&raw mut (*record).laddr, laddr);
        kernel::store_words(&raw mut (*record).raddr, raddr);
        (*record).header = emit::header(RecordKind::Call, emit::now_ns());
        (*record).sk = sk;
        (*record).cookie = cookie;
        (*record).guilty = begun.guilty;
        (*record).began_ns = begun.began_ns;
        (*record).netns = netns;
        (*record).uid = uid;
        (*record).flags = flags | begun.flags;
        (*record).result = result;
        (*record).family = family;
        (*record).lport = lport;
        (*record).rport = rport;
        (*record).lport_before = begun.lport;
        (*record).holders = begun.holders as u16;
        (*record).call = call;
        (*record).state = state;
        (*record).state_before = begun.state;
        (*record).padding = [0; 11];
        task::tell(
            &raw mut (*record).pid,
            &raw mut (*record).tid,
            &raw mut (*record).comm,
        );
    }
    fill_asked(record, begun, call);
    socket_options::add(record, sk, &common, result < 0);
    emit::submit(entry);
}

/// Writes what was asked for: of an address, no more than was given.
#[inline(always)]
fn fill_asked(record: *mut CallRecord, begun: &UnderWay, call: u8) {
    let number = begun.number;
    // SAFETY: the caller vouches for `record`.
    unsafe {
        (*record).backlog = 0;
        (*record).asked_len = 0;
        (*record).asked_family = 0;
        (*record).asked_port = 0;
        (*record).asked_addr = [0; 16];
        (*record).asked_scope = 0;
        if call == call::LISTEN {
            (*record).backlog = number.cast_signed();
            return;
        }
        let addr = (&raw mut (*record).asked_addr).cast::<[u32; 4]>();
        let asked = begun.asked;
        (*record).asked_len = number;
        (*record).asked_port = begun.asked_port;
        if number >= 2 {
            (*record).asked_family = asked[0] as u16;
        }
        if asked[0] as u16 == AF_INET6 {
            if number >= SIN6_LEN_RFC2133 {
                *addr = [asked[2], asked[3], asked[4], asked[5]];
            }
            if number >= SOCKADDR_BYTES as u32 {
                (*record).asked_scope = asked[6];
            }
        } else if number >= SOCKADDR_IN_BYTES {
            *addr = [asked[1], 0, 0, 0];
        }
        if begun.asked_known == 0 {
            socket_options::set(record, socket_flag::ASKED_UNKNOWN);
        }
    }
}

/// Copies the address to `asked`, which must be writable; says whether there is one that could be read. What lies
/// behind it may belong to nobody, so the shorter form is tried, too.
#[inline(always)]
fn read_address(address: Address, asked: *mut Asked) -> bool {
    let read = |size: u32| {
        let to = asked.cast();
        // SAFETY: the buffer has at least `size` bytes; the helpers fail on a bad source.
        unsafe {
            match address {
                Address::None => false,
                Address::Kernel(from) => bpf_probe_read_kernel(to, size, from as *const _) == 0,
                Address::User(from) => bpf_probe_read_user(to, size, from as *const _) == 0,
            }
        }
    };
    if read(SOCKADDR_BYTES as u32) {
        return true;
    }
    // Volatile: the compiler would make a call of it that writes byte by byte.
    let words = asked.cast::<u32>();
    for word in 0..SOCKADDR_BYTES / 4 {
        // SAFETY: so many words lie there.
        unsafe { words.add(word).write_volatile(0) };
    }
    read(SOCKADDR_IN_BYTES)
}

/// `--pid`: a call of that process, or for a socket of its.
#[inline(always)]
fn is_followed(sk: u64, cookie: u64) -> bool {
    if (bpf_get_current_pid_tgid() >> 32) as u32 == config!(pid) {
        return true;
    }
    // SAFETY: the values are never used, only their presence.
    unsafe { FOLLOWED.get(sk).is_some() || (cookie != 0 && FOLLOWED_COOKIES.get(cookie).is_some()) }
}
