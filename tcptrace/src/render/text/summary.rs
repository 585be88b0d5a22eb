//! Owns the summary at the end: what the trace amounts to, in numbers and sentences.

use std::{collections::BTreeMap, fmt::Write as _};

use tcptrace_model::{Doubt, Doubts, Durations, Finding, Summary, TimeWaitEnd};

use super::{Layout, call, prose, words};
use crate::render::{End, names, time};

/// Bars of the histogram, at most so long.
const BAR_WIDTH: u64 = 40;
/// Sysctls that decide how connections close and how long TIME_WAIT keeps ports, most telling first.
const SYSCTLS: [&str; 9] = [
    "tcp_fin_timeout",
    "tcp_max_tw_buckets",
    "tcp_tw_reuse",
    "tcp_tw_reuse_delay",
    "ip_local_port_range",
    "tcp_timestamps",
    "tcp_rfc1337",
    "tcp_max_orphans",
    "tcp_orphan_retries",
];

/// What the summary needs beside the model's own.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// What cannot be seen on this kernel, a sentence each.
    pub(super) degraded: Vec<String>,
    /// Sysctls by their full names.
    pub(super) sysctls: BTreeMap<String, String>,
    /// The kernel's ticks per second; `None` when not known.
    pub(super) hz: Option<u32>,
    connections: Uncertain,
    time_waits: Uncertain,
    /// TIME_WAITs whose timer was set anew, and of these those that may have been more often.
    rearmed: u64,
    rearmed_at_least: u64,
}

/// Findings with doubts.
#[derive(Debug, Default)]
struct Uncertain {
    findings: u64,
    /// In the order of [`Doubt::ALL`].
    by_doubt: [u64; Doubt::ALL.len()],
}

impl Uncertain {
    fn count(&mut self, doubts: Doubts) {
        if doubts.is_empty() {
            return;
        }
        self.findings += 1;
        for (count, doubt) in self.by_doubt.iter_mut().zip(Doubt::ALL) {
            *count += u64::from(doubts.contains(*doubt));
        }
    }

    fn sentence(&self, one: &str, many: &str) -> Option<String> {
        let reasons: Vec<String> = self
            .by_doubt
            .iter()
            .zip(Doubt::ALL)
            .filter(|(count, _)| **count > 0)
            .map(|(count, doubt)| format!("{count} {}", words::doubt(*doubt)))
            .collect();
        (self.findings > 0).then(|| {
            let findings = self.findings;
            let what = if findings == 1 { one } else { many };
            format!("With doubts: {findings} {what} ({}).", reasons.join(", "))
        })
    }
}

impl Context {
    /// Counts what the model's summary does not.
    pub(super) fn count(&mut self, finding: &Finding) {
        match finding {
            Finding::Connection(found) => self.connections.count(found.doubts),
            Finding::TimeWait(found) => {
                self.time_waits.count(found.doubts);
                self.rearmed += u64::from(found.rearmed > 0);
                self.rearmed_at_least += u64::from(found.rearmed > 0 && found.rearmed_at_least);
            }
            Finding::Transition(_)
            | Finding::TimeWaitEntered(_)
            | Finding::Story(_)
            | Finding::Stuck(_)
            | Finding::CallFailed(_)
            | Finding::CallSucceeded(_)
            | Finding::Lost(_) => {}
        }
    }
}

/// Adds the summary to `out`.
pub(super) fn write(out: &mut String, layout: &Layout, end: &End, context: &Context) {
    let summary = &end.summary;
    out.push('\n');
    first_line(out, end);
    connections(out, summary);
    minisockets(out, summary, context);
    calls(out, summary);
    let mut sentences = Vec::new();
    sentences.extend(now(summary));
    if summary.time_waits_entered > 0 || summary.waiting > 0 {
        sentences.push(format!(
            "{}: a minisocket in place of the socket, to wait for the peer's FIN.",
            words::FIN_WAIT2_MINISOCKET
        ));
    }
    sentences.extend(
        context
            .connections
            .sentence("end of a connection", "ends of connections"),
    );
    sentences.extend(context.time_waits.sentence("TIME_WAIT", "TIME_WAITs"));
    if summary.connections > 0 {
        sentences.extend(sysctls(&context.sysctls));
    }
    for sentence in &context.degraded {
        sentences.push(format!("Not seen here: {sentence}"));
    }
    if !sentences.is_empty() {
        out.push('\n');
    }
    for sentence in sentences {
        prose::wrap(out, layout, 0, 2, &sentence);
        out.push('\n');
    }
}

fn first_line(out: &mut String, end: &End) {
    let End {
        ts_ns: _,
        duration_ns,
        shown,
        summary,
    } = end;
    let transitions = summary.transitions;
    // Writing to a String cannot fail; so below.
    let _ = write!(
        out,
        "{transitions} {} in {}",
        plural(transitions, "transition"),
        time::duration(*duration_ns)
    );
    if *shown != transitions {
        let _ = write!(out, ", {shown} of them shown");
    }
    match summary.lost {
        0 => out.push_str(", none lost"),
        lost => {
            let _ = write!(
                out,
                ", {lost} {} LOST: what is above has gaps",
                plural(lost, "record")
            );
        }
    }
    if summary.evicted > 0 {
        let evicted = summary.evicted;
        let _ = write!(
            out,
            ", {evicted} {} not remembered (table full)",
            plural(evicted, "socket")
        );
    }
    out.push_str(".\n");
}

/// How connections ended, and why, beside each other.
fn connections(out: &mut String, summary: &Summary) {
    let count = summary.connections;
    if count == 0 {
        return;
    }
    let _ = writeln!(
        out,
        "\n{count} {} of connections ended:",
        plural(count, "end")
    );
    let closes: Vec<(&str, u64)> = most_first(summary.closes.iter().copied())
        .map(|(close, count)| (words::close_sequence(close), count))
        .collect();
    let causes: Vec<(&str, u64)> = most_first(summary.causes.iter().copied())
        .map(|(cause, count)| (words::close_cause(cause), count))
        .collect();
    let _ = writeln!(out, "  {:>8}  {:24}  {:>8}  WHY", "COUNT", "HOW", "COUNT");
    for row in 0..closes.len().max(causes.len()) {
        let mut line = String::from("  ");
        match closes.get(row) {
            Some((text, count)) => {
                let _ = write!(line, "{count:>8}  {text:24}");
            }
            None => line.extend(std::iter::repeat_n(' ', 8 + 2 + 24)),
        }
        if let Some((text, count)) = causes.get(row) {
            let _ = write!(line, "  {count:>8}  {text}");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

fn minisockets(out: &mut String, summary: &Summary, context: &Context) {
    let of = |never: bool| -> u64 {
        summary
            .time_wait_ends
            .iter()
            .filter(|(end, _)| (*end == TimeWaitEnd::NeverEntered) == never)
            .map(|(_, count)| count)
            .sum()
    };
    let (ended, never) = (of(false), of(true));
    if summary.time_waits_entered + ended + never == 0 {
        return;
    }
    let _ = write!(
        out,
        "\nTIME_WAIT, {} included: {} entered, {ended} ended",
        words::FIN_WAIT2_MINISOCKET,
        summary.time_waits_entered
    );
    if never > 0 {
        let _ = write!(out, ", {never} never began");
    }
    out.push('\n');
    for (end, count) in most_first(summary.time_wait_ends.iter().copied()) {
        let _ = writeln!(out, "  {count:>8}  {}", words::time_wait_end(end));
    }
    if context.rearmed > 0 {
        let _ = write!(out, "  {:>8}  had the timer restarted", context.rearmed);
        if context.rearmed_at_least > 0 {
            out.push_str(" (not every restart can be seen)");
        }
        out.push('\n');
    }
    if let Some(durations) = &summary.time_wait {
        out.push_str("\nHow long TIME_WAIT lasted where it expired:\n");
        quantiles(out, durations);
        histogram(out, durations);
    }
    if let Some(durations) = &summary.fin_wait2 {
        let _ = writeln!(
            out,
            "\nHow long {} lasted where the peer's FIN did not come:",
            words::FIN_WAIT2_MINISOCKET
        );
        quantiles(out, durations);
    }
}

/// Calls that failed, most first.
fn calls(out: &mut String, summary: &Summary) {
    let total: u64 = summary.calls_failed.iter().map(|(_, count)| count).sum();
    if total == 0 {
        return;
    }
    // Writing to a String cannot fail; so below.
    let _ = writeln!(out, "\n{total} {} failed:", plural(total, "call"));
    let _ = writeln!(out, "  {:>8}  {:8} {:14} WHY", "COUNT", "CALL", "ERROR");
    for ((call, error, rule), count) in most_first(summary.calls_failed.iter().copied()) {
        let error = names::error(error).unwrap_or_else(|| "-".to_owned());
        let _ = writeln!(
            out,
            "  {count:>8}  {:8} {error:14} {}",
            call.name(),
            call::words::rule(rule)
        );
    }
}

fn quantiles(out: &mut String, durations: &Durations) {
    let Durations {
        count,
        min_ns,
        median_ns,
        p90_ns,
        p99_ns,
        max_ns,
        histogram: _,
        width_ns: _,
    } = durations;
    let [min, median, p90, p99, max] =
        [min_ns, median_ns, p90_ns, p99_ns, max_ns].map(|ns| time::duration(*ns));
    let _ = writeln!(
        out,
        "  {count:>8}  min {min}  median {median}  p90 {p90}  p99 {p99}  max {max}"
    );
}

fn histogram(out: &mut String, durations: &Durations) {
    let most = durations
        .histogram
        .iter()
        .map(|(_, count)| *count)
        .max()
        .unwrap_or(0)
        .max(1);
    // One alone tells nothing that the line above has not told.
    if durations.histogram.len() < 2 {
        return;
    }
    for &(from_ns, count) in &durations.histogram {
        // What is there at all gets a mark.
        let length = (count * BAR_WIDTH).div_ceil(most);
        let bar = "#".repeat(usize::try_from(length).unwrap_or(0));
        let from = time::duration(from_ns);
        let line = format!("  {count:>8}  {from:>9} |{bar}");
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// What there is still.
fn now(summary: &Summary) -> Vec<String> {
    let mut sentences = Vec::new();
    let Summary {
        open,
        waiting,
        stuck,
        ..
    } = *summary;
    if open > 0 || waiting > 0 {
        sentences.push(format!(
            "Now: {open} {} open, {waiting} {} waiting (TIME_WAIT or {}).",
            plural(open, "connection"),
            plural(waiting, "minisocket"),
            words::FIN_WAIT2_MINISOCKET
        ));
    }
    if stuck > 0 {
        sentences.push(format!(
            "Told to be stuck: {stuck} {}.",
            plural(stuck, "connection")
        ));
    }
    sentences
}

fn sysctls(known: &BTreeMap<String, String>) -> Option<String> {
    let told: Vec<String> = SYSCTLS
        .iter()
        .filter_map(|name| {
            let value = known.get(&format!("net.ipv4.{name}"))?;
            // A value of two words, such as a range, stays on one line.
            Some(format!("{name}={}", value.replace(' ', "-")))
        })
        .collect();
    (!told.is_empty()).then(|| format!("Sysctls at the start: {}", told.join(", ")))
}

/// In the order of the counts; equal ones stay as they are.
fn most_first<T>(counts: impl Iterator<Item = (T, u64)>) -> impl Iterator<Item = (T, u64)> {
    let mut counts: Vec<(T, u64)> = counts.collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter()
}

pub(super) fn plural(count: u64, word: &str) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}
