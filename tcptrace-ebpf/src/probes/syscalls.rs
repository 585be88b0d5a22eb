//! Owns the probes on bind(), listen(), connect() and accept() where the kernel forbids fentry: the
//! tracepoints of these system calls alone. They are emitted by kernel/trace/trace_syscalls.c
//! `perf_syscall_enter` and `perf_syscall_exit` (v6.18), for programs of the machine's own word size.

use aya_ebpf::{EbpfContext, macros::tracepoint, programs::TracePointContext};
use tcptrace_common::{RecordKind, call, syscall_layout};

use super::accept;
use crate::{
    call::{self as calls, Address, Begun, Syscall},
    emit,
    memory::{self, Object, place},
    task,
};

/// net/socket.c `bind(fd, umyaddr, addrlen)` (v6.18).
#[tracepoint]
fn sys_enter_bind(ctx: TracePointContext) -> i32 {
    begin(&ctx, call::BIND);
    0
}

/// net/socket.c `listen(fd, backlog)` (v6.18).
#[tracepoint]
fn sys_enter_listen(ctx: TracePointContext) -> i32 {
    begin(&ctx, call::LISTEN);
    0
}

/// net/socket.c `connect(fd, uservaddr, addrlen)` (v6.18).
#[tracepoint]
fn sys_enter_connect(ctx: TracePointContext) -> i32 {
    begin(&ctx, call::CONNECT);
    0
}

/// The end of any of these: one program for the three tracepoints, so that the kernel verifies it once.
#[tracepoint]
fn sys_exit_call(ctx: TracePointContext) -> i32 {
    end(&ctx);
    0
}

/// Before the end above, likewise.
#[tracepoint]
fn list_for_call(ctx: TracePointContext) -> i32 {
    list(&ctx);
    0
}

/// The end of net/socket.c `accept` and of `accept4` (v6.18): the new descriptor, or an errno made negative.
#[tracepoint]
fn sys_exit_accept(ctx: TracePointContext) -> i32 {
    accepted(&ctx);
    0
}

#[inline(always)]
fn begin(ctx: &TracePointContext, call: u8) {
    // The kernel takes unsigned int.
    let fd = argument(ctx, 0) as u32;
    let Some(sk) = socket(fd) else {
        return;
    };
    let syscall = Syscall {
        number: number(ctx),
        fd,
    };
    let second = argument(ctx, 1);
    if call == call::LISTEN {
        return calls::begin(sk, call, syscall, Address::None, second as u32);
    }
    let len = argument(ctx, 2) as u32;
    calls::begin(sk, call, syscall, Address::User(second), len);
}

#[inline(always)]
fn end(ctx: &TracePointContext) {
    let Some(begun) = Begun::by(number(ctx)) else {
        return;
    };
    let result = result(ctx) as i32;
    if !calls::is_worth_telling(begun.call, result) {
        return begun.forget();
    }
    // Another thread may have closed the descriptor meanwhile, and the socket be gone.
    if socket(begun.fd) == Some(begun.sk) {
        calls::end(begun.call, begun.sk, result, 0);
    } else {
        emit::count_lost(RecordKind::Call);
        begun.forget();
    }
}

/// Where another thread has closed the descriptor meanwhile, there is no record to list anything for.
#[inline(always)]
fn list(ctx: &TracePointContext) {
    let result = result(ctx) as i32;
    if !calls::may_have_holders(result) {
        return;
    }
    if let Some(begun) = Begun::by(number(ctx))
        && socket(begun.fd) == Some(begun.sk)
    {
        calls::list_holders(begun.call, begun.sk, result);
    }
}

#[inline(always)]
fn accepted(ctx: &TracePointContext) {
    if let Ok(fd) = u32::try_from(result(ctx))
        && let Some(child) = socket(fd)
    {
        accept::record(child);
    }
}

/// The number of the system call.
#[inline(always)]
fn number(ctx: &TracePointContext) -> u32 {
    // SAFETY: user space has compared the layout with that of the tracepoint; the verifier bounds it.
    unsafe {
        ctx.as_ptr()
            .byte_add(syscall_layout::NUMBER)
            .cast::<u32>()
            .read_volatile()
    }
}

/// An argument of the system call.
#[inline(always)]
fn argument(ctx: &TracePointContext, number: usize) -> u64 {
    // SAFETY: as above.
    unsafe {
        ctx.as_ptr()
            .byte_add(syscall_layout::ARGUMENTS + number * 8)
            .cast::<u64>()
            .read_volatile()
    }
}

/// What the system call returns.
#[inline(always)]
fn result(ctx: &TracePointContext) -> i64 {
    // SAFETY: as above.
    unsafe {
        ctx.as_ptr()
            .byte_add(syscall_layout::RESULT)
            .cast::<i64>()
            .read_volatile()
    }
}

/// The socket behind a descriptor of the current task: fs/file.c `files_lookup_fd_raw`, net/socket.c
/// `sock_from_file` (v6.18). What is a socket is known by its pointer back to the file.
#[inline(always)]
fn socket(fd: u32) -> Option<u64> {
    let files = memory::load(task::current(), place!(calls.task_files))?;
    let table = memory::load(files, place!(calls.files_fdt))?;
    // The number has 32 bits, and an array's address follows.
    let (max_fds, descriptors) =
        Object::at(table).load_two(place!(calls.fdt_max_fds), place!(calls.fdt_fd))?;
    if fd >= max_fds as u32 {
        return None;
    }
    let file: u64 = memory::load_at(descriptors + u64::from(fd) * 8)?;
    if file == 0 {
        return None;
    }
    let socket = memory::load(file, place!(calls.file_private_data))?;
    let (its_file, sk) =
        Object::at(socket).load_two(place!(offsets.socket_file), place!(calls.socket_sk))?;
    (its_file == file).then_some(sk)
}
