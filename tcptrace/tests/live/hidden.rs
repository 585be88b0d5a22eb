//! What a kernel keeps from eBPF programs by design, so that no program can be blamed for missing it.
//!
//! Some kernels do not run a program while process 1 is on the CPU, and do not count that: they have
//! a field `init_owned` in `struct bpf_prog_aux`, and `bpf_trace_run3` looks at it. In an interrupt of
//! process 1 the events of any connection are missed. Other kernels have nothing of the kind.

use std::{fs, sync::OnceLock};

use anyhow::{Context, Result};

use crate::{
    event::{Event, Life},
    sys,
    time_waits::handler,
    tracefs::{Instance, TRANSITIONS},
};

/// What the tracer lives on, and of which events of it the kernel's own trace can tell whose they are.
const EVENTS: [&str; 4] = [
    TRANSITIONS,
    "events/tcp/tcp_send_reset",
    "events/tcp/tcp_receive_reset",
    TIMERS,
];
const TIMERS: &str = "events/timer/timer_expire_entry";

/// The kernel's own trace of what happens while process 1 is on the CPU.
pub(crate) struct Watch(Instance);

impl Watch {
    /// Starts it; `None` where nothing is kept from a program, and where nobody may look.
    pub(crate) fn start() -> Result<Option<Self>> {
        if !has_hidden_process() || !sys::is_root() {
            return Ok(None);
        }
        let instance = Instance::new()?;
        instance.write("trace_clock", "boot")?;
        instance.write("buffer_size_kb", "64")?;
        let of_process_1 = threads_of_process_1()
            .iter()
            .map(|thread| format!("common_pid == {thread}"))
            .collect::<Vec<_>>()
            .join(" || ");
        for event in EVENTS {
            let filter = if event == TIMERS {
                format!("function == {:#x} && ({of_process_1})", handler()?)
            } else {
                of_process_1.clone()
            };
            instance.write(&format!("{event}/filter"), &filter)?;
            instance.write(&format!("{event}/enable"), "1")?;
        }
        Ok(Some(Self(instance)))
    }

    /// How many there were.
    pub(crate) fn count(&self) -> Result<usize> {
        EVENTS.iter().try_fold(0, |sum, event| {
            let (_, name) = event.rsplit_once('/').context("an event has a name")?;
            Ok(sum + self.0.dates(name)?.len())
        })
    }
}

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
