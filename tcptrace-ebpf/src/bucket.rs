//! Owns the listing of the sockets that hold a local port: a walk of the kernel's own table, net/ipv4/
//! inet_hashtables.c `inet_bind_hash`, include/net/inet_hashtables.h `struct inet_bind_bucket` and
//! `struct inet_bind2_bucket` (v6.18). It is the only place that knows sockets which are only bound, and
//! the options of minisockets.
//!
//! The kernel changes the table under a lock, which a program cannot take. So the walk trusts nothing
//! that it reads: every pointer is followed by a probe read, which fails and does not fault; every socket
//! must still have the port and the namespace that were asked for; and every loop ends. When it is led
//! astray it stops and says that the list is cut.
//!
//! Verifiers look at a global function once, whoever calls it and however often. So the loops are cheap
//! for them although what is done for each socket is much.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_jiffies64;
use tcptrace_common::{
    BucketOffsets, HolderLimit, HolderRecord, Offsets, RecordKind, TcpState, socket_flag,
};

use crate::{
    emit,
    kernel::{self, LocalSide, SockCommon, SockRoom},
    memory::{self, place},
    task,
    told::config,
};

/// Set by user space before loading, like [`tcptrace_common::Config`]; read-only for the programs.
#[unsafe(no_mangle)]
pub(crate) static BUCKET: BucketOffsets = BucketOffsets::UNKNOWN;

/// A field of [`BUCKET`], as user space set it before loading.
macro_rules! bucket {
    ($field:ident) => {{
        // SAFETY: BUCKET is a static that nothing writes to; the read only hides its value from the
        // compiler.
        unsafe { core::ptr::read_volatile(&raw const BUCKET.$field) }
    }};
}

/// Buckets that are looked at for that of one port: so many times [`NEAR`]. Some 65,536 chains are shared by
/// the ports of all namespaces (4,096 on a machine with 512 MB).
const CHAIN: u32 = 16;
/// Nodes that a function looks at, which another calls again and again.
const NEAR: u32 = 16;
/// Buckets of one port that are looked at, one for each VRF.
const BUCKETS: u32 = 8;
/// Parts of a bucket that are looked at, one for each local address (6.8 and later).
const PARTS: u32 = 128;
/// Sockets that are listed by one call; as many as the lower bits of a node's address can count.
const SOME: u64 = 7;
/// How often the walk goes on from one socket that listens or is only bound to the next, or over a
/// [`STRETCH`] of others, when as many of any state are listed as may be.
const STEPS: u32 = 96;
/// Sockets that are passed over in one step: so many times [`NEAR`].
const STRETCH: u32 = 128;
/// Steps in all: some 65,000 sockets are passed over, which takes some milliseconds.
const ALL_STEPS: u64 = 96;

/// `SOCK_BINDADDR_LOCK` of include/net/sock.h (v6.18).
const ADDRESS_LOCK: u32 = 4;
/// `SOCK_BINDPORT_LOCK` of include/net/sock.h (v6.18).
const PORT_LOCK: u32 = 8;
/// `SK_FORCE_REUSE` of include/net/sock.h (v6.18).
const FORCE_REUSE: u32 = 2;

const CLOSE: u8 = TcpState::Close.number();
const LISTEN: u8 = TcpState::Listen.number();
const TIME_WAIT: u8 = TcpState::TimeWait.number();

/// In place of the address of a node, which is a multiple of 8 far above: it could not be read.
const ASTRAY: u64 = 16;
/// In the address of a node: it listens or is only bound.
const OPEN: u64 = 1;

/// Beside the number of sockets listed: not all of them were.
const CUT: u64 = 1 << 32;
/// The walk ends: it has left the list, or has seen enough.
const END: u64 = 1 << 33;
/// Beside these, how many steps have been taken: this is one.
const STEP: u64 = 1 << 40;

/// What has been listed.
#[derive(Clone, Copy)]
pub(crate) struct Listed {
    /// How many records were emitted.
    pub(crate) count: u32,
    /// There may be more.
    pub(crate) cut: bool,
}

/// Whether this kernel's table is known, so that [`list`] can list anything.
#[inline(always)]
pub(crate) fn is_known() -> bool {
    bucket!(known) != 0
}

/// Emits a [`HolderRecord`] for every socket that holds `port` (host byte order) in the namespace at
/// `net` (address of a `struct net`). `asker` is the socket whose call failed, 0 for none; `device` is the
/// interface that it is bound to, 0 for none.
///
/// The kernel has a bucket for each VRF (`l3mdev`) beside that of sockets in none. A socket that is bound
/// to no interface contends for the latter; for one that is, all buckets are listed.
///
/// Lists nothing when [`is_known`] says no. Has a frame of its own on the stack, and may be called
/// anywhere but between the reservation of a record and its submission.
#[inline(always)]
pub(crate) fn list(asker: u64, net: u64, port: u16, device: u32) -> Listed {
    let listed = tcptrace_list_holders(asker, net, u64::from(port), u64::from(device));
    Listed {
        count: listed as u32,
        cut: listed & CUT != 0,
    }
}

/// The namespace of the current task; `None` when this kernel's table is not known.
#[inline(always)]
pub(crate) fn current_net() -> Option<u64> {
    if !is_known() {
        return None;
    }
    let task = task::current();
    let proxy = memory::read::<u64>(task, bucket!(task_nsproxy))?;
    memory::read(proxy, bucket!(nsproxy_net))
}

/// As [`list`]: the number of sockets listed in the lower 32 bits, and [`CUT`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcptrace_list_holders(asker: u64, net: u64, port: u64, device: u64) -> u64 {
    if !is_known() {
        return 0;
    }
    let mut listed = 0;
    let mut bucket = first_bucket(net, port);
    for _ in 0..BUCKETS {
        bucket = tcptrace_seek_bucket(bucket, net, port, device);
        if bucket == 0 {
            return listed;
        }
        if bucket == ASTRAY {
            return listed | CUT;
        }
        let found = bucket - u64::from(bucket!(bucket_node));
        listed = if bucket!(bucket_owners) == Offsets::ABSENT {
            let parts = follow(found + u64::from(bucket!(bucket_bhash2)));
            tcptrace_list_parts(asker, net, port, parts, listed)
        } else {
            let owners = follow(found + u64::from(bucket!(bucket_owners)));
            tcptrace_list_owners(asker, net, port, owners, listed)
        };
        if listed & END != 0 {
            return listed | CUT;
        }
        bucket = follow(bucket);
    }
    listed | CUT
}

/// Lists the sockets of the parts of a bucket, from the node `first` on. Takes and returns what has been
/// listed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcptrace_list_parts(asker: u64, net: u64, port: u64, first: u64, listed: u64) -> u64 {
    let mut node = first;
    let mut listed = listed;
    for _ in 0..PARTS {
        if node == 0 || listed & END != 0 {
            return listed;
        }
        let found = node - u64::from(bucket!(bucket2_node));
        let owners = follow(found + u64::from(bucket!(bucket2_owners)));
        listed = tcptrace_list_owners(asker, net, port, owners, listed);
        node = follow(node);
    }
    listed | END
}

/// Lists the sockets from the node `socket` on. Takes and returns what has been listed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcptrace_list_owners(
    asker: u64,
    net: u64,
    port: u64,
    socket: u64,
    listed: u64,
) -> u64 {
    let mut socket = socket;
    let mut listed = listed;
    // One more than it takes to list them: it finds out whether there are others.
    for _ in 0..=HolderLimit::ANY / SOME as u32 {
        if socket == 0 {
            return listed;
        }
        if listed as u32 >= HolderLimit::ANY {
            break;
        }
        let some = tcptrace_emit_some(asker, net, port, socket);
        listed = tcptrace_plus(listed, some & SOME);
        socket = some & !SOME;
        if socket == ASTRAY {
            return listed | END;
        }
    }
    tcptrace_list_open(asker, net, port, socket, listed | CUT)
}

/// Lists the sockets from the node `socket` on that listen or are only bound. Takes and returns what has
/// been listed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcptrace_list_open(asker: u64, net: u64, port: u64, socket: u64, listed: u64) -> u64 {
    let mut socket = socket;
    let mut listed = listed;
    for _ in 0..STEPS {
        socket = tcptrace_seek_open(socket);
        if socket == 0 {
            return listed;
        }
        listed = tcptrace_plus(listed, STEP);
        if socket & OPEN != 0 {
            socket &= !OPEN;
            if tcptrace_emit(asker, net, port, socket) == 0 {
                break;
            }
            listed = tcptrace_plus(listed, 1);
            socket = follow(socket);
        }
        if listed as u32 >= HolderLimit::ALL || listed >= ALL_STEPS * STEP {
            break;
        }
    }
    listed | END
}

/// The sum. Verifiers up to 6.3 follow every value that a program with functions may have; of what a function
/// returns they know nothing, so the turns of a loop that counts by this are alike to them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcptrace_plus(listed: u64, more: u64) -> u64 {
    listed + more
}

/// Lists [`SOME`] sockets from the node `socket` on. Returns the one with which to go on, 0 for none and
/// [`ASTRAY`] when that is not known; and how many were listed, in its lower bits.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcptrace_emit_some(asker: u64, net: u64, port: u64, socket: u64) -> u64 {
    let mut socket = socket;
    let mut count = 0;
    for _ in 0..SOME {
        if socket == 0 {
            break;
        }
        if tcptrace_emit(asker, net, port, socket) == 0 {
            return ASTRAY | count;
        }
        count += 1;
        socket = follow(socket);
    }
    socket | count
}

/// The first bucket of the chain that the port's is in: include/net/inet_hashtables.h `inet_bhashfn`
/// (v6.18).
#[inline(always)]
fn first_bucket(net: u64, port: u64) -> u64 {
    chain(net, port).map_or(ASTRAY, follow)
}

/// Address of the head of that chain.
#[inline(always)]
fn chain(net: u64, port: u64) -> Option<u64> {
    let mut row = net + u64::from(bucket!(net_death_row));
    if bucket!(death_row_is_pointer) != 0 {
        row = memory::read(row, 0)?;
    }
    let hashinfo: u64 = memory::read(row, bucket!(death_row_hashinfo))?;
    let table: u64 = memory::read(hashinfo, bucket!(hashinfo_bhash))?;
    let size: u32 = memory::read(hashinfo, bucket!(hashinfo_bhash_size))?;
    let mix: u32 = memory::read(net, bucket!(net_hash_mix))?;
    let index = (port as u32).wrapping_add(mix) & size.wrapping_sub(1);
    let at = u64::from(index) * u64::from(bucket!(hash_bucket_size));
    Some(table + at + u64::from(bucket!(hash_bucket_chain)))
}

/// What the head of a list, or a node of one, points at: both begin with that pointer. [`ASTRAY`] when it
/// cannot be read: the helper leaves 0 then, and returns -EFAULT or -EPERM, which have that bit.
#[inline(always)]
fn follow(node: u64) -> u64 {
    let (next, result) = peek::<u64>(node, 0);
    next | result & ASTRAY
}

/// Reads a `T`, which is an integer, at `base + offset` of kernel memory, and says what the helper returns.
/// The `T` is 0 when it cannot be read: kernel/trace/bpf_trace.c `bpf_probe_read_kernel_common` (v6.18).
///
/// Verifiers follow both sides of every branch, in each round of a loop: here is none.
#[inline(always)]
fn peek<T: Copy>(base: u64, offset: u32) -> (T, u64) {
    let mut value = MaybeUninit::<T>::zeroed();
    let result = memory::probe(&mut value, base + u64::from(offset));
    // SAFETY: it is an integer, filled by the helper or zeroed.
    (unsafe { value.assume_init() }, result.cast_unsigned())
}

/// The first bucket of this port from `node` on, which is in the chain; 0 for none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcptrace_seek_bucket(node: u64, net: u64, port: u64, device: u64) -> u64 {
    let mut node = node;
    for _ in 0..CHAIN {
        node = tcptrace_near_bucket(node, net, port, device);
        if node == 0 {
            return 0;
        }
        if node & OPEN != 0 {
            return node & !OPEN;
        }
    }
    ASTRAY
}

/// The first bucket of this port near `node`, with [`OPEN`]; the node with which to go on when there is none;
/// 0 at the end of the chain.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcptrace_near_bucket(node: u64, net: u64, port: u64, device: u64) -> u64 {
    let mut node = node;
    for _ in 0..NEAR {
        if node == 0 {
            return 0;
        }
        if is_bucket_of(node - u64::from(bucket!(bucket_node)), net, port, device) {
            return node | OPEN;
        }
        node = follow(node);
    }
    node
}

/// No bucket has port 0, and none has no namespace.
#[inline(always)]
fn is_bucket_of(bucket: u64, net: u64, port: u64, device: u64) -> bool {
    let (its_port, _) = peek::<u16>(bucket, bucket!(bucket_port));
    let (its_net, _) = peek::<u64>(bucket, bucket!(bucket_net));
    let (its_vrf, _) = peek::<u32>(bucket, bucket!(bucket_l3mdev));
    let in_vrf = u64::from(its_vrf) * u64::from(device == 0);
    (u64::from(its_port) ^ port) | (its_net ^ net) | in_vrf == 0
}

/// The first socket from `node` on that listens or is only bound, with [`OPEN`]; the one with which to go on
/// when it is far; 0 for none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcptrace_seek_open(node: u64) -> u64 {
    let mut node = node;
    for _ in 0..STRETCH {
        node = tcptrace_near_open(node);
        if node == 0 || node & OPEN != 0 {
            return node;
        }
    }
    node
}

/// The same, near `node`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcptrace_near_open(node: u64) -> u64 {
    let mut node = node;
    for _ in 0..NEAR {
        if node == 0 {
            return 0;
        }
        let socket = node - u64::from(bucket!(skc_bind_node));
        let (state, _) = peek(socket, config!(offsets.skc_state));
        if matches!(state, CLOSE | LISTEN) {
            return node | OPEN;
        }
        node = follow(node);
    }
    node
}

/// Emits the record of the socket with this node, and returns 1. Returns 0 when it cannot be read or holds
/// another port by now, so that it is not known what comes next, and when there is no room for the record.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcptrace_emit(asker: u64, net: u64, port: u64, node: u64) -> u64 {
    let sk = node - u64::from(bucket!(skc_bind_node));
    let mut room = SockRoom::new();
    let Some(common) = room.window(sk) else {
        return 0;
    };
    let lport: u16 = common.field(place!(offsets.skc_num));
    let its_net: u64 = common.field(place!(offsets.skc_net));
    if u64::from(lport) != port || its_net != net {
        return 0;
    }
    let Some(mut entry) = emit::reserve::<HolderRecord>(RecordKind::Holder) else {
        return 0;
    };
    fill(entry.as_mut_ptr(), asker, sk, &common);
    emit::submit(entry);
    1
}

/// Writes every byte of `record`, which must be writable.
#[inline(always)]
fn fill(record: *mut HolderRecord, asker: u64, sk: u64, common: &SockCommon) {
    let family: u16 = common.field(place!(offsets.skc_family));
    let local = LocalSide::of(common);
    let laddr = kernel::local_address(family, common, local);
    let raddr = kernel::remote_address(family, common);
    let kept: u8 = common.field(place!(offsets.skc_state));
    let own = if kept == TIME_WAIT {
        Own::of_minisocket(sk)
    } else {
        Own::of_socket(sk, kept)
    };
    let device = common.field_at(bucket!(skc_bound_dev_if));
    let cookie = common.field(place!(offsets.skc_cookie));
    let netns = kernel::netns_inode(common.field(place!(offsets.skc_net)));
    let rport = u16::from_be(common.field(place!(offsets.skc_dport)));
    // SAFETY: the caller vouches for `record`.
    unsafe {
        (*record).header = emit::header(RecordKind::Holder, emit::now_ns());
        (*record).asker = asker;
        (*record).sk = sk;
        (*record).cookie = cookie;
        kernel::store_words(&raw mut (*record).laddr, laddr);
        kernel::store_words(&raw mut (*record).raddr, raddr);
        (*record).netns = netns;
        (*record).uid = own.uid;
        (*record).device = device;
        (*record).flags = common_flags(common) | own.flags;
        (*record).expires_in = own.expires_in;
        (*record).lport = local.port;
        (*record).rport = rport;
        (*record).family = family;
        (*record).state = own.state;
        (*record).padding = 0;
        (*record).inode = own.inode;
    }
}

/// The options that lie at the beginning of a socket and of a minisocket.
#[inline(always)]
fn common_flags(common: &SockCommon) -> u32 {
    let mut flags = 0;
    let reuse: u8 = common.field(place!(offsets.skc_reuse));
    let mask = config!(offsets.skc_reuse_mask);
    let reuse = u32::from(reuse) & mask;
    if reuse != 0 {
        flags |= socket_flag::REUSEADDR;
    }
    // The lowest bit of the mask counts 1.
    if reuse == FORCE_REUSE * (mask & mask.wrapping_neg()) {
        flags |= socket_flag::FORCE_REUSE;
    }
    let reuseport: u8 = common.field(place!(offsets.skc_reuseport));
    if u32::from(reuseport) & config!(offsets.skc_reuseport_mask) != 0 {
        flags |= socket_flag::REUSEPORT;
    }
    let v6only: u8 = common.field_at(bucket!(skc_ipv6only));
    if u32::from(v6only) & bucket!(skc_ipv6only_mask) != 0 {
        flags |= socket_flag::V6ONLY;
    }
    flags
}

/// What a socket and a minisocket have in different places.
struct Own {
    state: u8,
    flags: u32,
    uid: u32,
    /// Of its file; 0 for none.
    inode: u32,
    expires_in: i32,
}

impl Own {
    #[inline(always)]
    fn of_socket(sk: u64, state: u8) -> Self {
        let mut flags = 0;
        let locks: u8 = memory::read(sk, bucket!(sk_userlocks)).unwrap_or(0);
        let locks = u32::from(locks) >> (bucket!(sk_userlocks_shift) & 7);
        if locks & ADDRESS_LOCK != 0 {
            flags |= socket_flag::ADDRESS_BOUND;
        }
        if locks & PORT_LOCK != 0 {
            flags |= socket_flag::PORT_BOUND;
        }
        if memory::read::<u64>(sk, bucket!(sk_reuseport_cb)).unwrap_or(0) != 0 {
            flags |= socket_flag::REUSEPORT_GROUP;
        }
        let file = File::of(sk);
        Self {
            state,
            flags,
            uid: if bucket!(uid_of_inode) == 0 {
                memory::read(sk, config!(offsets.sk_uid)).unwrap_or(u32::MAX)
            } else {
                file.uid
            },
            inode: file.inode,
            expires_in: 0,
        }
    }

    #[inline(always)]
    fn of_minisocket(tw: u64) -> Self {
        let mut flags = socket_flag::MINISOCKET;
        if memory::read::<u32>(tw, config!(offsets.tw_ts_recent_stamp)).unwrap_or(0) != 0 {
            flags |= socket_flag::TIMESTAMPS;
        }
        let timer = tw + u64::from(config!(offsets.tw_timer));
        let expires: u64 = memory::read(timer, config!(offsets.timer_expires)).unwrap_or(0);
        Self {
            state: memory::read(tw, config!(offsets.tw_substate)).unwrap_or(0),
            flags,
            uid: 0,
            inode: 0,
            // SAFETY: the helper takes nothing and only reads the clock.
            expires_in: expires.wrapping_sub(unsafe { bpf_jiffies64() }) as i32,
        }
    }
}

/// What stands for a socket among the open files: net/socket.c `sock_alloc_file` (v6.18).
struct File {
    /// 0 for none, and when it cannot be read.
    inode: u32,
    /// That of net/core/sock.c `sock_i_uid` (v6.12): root for a socket that no file stands for. `u32::MAX`
    /// when it cannot be read.
    uid: u32,
}

impl File {
    #[inline(always)]
    fn of(sk: u64) -> Self {
        match memory::read::<u64>(sk, config!(offsets.sk_socket)) {
            None => Self {
                inode: 0,
                uid: u32::MAX,
            },
            Some(0) => Self { inode: 0, uid: 0 },
            Some(socket) => {
                let inode = socket + u64::from(bucket!(socket_to_inode));
                let (number, _) = peek::<u64>(inode, bucket!(inode_number));
                Self {
                    inode: number as u32,
                    uid: memory::read(inode, bucket!(inode_uid)).unwrap_or(u32::MAX),
                }
            }
        }
    }
}
