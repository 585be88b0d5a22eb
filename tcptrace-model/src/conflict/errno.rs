//! Owns the errnos that bind(), listen() and connect() return, with the numbers that x86 and arm64 use
//! (include/uapi/asm-generic/errno-base.h, errno.h, v6.18).

/// `EPERM`
pub const EPERM: u16 = 1;
/// `EINTR`
pub const EINTR: u16 = 4;
/// `ENOMEM`
pub const ENOMEM: u16 = 12;
/// `EACCES`
pub const EACCES: u16 = 13;
/// `ENODEV`
pub const ENODEV: u16 = 19;
/// `EINVAL`
pub const EINVAL: u16 = 22;
/// `ENONET`
pub const ENONET: u16 = 64;
/// `ENOPROTOOPT`
pub const ENOPROTOOPT: u16 = 92;
/// `EOPNOTSUPP`
pub const EOPNOTSUPP: u16 = 95;
/// `EAFNOSUPPORT`
pub const EAFNOSUPPORT: u16 = 97;
/// `EADDRINUSE`
pub const EADDRINUSE: u16 = 98;
/// `EADDRNOTAVAIL`
pub const EADDRNOTAVAIL: u16 = 99;
/// `ENETDOWN`
pub const ENETDOWN: u16 = 100;
/// `ENETUNREACH`
pub const ENETUNREACH: u16 = 101;
/// `ECONNRESET`
pub const ECONNRESET: u16 = 104;
/// `ENOBUFS`
pub const ENOBUFS: u16 = 105;
/// `EISCONN`
pub const EISCONN: u16 = 106;
/// `ETIMEDOUT`
pub const ETIMEDOUT: u16 = 110;
/// `ECONNREFUSED`
pub const ECONNREFUSED: u16 = 111;
/// `EHOSTDOWN`
pub const EHOSTDOWN: u16 = 112;
/// `EHOSTUNREACH`
pub const EHOSTUNREACH: u16 = 113;
/// `EALREADY`
pub const EALREADY: u16 = 114;
/// `EINPROGRESS`: not a failure, a non-blocking connect() goes on.
pub const EINPROGRESS: u16 = 115;
/// `ERESTARTSYS` (include/linux/errno.h, v6.18): what the kernel's functions return for a signal, before
/// the system call becomes EINTR or starts again.
pub const ERESTARTSYS: u16 = 512;
