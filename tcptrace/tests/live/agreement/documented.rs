//! Owns the differences between the backends that are documented: each by the words of its document, and
//! which values may differ for it.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::compare::{Difference, INTERRUPTED_NS, Lines};
use crate::sys;

/// Where they are documented.
const DOCUMENTS: [&str; 2] = [
    include_str!("../../../../docs/limitations.md"),
    include_str!("../../../../docs/events.md"),
];

/// A whole millisecond, which `tw_entry_stamp` is cut to.
const STAMP_NS: u64 = 1_000_000;
/// Where the kernel says by a RST what ended a minisocket.
const RST_IS_SHOWN: (u32, u32) = (6, 10);

/// One of them.
struct Documented {
    /// The words that document it.
    says: &'static str,
    allows: fn(&Lines<'_>, &Difference<'_>) -> bool,
}

const DOCUMENTED: [Documented; 7] = [
    Documented {
        says: "**When the peer's FIN came**",
        allows: date_of_fin,
    },
    Documented {
        says: "While the minisocket lives there is no date",
        allows: no_date_of_fin,
    },
    Documented {
        says: "**How often the timer was set anew**",
        allows: rearms,
    },
    Documented {
        says: "**A new SYN from data after the close**, before 6.10",
        allows: syn_or_data,
    },
    Documented {
        says: "**Which holder the kernel met first**",
        allows: named_by_kernel,
    },
    Documented {
        says: "**How ports are used**",
        allows: counted_ports,
    },
    Documented {
        says: "| `trace_ended` | it had not ended when the trace did |",
        allows: end_of_trace,
    },
];

/// The words that document a difference; `None` for one that no document names.
pub(super) fn allowing(lines: &Lines<'_>, difference: &Difference<'_>) -> Option<&'static str> {
    let documented = DOCUMENTED.iter();
    let mut allowing = documented.filter(|one| (one.allows)(lines, difference));
    allowing.next().map(|one| one.says)
}

/// Fails unless all of them are still documented in these words.
pub(super) fn are_in_the_documentation() -> Result<()> {
    for Documented { says, .. } in DOCUMENTED {
        ensure!(
            DOCUMENTS.iter().any(|text| text.contains(says)),
            "no document says {says:?}"
        );
    }
    Ok(())
}

/// The timers' date is the kernel's stamp or computed from the timer's end, and is called inferred.
fn date_of_fin(lines: &Lines<'_>, difference: &Difference<'_>) -> bool {
    let stamp = doubts(lines.timer, "date_from_stamp");
    let computed = doubts(lines.timer, "date_from_timer");
    if lines.kind != "time_wait" || !(stamp || computed) {
        return false;
    }
    match difference.path.as_str() {
        "doubts" => {
            let words = ["date_from_stamp", "date_from_timer"];
            difference.fentry.is_none()
                && difference
                    .timer
                    .and_then(Value::as_str)
                    .is_some_and(|word| words.contains(&word))
        }
        "certainty" => is(difference.fentry, "exact") && is(difference.timer, "inferred"),
        "fin_wait2_ns" | "time_wait_ns" => {
            let precision = if stamp {
                STAMP_NS
            } else {
                1_000_000_000 / lines.hz.max(1)
            };
            let sent_again = computed && lines.fentry["rearmed"].as_u64() > Some(0);
            sent_again
                || difference
                    .gap()
                    .is_some_and(|gap| gap <= precision + INTERRUPTED_NS)
        }
        _ => false,
    }
}

fn no_date_of_fin(lines: &Lines<'_>, difference: &Difference<'_>) -> bool {
    let holders = lines.fentry["holders"].as_array();
    lines.kind == "call_failed"
        && difference.path == "holders.since_ns"
        && difference.timer == Some(&Value::Null)
        && holders.is_some_and(|holders| holders.iter().any(|one| one["minisocket"] == "time_wait"))
}

fn rearms(lines: &Lines<'_>, difference: &Difference<'_>) -> bool {
    let at_least = lines.timer["rearmed_at_least"] == true;
    lines.kind == "time_wait"
        && at_least
        && match difference.path.as_str() {
            "rearmed" => lines.timer["rearmed"].as_u64() < lines.fentry["rearmed"].as_u64(),
            path => path == "rearmed_at_least",
        }
}

fn syn_or_data(lines: &Lines<'_>, difference: &Difference<'_>) -> bool {
    let (major, minor) = RST_IS_SHOWN;
    let ends = ["reused_by_syn", "data_after_close"];
    let is_either = lines.fentry["end"]
        .as_str()
        .is_some_and(|end| ends.contains(&end));
    lines.kind == "time_wait"
        && !sys::kernel_is_at_least(major, minor)
        && is_either
        && doubts(lines.timer, "end_not_shown")
        && match difference.path.as_str() {
            "end" => is(difference.timer, "unknown"),
            "certainty" => is(difference.fentry, "exact") && is(difference.timer, "unknown"),
            "doubts" => difference.fentry.is_none() && is(difference.timer, "end_not_shown"),
            _ => false,
        }
}

fn named_by_kernel(lines: &Lines<'_>, difference: &Difference<'_>) -> bool {
    lines.kind == "call_failed"
        && difference.path == "holders.named_by_kernel"
        && difference.timer == Some(&Value::Bool(false))
}

/// The two count at moments of their own.
fn counted_ports(lines: &Lines<'_>, difference: &Difference<'_>) -> bool {
    lines.kind == "call_failed" && difference.path.starts_with("ports.")
}

/// A trace dates what goes on by its own end.
fn end_of_trace(lines: &Lines<'_>, difference: &Difference<'_>) -> bool {
    let length = if lines.fentry["last_phase"] == "fin_wait2" {
        "fin_wait2_ns"
    } else {
        "time_wait_ns"
    };
    ended_with_the_traces(lines) && ["ts_ns", length].contains(&difference.path.as_str())
}

/// Whether neither trace has seen the end.
pub(super) fn ended_with_the_traces(lines: &Lines<'_>) -> bool {
    [lines.fentry, lines.timer]
        .iter()
        .all(|line| doubts(line, "trace_ended"))
}

fn doubts(line: &Value, word: &str) -> bool {
    let doubts = line["doubts"].as_array();
    doubts.is_some_and(|doubts| doubts.iter().any(|doubt| doubt == word))
}

fn is(value: Option<&Value>, word: &str) -> bool {
    value.and_then(Value::as_str) == Some(word)
}
