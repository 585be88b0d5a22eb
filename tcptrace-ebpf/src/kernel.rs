//! Owns the reads of the kernel's structures: by offsets from the running kernel's BTF, never by
//! offsets known at compile time.

use core::{
    ffi::c_void,
    mem::{MaybeUninit, size_of},
    ptr,
};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use tcptrace_common::CommonWindow;

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

/// The first bytes of a `struct sock`, copied at once: all of `struct sock_common` that is used.
pub(crate) struct SockCommon([u64; CommonWindow::BYTES / 8]);

impl SockCommon {
    /// Copies the window of the socket at `sk`.
    #[inline(always)]
    pub(crate) fn read(sk: u64) -> Option<Self> {
        read(sk, 0).map(Self)
    }

    /// The field at `offset`, which user space has checked to lie within the window.
    #[inline(always)]
    pub(crate) fn field<T: Copy>(&self, offset: u32) -> T {
        // SAFETY: user space refuses to load the program with an offset beyond the window, and so
        // does the verifier.
        unsafe {
            ptr::read(
                self.0
                    .as_ptr()
                    .cast::<u8>()
                    .add(offset as usize)
                    .cast::<T>(),
            )
        }
    }
}

/// The local side of an `inet_sock`: `inet_saddr` and `inet_sport` lie within 16 bytes.
pub(crate) struct LocalSide([u64; 2]);

impl LocalSide {
    /// Copies the window of the socket at `sk`.
    #[inline(always)]
    pub(crate) fn read(sk: u64) -> Option<Self> {
        read(sk, Self::start()).map(Self)
    }

    /// `inet_saddr`, network byte order.
    #[inline(always)]
    pub(crate) fn address(&self) -> u32 {
        self.field(config!(offsets.inet_saddr) - Self::start())
    }

    /// `inet_sport`, host byte order. Still right in events to CLOSE, when `inet_num` is 0 already.
    #[inline(always)]
    pub(crate) fn port(&self) -> u16 {
        u16::from_be(self.field(config!(offsets.inet_sport) - Self::start()))
    }

    /// The 8-byte boundary at or before `inet_saddr`: the verifier wants aligned stack reads.
    #[inline(always)]
    fn start() -> u32 {
        config!(offsets.inet_saddr) & !7
    }

    #[inline(always)]
    fn field<T: Copy>(&self, offset: u32) -> T {
        // SAFETY: user space has checked that both fields lie within 16 bytes of the start.
        unsafe {
            ptr::read(
                self.0
                    .as_ptr()
                    .cast::<u8>()
                    .add(offset as usize)
                    .cast::<T>(),
            )
        }
    }
}

/// Inode number of a `struct net`; 0 when it cannot be read.
#[inline(always)]
pub(crate) fn netns_inode(net: u64) -> u32 {
    read(net, config!(offsets.net_inum)).unwrap_or(0)
}

/// The `struct kernfs_node` of the socket's cgroup; `None` when the socket has none of its own.
#[inline(always)]
pub(crate) fn cgroup_node(sk: u64) -> Option<u64> {
    let cgroup = read::<u64>(sk, config!(offsets.sk_cgrp_data))?;
    // Before 5.16 the same 8 bytes hold a tagged value unless the low bits are clear:
    // include/linux/cgroup.h `sock_cgroup_ptr` (v5.10).
    if cgroup == 0 || cgroup & 3 != 0 {
        return None;
    }
    read(cgroup, config!(offsets.cgroup_kn))
}

/// `id` of a kernfs node: the inode number of a cgroup's directory. 0 when it cannot be read.
#[inline(always)]
pub(crate) fn node_id(node: u64) -> u64 {
    read(node, config!(offsets.kn_id)).unwrap_or(0)
}

/// The parent of a kernfs node; 0 above the root.
#[inline(always)]
pub(crate) fn node_parent(node: u64) -> u64 {
    read(node, config!(offsets.kn_parent)).unwrap_or(0)
}
