//! Owns the program that lists the sockets that hold a port when user space asks for it. It is attached to
//! nothing: `BPF_PROG_TEST_RUN` runs it once, in the task that asks (net/bpf/test_run.c
//! `bpf_prog_test_run_raw_tp`, v6.18; since 5.10).

use core::ffi::c_void;

use aya_ebpf::programs::RawTracePointContext;

use crate::bucket;

/// Arguments: the port, and the interface that the asker would be bound to (0 for none). Lists what
/// holds the port in the namespace of the current task. Returns how many records it has emitted, with
/// bit 16 set when there may be more; or `u32::MAX` when this kernel's table is not known.
// Without the macro of aya, whose programs return 0 whatever they are told to.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
extern "C" fn list_holders(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let (port, device): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let Some(net) = bucket::current_net() else {
        return u32::MAX;
    };
    let listed = bucket::list(0, net, port as u16, device as u32);
    listed.count | u32::from(listed.cut) << 16
}
