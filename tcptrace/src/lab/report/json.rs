//! Reports as JSON: one object each, on one line. docs/lab.md documents the fields.

use serde::Serialize;
use serde_json::value::RawValue;
use tcptrace_model::Finding;

use super::{Ending, Report};
use crate::{
    lab::{
        log::Step,
        reading::{Reading, Source, Verdict},
        value::{Expected, Value},
    },
    render::{Render, json::Json},
};

#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    id: &'a str,
    name: &'a str,
    claims: &'a [String],
    title: &'a str,
    says: &'a str,
    /// `holds`, `holds_only_if`, `does_not_hold`; `null` when it could not be decided.
    verdict: Option<&'static str>,
    /// What was expected of this kernel, likewise.
    expected: Option<&'static str>,
    /// On what it holds.
    condition: Option<&'a str>,
    as_expected: bool,
    /// `played`, `failed`, `skipped`, `interrupted`.
    ending: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    measured: Vec<ReadingLine<'a>>,
    evidence: Vec<Box<RawValue>>,
    steps: Vec<StepLine<'a>>,
    notes: &'a [String],
    attempts: u32,
    took_ms: u128,
    kernel: &'a str,
}

#[derive(Serialize)]
struct ReadingLine<'a> {
    what: &'a str,
    /// As text; `null` where the claim has no say.
    claimed: Option<&'a Expected>,
    decisive: bool,
    /// As text.
    expected: &'a Expected,
    /// A number (times in ns), a fact, a name, or a list of names.
    measured: &'a Value,
    /// The same as text.
    told: String,
    source: Source,
    met: bool,
}

#[derive(Serialize)]
struct StepLine<'a> {
    after_ms: u128,
    what: &'a str,
}

/// The line of a report, without the line's end. `clock_offset_ns` is what to add to CLOCK_BOOTTIME ns to
/// get ns since 1970.
///
/// # Errors
/// When a finding cannot be written as JSON.
pub fn line(report: &Report, clock_offset_ns: i64) -> anyhow::Result<String> {
    let (ending, reason) = match &report.ending {
        Ending::Played => ("played", None),
        Ending::Failed(why) => ("failed", Some(why.as_str())),
        Ending::Skipped(why) => ("skipped", Some(why.as_str())),
        Ending::Interrupted => ("interrupted", None),
    };
    let task = &report.task;
    Ok(serde_json::to_string(&Line {
        kind: "experiment",
        id: &task.id,
        name: &task.name,
        claims: &task.claims,
        title: &task.title,
        says: &task.says,
        verdict: report.verdict().as_ref().map(word),
        expected: report.expected_verdict().as_ref().map(word),
        condition: task.condition.as_deref(),
        as_expected: report.is_as_expected(),
        ending,
        reason,
        measured: report.readings.iter().map(ReadingLine::from).collect(),
        evidence: evidence(&report.evidence, clock_offset_ns)?,
        steps: report
            .steps
            .iter()
            .map(|Step { after, what }| StepLine {
                after_ms: after.as_millis(),
                what,
            })
            .collect(),
        notes: &report.notes,
        attempts: report.attempts,
        took_ms: report.took.as_millis(),
        kernel: &report.kernel,
    })?)
}

impl<'a> From<&'a Reading> for ReadingLine<'a> {
    fn from(reading: &'a Reading) -> Self {
        let Reading {
            what,
            claimed,
            decisive,
            expected,
            measured,
            source,
            met,
        } = reading;
        Self {
            what,
            claimed: claimed.as_ref(),
            decisive: *decisive,
            expected,
            measured,
            told: measured.to_string(),
            source: *source,
            met: *met,
        }
    }
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Holds => "holds",
        Verdict::HoldsOnlyIf(_) => "holds_only_if",
        Verdict::DoesNotHold => "does_not_hold",
    }
}

/// The findings as the trace would have printed them. Of a story, each end has a line of its own.
fn evidence(findings: &[Finding], clock_offset_ns: i64) -> anyhow::Result<Vec<Box<RawValue>>> {
    let mut lines = Vec::new();
    let mut json = Json::new(&mut lines, clock_offset_ns);
    for finding in findings {
        if let Finding::Story(story) = finding {
            json.finding(&Finding::Connection(Box::new(story.first.clone())))?;
            if let Some(second) = &story.second {
                json.finding(&Finding::Connection(Box::new(second.clone())))?;
            }
        } else {
            json.finding(finding)?;
        }
    }
    drop(json);
    String::from_utf8(lines)?
        .lines()
        .map(|line| Ok(RawValue::from_string(line.to_owned())?))
        .collect()
}
