//! Owns the comparison of what two tracers have told: which line goes with which, and in what they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::both::{Told, ToldByBoth};
use super::documented;
use crate::lines;

/// Two hooks on the way of one event see it this close to each other, in the median of each kind of line.
const SAME_MOMENT_NS: u64 = 1_000_000;
/// As far apart they can be where the machine takes the CPU away in between.
pub(super) const INTERRUPTED_NS: u64 = 20_000_000;

/// What is each trace's own, and says nothing of the workload: the beginning and length of the trace, and
/// what is said elsewhere in the same line or checked elsewhere (`time` is `ts_ns`; the summary's
/// `time_wait_ends` must be those of its lines, whose durations the histograms count).
const OWN: [(&str, &[&str]); 2] = [
    (
        "start",
        &["ts_ns", "time", "clock_offset_ns", "backends", "degraded"],
    ),
    (
        "summary",
        &[
            "ts_ns",
            "time",
            "duration_ns",
            "time_wait_ends",
            "fin_wait2.histogram",
            "time_wait.histogram",
        ],
    ),
];

/// Two lines about the same thing.
pub(super) struct Lines<'a> {
    pub(super) kind: &'a str,
    pub(super) fentry: &'a Value,
    pub(super) timer: &'a Value,
    /// Of the kernel's ticks.
    pub(super) hz: u64,
}

/// A value in which two lines differ; `None` is a value that is absent.
#[derive(Debug, PartialEq)]
pub(super) struct Difference<'a> {
    /// The names on the way to it, without indices: `holders.blocks`.
    pub(super) path: String,
    pub(super) fentry: Option<&'a Value>,
    pub(super) timer: Option<&'a Value>,
}

/// What has come of it so far.
#[derive(Default)]
struct Outcome {
    wrong: Vec<String>,
    /// How often each documented difference was met.
    documented: BTreeMap<&'static str, usize>,
    /// How far apart the two have dated each line, by kind.
    gaps: BTreeMap<String, Vec<u64>>,
}

/// Fails unless both have told the same, but for what is documented.
pub(super) fn same(told: &ToldByBoth) -> Result<()> {
    documented::are_in_the_documentation()?;
    let hz = lines::number(&told.fentry.start, "hz")?;
    let mut outcome = Outcome::default();
    for (kind, fentry, timer) in [
        ("start", &told.fentry.start, &told.timer.start),
        ("summary", &told.fentry.summary, &told.timer.summary),
    ] {
        outcome.compare(&Lines {
            kind,
            fentry,
            timer,
            hz,
        });
    }
    let (fentry, timer) = (by_key(&told.fentry)?, by_key(&told.timer)?);
    let keys: BTreeSet<&String> = fentry.keys().chain(timer.keys()).collect();
    for key in keys {
        let none = Vec::new();
        let fentry = fentry.get(key).unwrap_or(&none);
        let timer = timer.get(key).unwrap_or(&none);
        if fentry.len() != timer.len() {
            outcome.wrong.push(format!(
                "{key}: {} lines by fentry, {} by the timers\n{}{}",
                fentry.len(),
                timer.len(),
                listed("fentry", fentry),
                listed("timer ", timer)
            ));
            continue;
        }
        for (fentry, timer) in fentry.iter().zip(timer) {
            outcome.compare(&Lines {
                kind: lines::text(fentry, "kind")?,
                fentry,
                timer,
                hz,
            });
        }
    }
    outcome.judge()
}

impl Outcome {
    fn compare(&mut self, lines: &Lines<'_>) {
        let mut found = Vec::new();
        differences("", lines.fentry, lines.timer, &mut found);
        let mut wrong = Vec::new();
        for difference in found {
            if is_own(lines.kind, &difference.path) || is_same_moment(&difference) {
                continue;
            }
            match documented::allowing(lines, &difference) {
                Some(says) => *self.documented.entry(says).or_default() += 1,
                None => wrong.push(format!("  {difference}\n")),
            }
        }
        if !wrong.is_empty() {
            self.wrong.push(format!(
                "{}:\n{}{}{}",
                lines.kind,
                wrong.concat(),
                listed("fentry", &[lines.fentry]),
                listed("timer ", &[lines.timer])
            ));
        }
        let dates = [lines.fentry, lines.timer].map(|line| line["ts_ns"].as_u64());
        if let ([Some(fentry), Some(timer)], false) = (dates, is_own(lines.kind, "ts_ns"))
            && !documented::ended_with_the_traces(lines)
        {
            let gaps = self.gaps.entry(lines.kind.to_owned()).or_default();
            gaps.push(fentry.abs_diff(timer));
        }
    }

    fn judge(mut self) -> Result<()> {
        let mut compared = Vec::new();
        for (kind, gaps) in &mut self.gaps {
            gaps.sort_unstable();
            let median = gaps[gaps.len() / 2];
            if median > SAME_MOMENT_NS {
                self.wrong.push(format!(
                    "{kind}: the two date it {median} ns apart in the median"
                ));
            }
            compared.push(format!(
                "{} {kind} ({} us, at most {} us apart)",
                gaps.len(),
                median / 1000,
                gaps.last().copied().unwrap_or_default() / 1000
            ));
        }
        ensure!(!compared.is_empty(), "nothing was told by either");
        eprintln!("agreement: {}", compared.join(", "));
        for (says, count) in &self.documented {
            eprintln!("agreement: {count} times: {says}");
        }
        ensure!(
            self.wrong.is_empty(),
            "{} differences between fentry and the timers that no document names:\n{}",
            self.wrong.len(),
            self.wrong.join("\n")
        );
        Ok(())
    }
}

/// The lines about each thing, in the order of time.
fn by_key(told: &Told) -> Result<BTreeMap<String, Vec<&Value>>> {
    let mut by_key: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for line in &told.lines {
        by_key.entry(key(line)?).or_default().push(line);
    }
    for lines in by_key.values_mut() {
        lines.sort_by_key(|line| line["ts_ns"].as_u64());
    }
    Ok(by_key)
}

/// What a line is about, in the same words whoever tells it.
fn key(line: &Value) -> Result<String> {
    let kind = lines::text(line, "kind")?;
    let fields: &[&str] = match kind {
        // The kernel's address of the socket: a port may not be known yet.
        "transition" => &["skaddr"],
        "call" | "call_failed" => &["call", "tid", "skaddr"],
        _ => &["netns", "laddr", "lport", "raddr", "rport"],
    };
    let mut key = kind.to_owned();
    for name in fields {
        let value = lines::field(line, name).with_context(|| format!("no {name} in {line}"))?;
        key = format!("{key} {value}");
    }
    Ok(key)
}

/// Finds all values that differ below `path`. Doubts are compared one by one.
fn differences<'a>(
    path: &str,
    fentry: &'a Value,
    timer: &'a Value,
    found: &mut Vec<Difference<'a>>,
) {
    let mut differ = |path: &str, fentry, timer| {
        found.push(Difference {
            path: path.to_owned(),
            fentry,
            timer,
        });
    };
    match (fentry, timer) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for name in names {
                let path = [path, name].join(if path.is_empty() { "" } else { "." });
                match (one.get(name), other.get(name)) {
                    (Some(one), Some(other)) => differences(&path, one, other, found),
                    (one, other) => found.push(Difference {
                        path,
                        fentry: one,
                        timer: other,
                    }),
                }
            }
        }
        (Value::Array(one), Value::Array(other)) if path == "doubts" => {
            for doubt in one.iter().filter(|doubt| !other.contains(doubt)) {
                differ(path, Some(doubt), None);
            }
            for doubt in other.iter().filter(|doubt| !one.contains(doubt)) {
                differ(path, None, Some(doubt));
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (one, other) in one.iter().zip(other) {
                differences(path, one, other, found);
            }
        }
        _ if fentry == timer => {}
        _ => differ(path, Some(fentry), Some(timer)),
    }
}

fn is_own(kind: &str, path: &str) -> bool {
    let own = OWN.iter().find(|(of, _)| *of == kind);
    let below = |name: &&str| {
        let rest = path.strip_prefix(*name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    own.map_or(path == "time", |(_, paths)| paths.iter().any(below))
}

/// Whether it is one moment, or one length of time, seen by two hooks.
fn is_same_moment(difference: &Difference<'_>) -> bool {
    let unit_ns = match difference.path.rsplit('.').next() {
        Some("ns") => 1,
        Some(name) if name.ends_with("_ns") => 1,
        Some(name) if name.ends_with("_ms") => 1_000_000,
        _ => return false,
    };
    let gap = difference.gap();
    gap.is_some_and(|gap| gap.saturating_mul(unit_ns) <= INTERRUPTED_NS)
}

fn listed(by: &str, lines: &[&Value]) -> String {
    let lines = lines.iter().map(|line| format!("  {by} {line}\n"));
    lines.collect()
}

impl Difference<'_> {
    /// By how much two numbers differ; `None` where one of them is none.
    pub(super) fn gap(&self) -> Option<u64> {
        let number = |value: Option<&Value>| value.and_then(Value::as_u64);
        Some(number(self.fentry)?.abs_diff(number(self.timer)?))
    }
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
        let (fentry, timer) = (shown(self.fentry), shown(self.timer));
        write!(
            formatter,
            "{} is {fentry} by fentry, {timer} by the timers",
            self.path
        )
    }
}
