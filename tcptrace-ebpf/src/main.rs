//! The eBPF object of tcptrace: licence, panic handler, and the list of its rooms.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod emit;
mod filter;
mod follow;
mod identity;
mod kernel;
mod maps;
mod probes;
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
