//! Owns the reads of the kernel's structures: by offsets from the running kernel's BTF, never by
//! offsets known at compile time.
//!
//! A helper takes its time to copy a field (docs/performance.md), and says when it cannot. From 6.17 on a program
//! may read the kernel's memory by instructions of its own; what cannot be read is 0 then. What every event needs
//! is read that way where the kernel allows it.

use core::{
    arch::asm,
    ffi::c_void,
    mem::{self, MaybeUninit, size_of},
    ptr,
};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use tcptrace_common::{AF_INET6, CommonWindow, LocalWindow, OwnerWindow, flag, kfunc};

/// A field of [`crate::maps::CONFIG`], as user space set it before loading.
///
/// The read is volatile so that the compiler does not fold in what the object holds.
macro_rules! config {
    ($($field:ident).+) => {{
        // SAFETY: CONFIG is a static that nothing writes to; the read only hides its value from
        // the compiler.
        unsafe { core::ptr::read_volatile(&raw const crate::maps::CONFIG.$($field).+) }
    }};
}
pub(crate) use config;

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

/// Reads a `T` at `base + offset` of kernel memory; `None` when that address cannot be read.
#[inline(always)]
pub(crate) fn read<T: Copy>(base: u64, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: `value` is as large as the size given; the helper fails on a bad source address.
    let result = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast::<c_void>(),
            size_of::<T>() as u32,
            (base + u64::from(offset)) as *const c_void,
        )
    };
    // SAFETY: the helper has filled all of `value` when it returns 0.
    (result == 0).then(|| unsafe { value.assume_init() })
}

/// Reads a `T`, which is an integer, at `base + offset` of kernel memory, in the fastest way that there is. Where
/// that address cannot be read it is `None` if a helper reads, and 0 if the program itself does.
#[inline(always)]
pub(crate) fn load<T: Copy>(base: u64, offset: u32) -> Option<T> {
    if is_direct() {
        return Some(direct(base + u64::from(offset)));
    }
    read(base, offset)
}

/// Whether the program reads the kernel's memory by itself. The verifier knows, and leaves out the other way.
#[inline(always)]
pub(crate) fn is_direct() -> bool {
    config!(direct_reads) != 0
}

/// Reads a `T`, which is an integer, by one instruction; 0 where there is nothing to be read.
///
/// kernel/bpf/helpers.c `bpf_rdonly_cast` (v6.18) makes a pointer to memory of no type out of any address if the
/// type's id is 0 (since 6.17). The kernel catches faults of reads through it: kernel/bpf/verifier.c
/// `convert_ctx_accesses`, `BPF_PROBE_MEM`. Some do not where one instruction reads through such a pointer and,
/// coming from elsewhere, through another kind. Here the compiler makes one instruction of the two ways to read a
/// window, of which the verifier only ever follows one.
#[inline(always)]
fn direct<T: Copy>(address: u64) -> T {
    // SAFETY: user space puts a call of that function in the place of this helper; what it returns may be read.
    unsafe {
        let cast: extern "C" fn(u64, u32) -> *const T = mem::transmute(kfunc::RDONLY_CAST as usize);
        cast(address, 0).read_volatile()
    }
}

/// Reads the pointers, or what is as long, at two offsets: in one go where the second follows the first.
#[inline(always)]
pub(crate) fn read_two(base: u64, first: u32, second: u32) -> Option<(u64, u64)> {
    if !is_direct() && second == first + 8 {
        let [first, second]: [u64; 2] = read(base, first)?;
        return Some((first, second));
    }
    Some((load(base, first)?, load(base, second)?))
}

/// A view of `WORDS` × 8 bytes of kernel memory: a copy, read in one go, since a helper takes about 40 ns
/// whatever the size; or only the address, where the program reads by itself. Filled in place, because it is too
/// large to be moved about.
#[repr(C)]
pub(crate) struct Window<const WORDS: usize> {
    start: u64,
    copy: MaybeUninit<[u64; WORDS]>,
}

/// The first bytes of a `struct sock`: all of `struct sock_common` that is used.
pub(crate) type SockCommon = Window<{ CommonWindow::BYTES / 8 }>;

/// The part of a `struct sock` that tells to whom it belongs, and why it closes.
pub(crate) type OwnerBytes = Window<{ OwnerWindow::BYTES / 8 }>;

impl<const WORDS: usize> Window<WORDS> {
    /// A window that holds nothing yet.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self {
            start: 0,
            copy: MaybeUninit::uninit(),
        }
    }

    /// Opens it at `base + offset`; says whether that could be read, as far as it knows.
    #[inline(always)]
    pub(crate) fn fill(&mut self, base: u64, offset: u32) -> bool {
        let start = base + u64::from(offset);
        if is_direct() {
            self.start = start;
            return true;
        }
        // SAFETY: the window is as large as the size given; the helper fails on a bad source.
        let result = unsafe {
            bpf_probe_read_kernel(
                self.copy.as_mut_ptr().cast::<c_void>(),
                (WORDS * 8) as u32,
                start as *const c_void,
            )
        };
        result == 0
    }

    /// Four words at `offset` of the window, which has been filled.
    #[inline(always)]
    fn words(&self, offset: u32) -> [u32; 4] {
        // Not by `map`, which the compiler may make a function of its own.
        [
            self.field(offset),
            self.field(offset + 4),
            self.field(offset + 8),
            self.field(offset + 12),
        ]
    }

    /// The field at `offset` of the window, which has been filled: an integer.
    #[inline(always)]
    pub(crate) fn field<T: Copy>(&self, offset: u32) -> T {
        if is_direct() {
            return direct(self.start + u64::from(offset));
        }
        // SAFETY: user space refuses to load the program with an offset beyond the window, and so
        // does the verifier, which also sees that the window has been filled.
        unsafe {
            ptr::read(
                self.copy
                    .as_ptr()
                    .cast::<u8>()
                    .add(offset as usize)
                    .cast::<T>(),
            )
        }
    }
}

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
    pub(crate) fn read(sk: u64) -> Option<Self> {
        // The 8-byte boundary before: the verifier wants aligned reads of the stack.
        let start = config!(offsets.inet_saddr) & !7;
        let mut window = Window::<{ LocalWindow::BYTES / 8 }>::new();
        window.fill(sk, start).then(|| Self {
            address: window.field(config!(offsets.inet_saddr) - start),
            port: u16::from_be(window.field(config!(offsets.inet_sport) - start)),
        })
    }

    /// What `sock_common` says, which is the same in all other events and has been read already.
    #[inline(always)]
    pub(crate) fn of(common: &SockCommon) -> Self {
        Self {
            address: common.field(config!(offsets.skc_rcv_saddr)),
            port: common.field(config!(offsets.skc_num)),
        }
    }
}

/// The local address in network byte order. A socket of family AF_INET6 is asked for its IPv6 fields
/// only: a native one has 127.0.0.6 in the IPv4 fields (`LOOPBACK4_IPV6`), a v4-mapped one has
/// ::ffff:a.b.c.d in the IPv6 fields.
#[inline(always)]
pub(crate) fn local_address(family: u16, common: &SockCommon, local: LocalSide) -> [u32; 4] {
    if family == AF_INET6 {
        common.words(config!(offsets.skc_v6_rcv_saddr))
    } else {
        [local.address, 0, 0, 0]
    }
}

/// The remote address, likewise.
#[inline(always)]
pub(crate) fn remote_address(family: u16, common: &SockCommon) -> [u32; 4] {
    if family == AF_INET6 {
        common.words(config!(offsets.skc_v6_daddr))
    } else {
        [common.field(config!(offsets.skc_daddr)), 0, 0, 0]
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
    let reuse: u8 = common.field(config!(offsets.skc_reuse));
    if u32::from(reuse) & config!(offsets.skc_reuse_mask) != 0 {
        flags |= flag::REUSEADDR;
    }
    let reuseport: u8 = common.field(config!(offsets.skc_reuseport));
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
    /// The owner of the socket at `sk`.
    #[inline(always)]
    pub(crate) fn read(sk: u64, window: &mut OwnerBytes) -> Self {
        let start = config!(offsets.owner);
        if start == OwnerWindow::NONE {
            return Self {
                uid: load(sk, config!(offsets.sk_uid)).unwrap_or(u32::MAX),
                cgroup: load(sk, config!(offsets.sk_cgrp_data)).and_then(untagged),
            };
        }
        if !window.fill(sk, start) {
            return Self {
                uid: u32::MAX,
                cgroup: None,
            };
        }
        Self {
            uid: window.field(config!(offsets.sk_uid) - start),
            cgroup: untagged(window.field(config!(offsets.sk_cgrp_data) - start)),
        }
    }
}

/// A field of the socket at `sk` that lies in the window which [`Owner::read`] has filled; read by
/// itself where there is no such window. 0 when it cannot be read.
#[inline(always)]
pub(crate) fn owner_field<T: Copy + Default>(sk: u64, window: &OwnerBytes, offset: u32) -> T {
    let start = config!(offsets.owner);
    if start == OwnerWindow::NONE {
        return load(sk, offset).unwrap_or_default();
    }
    window.field(offset - start)
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
    load(net, config!(offsets.net_inum)).unwrap_or(0)
}

/// The `struct kernfs_node` of a cgroup.
#[inline(always)]
pub(crate) fn cgroup_node(cgroup: u64) -> Option<u64> {
    load(cgroup, config!(offsets.cgroup_kn))
}

/// `id` of a kernfs node: the inode number of a cgroup's directory. 0 when it cannot be read.
#[inline(always)]
pub(crate) fn node_id(node: u64) -> u64 {
    load(node, config!(offsets.kn_id)).unwrap_or(0)
}

/// The parent of a kernfs node; 0 above the root.
#[inline(always)]
pub(crate) fn node_parent(node: u64) -> u64 {
    load(node, config!(offsets.kn_parent)).unwrap_or(0)
}
