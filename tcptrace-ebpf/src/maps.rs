//! Owns every map and every global of the object.

use core::sync::atomic::AtomicU64;

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use tcptrace_common::{
    CALLS_KEPT, CALLS_UNDER_WAY, CheckedConnections, KIND_COUNT, ListenerKey, PORT_BITMAP_BYTES,
    TimerCode, TransitionRecord, WANTED_NAMESPACES,
};

use crate::{call::UnderWay, nesting::CpuState, probes::time_wait::Segment};

/// Records lost so far on all CPUs (wraps around). Each record carries it, so that the reader knows
/// between which two records a loss lies.
#[unsafe(no_mangle)]
pub(crate) static LOST_SO_FAR: AtomicU64 = AtomicU64::new(0);

/// `skc_prot` of plain TCP sockets over IPv4 and IPv6 (`tcp_prot`, `tcpv6_prot`), learned from the
/// tracer's own sockets while it checks itself. They are there as long as the kernel runs.
#[unsafe(no_mangle)]
pub(crate) static TCP_PROT: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// The connections by which the tracer checks itself, while it does.
#[map]
pub(crate) static CHECKED: Array<CheckedConnections> = Array::with_max_entries(1, 0);

/// What the programs know of the CPU they run on.
#[map]
pub(crate) static CPU: PerCpuArray<CpuState> = PerCpuArray::with_max_entries(1, 0);

/// Events that the second program has caught when the kernel skipped the first.
#[map]
pub(crate) static CAUGHT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The segment for a minisocket that the CPU is judging, or has judged last.
#[map]
pub(crate) static SEGMENT: PerCpuArray<Segment> = PerCpuArray::with_max_entries(1, 0);

/// The minisocket whose end has been recorded last on the CPU, by the function that ends it.
#[map]
pub(crate) static ENDED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// How the timers of minisockets are known. User space sets it before it attaches to timers.
#[map]
pub(crate) static TIMER_CODE: Array<TimerCode> = Array::with_max_entries(1, 0);

/// The timer of a minisocket that was cancelled last on the CPU.
#[map]
pub(crate) static CANCELLED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The one way to user space. User space sets the size at load.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 23, 0);

/// Records lost, per CPU and [`tcptrace_common::RecordKind`] number.
#[map]
pub(crate) static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(KIND_COUNT, 0);

/// One bit for each port, indexed by [`tcptrace_common::PortSet`].
#[map]
pub(crate) static PORTS: Array<[u8; PORT_BITMAP_BYTES]> = Array::with_max_entries(3, 0);

/// The network namespaces of [`tcptrace_common::filter::NETNS_SET`], by inode number; user space adds
/// and removes them at any time, and shrinks the table to one entry when there is no such filter.
#[map]
pub(crate) static NETNS_WANTED: HashMap<u32, u8> = HashMap::with_max_entries(WANTED_NAMESPACES, 0);

/// Events whose port was not known yet when a port filter wanted it, by address of their
/// `struct sock`; the next event of the socket takes the entry out. User space shrinks it to one
/// entry when there is no such filter.
#[map]
pub(crate) static UNDECIDED: HashMap<u64, TransitionRecord> = HashMap::with_max_entries(1 << 15, 0);

/// Calls of bind(), listen() and connect() that have not returned, by `pid_tgid` of their task; and the entries of
/// some that have. User space shrinks it to one entry when they are not watched.
#[map]
pub(crate) static CALLS: HashMap<u64, UnderWay> =
    HashMap::with_max_entries(CALLS_UNDER_WAY + CALLS_KEPT, 0);

/// How many entries [`CALLS`] has.
#[unsafe(no_mangle)]
pub(crate) static CALLS_HELD: AtomicU64 = AtomicU64::new(0);

/// Sockets that `--pid` follows, by address of their `struct sock`; an entry lives until CLOSE.
/// User space shrinks it to one entry when there is no such filter.
#[map]
pub(crate) static FOLLOWED: HashMap<u64, u32> = HashMap::with_max_entries(1 << 16, 0);

/// Sockets that the process of `--pid` already had when the trace began, by cookie.
#[map]
pub(crate) static FOLLOWED_COOKIES: HashMap<u64, u32> = HashMap::with_max_entries(1 << 16, 0);

/// Where the process of `--pid` listens, and with how many sockets. A child of a listener is known by
/// nothing else before it is accepted.
#[map]
pub(crate) static FOLLOWED_LISTENERS: HashMap<ListenerKey, u32> =
    HashMap::with_max_entries(1 << 12, 0);

/// Listeners of the process of `--pid` that began to listen unbound: slot 0 counts them, the others
/// are a ring of their addresses, whose port the kernel chooses only after the event.
#[map]
pub(crate) static AUTOBOUND: Array<u64> = Array::with_max_entries(AUTOBOUND_SLOTS as u32 + 1, 0);

/// How many listeners [`AUTOBOUND`] remembers; a power of two.
pub(crate) const AUTOBOUND_SLOTS: u64 = 8;
