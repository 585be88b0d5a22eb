//! Owns what the programs on bind(), listen() and connect() are told: where the kernel's fields lie
//! that only they read. A kernel without one of the optional fields has no such option.

use core::mem::size_of;

/// Where the arguments of a system call lie in the classic tracepoints `syscalls/sys_enter_*` and
/// `sys_exit_*`: kernel/trace/trace_syscalls.c `syscall_enter_define_fields` (v6.18). User space compares
/// with the `format` file before it attaches.
pub mod syscall_layout {
    /// Offset of the number of the system call (int, of which kernels up to 6.1 at least make a long: its
    /// first half is the same on machines that are little endian, and 0 for all calls on others).
    pub const NUMBER: usize = 8;
    /// Offset of the first argument, in bytes; each has 8.
    pub const ARGUMENTS: usize = 16;
    /// Offset of what the call returns (long).
    pub const RESULT: usize = 16;
}

/// Bytes of a socket address that are looked at: a `struct sockaddr_in6`.
pub const SOCKADDR_BYTES: usize = 28;

/// How many calls may be under way at once: tasks that wait in connect().
pub const CALLS_UNDER_WAY: u32 = 8192;

/// Of how many tasks that have called before the programs keep the place for the next call.
pub const CALLS_KEPT: u32 = 2048;

/// Some bits of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Bits {
    /// Offset of the byte.
    pub byte: u32,
    /// The bits within it, side by side; 0 when this kernel has no such field.
    pub mask: u32,
}

impl Bits {
    /// No such field.
    pub const NONE: Self = Self { byte: 0, mask: 0 };
}

/// Byte offsets within the running kernel's structures, from its BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CallOffsets {
    /// `sock.__sk_common.skc_bound_dev_if` (int)
    pub skc_bound_dev_if: u32,
    /// The bit `sock.__sk_common.skc_ipv6only`
    pub skc_ipv6only: Bits,
    /// The bits `sock.sk_userlocks`
    pub sk_userlocks: Bits,
    /// `sock.sk_reuseport_cb` (pointer)
    pub sk_reuseport_cb: u32,
    /// `IP_FREEBIND` in `inet_sock`: a bit of `inet_flags` (6.6 and later), `freebind` before
    pub freebind: Bits,
    /// `IP_TRANSPARENT`, likewise
    pub transparent: Bits,
    /// `IP_BIND_ADDRESS_NO_PORT`, likewise
    pub bind_address_no_port: Bits,
    /// `inet_sock.local_port_range` (4 bytes); [`crate::Offsets::ABSENT`] before 6.3
    pub local_port_range: u32,
    /// `socket.sk` (pointer)
    pub socket_sk: u32,
    /// `file.private_data` (pointer)
    pub file_private_data: u32,
    /// `file.f_flags` (unsigned int)
    pub file_flags: u32,
    /// `task_struct.files` (pointer)
    pub task_files: u32,
    /// `files_struct.fdt` (pointer)
    pub files_fdt: u32,
    /// `fdtable.max_fds` (unsigned int)
    pub fdt_max_fds: u32,
    /// `fdtable.fd` (pointer to an array of pointers to `struct file`)
    pub fdt_fd: u32,
    /// `task_struct.cred` (pointer); [`crate::Offsets::ABSENT`] when one of the fields below is not known
    pub task_cred: u32,
    /// `cred.cap_effective`: the byte with CAP_NET_BIND_SERVICE
    pub cred_net_bind: Bits,
    /// `cred.euid` (kuid_t, u32)
    pub cred_euid: u32,
    /// `cred.user_ns` (pointer to `struct user_namespace`)
    pub cred_user_ns: u32,
    /// `net.user_ns` (pointer to `struct user_namespace`)
    pub net_user_ns: u32,
    /// `user_namespace.parent` (pointer)
    pub user_ns_parent: u32,
    /// `user_namespace.level` (int)
    pub user_ns_level: u32,
    /// `user_namespace.owner` (kuid_t, u32)
    pub user_ns_owner: u32,
}

impl CallOffsets {
    /// What the object holds until user space has filled it in, and when calls are not watched.
    pub const UNSET: Self = Self {
        skc_bound_dev_if: 0,
        skc_ipv6only: Bits::NONE,
        sk_userlocks: Bits::NONE,
        sk_reuseport_cb: 0,
        freebind: Bits::NONE,
        transparent: Bits::NONE,
        bind_address_no_port: Bits::NONE,
        local_port_range: crate::Offsets::ABSENT,
        socket_sk: 0,
        file_private_data: 0,
        file_flags: 0,
        task_files: 0,
        files_fdt: 0,
        fdt_max_fds: 0,
        fdt_fd: 0,
        task_cred: crate::Offsets::ABSENT,
        cred_net_bind: Bits::NONE,
        cred_euid: 0,
        cred_user_ns: 0,
        net_user_ns: 0,
        user_ns_parent: 0,
        user_ns_level: 0,
        user_ns_owner: 0,
    };
}

const _: () = {
    assert!(size_of::<Bits>() == 8);
    assert!(size_of::<CallOffsets>() == 29 * 4);
};
