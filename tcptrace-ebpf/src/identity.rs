//! Owns the ids behind two pointers of every socket: the inode numbers of its network namespace and
//! of its cgroup. Following them costs three reads of 40 ns each, for what hardly ever changes from
//! one event to the next; so each CPU remembers the last answer for a moment.

use crate::kernel;

/// How long an answer holds, in ns. A namespace or cgroup that is gone leaves its address to another
/// only after an RCU grace period and work in a queue (net/core/net_namespace.c `cleanup_net`,
/// kernel/cgroup/cgroup.c `css_free_rwork_fn`, v6.18), and a socket holds both as long as it has
/// events. Under load, which is when it counts, this spans dozens of events.
const HOLDS_NS: u64 = 250_000;

/// The last answers on one CPU, at one level.
#[repr(C)]
pub(crate) struct Identity {
    net: u64,
    net_read_ns: u64,
    netns: u64,
    cgroup: u64,
    cgroup_read_ns: u64,
    cgroup_id: u64,
}

/// The inode number of the namespace at `net`; 0 when it cannot be read.
#[inline(always)]
pub(crate) fn netns(known: &mut Identity, net: u64, now_ns: u64) -> u32 {
    if known.net != net || now_ns.wrapping_sub(known.net_read_ns) > HOLDS_NS {
        known.netns = kernel::netns_inode(net).into();
        known.net = net;
        known.net_read_ns = now_ns;
    }
    known.netns as u32
}

/// The inode number of the cgroup at `cgroup`; 0 when it cannot be read.
#[inline(always)]
pub(crate) fn cgroup_id(known: &mut Identity, cgroup: u64, now_ns: u64) -> u64 {
    if known.cgroup != cgroup || now_ns.wrapping_sub(known.cgroup_read_ns) > HOLDS_NS {
        known.cgroup_id = kernel::cgroup_node(cgroup).map_or(0, kernel::node_id);
        known.cgroup = cgroup;
        known.cgroup_read_ns = now_ns;
    }
    known.cgroup_id
}
