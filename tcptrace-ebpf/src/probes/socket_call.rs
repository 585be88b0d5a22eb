//! Owns the probes on bind(), listen() and connect() where the kernel allows fentry and fexit: the
//! functions behind the system calls, io_uring's and the kernel's own calls included.
//!
//! User space loads those programs that fit the running kernel's functions.

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use tcptrace_common::{call, socket_flag};

use crate::{
    call::{self as calls, Address, Syscall},
    memory, preemption,
    told::config,
};

/// net/ipv4/af_inet.c `inet_bind(sock, uaddr, addr_len)` (v6.18).
#[fentry(function = "inet_bind")]
fn inet_bind(ctx: FEntryContext) -> i32 {
    preemption::without(|| begin_with_address(ctx.arg(0), call::BIND, ctx.arg(1), ctx.arg(2)));
    0
}

/// Its end. -EADDRINUSE on every kernel: up to 5.15 it translates the 1 of `inet_csk_get_port`.
#[fexit(function = "inet_bind")]
fn inet_bind_end(ctx: FExitContext) -> i32 {
    preemption::without(|| end(ctx.arg(0), call::BIND, ctx.arg(3)));
    0
}

/// net/ipv6/af_inet6.c `inet6_bind(sock, uaddr, addr_len)` (v6.18).
#[fentry(function = "inet6_bind")]
fn inet6_bind(ctx: FEntryContext) -> i32 {
    preemption::without(|| begin_with_address(ctx.arg(0), call::BIND, ctx.arg(1), ctx.arg(2)));
    0
}

/// Its end.
#[fexit(function = "inet6_bind")]
fn inet6_bind_end(ctx: FExitContext) -> i32 {
    preemption::without(|| end(ctx.arg(0), call::BIND, ctx.arg(3)));
    0
}

/// net/ipv4/af_inet.c `inet_listen(sock, backlog)` (v6.18), for IPv6, too.
#[fentry(function = "inet_listen")]
fn inet_listen(ctx: FEntryContext) -> i32 {
    preemption::without(|| begin(ctx.arg(0), call::LISTEN, Address::None, ctx.arg(1)));
    0
}

/// Its end.
#[fexit(function = "inet_listen")]
fn inet_listen_end(ctx: FExitContext) -> i32 {
    preemption::without(|| end(ctx.arg(0), call::LISTEN, ctx.arg(2)));
    0
}

/// net/ipv4/af_inet.c `inet_stream_connect(sock, uaddr, addr_len, flags)` (v6.18), for IPv6, too.
#[fentry(function = "inet_stream_connect")]
fn inet_stream_connect(ctx: FEntryContext) -> i32 {
    preemption::without(|| begin_with_address(ctx.arg(0), call::CONNECT, ctx.arg(1), ctx.arg(2)));
    0
}

/// Its end.
#[fexit(function = "inet_stream_connect")]
fn inet_stream_connect_end(ctx: FExitContext) -> i32 {
    preemption::without(|| end(ctx.arg(0), call::CONNECT, ctx.arg(4)));
    0
}

/// security/security.c `security_socket_bind(sock, address, addrlen)` (v6.18): a refusal comes before
/// the functions above.
#[fexit(function = "security_socket_bind")]
fn security_socket_bind(ctx: FExitContext) -> i32 {
    preemption::without(|| {
        let result = ctx.arg(3);
        if result != 0 {
            begin_with_address(ctx.arg(0), call::BIND, ctx.arg(1), ctx.arg(2));
            refused(ctx.arg(0), call::BIND, result);
        }
    });
    0
}

/// security/security.c `security_socket_listen(sock, backlog)` (v6.18).
#[fexit(function = "security_socket_listen")]
fn security_socket_listen(ctx: FExitContext) -> i32 {
    preemption::without(|| {
        let result = ctx.arg(2);
        if result != 0 {
            begin(ctx.arg(0), call::LISTEN, Address::None, ctx.arg(1));
            refused(ctx.arg(0), call::LISTEN, result);
        }
    });
    0
}

/// security/security.c `security_socket_connect(sock, address, addrlen)` (v6.18).
#[fexit(function = "security_socket_connect")]
fn security_socket_connect(ctx: FExitContext) -> i32 {
    preemption::without(|| {
        let result = ctx.arg(3);
        if result != 0 {
            begin_with_address(ctx.arg(0), call::CONNECT, ctx.arg(1), ctx.arg(2));
            refused(ctx.arg(0), call::CONNECT, result);
        }
    });
    0
}

/// net/ipv4/inet_connection_sock.c `inet_csk_get_port(sk, snum)` (v6.18), which bind() and listen() ask for
/// their port, with IPv6, too. On failure it returns 1 up to 5.15, -EADDRINUSE later.
#[fexit(function = "inet_csk_get_port")]
fn inet_csk_get_port(ctx: FExitContext) -> i32 {
    preemption::without(|| {
        if ctx.arg::<i32>(2) != 0 {
            calls::list_holders_of_port(ctx.arg(0));
        }
    });
    0
}

/// net/ipv4/inet_hashtables.c `inet_hash_connect(death_row, sk)` (v6.18), by which connect() gets a port, or
/// tries the one that it has.
#[fexit(function = "inet_hash_connect")]
fn inet_hash_connect(ctx: FExitContext) -> i32 {
    preemption::without(|| calls::list_holders(call::CONNECT, ctx.arg(1), ctx.arg(2)));
    0
}

/// net/ipv6/inet6_hashtables.c `inet6_hash_connect(death_row, sk)` (v6.18), likewise.
#[fexit(function = "inet6_hash_connect")]
fn inet6_hash_connect(ctx: FExitContext) -> i32 {
    preemption::without(|| calls::list_holders(call::CONNECT, ctx.arg(1), ctx.arg(2)));
    0
}

/// net/ipv4/inet_connection_sock.c `inet_bind_conflict(sk, sk2, uid, relax, reuseport_cb_ok,
/// reuseport_ok)` (v6.1): the last one that it is true for is in the way. Many compilers put it into its
/// callers.
#[fexit(function = "inet_bind_conflict")]
fn inet_bind_conflict_6(ctx: FExitContext) -> i32 {
    preemption::without(|| conflict(ctx.arg(0), ctx.arg(1), ctx.arg(6)));
    0
}

/// The same without `uid` (later kernels).
#[fexit(function = "inet_bind_conflict")]
fn inet_bind_conflict_5(ctx: FExitContext) -> i32 {
    preemption::without(|| conflict(ctx.arg(0), ctx.arg(1), ctx.arg(5)));
    0
}

/// net/ipv4/inet_connection_sock.c `inet_rcv_saddr_equal(sk, sk2, match_wildcard)` (v5.10): what
/// `inet_csk_bind_conflict` asks last, where there is no `inet_bind_conflict`.
#[fexit(function = "inet_rcv_saddr_equal")]
fn inet_rcv_saddr_equal(ctx: FExitContext) -> i32 {
    preemption::without(|| conflict(ctx.arg(0), ctx.arg(1), ctx.arg(3)));
    0
}

/// `answer` is a bool: the kernel's functions leave anything in the bits above.
#[inline(always)]
fn conflict(sk: u64, holder: u64, answer: u64) {
    if answer & 0xff != 0 {
        calls::in_the_way(sk, holder);
    }
}

/// The `struct sock` of a `struct socket`; 0 when it cannot be read.
#[inline(always)]
fn sock_of(socket: u64) -> u64 {
    memory::read(socket, config!(calls.socket_sk)).unwrap_or(0)
}

#[inline(always)]
fn begin_with_address(socket: u64, call: u8, address: u64, len: u32) {
    begin(socket, call, Address::Kernel(address), len);
}

#[inline(always)]
fn begin(socket: u64, call: u8, address: Address, number: u32) {
    calls::begin(sock_of(socket), call, Syscall::UNKNOWN, address, number);
}

#[inline(always)]
fn end(socket: u64, call: u8, result: i32) {
    calls::end(call, sock_of(socket), result, 0);
}

#[inline(always)]
fn refused(socket: u64, call: u8, result: i32) {
    calls::end(call, sock_of(socket), result, socket_flag::REFUSED_BY_LSM);
}
