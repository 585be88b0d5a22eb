//! The eBPF object of tcptrace: licence, panic handler, and the list of its rooms.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    clippy::cast_possible_truncation,
    clippy::cast_ptr_alignment,
    clippy::needless_borrows_for_generic_args,
    clippy::needless_pass_by_value,
    clippy::verbose_bit_mask,
    reason = "a function that is not inlined costs a call and the verifier's patience; helpers speak \
              u64 and u32; fields of kernel structures are aligned where BTF says they are; keys \
              that are moved would be copied on a stack of 512 bytes; the kernel calls the program \
              by value; tag bits are a mask"
)]

mod bucket;
mod call;
mod checked;
mod emit;
mod evidence;
mod filter;
mod follow;
mod identity;
mod kernel;
mod maps;
mod memory;
mod minisocket;
mod nesting;
mod preemption;
mod probes;
mod protocol;
mod socket_options;
mod task;
mod told;
mod undecided;

/// The helpers used (`bpf_probe_read_kernel` and others) are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program that could get here.
    loop {}
}
