//! A ring buffer that is too small and not read: what is missing is counted, to the last record.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::endings::ENDINGS;
use crate::event::{Event, Life};
use crate::kernel_trace::KernelTrace;
use crate::lines::{self, Report, Transition};
use crate::sockets::{Family, Socket};
use crate::tracer::{self, Tracer};
use crate::{Scenario, compare, hidden, netns, ports, sys};

/// Connections while nobody reads.
const BURST: usize = 500;
/// Connections before and after it, which the tracer keeps up with.
const AROUND: usize = 10;
/// The tracer stamps its lines where the kernel's trace does, some microseconds apart, or more if the
/// machine takes the CPU away between the two.
const TOLERANCE_NS: u64 = 20_000_000;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("losses: a burst that nobody reads adds up", burst),
        Scenario::new(
            "losses: stopped in the middle of a burst adds up",
            stopped_in_burst,
        ),
        Scenario::new(
            "losses: the default buffer holds a pause",
            pause_without_loss,
        ),
    ]
}

/// The file that keeps the tracer from reading its ring buffer while it exists.
pub(crate) struct Dam(PathBuf);

impl Dam {
    pub(crate) fn new(port: u16) -> Self {
        let name = format!("tcptrace-test-{}-{port}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    pub(crate) fn close(&self) -> Result<()> {
        Ok(fs::write(&self.0, "")?)
    }

    pub(crate) fn open(&self) -> Result<()> {
        Ok(fs::remove_file(&self.0)?)
    }

    /// A tracer that it holds up.
    pub(crate) fn stops_reading(&self, mut command: Command) -> Command {
        command.env("TCPTRACE_TEST_STOP_READING", &self.0);
        command
    }
}

impl Drop for Dam {
    fn drop(&mut self) {
        // It is gone already where the test came to its end.
        let _ = fs::remove_file(&self.0);
    }
}

fn start(flags: &[&str], dam: &Dam) -> Result<Tracer> {
    let command = tracer::command(&["--json", "-N", "/proc/self/ns/net"], flags);
    Tracer::json_command(dam.stops_reading(command))
}

fn burst() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let dam = Dam::new(port);
        let mut kernel = KernelTrace::start()?;
        let mut tracer = start(&["--port", &port.to_string(), "--buffer-size", "4K"], &dam)?;
        let listener = Family::V4.listener(port)?;
        // A page holds only some connections' worth of records, so these come one by one.
        for _ in 0..AROUND {
            connect_and_wait(&mut tracer, port, &listener)?;
        }
        dam.close()?;
        for ending in ENDINGS.iter().cycle().take(BURST) {
            (ending.run)(Family::V4.pair(&listener, port)?)?;
        }
        let opened = sys::boottime_ns()?;
        dam.open()?;
        for _ in 0..AROUND {
            connect_and_wait(&mut tracer, port, &listener)?;
        }
        drop(listener);
        let lives = kernel.wait_until_over(&[port])?;
        let report = tracer.stop()?;
        adds_up(&lives, &report)?;
        let after = report
            .transitions
            .iter()
            .filter(|one| one.event.ts_ns > opened)
            .count();
        ensure!(
            after >= AROUND,
            "after the loss there were {AROUND} connections more, but {after} lines tell of them"
        );
        Ok(())
    })
}

/// The end comes while the buffer is full and losses are not told yet.
fn stopped_in_burst() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let dam = Dam::new(port);
        let mut kernel = KernelTrace::start()?;
        dam.close()?;
        let tracer = start(&["--port", &port.to_string(), "--buffer-size", "4K"], &dam)?;
        let listener = Family::V6.listener(port)?;
        for ending in ENDINGS.iter().cycle().take(BURST / 4) {
            (ending.run)(Family::V6.pair(&listener, port)?)?;
        }
        drop(listener);
        let lives = kernel.wait_until_over(&[port])?;
        adds_up(&lives, &tracer.stop()?)
    })
}

/// The same pause with the buffer that users get: nothing is lost.
fn pause_without_loss() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let dam = Dam::new(port);
        let mut kernel = KernelTrace::start()?;
        let tracer = start(&["--port", &port.to_string()], &dam)?;
        dam.close()?;
        let listener = Family::V4.listener(port)?;
        for ending in ENDINGS.iter().cycle().take(BURST / 4) {
            (ending.run)(Family::V4.pair(&listener, port)?)?;
        }
        drop(listener);
        let lives = kernel.wait_until_over(&[port])?;
        dam.open()?;
        compare::same(&lives, &tracer.stop()?)
    })
}

/// One connection, and then a pause until the tracer has printed something of it.
fn connect_and_wait(tracer: &mut Tracer, port: u16, listener: &Socket) -> Result<()> {
    tracer.take_lines();
    (ENDINGS[0].run)(Family::V4.pair(listener, port)?)?;
    tracer.wait_for_line("the transitions of one connection")
}

/// Printed and lost are together exactly what happened, and what was printed did happen.
fn adds_up(lives: &[Life], report: &Report) -> Result<()> {
    let kernel = hidden::visible(lives);
    let printed = report.transitions.len() as u64;
    ensure!(
        report.lost > 0,
        "the buffer must overflow, but {printed} records came through it"
    );
    ensure!(
        printed + report.lost == kernel.len() as u64,
        "the kernel recorded {} events; the tracer printed {printed} and counted {} lost, which \
         makes {}",
        kernel.len(),
        report.lost,
        printed + report.lost
    );
    let counted = lines::number(&report.summary, "transitions")?;
    ensure!(
        counted == printed,
        "{printed} transitions came through, but summary says {counted}"
    );
    let (_, extra) = compare::difference(&kernel, &report.events());
    ensure!(
        extra.is_empty(),
        "the tracer printed what the kernel did not record: {extra:#?}"
    );
    known_times_only(lives, &report.transitions)
}

/// After a loss a time in a state is either right or null, never the time since an older event.
fn known_times_only(lives: &[Life], transitions: &[Transition]) -> Result<()> {
    let mut printed: BTreeMap<(u64, u64), &Transition> = BTreeMap::new();
    for transition in transitions {
        printed.insert(
            (transition.event.step.skaddr, transition.event.ts_ns),
            transition,
        );
    }
    for transition in transitions {
        let Event {
            ts_ns,
            tid: _,
            step,
        } = &transition.event;
        let Some(in_state_ns) = transition.in_state_ns else {
            continue;
        };
        let (life, at) = whereabouts(lives, &transition.event)
            .with_context(|| format!("the kernel has no {step}"))?;
        // close() after shutdown() enters no state: what entered it came before that.
        let entry = life[..at]
            .iter()
            .rev()
            .find(|event| event.step.old != event.step.new);
        let entry = entry.with_context(|| {
            format!("{step} is the first event of its socket, but in_state_ns is {in_state_ns}")
        })?;
        // A tracer that reckons from what it has printed must have printed the right event.
        if let Some(since) = printed.get(&(step.skaddr, ts_ns.saturating_sub(in_state_ns))) {
            let (other, index) = whereabouts(lives, &since.event)
                .with_context(|| format!("the kernel has no {}", since.event.step))?;
            let right = &other[index];
            ensure!(
                right.ts_ns == entry.ts_ns && right.step == entry.step,
                "in_state_ns of {step} counts from {}, but {} came after that, and was lost",
                right.step,
                entry.step
            );
        } else {
            let event = &life[at];
            let right = event.ts_ns - entry.ts_ns;
            ensure!(
                right.abs_diff(in_state_ns) < TOLERANCE_NS,
                "in_state_ns of {step} is {in_state_ns}, but by the kernel's trace it is {right}"
            );
        }
    }
    Ok(())
}

/// The kernel's life that a printed event belongs to, and its place there.
///
/// A 4-tuple or a socket's address may come again, but not both within the time that kernel and
/// tracer are apart.
fn whereabouts<'a>(lives: &'a [Life], event: &Event) -> Option<(&'a Life, usize)> {
    let mut found: Option<(&Life, usize, u64)> = None;
    for life in lives
        .iter()
        .filter(|life| life[0].step.skaddr == event.step.skaddr)
    {
        for (index, theirs) in life
            .iter()
            .enumerate()
            .filter(|(_, one)| one.step == event.step)
        {
            let gap = theirs.ts_ns.abs_diff(event.ts_ns);
            if found.is_none_or(|(_, _, least)| gap < least) {
                found = Some((life, index, gap));
            }
        }
    }
    found.map(|(life, index, _)| (life, index))
}
