//! Reports as JSON: one object each, on one line. docs/lab.md documents the fields.

use serde::Serialize;
use serde_json::value::RawValue;
use tcptrace_model::Finding;

use super::{Ending, Report};
use crate::{
    lab::{log::Step, reading::Reading},
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
    /// `holds`, `holds_only_if`, `does_not_hold`, `undecided`.
    verdict: Verdict,
    /// What was expected of this kernel, likewise.
    expected: Verdict,
    as_expected: bool,
    /// `played`, `failed`, `skipped`, `interrupted`.
    ending: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    measured: &'a [Reading],
    evidence: Vec<Box<RawValue>>,
    steps: Vec<StepLine<'a>>,
    notes: &'a [String],
    attempts: u32,
    took_ms: u128,
    kernel: &'a str,
}

#[derive(Serialize)]
struct Verdict {
    word: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<String>,
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
        verdict: Verdict::of(report.verdict()),
        expected: Verdict::of(report.expected_verdict()),
        as_expected: report.is_as_expected(),
        ending,
        reason,
        measured: &report.readings,
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

impl Verdict {
    fn of(verdict: Option<crate::lab::reading::Verdict>) -> Self {
        use crate::lab::reading::Verdict as Of;
        let (word, condition) = match verdict {
            Some(Of::Holds) => ("holds", None),
            Some(Of::HoldsOnlyIf(condition)) => ("holds_only_if", Some(condition)),
            Some(Of::DoesNotHold) => ("does_not_hold", None),
            None => ("undecided", None),
        };
        Self { word, condition }
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
