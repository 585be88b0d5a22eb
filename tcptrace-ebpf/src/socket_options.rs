//! Owns the reads of what a socket has been told to be (its options, what bind() fixed) and of what its
//! task may do, for the records of calls.

use tcptrace_common::{Bits, CallRecord, Offsets, socket_flag};

use crate::{
    kernel::SockCommon,
    memory::{self, place},
    task,
    told::config,
};

/// `SK_FORCE_REUSE` of include/net/sock.h (v6.18).
const SK_FORCE_REUSE: u32 = 2;
/// `SOCK_BINDADDR_LOCK` and `SOCK_BINDPORT_LOCK` of include/net/sock.h (v6.18).
const SOCK_BINDADDR_LOCK: u32 = 4;
const SOCK_BINDPORT_LOCK: u32 = 8;
/// `O_NONBLOCK` of include/uapi/asm-generic/fcntl.h (v6.18), which x86, arm and RISC-V use.
const O_NONBLOCK: u32 = 0o4000;
/// How many levels of user namespaces are looked through. The kernel allows 32
/// (kernel/user_namespace.c `create_user_ns`, v6.18); containers make one or two.
const USER_NAMESPACES: usize = 4;

/// Adds the options of the socket at `sk` to `record`, which must be writable and filled; with the task's
/// rights where the call has `failed`.
///
/// Each flag goes to the record at once: kept in a register, the verifier would have to follow every
/// combination of them.
#[inline(always)]
pub(crate) fn add(record: *mut CallRecord, sk: u64, common: &SockCommon, failed: bool) {
    let device = memory::read(sk, config!(calls.skc_bound_dev_if)).unwrap_or(0);
    let port_range = match config!(calls.local_port_range) {
        Offsets::ABSENT => 0,
        offset => memory::read(sk, offset).unwrap_or(0),
    };
    // SAFETY: the caller vouches for `record`.
    unsafe {
        (*record).device = device;
        (*record).port_range = port_range;
    }
    let reuse: u8 = common.field(place!(offsets.skc_reuse));
    let reuse_mask = config!(offsets.skc_reuse_mask);
    let reuse = u32::from(reuse) & reuse_mask;
    set_if(record, reuse != 0, socket_flag::REUSEADDR);
    let lowest = reuse_mask & reuse_mask.wrapping_neg();
    set_if(
        record,
        reuse == lowest * SK_FORCE_REUSE,
        socket_flag::FORCE_REUSE,
    );
    let reuseport: u8 = common.field(place!(offsets.skc_reuseport));
    set_if(
        record,
        u32::from(reuseport) & config!(offsets.skc_reuseport_mask) != 0,
        socket_flag::REUSEPORT,
    );
    let v6only = config!(calls.skc_ipv6only);
    set_if(record, bits(sk, v6only) != 0, socket_flag::V6ONLY);
    let freebind = config!(calls.freebind);
    set_if(record, bits(sk, freebind) != 0, socket_flag::FREEBIND);
    let transparent = config!(calls.transparent);
    set_if(record, bits(sk, transparent) != 0, socket_flag::TRANSPARENT);
    let no_port = config!(calls.bind_address_no_port);
    set_if(
        record,
        bits(sk, no_port) != 0,
        socket_flag::BIND_ADDRESS_NO_PORT,
    );
    let locks = config!(calls.sk_userlocks);
    let lowest = locks.mask & locks.mask.wrapping_neg();
    let locked = bits(sk, locks);
    set_if(
        record,
        locked & (lowest * SOCK_BINDADDR_LOCK) != 0,
        socket_flag::ADDRESS_BOUND,
    );
    set_if(
        record,
        locked & (lowest * SOCK_BINDPORT_LOCK) != 0,
        socket_flag::PORT_BOUND,
    );
    let group: u64 = memory::read(sk, config!(calls.sk_reuseport_cb)).unwrap_or(0);
    set_if(record, group != 0, socket_flag::REUSEPORT_GROUP);
    if failed {
        let net: u64 = common.field(place!(offsets.skc_net));
        add_file(record, sk);
        add_rights(record, net);
    }
}

/// Sets a flag in the record itself.
#[inline(always)]
pub(crate) fn set(record: *mut CallRecord, flag: u32) {
    // SAFETY: the caller vouches for `record`. Volatile, so that the flags are not gathered first.
    unsafe {
        let flags = &raw mut (*record).flags;
        flags.write_volatile(flags.read_volatile() | flag);
    }
}

#[inline(always)]
fn set_if(record: *mut CallRecord, is_so: bool, flag: u32) {
    if is_so {
        set(record, flag);
    }
}

/// These bits of the structure at `base`; 0 when there are none, or they cannot be read.
#[inline(always)]
fn bits(base: u64, bits: Bits) -> u32 {
    if bits.mask == 0 {
        return 0;
    }
    u32::from(memory::read::<u8>(base, bits.byte).unwrap_or(0)) & bits.mask
}

#[inline(always)]
fn add_file(record: *mut CallRecord, sk: u64) {
    let socket: u64 = memory::read(sk, config!(offsets.sk_socket)).unwrap_or(0);
    if socket == 0 {
        return;
    }
    let file: u64 = memory::read(socket, config!(offsets.socket_file)).unwrap_or(0);
    if file == 0 {
        // A socket of the kernel's own.
        return;
    }
    let flags: u32 = memory::read(file, config!(calls.file_flags)).unwrap_or(0);
    set_if(record, flags & O_NONBLOCK != 0, socket_flag::NONBLOCKING);
}

/// Whether the current task has CAP_NET_BIND_SERVICE in the user namespace that owns the network
/// namespace at `net`: security/commoncap.c `cap_capable_helper` (v6.18; `cap_capable` before).
#[inline(always)]
fn add_rights(record: *mut CallRecord, net: u64) {
    if config!(calls.task_cred) == Offsets::ABSENT {
        return;
    }
    let task = task::current();
    let Some(cred) = memory::read::<u64>(task, config!(calls.task_cred)) else {
        return;
    };
    let Some(own) = memory::read::<u64>(cred, config!(calls.cred_user_ns)) else {
        return;
    };
    let Some(own_level) = memory::read::<i32>(own, config!(calls.user_ns_level)) else {
        return;
    };
    let Some(mut namespace) = memory::read::<u64>(net, config!(calls.net_user_ns)) else {
        return;
    };
    for _ in 0..USER_NAMESPACES {
        if namespace == own {
            let capability = config!(calls.cred_net_bind);
            set_if(
                record,
                bits(cred, capability) != 0,
                socket_flag::MAY_BIND_PRIVILEGED,
            );
            return set(record, socket_flag::CREDENTIALS_KNOWN);
        }
        let Some(level) = memory::read::<i32>(namespace, config!(calls.user_ns_level)) else {
            return;
        };
        if level <= own_level {
            return set(record, socket_flag::CREDENTIALS_KNOWN);
        }
        let Some(parent) = memory::read::<u64>(namespace, config!(calls.user_ns_parent)) else {
            return;
        };
        if parent == own {
            let owner: Option<u32> = memory::read(namespace, config!(calls.user_ns_owner));
            let user: Option<u32> = memory::read(cred, config!(calls.cred_euid));
            if owner.is_some() && owner == user {
                set(record, socket_flag::MAY_BIND_PRIVILEGED);
                return set(record, socket_flag::CREDENTIALS_KNOWN);
            }
        }
        namespace = parent;
    }
}
