//! Owns `Tally`: what is counted for the summary.

use alloc::{collections::BTreeMap, vec::Vec};

use crate::{
    CallFailed, CloseCause, CloseSequence, Connection, Phase, Summary, TimeWait, TimeWaitEnd,
    conflict::{Call, Rule},
    durations::Sample,
};

/// Counts of what has been told.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) transitions: u64,
    pub(crate) lost: u64,
    pub(crate) evicted: u64,
    pub(crate) time_waits_entered: u64,
    pub(crate) stuck: u64,
    connections: u64,
    closes: [u64; CloseSequence::ALL.len()],
    causes: [u64; CloseCause::ALL.len()],
    time_wait_ends: [u64; TimeWaitEnd::ALL.len()],
    time_wait: Sample,
    fin_wait2: Sample,
    /// There are no more than errnos and rules.
    calls_failed: BTreeMap<(Call, u16, Rule), u64>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            transitions: 0,
            lost: 0,
            evicted: 0,
            time_waits_entered: 0,
            stuck: 0,
            connections: 0,
            closes: [0; _],
            causes: [0; _],
            time_wait_ends: [0; _],
            time_wait: Sample::default(),
            fin_wait2: Sample::default(),
            calls_failed: BTreeMap::new(),
        }
    }

    /// An end of a connection has been told.
    pub(crate) fn connection(&mut self, told: &Connection) {
        self.connections += 1;
        self.closes[told.close as usize] += 1;
        self.causes[told.cause as usize] += 1;
    }

    /// The end of a minisocket has been told.
    pub(crate) fn time_wait(&mut self, told: &TimeWait) {
        self.time_wait_ends[told.end as usize] += 1;
        if told.end != TimeWaitEnd::Expired {
            return;
        }
        let (sample, lasted_ns) = match told.last_phase {
            Phase::TimeWait => (&mut self.time_wait, told.time_wait_ns),
            Phase::FinWait2 => (&mut self.fin_wait2, told.fin_wait2_ns),
        };
        if let Some(ns) = lasted_ns {
            sample.add(ns);
        }
    }

    /// A call that failed has been told.
    pub(crate) fn call_failed(&mut self, told: &CallFailed) {
        let which = (told.call.call, told.call.error, told.rule);
        *self.calls_failed.entry(which).or_insert(0) += 1;
    }

    /// The summary, with what there is now.
    pub(crate) fn summary(&self, open: usize, waiting: usize) -> Summary {
        Summary {
            calls_failed: self
                .calls_failed
                .iter()
                .map(|(which, count)| (*which, *count))
                .collect(),
            transitions: self.transitions,
            lost: self.lost,
            evicted: self.evicted,
            connections: self.connections,
            closes: occurred(CloseSequence::ALL, &self.closes),
            causes: occurred(CloseCause::ALL, &self.causes),
            time_waits_entered: self.time_waits_entered,
            time_wait_ends: occurred(TimeWaitEnd::ALL, &self.time_wait_ends),
            time_wait: self.time_wait.durations(),
            fin_wait2: self.fin_wait2.durations(),
            stuck: self.stuck,
            open: open as u64,
            waiting: waiting as u64,
        }
    }
}

/// The words that occurred, with how often.
fn occurred<T: Copy>(words: &[T], counts: &[u64]) -> Vec<(T, u64)> {
    words
        .iter()
        .copied()
        .zip(counts.iter().copied())
        .filter(|(_, count)| *count > 0)
        .collect()
}
