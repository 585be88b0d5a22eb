//! Owns the records of bind(), listen() and connect(), and of the sockets that hold a port.

use core::mem::{offset_of, size_of};

use crate::{RecordHeader, TASK_COMM_LEN};

/// Values of [`CallRecord::call`].
pub mod call {
    /// bind()
    pub const BIND: u8 = 1;
    /// listen()
    pub const LISTEN: u8 = 2;
    /// connect()
    pub const CONNECT: u8 = 3;
}

/// Bits of [`CallRecord::flags`] and [`HolderRecord::flags`]: what the socket's structures held.
pub mod socket_flag {
    /// `skc_reuse` != 0: `SO_REUSEADDR`.
    pub const REUSEADDR: u32 = 1 << 0;
    /// `skc_reuseport`: `SO_REUSEPORT`.
    pub const REUSEPORT: u32 = 1 << 1;
    /// `skc_ipv6only`: `IPV6_V6ONLY`, or bound to a specific IPv6 address.
    pub const V6ONLY: u32 = 1 << 2;
    /// `IP_FREEBIND` (`IPV6_FREEBIND`).
    pub const FREEBIND: u32 = 1 << 3;
    /// `IP_TRANSPARENT`.
    pub const TRANSPARENT: u32 = 1 << 4;
    /// `IP_BIND_ADDRESS_NO_PORT`.
    pub const BIND_ADDRESS_NO_PORT: u32 = 1 << 5;
    /// `SOCK_BINDADDR_LOCK` of `sk_userlocks`: an address was asked for by bind().
    pub const ADDRESS_BOUND: u32 = 1 << 6;
    /// `SOCK_BINDPORT_LOCK` of `sk_userlocks`: a port was asked for by bind().
    pub const PORT_BOUND: u32 = 1 << 7;
    /// `skc_reuse` is `SK_FORCE_REUSE` (TCP_REPAIR).
    pub const FORCE_REUSE: u32 = 1 << 8;
    /// The socket belongs to a group of `SO_REUSEPORT` listeners (`sk_reuseport_cb` is set).
    pub const REUSEPORT_GROUP: u32 = 1 << 9;
    /// A minisocket: [`super::HolderRecord::state`] is its `tw_substate`.
    pub const MINISOCKET: u32 = 1 << 10;
    /// The calling task has CAP_NET_BIND_SERVICE in its own effective set.
    pub const MAY_BIND_PRIVILEGED: u32 = 1 << 11;
    /// The fields of `task_struct.cred` could be read: [`MAY_BIND_PRIVILEGED`] means something.
    pub const CREDENTIALS_KNOWN: u32 = 1 << 12;
    /// security_socket_bind(), _listen() or _connect() refused it: a Linux security module.
    pub const REFUSED_BY_LSM: u32 = 1 << 13;
    /// The holders of the port were listed, as [`super::HolderRecord`]s before this record.
    pub const HOLDERS_LISTED: u32 = 1 << 14;
    /// There were more holders than could be listed.
    pub const HOLDERS_CUT: u32 = 1 << 15;
    /// The arguments could not be read: `asked_*` mean nothing.
    pub const ASKED_UNKNOWN: u32 = 1 << 16;
    /// The socket was found non-blocking (`O_NONBLOCK`).
    pub const NONBLOCKING: u32 = 1 << 17;
    /// Minisockets: the connection before it used timestamps (`tw_ts_recent_stamp` != 0).
    pub const TIMESTAMPS: u32 = 1 << 18;
}

/// A bind(), listen() or connect() that has returned.
///
/// Source: net/ipv4/af_inet.c `inet_bind`, `inet_listen`, `inet_stream_connect`, net/ipv6/af_inet6.c
/// `inet6_bind`, or the system calls of net/socket.c (v6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CallRecord {
    /// Time of the return, loss count, CPU, kind.
    pub header: RecordHeader,
    /// Address of the `struct sock`.
    pub sk: u64,
    /// `skc_cookie`; 0 when the socket has none yet.
    pub cookie: u64,
    /// Address of the socket that the kernel found in the way; 0 when the hooks do not show it.
    pub guilty: u64,
    /// CLOCK_BOOTTIME in ns when the call began; 0 when that was not seen.
    pub began_ns: u64,
    /// Inode number of the socket's cgroup (v2); 0 when unknown.
    pub cgroup_id: u64,
    /// Address asked for, network byte order; IPv4 uses the first 4 bytes.
    pub asked_addr: [u8; 16],
    /// Local address when the call returned (`skc_rcv_saddr`), network byte order.
    pub laddr: [u8; 16],
    /// Remote address when the call returned, network byte order.
    pub raddr: [u8; 16],
    /// Inode number of the socket's network namespace.
    pub netns: u32,
    /// `sk_uid`: the user that owns the socket, as seen from the initial user namespace.
    pub uid: u32,
    /// Process (tgid) that called, in the initial PID namespace.
    pub pid: u32,
    /// Thread that called.
    pub tid: u32,
    /// Bits of [`socket_flag`].
    pub flags: u32,
    /// What the call returned: 0, or an errno made negative.
    pub result: i32,
    /// The backlog of listen().
    pub backlog: i32,
    /// `skc_bound_dev_if`; 0 for none.
    pub device: u32,
    /// `sin6_scope_id` asked for; 0 for none.
    pub asked_scope: u32,
    /// Length of the address that was asked for, in bytes.
    pub asked_len: u32,
    /// `IP_LOCAL_PORT_RANGE`: the low port in the low half, the high in the upper; 0 for none.
    pub port_range: u32,
    /// `sa_family` asked for.
    pub asked_family: u16,
    /// Port asked for, host byte order.
    pub asked_port: u16,
    /// `skc_family`.
    pub family: u16,
    /// Local port (`skc_num`) when the call returned, host byte order.
    pub lport: u16,
    /// Remote port when the call returned, host byte order.
    pub rport: u16,
    /// Local port when the call began; the same as `lport` when that was not seen.
    pub lport_before: u16,
    /// How many [`HolderRecord`]s belong to it.
    pub holders: u16,
    /// One of [`mod@call`].
    pub call: u8,
    /// `skc_state` when the call returned.
    pub state: u8,
    /// `skc_state` when the call began; the same as `state` when that was not seen.
    pub state_before: u8,
    /// Always 0.
    pub padding: [u8; 11],
    /// Name of the thread that called, NUL padded.
    pub comm: [u8; TASK_COMM_LEN],
}

/// A socket that holds a port: an owner of the bucket of `tcp_hashinfo.bhash` (`inet_bind_bucket`) at
/// the moment when a call failed, or when it was asked for.
///
/// Source: include/net/inet_hashtables.h `struct inet_bind_bucket`, `struct inet_bind2_bucket` (v6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct HolderRecord {
    /// Time, loss count, CPU, kind.
    pub header: RecordHeader,
    /// Address of the socket whose call failed: [`CallRecord::sk`]; 0 for a listing without a call.
    pub asker: u64,
    /// Address of the `struct sock` or of the minisocket.
    pub sk: u64,
    /// `skc_cookie`; 0 when it has none.
    pub cookie: u64,
    /// Local address in network byte order; IPv4 uses the first 4 bytes.
    pub laddr: [u8; 16],
    /// Remote address in network byte order; IPv4 uses the first 4 bytes.
    pub raddr: [u8; 16],
    /// Inode number of its network namespace.
    pub netns: u32,
    /// The user that counts for `SO_REUSEPORT`: `sk_uid` (6.18), before that the owner of the inode
    /// (0 without one). 0 for a minisocket.
    pub uid: u32,
    /// `skc_bound_dev_if`; 0 for none.
    pub device: u32,
    /// Bits of [`socket_flag`].
    pub flags: u32,
    /// Jiffies until the timer of a minisocket runs out; 0 for others.
    pub expires_in: i32,
    /// Local port, host byte order.
    pub lport: u16,
    /// Remote port, host byte order; 0 for none.
    pub rport: u16,
    /// `skc_family`.
    pub family: u16,
    /// `skc_state`, or `tw_substate` of a minisocket.
    pub state: u8,
    /// Always 0.
    pub padding: u8,
    /// Inode number of its file; 0 when no application has it, and for a minisocket.
    pub inode: u32,
}

const _: () = {
    assert!(size_of::<CallRecord>() == 192);
    assert!(align_of::<CallRecord>() == 8);
    assert!(offset_of!(CallRecord, asked_addr) == 56);
    assert!(offset_of!(CallRecord, netns) == 104);
    assert!(offset_of!(CallRecord, asked_family) == 148);
    assert!(offset_of!(CallRecord, call) == 162);
    assert!(offset_of!(CallRecord, padding) == 165);
    assert!(offset_of!(CallRecord, comm) == 176);

    assert!(size_of::<HolderRecord>() == 104);
    assert!(align_of::<HolderRecord>() == 8);
    assert!(offset_of!(HolderRecord, asker) == 16);
    assert!(offset_of!(HolderRecord, laddr) == 40);
    assert!(offset_of!(HolderRecord, netns) == 72);
    assert!(offset_of!(HolderRecord, lport) == 92);
    assert!(offset_of!(HolderRecord, padding) == 99);
    assert!(offset_of!(HolderRecord, inode) == 100);
};
