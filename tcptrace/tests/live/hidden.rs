//! What a kernel keeps from eBPF programs by design, so that no program can be blamed for missing it.
//!
//! Some kernels do not run a program while process 1 is on the CPU, and do not count that: they have
//! a field `init_owned` in `struct bpf_prog_aux`, and `bpf_trace_run3` looks at it. In an interrupt of
//! process 1 the events of any connection are missed. Other kernels have nothing of the kind.

use std::{fs, sync::OnceLock};

use crate::event::{Event, Life};

/// The events that an eBPF program can see, in the order of time. Says how many it cannot.
pub(crate) fn visible(lives: &[Life]) -> Vec<Event> {
    let threads = threads_of_process_1();
    let (hidden, mut visible): (Vec<Event>, Vec<Event>) = lives
        .iter()
        .flatten()
        .cloned()
        .partition(|event| has_hidden_process() && threads.contains(&event.tid));
    if !hidden.is_empty() {
        eprintln!(
            "{} events came while process 1 was on the CPU, which this kernel keeps from eBPF programs",
            hidden.len()
        );
    }
    visible.sort_by_key(|event| event.ts_ns);
    visible
}

fn has_hidden_process() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let name = b"\0init_owned\0";
        fs::read("/sys/kernel/btf/vmlinux")
            .is_ok_and(|types| types.windows(name.len()).any(|bytes| bytes == name))
    })
}

fn threads_of_process_1() -> Vec<u32> {
    fs::read_dir("/proc/1/task")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}
