//! Everything that knows of BPF: what the kernel must offer, where its fields lie, loading and
//! attaching the programs, and turning their records into inputs.

pub mod calls;
pub mod decode;
pub mod end_reason;
pub mod filters;
pub mod holders;
pub mod hooks;
mod kfuncs;
mod link;
pub mod load;
mod losses;
pub mod netns_set;
pub mod offsets;
mod perf;
pub mod preflight;
pub mod self_check;
mod syscalls;

/// The eBPF object, as `cargo xtask build` made it.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcptrace.o"));
