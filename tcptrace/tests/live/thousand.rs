//! More than a thousand connections of mixed kinds from several threads, one for one.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};

use crate::endings::ENDINGS;
use crate::kernel_trace::KernelTrace;
use crate::sockets::Family;
use crate::tracer::Tracer;
use crate::{Scenario, compare, netns, ports};

const CONNECTIONS_PER_FAMILY: usize = 220;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "thousand: mixed connections from five threads",
        thousand,
    )]
}

fn thousand() -> Result<()> {
    netns::with_new(|_| {
        let ports = ports::several(Family::ALL.len());
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--port", &ports::list(&ports)])?;
        let made = play(&ports, CONNECTIONS_PER_FAMILY)?;
        ensure!(made >= 1000, "only {made} connections were made");
        let lives = kernel.wait_until_over(&ports)?;
        ensure!(
            lives.len() >= 2 * made,
            "{made} connections have two ends each, but the kernel recorded {} sockets",
            lives.len()
        );
        compare::same(&lives, &tracer.stop()?)
    })
}

/// Makes `each` connections to each of these ports, one port for each family and all at once, in the network
/// namespace of this thread; returns how many were made.
pub(crate) fn play(ports: &[u16], each: usize) -> Result<usize> {
    let counter = AtomicUsize::new(0);
    let made = &counter;
    std::thread::scope(|scope| {
        let threads: Vec<_> = Family::ALL
            .into_iter()
            .zip(ports)
            .map(|(family, port)| scope.spawn(move || many(family, *port, each, made)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread of the workload panicked"))?
        })
    })?;
    Ok(counter.into_inner())
}

fn many(family: Family, port: u16, each: usize, made: &AtomicUsize) -> Result<()> {
    let listener = family.listener(port)?;
    for ending in ENDINGS.iter().cycle().take(each) {
        family
            .pair(&listener, port)
            .map_err(Into::into)
            .and_then(ending.run)
            .with_context(|| format!("{family:?}, {}, port {port}", ending.name))?;
        made.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
