//! Owns the ids behind two pointers of every socket: the inode numbers of its network namespace and
//! of its cgroup. Following them costs three reads of 40 ns each, for what hardly ever changes from
//! one event to the next; so each CPU remembers the last answer for a moment.

use crate::{kernel, maps::IDENTITY};

/// How long an answer holds, in ns. A namespace or cgroup that is gone leaves its address to another
/// only after an RCU grace period and work in a queue (net/core/net_namespace.c `cleanup_net`,
/// kernel/cgroup/cgroup.c `css_free_rwork_fn`, v6.18), and a socket holds both as long as it has
/// events. Under load, which is when it counts, this spans dozens of events.
const HOLDS_NS: u64 = 250_000;

/// The last answers on one CPU.
#[repr(C)]
pub(crate) struct Identity {
    /// Not 0 while a program on this CPU uses the entry. Before 6.1 an interrupt may run the same
    /// program in the middle of itself; that one looks up everything anew.
    busy: u64,
    net: u64,
    net_read_ns: u64,
    netns: u64,
    cgroup: u64,
    cgroup_read_ns: u64,
    cgroup_id: u64,
}

/// The inode number of the namespace at `net`; 0 when it cannot be read.
#[inline(always)]
pub(crate) fn netns(net: u64, now_ns: u64) -> u32 {
    let Some(cached) = enter() else {
        return kernel::netns_inode(net);
    };
    if cached.net != net || now_ns.wrapping_sub(cached.net_read_ns) > HOLDS_NS {
        cached.netns = kernel::netns_inode(net).into();
        cached.net = net;
        cached.net_read_ns = now_ns;
    }
    let inode = cached.netns as u32;
    leave(cached);
    inode
}

/// The inode number of the cgroup at `cgroup`; 0 when it cannot be read.
#[inline(always)]
pub(crate) fn cgroup_id(cgroup: u64, now_ns: u64) -> u64 {
    let look_up = || kernel::cgroup_node(cgroup).map_or(0, kernel::node_id);
    let Some(cached) = enter() else {
        return look_up();
    };
    if cached.cgroup != cgroup || now_ns.wrapping_sub(cached.cgroup_read_ns) > HOLDS_NS {
        cached.cgroup_id = look_up();
        cached.cgroup = cgroup;
        cached.cgroup_read_ns = now_ns;
    }
    let id = cached.cgroup_id;
    leave(cached);
    id
}

/// This CPU's entry, unless it is in use.
#[inline(always)]
fn enter() -> Option<&'static mut Identity> {
    let cached = IDENTITY.get_ptr_mut(0)?;
    // SAFETY: the value belongs to this CPU, on which programs run one inside the other at most,
    // and `busy` keeps the inner one out. The accesses to it are volatile so that they stay in place.
    unsafe {
        if (&raw const (*cached).busy).read_volatile() != 0 {
            return None;
        }
        (&raw mut (*cached).busy).write_volatile(1);
        Some(&mut *cached)
    }
}

#[inline(always)]
fn leave(cached: &mut Identity) {
    // SAFETY: a field of a live value.
    unsafe { (&raw mut cached.busy).write_volatile(0) };
}
