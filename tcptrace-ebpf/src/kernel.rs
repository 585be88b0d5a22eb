//! Owns what the programs know of the kernel's structures: which side of a connection lies where, to whom a socket
//! belongs.

use core::arch::asm;

use tcptrace_common::{AF_INET6, CommonWindow, LocalWindow, OwnerWindow, flag};

use crate::{
    memory::{self, Object, Place, Room, Window, Word, place},
    told::config,
};

/// The same value, of which the verifier knows nothing any more. It follows a program once for each value that
/// it knows of what decides a later branch; where the ways to a place have been told apart for the last time,
/// they are one again with this. `unknown` is a number that it knows nothing of, such as an address.
#[inline(always)]
pub(crate) fn forgotten(mut value: u64, unknown: u64) -> u64 {
    // SAFETY: two instructions on one register, the second of which undoes the first.
    unsafe {
        asm!(
            "{value} ^= {unknown}",
            "{value} ^= {unknown}",
            value = inout(reg) value,
            unknown = in(reg) unknown,
        );
    }
    value
}

/// Room for the first bytes of a `struct sock`: all of `struct sock_common` that is used.
pub(crate) type SockRoom = Room<{ CommonWindow::BYTES / 8 }>;

/// Those bytes, of a socket or a minisocket.
pub(crate) type SockCommon<'a> = Window<'a, { CommonWindow::BYTES / 8 }>;

/// Room for the part of a `struct sock` that tells to whom it belongs, and why it closes.
pub(crate) type OwnerRoom = Room<{ OwnerWindow::BYTES / 8 }>;

/// The local side of a socket.
#[derive(Clone, Copy)]
pub(crate) struct LocalSide {
    /// IPv4 address in network byte order; meaningless for an IPv6 socket.
    pub(crate) address: u32,
    /// Port in host byte order.
    pub(crate) port: u16,
}

impl LocalSide {
    /// What `inet_saddr` and `inet_sport` say: in events to CLOSE they are still right when
    /// `skc_num` is 0 already (net/ipv4/inet_hashtables.c `__inet_put_port`, v6.18), and in events
    /// to LISTEN they are what the kernel prints for a multicast address.
    #[inline(always)]
    pub(crate) fn read(sk: Object) -> Option<Self> {
        if memory::is_direct() {
            return Some(Self {
                address: sk.load(place!(offsets.inet_saddr))?,
                port: u16::from_be(sk.load(place!(offsets.inet_sport))?),
            });
        }
        // The 8-byte boundary before: the verifier wants aligned reads of the stack.
        let mut start = u64::from(config!(offsets.inet_saddr));
        // Where the compiler cannot see it: what remains of the offset it would put into the address of the room by
        // `|=`, which verifiers let no address have.
        // SAFETY: one instruction on one register.
        unsafe { asm!("{start} &= -8", start = inout(reg) start) };
        let mut room = Room::<{ LocalWindow::BYTES / 8 }>::new();
        let start = start as u32;
        room.copy(sk.address() + u64::from(start)).then(|| Self {
            address: room.copied(config!(offsets.inet_saddr) - start),
            port: u16::from_be(room.copied(config!(offsets.inet_sport) - start)),
        })
    }

    /// What `sock_common` says, which is the same in all other events and has been read already.
    #[inline(always)]
    pub(crate) fn of(common: &SockCommon) -> Self {
        Self {
            address: common.field(place!(offsets.skc_rcv_saddr)),
            port: common.field(place!(offsets.skc_num)),
        }
    }
}

/// The local address in network byte order. A socket of family AF_INET6 is asked for its IPv6 fields
/// only: a native one has 127.0.0.6 in the IPv4 fields (`LOOPBACK4_IPV6`), a v4-mapped one has
/// ::ffff:a.b.c.d in the IPv6 fields.
#[inline(always)]
pub(crate) fn local_address(family: u16, common: &SockCommon, local: LocalSide) -> [u32; 4] {
    if family == AF_INET6 {
        common.words(place!(offsets.skc_v6_rcv_saddr))
    } else {
        [local.address, 0, 0, 0]
    }
}

/// The remote address, likewise.
#[inline(always)]
pub(crate) fn remote_address(family: u16, common: &SockCommon) -> [u32; 4] {
    if family == AF_INET6 {
        common.words(place!(offsets.skc_v6_daddr))
    } else {
        [common.field(place!(offsets.skc_daddr)), 0, 0, 0]
    }
}

/// Writes what is as long as an address, in network byte order or any other, to its place in a record.
///
/// Word by word, since the compiler copies one of 16 bytes by a loop over them, which takes its time, and which
/// the verifier follows with every number in the program as exact.
///
/// # Safety
/// `place` must be writable and aligned to 4 bytes.
#[inline(always)]
pub(crate) unsafe fn store_words(place: *mut [u8; 16], [a, b, c, d]: [u32; 4]) {
    let words = place.cast::<u32>();
    // SAFETY: the caller vouches for the 16 bytes.
    unsafe {
        words.write_volatile(a);
        words.add(1).write_volatile(b);
        words.add(2).write_volatile(c);
        words.add(3).write_volatile(d);
    }
}

/// `SO_REUSEADDR` and `SO_REUSEPORT` as bits of [`flag`].
#[inline(always)]
pub(crate) fn reuse_flags(common: &SockCommon) -> u32 {
    let mut flags = 0;
    let reuse: u8 = common.field(place!(offsets.skc_reuse));
    if u32::from(reuse) & config!(offsets.skc_reuse_mask) != 0 {
        flags |= flag::REUSEADDR;
    }
    let reuseport: u8 = common.field(place!(offsets.skc_reuseport));
    if u32::from(reuseport) & config!(offsets.skc_reuseport_mask) != 0 {
        flags |= flag::REUSEPORT;
    }
    flags
}

/// To whom a socket belongs.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    /// `sk_uid`; `u32::MAX` when it cannot be read.
    pub(crate) uid: u32,
    /// Address of its `struct cgroup`; `None` when it has none of its own.
    pub(crate) cgroup: Option<u64>,
}

impl Owner {
    /// The owner of a socket.
    #[inline(always)]
    pub(crate) fn read(sk: Object, room: &mut OwnerRoom) -> Self {
        if are_owners_fields_apart() {
            return Self {
                uid: sk.load(place!(offsets.sk_uid)).unwrap_or(u32::MAX),
                cgroup: sk.load(place!(offsets.sk_cgrp_data)).and_then(untagged),
            };
        }
        let start = config!(offsets.owner);
        if !room.copy(sk.address() + u64::from(start)) {
            return Self {
                uid: u32::MAX,
                cgroup: None,
            };
        }
        Self {
            uid: room.copied(config!(offsets.sk_uid) - start),
            cgroup: untagged(room.copied(config!(offsets.sk_cgrp_data) - start)),
        }
    }
}

/// Whether what [`Owner::read`] and [`owner_field`] look at is read field by field: where that costs nothing, and
/// where the fields lie too far apart to be copied.
#[inline(always)]
fn are_owners_fields_apart() -> bool {
    memory::is_direct() || config!(offsets.owner) == OwnerWindow::NONE
}

/// A field of a socket that lies in the room which [`Owner::read`] has filled; read by itself where it does not.
/// 0 when it cannot be read.
#[inline(always)]
pub(crate) fn owner_field<T: Word + Default, const AT: usize>(
    sk: Object,
    room: &OwnerRoom,
    place: Place<AT>,
) -> T {
    if are_owners_fields_apart() {
        return sk.load(place).unwrap_or_default();
    }
    room.copied(Place::<AT>::offset() - config!(offsets.owner))
}

/// Before 5.16 the 8 bytes of `sk_cgrp_data` hold a tagged value unless the low bits are clear:
/// include/linux/cgroup.h `sock_cgroup_ptr` (v5.10).
#[inline(always)]
pub(crate) fn untagged(cgroup: u64) -> Option<u64> {
    (cgroup != 0 && cgroup & 3 == 0).then_some(cgroup)
}

/// Inode number of a `struct net`; 0 when it cannot be read.
#[inline(always)]
pub(crate) fn netns_inode(net: u64) -> u32 {
    memory::load(net, place!(offsets.net_inum)).unwrap_or(0)
}

/// The `struct kernfs_node` of a cgroup.
#[inline(always)]
pub(crate) fn cgroup_node(cgroup: u64) -> Option<u64> {
    memory::load(cgroup, place!(offsets.cgroup_kn))
}

/// `id` of a kernfs node: the inode number of a cgroup's directory. 0 when it cannot be read.
#[inline(always)]
pub(crate) fn node_id(node: u64) -> u64 {
    memory::load(node, place!(offsets.kn_id)).unwrap_or(0)
}

/// The parent of a kernfs node; 0 above the root.
#[inline(always)]
pub(crate) fn node_parent(node: u64) -> u64 {
    memory::load(node, place!(offsets.kn_parent)).unwrap_or(0)
}
