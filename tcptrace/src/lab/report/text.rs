//! Reports as text: what the claim says, what happened, what was measured, the verdict, and why.

use std::{fmt::Write as _, io};

use anstyle::{AnsiColor, Style};
use tcptrace_model::Finding;

use super::{Ending, Report};
use crate::{
    lab::reading::{Reading, Verdict},
    render::{
        Render, Start,
        text::{Layout, Text, wrapped},
    },
};

/// Of the steps of an experiment, so many are told; the rest are counted.
const MOST_STEPS: usize = 60;
/// The longest column of a table.
const WIDEST: usize = 44;

/// How reports look.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// As that of a trace: width, colour, ladder.
    pub layout: Layout,
    /// CLOCK_BOOTTIME ns to ns since 1970.
    pub clock_offset_ns: i64,
}

/// A report, with an empty line at its end.
///
/// # Errors
/// Never: it is written into memory.
pub fn report(report: &Report, start: &Start, look: Look) -> io::Result<String> {
    let mut out = String::new();
    let task = &report.task;
    let bold = style(look, Style::new().bold());
    let heading = format!("{}  {}", task.id, task.title);
    let _ = writeln!(out, "{bold}{heading}{bold:#}");
    part(&mut out, look, "The claim", &task.says);
    if !report.steps.is_empty() {
        let _ = writeln!(out, "  What happened:");
        for step in report.steps.iter().take(MOST_STEPS) {
            let after = format!("{:.3}s", step.after.as_secs_f64());
            let _ = writeln!(out, "  {after:>9}  {}", step.what);
        }
        if let Some(more) = report
            .steps
            .len()
            .checked_sub(MOST_STEPS)
            .filter(|n| *n > 0)
        {
            let _ = writeln!(out, "             and {more} more");
        }
    }
    table(&mut out, look, &report.readings);
    told_by_trace(&mut out, report, start, look)?;
    match &report.ending {
        Ending::Played => verdict(&mut out, report, look),
        Ending::Failed(why) => part(&mut out, look, "Not played to its end", why),
        Ending::Skipped(why) => part(&mut out, look, "Skipped", why),
        Ending::Interrupted => out.push_str("  Interrupted.\n"),
    }
    if report.attempts > 1 {
        let times = format!(
            "{} times: the trace may have missed something of an earlier attempt, which did not go as expected",
            report.attempts
        );
        part(&mut out, look, "Played", &times);
    }
    for note in &report.notes {
        part(&mut out, look, "Note", note);
    }
    out.push('\n');
    Ok(out)
}

/// The table of all reports, a line each.
#[must_use]
pub fn summary(reports: &[&Report], look: Look) -> String {
    let mut out = String::new();
    let widest = reports.iter().map(|report| report.task.name.len()).max();
    let name_width = widest.unwrap_or_default();
    for report in reports {
        let verdict = match &report.ending {
            Ending::Played => report
                .verdict()
                .map_or_else(|| "undecided".to_owned(), |verdict| verdict.to_string()),
            Ending::Failed(_) => "not played to its end".to_owned(),
            Ending::Skipped(why) => format!("skipped: {why}"),
            Ending::Interrupted => "interrupted".to_owned(),
        };
        let (mark, colour) = mark(report);
        let colour = style(look, colour);
        let _ = writeln!(
            out,
            "{colour}{mark}{colour:#} {:<4} {:<name_width$}  {verdict}",
            report.task.id, report.task.name,
        );
    }
    out
}

/// `+` as expected, `!` not as expected, `-` not played.
fn mark(report: &Report) -> (char, Style) {
    match report.ending {
        Ending::Skipped(_) | Ending::Interrupted => ('-', AnsiColor::Yellow.on_default()),
        Ending::Played | Ending::Failed(_) if report.is_as_expected() => {
            ('+', AnsiColor::Green.on_default())
        }
        Ending::Played | Ending::Failed(_) => ('!', AnsiColor::Red.on_default()),
    }
}

fn verdict(out: &mut String, report: &Report, look: Look) {
    let Some(verdict) = report.verdict() else {
        part(
            out,
            look,
            "Verdict",
            "undecided: nothing was measured that the claim stands or falls with",
        );
        return;
    };
    let bold = match verdict {
        Verdict::Holds => AnsiColor::Green.on_default().bold(),
        Verdict::HoldsOnlyIf(_) => AnsiColor::Yellow.on_default().bold(),
        Verdict::DoesNotHold => AnsiColor::Red.on_default().bold(),
    };
    let bold = style(look, bold);
    let _ = write!(out, "  {bold}Verdict: ");
    wrapped(out, &look.layout, 11, 4, &format!("{verdict}."));
    let _ = writeln!(out, "{bold:#}");
    if !report.is_as_expected() {
        let wrong: Vec<String> = report
            .readings
            .iter()
            .filter(|reading| !reading.met)
            .map(|reading| {
                format!(
                    "{} ({} where {} was expected)",
                    reading.what, reading.measured, reading.expected
                )
            })
            .collect();
        part(
            out,
            look,
            "Not as expected of this kernel",
            &wrong.join("; "),
        );
    }
    if !report.task.why.is_empty() {
        part(out, look, "Why", &report.task.why);
    }
}

fn part(out: &mut String, look: Look, label: &str, text: &str) {
    let begin = format!("  {label}: ");
    out.push_str(&begin);
    wrapped(out, &look.layout, begin.chars().count(), 4, text);
    out.push('\n');
}

fn table(out: &mut String, look: Look, readings: &[Reading]) {
    if readings.is_empty() {
        return;
    }
    let claimed = |reading: &Reading| {
        reading
            .claimed
            .as_ref()
            .map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    let width = |head: &str, of: &dyn Fn(&Reading) -> String| {
        let widest = readings.iter().map(|reading| of(reading).chars().count());
        widest.max().unwrap_or_default().clamp(head.len(), WIDEST)
    };
    let what_width = width("Measured", &|reading| reading.what.clone());
    let claim_width = width("claim", &claimed);
    let measured_width = width("measured", &|reading| reading.measured.to_string());
    let _ = writeln!(
        out,
        "  {:<what_width$}  {:<claim_width$}  measured",
        "Measured", "claim"
    );
    for reading in readings {
        let says = match &reading.claimed {
            Some(claimed) if claimed.is_met_by(&reading.measured) => "as claimed",
            Some(_) => "not as claimed",
            None => "",
        };
        let surprise = if reading.met { "" } else { ", not as expected" };
        let colour = style(
            look,
            match (&reading.claimed, reading.met) {
                (_, false) => AnsiColor::Red.on_default(),
                (Some(claimed), true) if !claimed.is_met_by(&reading.measured) => {
                    AnsiColor::Yellow.on_default()
                }
                (Some(_) | None, true) => Style::new(),
            },
        );
        let line = format!(
            "  {:<what_width$}  {:<claim_width$}  {:<measured_width$}  {colour}{says}{surprise}{colour:#}",
            reading.what,
            claimed(reading),
            reading.measured.to_string(),
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// What the trace itself says of it, as it would have been printed.
fn told_by_trace(out: &mut String, report: &Report, start: &Start, look: Look) -> io::Result<()> {
    if report.evidence.is_empty() {
        return Ok(());
    }
    let layout = Layout {
        no_header: true,
        width: look.layout.width.map(|width| width.saturating_sub(4)),
        ..look.layout
    };
    let mut told = Vec::new();
    let mut text = Text::new(&mut told, io::sink(), layout, look.clock_offset_ns);
    text.start(start)?;
    for finding in &report.evidence {
        // A story without its drawing is told by the steps.
        if !matches!(finding, Finding::Story(_)) || look.layout.ladder {
            text.finding(finding)?;
        }
    }
    text.flush()?;
    drop(text);
    let told = String::from_utf8_lossy(&told);
    if !told.is_empty() {
        let _ = writeln!(out, "  The trace says:");
    }
    for line in told.lines() {
        let _ = writeln!(out, "    {line}");
    }
    Ok(())
}

fn style(look: Look, style: Style) -> Style {
    if look.layout.colour {
        style
    } else {
        Style::new()
    }
}
