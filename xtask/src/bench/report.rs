//! Owns what is said of comparisons: tables for people, JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    compare::{Comparison, Figures},
    stats::{Spread, grouped},
    table::Table,
    work::unrelated_calls,
};

/// As people read it.
pub(super) fn text(comparison: &Comparison, rounds: usize) -> String {
    let load = comparison.load;
    let drivers = match load.drivers {
        1 => "one driver".to_owned(),
        several => format!("{several} drivers, each so many"),
    };
    let mut text = format!(
        "{}: {rounds} rounds of {} {}; {}, {drivers}; medians (smallest to largest)\n\n",
        load.work.name(),
        grouped(&load.times.to_string()),
        load.work.sentence(),
        load.over.name(),
    );
    let table = match load.work.event() {
        Some(event) => traced(comparison, event),
        None => unrelated(comparison),
    };
    text.push_str(&table.to_string());
    for (name, why) in &comparison.left_out {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: left out: {why}");
    }
    text
}

/// As programs read it.
///
/// `skipped` are workloads that could not be had, and why.
pub(super) fn json(
    comparisons: &[Comparison],
    skipped: &[(&'static str, String)],
    rounds: usize,
) -> Value {
    let works: Vec<Value> = comparisons.iter().map(of_comparison).collect();
    let skipped: Vec<Value> = skipped
        .iter()
        .map(|(work, why)| json!({ "work": work, "reason": why }))
        .collect();
    json!({ "kind": "bench", "rounds": rounds, "works": works, "skipped": skipped })
}

fn traced(comparison: &Comparison, event: &str) -> Table {
    let rate = format!("{}/s", comparison.load.work.unit());
    let mut table = Table::new(&[
        "",
        &format!("kernel ns per {event}"),
        &rate,
        "of untraced",
        &format!("its CPU us per {event}"),
        "of it in user space",
        "peak MiB",
        "lost",
        "first event ms",
    ]);
    for (row, figures) in comparison.rows.iter().zip(comparison.figures()) {
        let has_process = figures.cpu_us.is_some();
        table.row(vec![
            row.entrant.contender.shown.to_owned(),
            spread(figures.kernel_ns, 0),
            spread(figures.rate, 0),
            spread(figures.of_untraced, 3),
            spread(figures.cpu_us, 2),
            spread(figures.user_us, 2),
            figures.memory.map_or_else(dash, mebibytes),
            match figures.lost {
                Some(lost) => grouped(&lost.to_string()),
                None if has_process => "unknown".to_owned(),
                None => dash(),
            },
            spread(row.first_event_ms, 0),
        ]);
    }
    table
}

fn unrelated(comparison: &Comparison) -> Table {
    let headings: Vec<String> = unrelated_calls()
        .map(|call| format!("{call}, ns"))
        .collect();
    let mut heading = vec![""];
    heading.extend(headings.iter().map(String::as_str));
    let mut table = Table::new(&heading);
    for (row, figures) in comparison.rows.iter().zip(comparison.figures()) {
        let mut cells = vec![row.entrant.contender.shown.to_owned()];
        cells.extend(figures.calls_ns.iter().map(|ns| format!("{ns:.1}")));
        table.row(cells);
    }
    table
}

fn of_comparison(comparison: &Comparison) -> Value {
    let load = comparison.load;
    let rows: Vec<Value> = comparison
        .rows
        .iter()
        .zip(comparison.figures())
        .map(|(row, figures)| {
            let mut object = of_figures(&figures);
            object["contender"] = json!(row.entrant.contender.name);
            object["shown"] = json!(row.entrant.contender.shown);
            object["first_event_ms"] = value(row.first_event_ms);
            object
        })
        .collect();
    let left_out: Vec<Value> = comparison
        .left_out
        .iter()
        .map(|(name, why)| json!({ "contender": name, "reason": why }))
        .collect();
    json!({
        "work": load.work.name(),
        "over": load.over.name(),
        "drivers": load.drivers,
        "times_each": load.times,
        "unit": load.work.unit(),
        "event": load.work.event(),
        "events_each_time": comparison.events,
        "rows": rows,
        "left_out": left_out,
    })
}

fn of_figures(figures: &Figures) -> Value {
    let calls: Vec<Value> = unrelated_calls()
        .zip(&figures.calls_ns)
        .map(|(call, ns)| json!({ "call": call, "ns": ns }))
        .collect();
    json!({
        "kernel_ns_per_event": value(figures.kernel_ns),
        "per_second": value(figures.rate),
        "of_untraced": value(figures.of_untraced),
        "cpu_us_per_event": value(figures.cpu_us),
        "user_us_per_event": value(figures.user_us),
        "peak_memory_bytes": figures.memory,
        "lost_records": figures.lost,
        "calls": calls,
    })
}

fn value(spread: Option<Spread>) -> Value {
    spread.map_or(Value::Null, Value::from)
}

fn spread(spread: Option<Spread>, decimals: usize) -> String {
    spread.map_or_else(dash, |spread| spread.shown(decimals))
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1024 * 1024);
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn dash() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_mebibytes() {
        assert_eq!(mebibytes(14 * 1024 * 1024 + 700_000), "14.6");
    }

    #[test]
    fn what_is_not_known_is_null() {
        let figures = Figures {
            lost: Some(0),
            ..Figures::default()
        };
        let object = of_figures(&figures);
        assert_eq!(object["lost_records"], 0);
        assert!(object["kernel_ns_per_event"].is_null());
        assert!(object["peak_memory_bytes"].is_null());
    }
}
