//! Owns what the programs need to know to list the sockets that hold a port: where the fields of the
//! kernel's table of local ports lie. Apart from [`crate::Offsets`], because tracing works without it.

use core::mem::size_of;

/// Byte offsets within the running kernel's structures, from its BTF, for the walk of the table
/// `inet_hashinfo.bhash`. An offset that says `ABSENT` is [`crate::Offsets::ABSENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BucketOffsets {
    /// 1 when the others have been filled in; 0 when this kernel's table is not known and nothing is
    /// listed.
    pub known: u32,
    /// `net.hash_mix` (u32)
    pub net_hash_mix: u32,
    /// `net.ipv4.tcp_death_row`: the structure, or a pointer to it
    pub net_death_row: u32,
    /// 1 when it is a pointer (5.16 to 6.0), 0 when it is the structure itself
    pub death_row_is_pointer: u32,
    /// `inet_timewait_death_row.hashinfo` (pointer to `struct inet_hashinfo`)
    pub death_row_hashinfo: u32,
    /// `inet_hashinfo.bhash` (pointer to an array of `struct inet_bind_hashbucket`)
    pub hashinfo_bhash: u32,
    /// `inet_hashinfo.bhash_size` (u32, a power of two)
    pub hashinfo_bhash_size: u32,
    /// Size of `struct inet_bind_hashbucket` in bytes
    pub hash_bucket_size: u32,
    /// `inet_bind_hashbucket.chain` (`struct hlist_head`)
    pub hash_bucket_chain: u32,
    /// `inet_bind_bucket.ib_net` (pointer to `struct net`)
    pub bucket_net: u32,
    /// `inet_bind_bucket.l3mdev` (int)
    pub bucket_l3mdev: u32,
    /// `inet_bind_bucket.port` (u16, host byte order)
    pub bucket_port: u32,
    /// `inet_bind_bucket.node` (`struct hlist_node`)
    pub bucket_node: u32,
    /// `inet_bind_bucket.owners` (`struct hlist_head`); `ABSENT` from 6.8 on
    pub bucket_owners: u32,
    /// `inet_bind_bucket.bhash2` (`struct hlist_head`); `ABSENT` before 6.8
    pub bucket_bhash2: u32,
    /// `inet_bind2_bucket.bhash_node` (`struct hlist_node`); `ABSENT` before 6.8
    pub bucket2_node: u32,
    /// `inet_bind2_bucket.owners` (`struct hlist_head`); `ABSENT` before 6.8
    pub bucket2_owners: u32,
    /// `sock.__sk_common.skc_bind_node` (`struct hlist_node`), of minisockets too
    pub skc_bind_node: u32,
    /// `sock.__sk_common.skc_bound_dev_if` (int)
    pub skc_bound_dev_if: u32,
    /// Byte that holds the bit field `sock.__sk_common.skc_ipv6only`
    pub skc_ipv6only: u32,
    /// The bit of `skc_ipv6only` within that byte
    pub skc_ipv6only_mask: u32,
    /// Byte that holds the bit field `sock.sk_userlocks`
    pub sk_userlocks: u32,
    /// By how many bits `sk_userlocks` is shifted within that byte
    pub sk_userlocks_shift: u32,
    /// `sock.sk_reuseport_cb` (pointer)
    pub sk_reuseport_cb: u32,
    /// 1 when the owner of the socket's inode counts for `SO_REUSEPORT` (`sock_i_uid`, before 6.17), 0
    /// when `sk_uid` does
    pub uid_of_inode: u32,
    /// From a `struct socket` to its inode: `socket_alloc.vfs_inode` less `socket_alloc.socket`
    pub socket_to_inode: u32,
    /// `inode.i_ino` (8 bytes)
    pub inode_number: u32,
    /// `inode.i_uid` (kuid_t, u32)
    pub inode_uid: u32,
    /// `task_struct.nsproxy` (pointer)
    pub task_nsproxy: u32,
    /// `nsproxy.net_ns` (pointer to `struct net`)
    pub nsproxy_net: u32,
}

impl BucketOffsets {
    /// What the object holds until user space has filled it in, and on a kernel whose table is not known.
    pub const UNKNOWN: Self = Self {
        known: 0,
        net_hash_mix: 0,
        net_death_row: 0,
        death_row_is_pointer: 0,
        death_row_hashinfo: 0,
        hashinfo_bhash: 0,
        hashinfo_bhash_size: 0,
        hash_bucket_size: 0,
        hash_bucket_chain: 0,
        bucket_net: 0,
        bucket_l3mdev: 0,
        bucket_port: 0,
        bucket_node: 0,
        bucket_owners: 0,
        bucket_bhash2: 0,
        bucket2_node: 0,
        bucket2_owners: 0,
        skc_bind_node: 0,
        skc_bound_dev_if: 0,
        skc_ipv6only: 0,
        skc_ipv6only_mask: 0,
        sk_userlocks: 0,
        sk_userlocks_shift: 0,
        sk_reuseport_cb: 0,
        uid_of_inode: 0,
        socket_to_inode: 0,
        inode_number: 0,
        inode_uid: 0,
        task_nsproxy: 0,
        nsproxy_net: 0,
    };
}

/// How many sockets that hold a port are listed, at most.
pub struct HolderLimit;

impl HolderLimit {
    /// Of any state.
    pub const ANY: u32 = 189;
    /// Together with those that come later and listen or are only bound: they are what an application has
    /// open, and stand at the end of the kernel's list, behind their connections.
    pub const ALL: u32 = 256;
}

const _: () = {
    assert!(size_of::<BucketOffsets>() == 30 * 4);
};
