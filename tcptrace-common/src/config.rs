//! Owns what user space tells the eBPF programs before they are loaded: where the fields of the
//! running kernel's structures lie, and what to filter. It is put into the programs' instructions,
//! so the verifier knows it, and a filter that is not asked for costs nothing.

use core::mem::{offset_of, size_of};

use crate::CallOffsets;

/// Bytes that the programs read from the start of `struct sock` in one go. Every `skc_*` field
/// they use must lie within.
pub struct CommonWindow;

impl CommonWindow {
    /// `skc_cookie` ends at 96 in every kernel seen (5.10 to 7.2), and `skc_flags` follows; a multiple
    /// of 8.
    pub const BYTES: usize = 104;
}

/// Bytes that the programs read from the 8-byte boundary at or before [`Offsets::inet_saddr`].
pub struct LocalWindow;

impl LocalWindow {
    /// `inet_sport` follows `inet_saddr` after 8 bytes in 6.18, after 16 in 6.1; a multiple of 8.
    pub const BYTES: usize = 32;
}

/// Bytes that the programs read from [`Offsets::owner`] on in one go.
pub struct OwnerWindow;

impl OwnerWindow {
    /// From `sk_err` to the end of the cgroup pointer it is 396 bytes in 6.18; a multiple of 8.
    pub const BYTES: usize = 448;
    /// In place of an offset: the fields lie further apart on this kernel and are read one by one.
    pub const NONE: u32 = u32::MAX;
}

/// Byte offsets within the running kernel's structures, from its BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// `sock.__sk_common.skc_family` (u16)
    pub skc_family: u32,
    /// `sock.__sk_common.skc_dport` (__be16)
    pub skc_dport: u32,
    /// `sock.__sk_common.skc_daddr` (__be32)
    pub skc_daddr: u32,
    /// `sock.__sk_common.skc_rcv_saddr` (__be32)
    pub skc_rcv_saddr: u32,
    /// `sock.__sk_common.skc_num` (u16, host byte order)
    pub skc_num: u32,
    /// `sock.__sk_common.skc_prot` (pointer to `struct proto`)
    pub skc_prot: u32,
    /// `sock.__sk_common.skc_net` (pointer to `struct net`)
    pub skc_net: u32,
    /// `sock.__sk_common.skc_v6_daddr` (16 bytes); 0 on a kernel without IPv6
    pub skc_v6_daddr: u32,
    /// `sock.__sk_common.skc_v6_rcv_saddr` (16 bytes); 0 on a kernel without IPv6
    pub skc_v6_rcv_saddr: u32,
    /// `sock.__sk_common.skc_cookie` (u64)
    pub skc_cookie: u32,
    /// Byte that holds the bit field `sock.__sk_common.skc_reuse`
    pub skc_reuse: u32,
    /// The bits of `skc_reuse` within that byte
    pub skc_reuse_mask: u32,
    /// Byte that holds the bit field `sock.__sk_common.skc_reuseport`
    pub skc_reuseport: u32,
    /// The bit of `skc_reuseport` within that byte
    pub skc_reuseport_mask: u32,
    /// `sock.sk_protocol` (u16)
    pub sk_protocol: u32,
    /// `sock.sk_uid` (kuid_t, u32)
    pub sk_uid: u32,
    /// `sock.sk_cgrp_data` (its first 8 bytes: a cgroup pointer, tagged before 5.16)
    pub sk_cgrp_data: u32,
    /// `sock.sk_err` (int)
    pub sk_err: u32,
    /// `sock.sk_shutdown` (u8)
    pub sk_shutdown: u32,
    /// `sock.sk_socket` (pointer to `struct socket`)
    pub sk_socket: u32,
    /// `sock.sk_lingertime` (unsigned long)
    pub sk_lingertime: u32,
    /// Where the window of [`OwnerWindow`] begins, so that it holds `sk_uid`, `sk_cgrp_data`,
    /// `sk_err`, `sk_shutdown`, `sk_socket` and `sk_lingertime`; or [`OwnerWindow::NONE`]
    pub owner: u32,
    /// `sock.__sk_common.skc_flags` (unsigned long)
    pub skc_flags: u32,
    /// `sock.__sk_common.skc_state` (u8)
    pub skc_state: u32,
    /// Bit of `SOCK_DEAD` in `skc_flags`
    pub sock_dead_mask: u32,
    /// Bit of `SOCK_LINGER` in `skc_flags`
    pub sock_linger_mask: u32,
    /// `socket.file` (pointer to `struct file`)
    pub socket_file: u32,
    /// `file.f_ref`, or `f_count` before 6.13 (long)
    pub file_count: u32,
    /// 1 when a file that is being released has a negative count (`f_ref`), 0 when it has 0
    pub file_dead_is_negative: u32,
    /// `inet_connection_sock.icsk_user_timeout` (u32, ms)
    pub icsk_user_timeout: u32,
    /// `tcp_sock.linger2` (int)
    pub linger2: u32,
    /// `task_struct.flags` (u32)
    pub task_flags: u32,
    /// `task_struct.exit_code` (int)
    pub task_exit_code: u32,
    /// `task_struct.pid` (pid_t, in the initial PID namespace)
    pub task_pid: u32,
    /// `task_struct.tgid` (pid_t, in the initial PID namespace)
    pub task_tgid: u32,
    /// `task_struct.comm` (16 bytes)
    pub task_comm: u32,
    /// `inet_timewait_sock.tw_substate` (u8)
    pub tw_substate: u32,
    /// `inet_timewait_sock.tw_timer` (`struct timer_list`)
    pub tw_timer: u32,
    /// `inet_timewait_sock.tw_entry_stamp` (u32, ms); [`Offsets::ABSENT`] before 6.14
    pub tw_entry_stamp: u32,
    /// `tcp_timewait_sock.tw_ts_recent_stamp` (its low 32 bits)
    pub tw_ts_recent_stamp: u32,
    /// `timer_list.expires` (unsigned long, jiffies)
    pub timer_expires: u32,
    /// `timer_list.function` (pointer)
    pub timer_function: u32,
    /// `inet_sock.inet_saddr` (__be32)
    pub inet_saddr: u32,
    /// `inet_sock.inet_sport` (__be16)
    pub inet_sport: u32,
    /// `net.ns.inum` (u32)
    pub net_inum: u32,
    /// `cgroup.kn` (pointer to `struct kernfs_node`)
    pub cgroup_kn: u32,
    /// `kernfs_node.id` (u64)
    pub kn_id: u32,
    /// `kernfs_node.parent`, `__parent` from 6.15 on (pointer to `struct kernfs_node`)
    pub kn_parent: u32,
}

impl Offsets {
    /// In place of an offset: this kernel has no such field.
    pub const ABSENT: u32 = u32::MAX;

    /// What the object holds until user space has filled it in.
    pub const UNSET: Self = Self {
        skc_family: 0,
        skc_dport: 0,
        skc_daddr: 0,
        skc_rcv_saddr: 0,
        skc_num: 0,
        skc_prot: 0,
        skc_net: 0,
        skc_v6_daddr: 0,
        skc_v6_rcv_saddr: 0,
        skc_cookie: 0,
        skc_reuse: 0,
        skc_reuse_mask: 0,
        skc_reuseport: 0,
        skc_reuseport_mask: 0,
        sk_protocol: 0,
        sk_uid: 0,
        sk_cgrp_data: 0,
        sk_err: 0,
        sk_shutdown: 0,
        sk_socket: 0,
        sk_lingertime: 0,
        owner: OwnerWindow::NONE,
        skc_flags: 0,
        skc_state: 0,
        sock_dead_mask: 0,
        sock_linger_mask: 0,
        socket_file: 0,
        file_count: 0,
        file_dead_is_negative: 0,
        icsk_user_timeout: 0,
        linger2: 0,
        task_flags: 0,
        task_exit_code: 0,
        task_pid: 0,
        task_tgid: 0,
        task_comm: 0,
        tw_substate: 0,
        tw_timer: 0,
        tw_entry_stamp: Self::ABSENT,
        tw_ts_recent_stamp: 0,
        timer_expires: 0,
        timer_function: 0,
        inet_saddr: 0,
        inet_sport: 0,
        net_inum: 0,
        cgroup_kn: 0,
        kn_id: 0,
        kn_parent: 0,
    };
}

/// Bits of [`Config::filters`]: which filters are on. A record passes when all of them let it.
pub mod filter {
    /// Local or remote port in [`super::PortSet::Either`].
    pub const PORT: u32 = 1 << 0;
    /// Local port in [`super::PortSet::Local`].
    pub const LOCAL_PORT: u32 = 1 << 1;
    /// Remote port in [`super::PortSet::Remote`].
    pub const REMOTE_PORT: u32 = 1 << 2;
    /// Socket that the process [`super::Config::pid`] connects, listens on, accepts or closes.
    pub const PID: u32 = 1 << 3;
    /// [`super::Config::uid`] owns the socket.
    pub const UID: u32 = 1 << 4;
    /// The socket lives in network namespace [`super::Config::netns`].
    pub const NETNS: u32 = 1 << 5;
    /// The socket belongs to cgroup [`super::Config::cgroup_id`] or to one below it.
    pub const CGROUP: u32 = 1 << 6;
    /// The socket's family is [`super::Config::family`].
    pub const FAMILY: u32 = 1 << 7;
    /// The socket lives in one of the network namespaces that user space keeps in a table, which may
    /// change while the programs run.
    pub const NETNS_SET: u32 = 1 << 8;
}

/// What the programs are told before they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Where the kernel's fields lie.
    pub offsets: Offsets,
    /// Bits of [`filter`].
    pub filters: u32,
    /// Process (tgid in the initial PID namespace) for [`filter::PID`].
    pub pid: u32,
    /// User for [`filter::UID`].
    pub uid: u32,
    /// Namespace inode for [`filter::NETNS`].
    pub netns: u32,
    /// `AF_INET` or `AF_INET6` for [`filter::FAMILY`].
    pub family: u32,
    /// Always 0.
    pub padding: u32,
    /// Cgroup inode for [`filter::CGROUP`].
    pub cgroup_id: u64,
    /// Cookie of the IPv4 socket by which the tracer checks itself; its records pass every filter.
    /// 0 for none.
    pub self_check_ipv4: u64,
    /// The same for the IPv6 socket.
    pub self_check_ipv6: u64,
    /// The reader is woken once in so many bytes of records; a power of two, of which the buffer is a multiple.
    pub wakeup_bytes: u32,
    /// 1 when the tracepoint `tcp_send_reset` has a reason (6.10).
    pub reset_reason: u32,
    /// Where the fields lie that the programs on bind(), listen() and connect() read.
    pub calls: CallOffsets,
    /// 1 where programs may read the kernel's memory without a helper (6.17).
    pub direct_reads: u32,
}

impl Config {
    /// What the object holds until user space has filled it in: no offsets, no filters.
    pub const UNSET: Self = Self {
        offsets: Offsets::UNSET,
        filters: 0,
        pid: 0,
        uid: 0,
        netns: 0,
        family: 0,
        padding: 0,
        cgroup_id: 0,
        self_check_ipv4: 0,
        self_check_ipv6: 0,
        wakeup_bytes: 1,
        reset_reason: 0,
        calls: CallOffsets::UNSET,
        direct_reads: 0,
    };
}

/// Where the kernel's code about the timers of minisockets lies. Not part of [`Config`]: the kernel
/// takes its time to tell, and programs on functions need none of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TimerCode {
    /// Address of net/ipv4/inet_timewait_sock.c `tw_timer_handler` (v6.18), by which the timers of
    /// minisockets are told from others.
    pub handler: u64,
    /// Where net/ipv4/inet_timewait_sock.c `inet_twsk_deschedule_put` (v6.18) begins and ends: with it
    /// on the stack, the end of a timer is the end of a minisocket.
    pub deschedule: [u64; 2],
    /// The same of `inet_twsk_purge`, into which some kernels' compilers have put the function above
    /// (Debian's 6.1).
    pub purge: [u64; 2],
}

/// The connections by which the tracer checks itself: those from or to this port in this network namespace.
/// Their records pass every filter and are marked. Not part of [`Config`]: user space knows it only when the
/// programs run already, and takes it back after the check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CheckedConnections {
    /// Inode number of the namespace.
    pub netns: u32,
    /// Host byte order; 0 for none.
    pub port: u16,
    /// Always 0.
    pub padding: u16,
}

/// Where a listener listens: the key of the table by which children are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ListenerKey {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Local port, host byte order.
    pub port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Local address in network byte order, IPv4 in the first word; zeros for any address.
    pub address: [u32; 4],
}

/// How many network namespaces [`filter::NETNS_SET`] may ask for at a time.
pub const WANTED_NAMESPACES: u32 = 1024;

/// Bytes of one set of ports: a bit for each of 65,536.
pub const PORT_BITMAP_BYTES: usize = 65_536 / 8;

/// Which of the port sets: the index in the map that holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PortSet {
    /// `--port`: matches on either side.
    Either = 0,
    /// `--lport`
    Local = 1,
    /// `--rport`
    Remote = 2,
}

const _: () = {
    assert!(size_of::<ListenerKey>() == 24);
    assert!(size_of::<Offsets>() == 48 * 4);
    assert!(offset_of!(Config, filters) == 192);
    assert!(offset_of!(Config, cgroup_id) == 216);
    assert!(offset_of!(Config, self_check_ipv4) == 224);
    assert!(offset_of!(Config, wakeup_bytes) == 240);
    assert!(offset_of!(Config, calls) == 248);
    assert!(offset_of!(Config, direct_reads) == 364);
    assert!(size_of::<Config>() == 368);
    assert!(size_of::<TimerCode>() == 40);
    assert!(size_of::<CheckedConnections>() == 8);
    assert!(CommonWindow::BYTES.is_multiple_of(8));
    assert!(LocalWindow::BYTES.is_multiple_of(8));
    assert!(OwnerWindow::BYTES.is_multiple_of(8));
};
