//! The tracer's own source, in this process: its inputs, before any model.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use tcptrace::bpf::calls::Calls;
use tcptrace::bpf::filters::{Filters, NetnsFilter};
use tcptrace::bpf::hooks::Backend;
use tcptrace::bpf::netns_set::NetnsSet;
use tcptrace::failure::Failure;
use tcptrace::host::netns::Namespace;
use tcptrace::source::live::{Live, Request};
use tcptrace_model::conflict::Call;
use tcptrace_model::{Input, SocketCall};

use crate::{PATIENCE, netns, sys};

/// Longer than a list of all sockets takes.
const QUIET: Duration = Duration::from_millis(300);

/// A source.
pub(crate) struct Watch {
    live: Live,
}

impl Watch {
    /// Watches the network namespace of this thread, with these filters beside.
    pub(crate) fn here(calls: Calls, change: impl FnOnce(&mut Filters)) -> Result<Self> {
        Self::open(calls, change).map_err(|failure| anyhow!("{failure}"))
    }

    fn open(calls: Calls, change: impl FnOnce(&mut Filters)) -> Result<Self, Failure> {
        let mut filters = Filters {
            netns: Namespace::own().map_or(NetnsFilter::Any, |own| NetnsFilter::These(vec![own])),
            ..Filters::default()
        };
        change(&mut filters);
        Self::with(filters, Backend::Timer, calls)
    }

    /// Watches what these filters let through, by these backends.
    pub(crate) fn with(filters: Filters, backend: Backend, calls: Calls) -> Result<Self, Failure> {
        let live = Live::open(&Request {
            filters,
            buffer_bytes: 8 << 20,
            log_level: None,
            backend,
            calls,
            btf: None,
        })?;
        Ok(Self { live })
    }

    /// The set of namespaces that are watched, if there is one.
    pub(crate) fn wanted_namespaces(&self) -> Option<NetnsSet> {
        self.live.wanted_namespaces()
    }

    /// Everything until `enough` of it, and what comes in a moment more. Losses are inputs, too.
    pub(crate) fn until(&mut self, enough: impl Fn(&[Input]) -> bool) -> Result<Vec<Input>> {
        let mut inputs = Vec::new();
        let began = Instant::now();
        while !enough(&inputs) {
            ensure!(
                began.elapsed() < PATIENCE,
                "waited {PATIENCE:?}, and saw {} inputs, the first of them {:#?}",
                inputs.len(),
                &inputs[..inputs.len().min(8)]
            );
            self.take(&mut inputs)?;
        }
        let enough = Instant::now();
        while enough.elapsed() < QUIET {
            self.take(&mut inputs)?;
        }
        Ok(inputs)
    }

    /// So many calls, in their order; and no more.
    pub(crate) fn calls(&mut self, count: usize) -> Result<Vec<SocketCall>> {
        let calls = calls(&self.until(|inputs| calls(inputs).len() >= count)?);
        ensure!(
            calls.len() == count,
            "{count} calls were made, but seen were {calls:#?}"
        );
        Ok(calls)
    }

    fn take(&mut self, inputs: &mut Vec<Input>) -> Result<()> {
        while let Some(input) = self.live.next_input()? {
            inputs.push(input);
        }
        let now_ns = sys::boottime_ns()?;
        self.live.losses(now_ns, |loss| inputs.push(loss))?;
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    }
}

/// The calls among inputs.
pub(crate) fn calls(inputs: &[Input]) -> Vec<SocketCall> {
    inputs
        .iter()
        .filter_map(|input| match input {
            Input::Call(call) => Some(*call),
            _ => None,
        })
        .collect()
}

/// The calls with this name.
pub(crate) fn named(calls: &[SocketCall], name: Call) -> Vec<SocketCall> {
    calls
        .iter()
        .filter(|call| call.call == name)
        .copied()
        .collect()
}

/// Runs `test` with each backend that this kernel has, in a network namespace of its own each.
pub(crate) fn with_each_backend(test: impl Fn(Calls) -> Result<()> + Sync) -> Result<()> {
    for calls in [Calls::Fentry, Calls::Syscalls] {
        netns::with_new(|_| {
            match Watch::open(calls, |_| {}) {
                Ok(_) => {}
                // There is a backend for every kernel, so the other one has to be there.
                Err(Failure::Unsupported(why)) if calls == Calls::Fentry => {
                    ensure!(why.contains("fentry") || why.contains("fexit"), "{why}");
                    return Ok(());
                }
                Err(failure) => bail!("{calls:?}: {failure}"),
            }
            test(calls).map_err(|error| error.context(format!("{calls:?}")))
        })?;
    }
    Ok(())
}
