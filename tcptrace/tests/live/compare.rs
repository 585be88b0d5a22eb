//! Holds the tracer's events against the kernel's own, and its times against each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};

use crate::event::{Event, Life, State, Step};
use crate::hidden;
use crate::lines::{self, Report, Transition};

/// How many differences an error lists; the first few tell the story.
const LISTED: usize = 12;
/// Kernel and tracer stamp one event in two callbacks, one right after the other.
const USUAL_CLOCK_GAP_NS: u64 = 1_000_000;
/// The machine may take the CPU away between the two callbacks, but not for long.
const LARGEST_CLOCK_GAP_NS: u64 = 2_000_000_000;

/// Fails unless the tracer printed exactly these lives: every event, each once, each field equal,
/// in order for each socket, at the kernel's time, with the right time in each state.
pub(crate) fn same(kernel: &[Life], report: &Report) -> Result<()> {
    let theirs = hidden::visible(kernel);
    let ours = report.events();
    let (missing, extra) = difference(&theirs, &ours);
    if !missing.is_empty() || !extra.is_empty() || report.lost > 0 {
        bail!(
            "the kernel recorded {} events, the tracer printed {} and counted {} lost {:?}:\n{}{}",
            theirs.len(),
            ours.len(),
            report.lost,
            report.lost_lines,
            listed("missing", &missing, &theirs),
            listed("must not be there", &extra, &ours)
        );
    }
    let counted = lines::number(&report.summary, "transitions")?;
    ensure!(
        counted == theirs.len() as u64,
        "all {} events were printed, but summary counts {counted} transitions",
        theirs.len()
    );
    let (theirs, ours) = (in_order(&theirs), in_order(&ours));
    for (skaddr, kernel_order) in &theirs {
        let tracer_order = &ours[skaddr];
        for (kernel_event, tracer_event) in kernel_order.iter().zip(tracer_order) {
            ensure!(
                kernel_event.step == tracer_event.step,
                "socket {skaddr:#x}: where the kernel has {}, the tracer has {}",
                kernel_event.step,
                tracer_event.step
            );
        }
    }
    times(&theirs, &ours)?;
    in_state(&report.transitions)
}

/// What the kernel has and we have not, and the other way round, as multisets.
pub(crate) fn difference(kernel: &[Event], tracer: &[Event]) -> (Vec<Step>, Vec<Step>) {
    let mut balance: BTreeMap<&Step, i64> = BTreeMap::new();
    for event in kernel {
        *balance.entry(&event.step).or_default() += 1;
    }
    for event in tracer {
        *balance.entry(&event.step).or_default() -= 1;
    }
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    for (step, count) in balance {
        let list = if count > 0 { &mut missing } else { &mut extra };
        for _ in 0..count.unsigned_abs() {
            list.push(step.clone());
        }
    }
    (missing, extra)
}

/// Fails unless each `in_state_ns` is the time since the transition into that state, if that was
/// printed, and null if nobody can know it.
pub(crate) fn in_state(transitions: &[Transition]) -> Result<()> {
    let mut ordered: Vec<&Transition> = transitions.iter().collect();
    ordered.sort_by_key(|transition| transition.event.ts_ns);
    // For each socket the state that it is in, since when.
    let mut entered: BTreeMap<u64, (State, u64)> = BTreeMap::new();
    for transition in ordered {
        let Event {
            ts_ns,
            tid: _,
            step,
        } = &transition.event;
        let child = step.old == State::LISTEN && step.new == State::SYN_RECV;
        let expected = entered
            .get(&step.skaddr)
            .filter(|(state, _)| *state == step.old && step.old != State::CLOSE && !child)
            .map(|(_, since)| ts_ns - since);
        ensure!(
            transition.in_state_ns == expected,
            "in_state_ns must be {expected:?} but is {:?} in {step} at {ts_ns}",
            transition.in_state_ns
        );
        // close() after shutdown() reports the state that the socket has been in all along.
        if step.old != step.new {
            entered.insert(step.skaddr, (step.new, *ts_ns));
        }
    }
    Ok(())
}

/// Fails unless each of these transitions is among the events of the lives.
pub(crate) fn shows(name: &str, kernel: &[Life], wanted: &[(State, State)]) -> Result<()> {
    for (old, new) in wanted {
        let found = kernel
            .iter()
            .flatten()
            .any(|event| event.step.old == *old && event.step.new == *new);
        ensure!(
            found,
            "{name}: the kernel recorded no {old} -> {new}, so the test did not do what it says: \
             {kernel:#?}"
        );
    }
    Ok(())
}

fn times(kernel: &BTreeMap<u64, Vec<Event>>, tracer: &BTreeMap<u64, Vec<Event>>) -> Result<()> {
    let mut gaps = Vec::new();
    for (skaddr, kernel_order) in kernel {
        for (theirs, ours) in kernel_order.iter().zip(&tracer[skaddr]) {
            let gap = theirs.ts_ns.abs_diff(ours.ts_ns);
            ensure!(
                gap < LARGEST_CLOCK_GAP_NS,
                "the tracer is {gap} ns off the kernel's time for {}",
                theirs.step
            );
            gaps.push(gap);
        }
    }
    gaps.sort_unstable();
    if let Some(median) = gaps.get(gaps.len() / 2) {
        ensure!(
            *median < USUAL_CLOCK_GAP_NS,
            "half of the tracer's times are {median} ns or more off the kernel's"
        );
    }
    Ok(())
}

fn in_order(events: &[Event]) -> BTreeMap<u64, Vec<Event>> {
    let mut sockets: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
    for event in events {
        sockets
            .entry(event.step.skaddr)
            .or_default()
            .push(event.clone());
    }
    for events in sockets.values_mut() {
        events.sort_by_key(|event| event.ts_ns);
    }
    sockets
}

fn listed(title: &str, steps: &[Step], events: &[Event]) -> String {
    let mut text = String::new();
    for step in steps.iter().take(LISTED) {
        let when = events.iter().find(|event| event.step == *step);
        let when = when.map_or(0, |event| event.ts_ns);
        let _ = writeln!(text, "  {title}: {step} at {when}");
    }
    if steps.len() > LISTED {
        let _ = writeln!(text, "  {title}: {} more", steps.len() - LISTED);
    }
    text
}
