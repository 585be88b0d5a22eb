//! Owns the inputs and findings about bind(), listen() and connect().

use alloc::vec::Vec;
use core::{net::SocketAddr, num::NonZeroU64};

use crate::{
    Certainty, Doubts, Owner, Task,
    conflict::{Asked, Asker, BindSysctls, Call, Holder, PortUse, Remedy, Rule},
};

/// A bind(), listen() or connect() that has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketCall {
    /// CLOCK_BOOTTIME in ns of the return.
    pub ts_ns: u64,
    /// CLOCK_BOOTTIME in ns when it began; `None` when that was not seen.
    pub began_ns: Option<u64>,
    /// Which call.
    pub call: Call,
    /// The errno that it returned; 0 for success.
    pub error: u16,
    /// Address of the `struct sock`.
    pub sk: u64,
    /// `SO_COOKIE`; `None` when the socket has none yet.
    pub cookie: Option<NonZeroU64>,
    /// Inode number of the socket's network namespace; `None` when it could not be read.
    pub netns: Option<u32>,
    /// Inode number of its cgroup (v2); `None` when it could not be read.
    pub cgroup_id: Option<u64>,
    /// The task that called. It is in the system call: this is whose call it is.
    pub task: Task,
    /// The socket, as it was when the call began.
    pub asker: Asker,
    /// The address of bind() and connect(); `None` for listen(), or when it could not be read.
    pub asked: Option<Asked>,
    /// The backlog of listen(); 0 for others.
    pub backlog: i32,
    /// Local address and port when it returned.
    pub local: SocketAddr,
    /// Remote address and port when it returned; port 0 for none.
    pub remote: SocketAddr,
    /// `O_NONBLOCK`: connect() returns EINPROGRESS and goes on.
    pub nonblocking: bool,
    /// A Linux security module refused it.
    pub refused_by_lsm: bool,
    /// Address of the socket that the kernel itself found in the way; `None` when the hooks do not
    /// show it.
    pub guilty: Option<u64>,
    /// What is known of the sockets that hold the port.
    pub listing: Listing,
}

/// Whether the kernel listed the sockets that hold the port of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// It did not: the call did not fail for a port, or the hooks do not show it.
    None,
    /// All of them have come as [`ListedHolder`]s before the call.
    Whole,
    /// There were more than could be listed.
    Cut,
}

/// A socket that held the port at the moment when a call failed, read from the kernel's own table.
/// Comes before the [`SocketCall`] it belongs to, from the same CPU or not, and nothing of another call
/// with the same `asker` comes between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedHolder {
    /// CLOCK_BOOTTIME in ns.
    pub ts_ns: u64,
    /// [`SocketCall::sk`] of the call it belongs to.
    pub asker: u64,
    /// The socket.
    pub holder: Holder,
    /// Inode number of its network namespace.
    pub netns: Option<u32>,
    /// For a minisocket: CLOCK_BOOTTIME ns at which its timer runs out, within a tick; the wheel's
    /// granularity comes on top. `None` for others.
    pub expires_ns: Option<u64>,
}

/// What user space has found out about a failed call before it hands it on: settings and counts that no
/// hook shows. Comes just before the [`SocketCall`] with the same `sk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// CLOCK_BOOTTIME in ns at which it was looked up, a moment after the call.
    pub ts_ns: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// [`SocketCall::sk`].
    pub sk: u64,
    /// The settings of the namespace.
    pub sysctls: BindSysctls,
    /// For a call that failed for want of an automatic port: how they are used.
    pub ports: Option<PortUse>,
}

/// A call that failed, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFailed {
    /// The call.
    pub call: SocketCall,
    /// The clause of the kernel's procedure that gave the error.
    pub rule: Rule,
    /// Sockets that hold the port, those in the way first; at most [`CallFailed::MOST_HOLDERS`].
    pub holders: Vec<HolderFound>,
    /// How many hold it, as far as known; more than are in `holders` when there are very many.
    pub holders_total: usize,
    /// How many of them are in the way.
    pub blocking_total: usize,
    /// How the ports that the kernel could choose are used, for a call that failed for want of one.
    pub ports: Option<PortUse>,
    /// What would have made it succeed, each confirmed by the rules. [`Remedy::CloseHolders`] has indices
    /// into `holders`.
    pub remedies: Vec<Remedy>,
    /// When the last of those in the way ends by itself, CLOCK_BOOTTIME ns, if nothing else happens;
    /// `None` when one of them does not, or it is not known.
    pub free_at_ns: Option<u64>,
    /// An earlier bind() of the same socket that failed.
    pub after_failed_bind: Option<FailedBind>,
    /// How sure `rule` and the holders in the way are.
    pub certainty: Certainty,
    /// What weakens them.
    pub doubts: Doubts,
}

impl CallFailed {
    /// Holders that a finding lists, at most.
    pub const MOST_HOLDERS: usize = 64;
}

/// A socket that holds a port, and what the trace knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderFound {
    /// The socket.
    pub holder: Holder,
    /// It is in the way.
    pub blocks: bool,
    /// The kernel itself named it: [`SocketCall::guilty`].
    pub named_by_kernel: bool,
    /// The clause by which it is in the way; `None` when it is not.
    pub rule: Option<Rule>,
    /// Who owns it; for a minisocket, who owned its connection.
    pub owner: Option<Owner>,
    /// Since when it has been in this state, CLOCK_BOOTTIME ns; `None` when not known.
    pub since_ns: Option<u64>,
    /// When it goes by itself, CLOCK_BOOTTIME ns: the timer of a minisocket; `None` when it does not.
    pub frees_at_ns: Option<u64>,
    /// Where its options are known from.
    pub options: OptionsSource,
}

/// A bind() that had failed before another call of the same socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedBind {
    /// CLOCK_BOOTTIME in ns.
    pub ts_ns: u64,
    /// Its errno.
    pub error: u16,
    /// What it had asked for.
    pub asked: Option<SocketAddr>,
}

/// A bind() or listen() that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSucceeded {
    /// The call.
    pub call: SocketCall,
    /// listen() on a socket without a port: the kernel chose an address (any) and a port.
    pub autobound: bool,
    /// An earlier bind() of the same socket that failed: what listens now is not what was meant.
    pub after_failed_bind: Option<FailedBind>,
}

crate::words::words! {
    /// Where the options (`SO_REUSEADDR`, `SO_REUSEPORT`) of a holder are known from.
    OptionsSource {
        /// The kernel's own table, read when the call failed.
        Kernel = "kernel",
        /// Its last event.
        Event = "event",
        /// Not known.
        Unknown = "unknown",
    }
}
