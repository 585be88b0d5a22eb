//! What crosses the boundary between the kernel and user space: the records of the ring buffer, the
//! configuration that user space hands to the eBPF programs, and the numbers both sides agree on.
//!
//! Everything here is `#[repr(C)]`, made of integers only, padded explicitly, and has its layout
//! asserted at compile time: the two sides are built by different compilers.

#![no_std]
#![forbid(unsafe_code)]

mod bucket;
mod calls;
mod config;
pub mod kfunc;
pub mod placeholder;
mod record;
mod socket_call;
mod state;

pub use bucket::{BucketOffsets, HolderLimit};
pub use calls::{Bits, CALLS_KEPT, CALLS_UNDER_WAY, CallOffsets, SOCKADDR_BYTES, syscall_layout};
pub use config::{
    CheckedConnections, CommonWindow, Config, ListenerKey, LocalWindow, Offsets, OwnerWindow,
    PORT_BITMAP_BYTES, PortSet, TimerCode, WANTED_NAMESPACES, filter,
};
pub use record::{
    AcceptRecord, DescheduledRecord, KIND_COUNT, RecordHeader, RecordKind, ResetRecord,
    STACK_FRAMES, TimeWaitRecord, TransitionRecord, file, flag, time_wait, verdict,
};
pub use socket_call::{CallRecord, HolderRecord, call, socket_flag};
pub use state::TcpState;

/// `AF_INET` of include/linux/socket.h (v6.18), as `skc_family` holds it.
pub const AF_INET: u16 = 2;
/// `AF_INET6` of include/linux/socket.h (v6.18), as `skc_family` holds it.
pub const AF_INET6: u16 = 10;
/// `IPPROTO_TCP` of include/uapi/linux/in.h (v6.18), as `sk_protocol` holds it.
pub const IPPROTO_TCP: u16 = 6;
/// `TASK_COMM_LEN` of include/linux/sched.h (v6.18): bytes of a task's name, the closing NUL included.
pub const TASK_COMM_LEN: usize = 16;
