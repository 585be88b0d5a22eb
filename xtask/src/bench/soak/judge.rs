//! Owns the judgement of a soak: what was told beside what the kernel counted, and the memory.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Told, counters::Counters};
use crate::bench::{stats::grouped, table::Table};

/// The most resident memory in the second half may be over that of the first by this part of it.
const GROWTH: u64 = 20;
/// One in so many may be missing where the kernel keeps events from eBPF programs.
const HIDDEN: u64 = 10_000;

/// When the kernel counts a minisocket as TW or TWKilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CountedAt {
    /// When it is entered: net/ipv4/inet_timewait_sock.c `__inet_twsk_schedule` (v6.18).
    Entry,
    /// When its timer ends it: `tw_timer_handler` there (v5.10).
    Expiry,
}

/// All that came of a soak.
pub(super) struct Findings {
    pub(super) told: Told,
    pub(super) kernel: Counters,
    pub(super) at: CountedAt,
    /// Resident bytes, at even intervals.
    pub(super) memory: Vec<u64>,
    /// The run was long enough for as many TIME_WAITs to end as begin, well before its second half.
    pub(super) is_long: bool,
}

impl Findings {
    /// A table for people, and a sentence for each thing that is not as it should be.
    pub(super) fn judge(&self) -> Result<(String, Vec<String>)> {
        let summary = self.told.summary.as_ref();
        let summary = summary.context("tcptrace wrote no summary")?;
        let start = self.told.start.as_ref();
        let degraded = start.context("tcptrace wrote no start line")?["degraded"].as_array();
        let hides = degraded.is_some_and(|degraded| !degraded.is_empty());
        let mut beside = Beside {
            table: Table::new(&["", "told", "kernel", ""]),
            failures: Vec::new(),
        };
        for (what, told, kernel) in self.counted(summary) {
            let allowed = if hides { kernel.div_ceil(HIDDEN) } else { 0 };
            beside.compare(what, told, kernel, allowed);
        }
        for (what, told, expected) in self.lines(summary) {
            beside.compare(what, told, expected, 0);
        }
        let (first, second) = halves(&self.memory).context("the soak was too short")?;
        let memory = format!(
            "{} MiB in the first half, {} MiB in the second",
            first >> 20,
            second >> 20
        );
        let verdict = if self.is_long {
            ""
        } else {
            " (not judged: until the first TIME_WAITs have ended there are more and more)"
        };
        if self.is_long && second > first + first / GROWTH {
            beside.failures.push(format!("memory grew: {memory}"));
        }
        let text = format!(
            "{} lines, {} MB\n\n{}\nmemory: at most {memory}{verdict}\n",
            grouped(&self.told.lines.to_string()),
            grouped(&(self.told.bytes / 1_000_000).to_string()),
            beside.table
        );
        Ok((text, beside.failures))
    }

    /// What was told, beside the kernel's counters.
    fn counted(&self, summary: &Value) -> [(&'static str, u64, u64); 9] {
        let (told, kernel) = (&self.told, &self.kernel);
        let ends = &summary["time_wait_ends"];
        let entered = match self.at {
            CountedAt::Entry => kernel.time_waits,
            CountedAt::Expiry => kernel.time_waits + kernel.recycled + kernel.waiting,
        };
        [
            (
                "ActiveOpens: CLOSE to SYN_SENT",
                told.begun,
                kernel.active_opens,
            ),
            (
                "PassiveOpens: LISTEN to SYN_RECV",
                told.accepted,
                kernel.passive_opens,
            ),
            (
                "AttemptFails: SYN_SENT, SYN_RECV to CLOSE",
                told.failed,
                kernel.attempt_fails,
            ),
            (
                "EstabResets: ESTABLISHED, CLOSE_WAIT to CLOSE",
                told.reset,
                kernel.estab_resets,
            ),
            (
                "OutRsts: closed by reset_sent",
                number(&summary["closes"]["reset_sent"]),
                kernel.out_rsts,
            ),
            (
                "TW, TWKilled: TIME_WAITs entered",
                number(&summary["time_waits_entered"]),
                entered,
            ),
            (
                "TWRecycled: reused_by_connect",
                number(&ends["reused_by_connect"]),
                kernel.recycled,
            ),
            (
                "TCPTimeWaitOverflow: never_entered",
                number(&ends["never_entered"]),
                kernel.overflowed,
            ),
            (
                "both opens: ends of connections",
                number(&summary["connections"]),
                kernel.active_opens + kernel.passive_opens,
            ),
        ]
    }

    /// The lines of the file beside the summary at its end, and what the summary must not have.
    fn lines(&self, summary: &Value) -> [(&'static str, u64, u64); 5] {
        let of = |name: &str| number(&summary[name]);
        [
            (
                "lines transition, of the summary",
                self.told.transitions,
                of("transitions"),
            ),
            (
                "lines connection, of the summary",
                self.told.connections,
                of("connections"),
            ),
            (
                "lines time_wait_entered, of the summary",
                self.told.time_waits,
                of("time_waits_entered"),
            ),
            ("records lost", of("lost"), 0),
            ("sockets forgotten (evicted)", of("evicted"), 0),
        ]
    }
}

/// A table that grows, and what is wrong in it.
struct Beside {
    table: Table,
    failures: Vec<String>,
}

impl Beside {
    fn compare(&mut self, what: &str, told: u64, expected: u64, allowed: u64) {
        let difference = told.abs_diff(expected);
        let verdict = match difference {
            0 => "equal".to_owned(),
            _ if difference <= allowed => format!("{difference} kept from eBPF"),
            _ => "WRONG".to_owned(),
        };
        if difference > allowed {
            let sentence = format!("{what}: {told} told, {expected} expected");
            self.failures.push(sentence);
        }
        let shown = |number: u64| grouped(&number.to_string());
        let row = vec![what.to_owned(), shown(told), shown(expected), verdict];
        self.table.row(row);
    }
}

/// A count of the summary; what it does not name did not occur.
fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// The most in each half.
fn halves(samples: &[u64]) -> Option<(u64, u64)> {
    let (first, second) = samples.split_at(samples.len() / 2);
    Some((*first.iter().max()?, *second.iter().max()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn findings(lost: u64, degraded: &[&str]) -> Findings {
        Findings {
            told: Told {
                lines: 9,
                transitions: 20,
                begun: 4,
                accepted: 4,
                reset: 2,
                time_waits: 3,
                connections: 8,
                start: Some(json!({ "degraded": degraded })),
                summary: Some(json!({
                    "transitions": 20, "connections": 8, "lost": lost, "evicted": 0,
                    "time_waits_entered": 3, "closes": { "reset_sent": 1, "local_first": 3 },
                    "time_wait_ends": { "reused_by_connect": 1 },
                })),
                ..Told::default()
            },
            kernel: Counters {
                active_opens: 4,
                passive_opens: 4,
                estab_resets: 2,
                out_rsts: 1,
                time_waits: 3,
                recycled: 1,
                waiting: 2,
                ..Counters::default()
            },
            at: CountedAt::Entry,
            memory: vec![90, 100, 104, 105],
            is_long: true,
        }
    }

    #[test]
    fn what_is_equal_passes() {
        let (text, failures) = findings(0, &[]).judge().unwrap();
        assert_eq!(failures, Vec::<String>::new(), "{text}");
        assert!(text.contains("TWRecycled"));
    }

    #[test]
    fn each_difference_is_told() {
        let mut wrong = findings(5, &[]);
        wrong.kernel.overflowed = 1;
        wrong.memory = vec![100, 106];
        let (_, failures) = wrong.judge().unwrap();
        assert_eq!(failures.len(), 3, "{failures:?}");
        wrong.is_long = false;
        let (text, failures) = wrong.judge().unwrap();
        assert_eq!(failures.len(), 2, "{failures:?}");
        assert!(text.contains("not judged"), "{text}");
    }

    #[test]
    fn a_loss_is_never_what_the_kernel_hides() {
        let (_, failures) = findings(1, &["process 1"]).judge().unwrap();
        assert_eq!(failures.len(), 1, "{failures:?}");
        let mut hidden = findings(0, &["process 1"]);
        hidden.kernel.recycled = 2;
        assert!(hidden.judge().unwrap().1.is_empty());
    }

    #[test]
    fn kernels_that_count_at_the_end_are_asked_for_what_still_waits() {
        let mut old = findings(0, &[]);
        old.at = CountedAt::Expiry;
        old.kernel.time_waits = 0;
        assert!(old.judge().unwrap().1.is_empty());
    }
}
