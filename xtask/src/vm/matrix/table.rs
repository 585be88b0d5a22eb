//! Owns how results are shown: a line as each comes, the table at the end, and the same as JSON.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{
    checks,
    judge::{Judgement, Verdict},
};
use crate::{
    test::libtest::{self, Tally},
    vm::kernels::Backend,
};

/// How many lines of a failed test are shown; the JSON has all.
const SAID: usize = 30;

/// One check of one kernel.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// The label of the kernel: `6.1`, `6.1 arm64`.
    pub(super) kernel: String,
    /// The version of its packages; `None` when it could not be had.
    pub(super) version: Option<String>,
    /// The version in the table of kernels.
    pub(super) pinned: String,
    pub(super) check: &'static str,
    pub(super) backend: Option<Backend>,
    pub(super) judgement: Judgement,
    /// What was found, one by one: the doctor's features, or the tests with their results.
    pub(super) details: Vec<Value>,
    pub(super) time: Duration,
    /// How often the guest was booted: 2 if one boot came to nothing, 0 if none was tried.
    pub(super) boots: u32,
    /// The last lines of the console of a guest that was lost.
    pub(super) console: Vec<String>,
}

/// How many rows ended how.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) skipped: usize,
}

impl Row {
    /// One line, for the moment when it is known.
    pub(super) fn line(&self) -> String {
        let check = checks::label(self.check, self.backend);
        let mut line = format!(
            "{:<10} {check:<17} {:<8} {:>6.1} s  {}",
            self.kernel,
            word(self.judgement.verdict),
            self.time.as_secs_f64(),
            self.judgement.note
        );
        if self.boots > 1 {
            let _ = write!(line, " (booted {} times)", self.boots);
        }
        for said in &self.console {
            let _ = write!(line, "\n    | {said}");
        }
        line
    }

    /// What it counts for among other tests: each test in it, or else itself.
    pub(super) fn tally(&self) -> Tally {
        let count = |result: &str| {
            let with_it = self.details.iter().filter(|test| test["result"] == result);
            u32::try_from(with_it.count()).unwrap_or(u32::MAX)
        };
        let is_pass = self.judgement.verdict == Verdict::Pass;
        let tests = libtest::judge(
            Tally {
                passed: count("pass"),
                // A stock kernel lacks nothing: what does not run there is broken, not missing.
                failed: count("fail") + count("skipped"),
                skipped: 0,
            },
            is_pass,
        );
        match self.judgement.verdict {
            Verdict::Skipped => Tally::SKIPPED,
            Verdict::Pass | Verdict::Fail if tests.is_empty() => Tally {
                passed: 1,
                ..Tally::default()
            },
            Verdict::Pass | Verdict::Fail => tests,
        }
    }

    fn json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "version": self.version,
            "pinned": self.pinned,
            "check": self.check,
            "backend": self.backend.map(Backend::word),
            "result": word(self.judgement.verdict).to_lowercase(),
            "note": self.judgement.note,
            "seconds": (self.time.as_secs_f64() * 10.0).round() / 10.0,
            "boots": self.boots,
            "console": self.console,
            "details": self.details,
        })
    }

    /// What the table says of the kernel; another version than the pinned one is always told.
    fn shown_version(&self) -> String {
        match &self.version {
            None => "-".to_owned(),
            Some(version) if *version == self.pinned => version.clone(),
            Some(version) => format!("{version} instead of {}", self.pinned),
        }
    }
}

/// How many of the rows ended how.
pub(super) fn sum(rows: &[Row]) -> Sum {
    let mut sum = Sum::default();
    for row in rows {
        match row.judgement.verdict {
            Verdict::Pass => sum.passed += 1,
            Verdict::Fail => sum.failed += 1,
            Verdict::Skipped => sum.skipped += 1,
        }
    }
    sum
}

/// The table: a line for each kernel and a column for each check and backend; below it what failed and
/// what was skipped, with the reasons; the sum as its last line.
pub(super) fn text(rows: &[Row]) -> String {
    let mut columns: Vec<String> = Vec::new();
    let mut kernels: Vec<&Row> = Vec::new();
    for row in rows {
        let label = checks::label(row.check, row.backend);
        if !columns.contains(&label) {
            columns.push(label);
        }
        if !kernels.iter().any(|known| known.kernel == row.kernel) {
            kernels.push(row);
        }
    }
    let mut lines = vec![
        [
            vec!["kernel".to_owned(), "version".to_owned()],
            columns.clone(),
        ]
        .concat(),
    ];
    for kernel in kernels {
        let mut line = vec![kernel.kernel.clone(), kernel.shown_version()];
        line.extend(columns.iter().map(|column| {
            let is_it = |row: &&Row| {
                row.kernel == kernel.kernel && checks::label(row.check, row.backend) == *column
            };
            rows.iter().find(is_it).map_or_else(|| "-".to_owned(), cell)
        }));
        lines.push(line);
    }
    let mut text = aligned(&lines);
    let by_feature = by_feature(rows);
    if by_feature.len() > 1 {
        let _ = write!(text, "\n{}", aligned(&by_feature));
    }
    let reasons = reasons(rows);
    if !reasons.is_empty() {
        let _ = write!(text, "\n{}\n", reasons.join("\n"));
    }
    text.push_str(&said(rows));
    let Sum {
        passed,
        failed,
        skipped,
    } = sum(rows);
    let _ = writeln!(
        text,
        "\n{passed} passed, {failed} failed, {skipped} skipped"
    );
    text
}

/// The same for programs. `format` changes only when a field changes its meaning or goes; fields may be
/// added. `rows` has an object for each check of each kernel, in the table's order:
///
/// | field | |
/// |---|---|
/// | `kernel` | the label: `6.1`, `6.1 arm64` |
/// | `version`, `pinned` | the version of its packages (`null`: it could not be had), and that in the table of kernels |
/// | `check` | `doctor`, `live`, `bind rules`, `hindrances`, `ftrace off`, `lockdown`, `agreement`, `types`, `lab`, `recording` |
/// | `backend` | `fentry`, `timer`; `null`: the tracer's choice |
/// | `result` | `pass`, `fail`, `skipped` |
/// | `note` | what passed, what failed and how, or why it was skipped |
/// | `seconds` | host's time, boot included |
/// | `boots` | 2: the first boot never reached its init; 0: none was tried |
/// | `console` | the last lines of the console of a guest that was lost |
/// | `details` | one by one: the doctor's features as it says them, or the tests with `name`, `result` and, if one failed, `said`: its words line by line |
pub(super) fn json(rows: &[Row]) -> Value {
    let Sum {
        passed,
        failed,
        skipped,
    } = sum(rows);
    json!({
        "kind": "matrix",
        "format": 1,
        "passed": passed,
        "failed": failed,
        "skipped": skipped,
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    })
}

/// A line for each family of tests, and a column for each kernel and backend that they ran with.
fn by_feature(rows: &[Row]) -> Vec<Vec<String>> {
    let columns: Vec<&Row> = rows
        .iter()
        .filter(|row| row.check == "live" && !row.details.is_empty())
        .collect();
    let family = |test: &Value| {
        let name = test["name"].as_str().unwrap_or_default();
        name.split(':').next().unwrap_or(name).to_owned()
    };
    let mut families: Vec<String> = Vec::new();
    for test in columns.iter().flat_map(|row| &row.details) {
        if !families.contains(&family(test)) {
            families.push(family(test));
        }
    }
    let head = columns.iter().map(|row| match row.backend {
        Some(backend) => format!("{} {}", row.kernel, backend.word()),
        None => row.kernel.clone(),
    });
    let mut lines = vec![vec!["feature".to_owned()]];
    lines[0].extend(head);
    for name in families {
        let mut line = vec![name.clone()];
        line.extend(columns.iter().map(|row| {
            let of_family = || row.details.iter().filter(|test| family(test) == name);
            let passed = of_family().filter(|test| test["result"] == "pass").count();
            match of_family().count() {
                0 => "-".to_owned(),
                all if all == passed => format!("pass {all}"),
                all => format!("FAIL {passed}/{all}"),
            }
        }));
        lines.push(line);
    }
    lines
}

fn cell(row: &Row) -> String {
    match row.judgement.verdict {
        Verdict::Pass | Verdict::Fail => {
            let seconds = row.time.as_secs_f64();
            format!("{} {seconds:.0} s", word(row.judgement.verdict))
        }
        Verdict::Skipped => word(row.judgement.verdict).to_owned(),
    }
}

/// Why rows are not passed; said once where it is the same for every check of a kernel.
fn reasons(rows: &[Row]) -> Vec<String> {
    let mut reasons: Vec<String> = Vec::new();
    for row in rows {
        let judgement = &row.judgement;
        let same_for_all = rows
            .iter()
            .filter(|other| other.kernel == row.kernel)
            .all(|other| other.judgement == *judgement);
        let what = if same_for_all {
            "every check".to_owned()
        } else {
            checks::label(row.check, row.backend)
        };
        let reason = format!(
            "{} {what}: {}: {}",
            row.kernel,
            word(judgement.verdict),
            judgement.note
        );
        if judgement.verdict != Verdict::Pass && !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    reasons
}

/// The words of each failed test.
fn said(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        for test in &row.details {
            let Some(said) = test["said"].as_array() else {
                continue;
            };
            let check = checks::label(row.check, row.backend);
            let name = test["name"].as_str().unwrap_or_default();
            let _ = writeln!(text, "\n{} {check}: {name}", row.kernel);
            for line in said.iter().filter_map(Value::as_str).take(SAID) {
                let _ = writeln!(text, "    | {line}");
            }
        }
    }
    text
}

/// A failure is written so that it is found in a page of passes.
fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::Skipped => "skipped",
    }
}

fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for line in lines {
        let mut shown = String::new();
        for (column, cell) in line.iter().enumerate() {
            let _ = write!(shown, "{cell:<width$}  ", width = width(column));
        }
        let _ = writeln!(text, "{}", shown.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kernel: &str, check: &'static str, judgement: Judgement) -> Row {
        Row {
            kernel: kernel.to_owned(),
            version: Some("6.1.176-1".to_owned()),
            pinned: "6.1.176-1".to_owned(),
            check,
            backend: None,
            judgement,
            details: Vec::new(),
            time: Duration::from_millis(12_340),
            boots: 1,
            console: Vec::new(),
        }
    }

    #[test]
    fn the_table_has_kernels_by_checks() {
        let rows = [
            row("6.1", "doctor", Judgement::pass("by fentry")),
            row("6.1", "lab", Judgement::fail("A1 (errno)")),
            row("6.12", "doctor", Judgement::pass("by fentry")),
        ];
        let expected = "\
kernel  version    doctor     lab
6.1     6.1.176-1  pass 12 s  FAIL 12 s
6.12    6.1.176-1  pass 12 s  -

6.1 lab: FAIL: A1 (errno)

2 passed, 1 failed, 0 skipped
";
        assert_eq!(text(&rows), expected);
    }

    #[test]
    fn a_failed_test_has_its_words_below_the_table() {
        let mut live = row("7.2", "live", Judgement::fail("1 failed: a (one)"));
        live.details = vec![
            json!({"name": "a", "result": "fail", "said": ["one", "  two"]}),
            json!({"name": "b", "result": "pass"}),
        ];
        let text = text(&[live]);
        let words = "7.2 every check: FAIL: 1 failed: a (one)\n\n7.2 live: a\n    | one\n    |   two\n\n0 passed";
        assert!(text.contains(words), "{text}");
    }

    #[test]
    fn tests_are_told_by_family_and_kernel() {
        let test = |name, result| json!({"name": name, "result": result});
        let mut old = row("5.10", "live", Judgement::pass("2 passed"));
        old.details = vec![test("calls: a", "pass"), test("calls: b", "pass")];
        let mut new = row("7.2", "live", Judgement::fail("1 failed"));
        new.details = vec![
            test("calls: a", "fail"),
            test("calls: b", "pass"),
            test("lab: c", "pass"),
        ];
        new.backend = Some(Backend::Timer);
        let expected = "\
feature  5.10    7.2 timer
calls    pass 2  FAIL 1/2
lab      -       pass 1
";
        assert_eq!(aligned(&by_feature(&[old, new])), expected);
    }

    #[test]
    fn a_row_counts_for_its_tests_or_for_itself() {
        let tally = |passed, failed, skipped| Tally {
            passed,
            failed,
            skipped,
        };
        let test = |result| json!({"name": "a", "result": result});
        assert_eq!(
            row("6.1", "lab", Judgement::pass("")).tally(),
            tally(1, 0, 0)
        );
        assert_eq!(
            row("6.1", "lab", Judgement::fail("")).tally(),
            tally(0, 1, 0)
        );
        assert_eq!(
            row("6.1", "lab", Judgement::skipped("")).tally(),
            tally(0, 0, 1)
        );
        let mut live = row("6.1", "live", Judgement::pass(""));
        live.details = vec![test("pass"), test("pass")];
        assert_eq!(live.tally(), tally(2, 0, 0));
        live.judgement = Judgement::fail("");
        assert_eq!(live.tally(), tally(2, 1, 0), "it died, or hung");
        live.details.push(test("skipped"));
        assert_eq!(live.tally(), tally(2, 1, 0));
    }

    #[test]
    fn skipped_is_counted_apart_and_told_once() {
        let mut rows =
            ["doctor", "lab"].map(|check| row("7.2", check, Judgement::skipped("no net")));
        for row in &mut rows {
            row.version = None;
        }
        let text = text(&rows);
        assert!(
            text.contains("7.2     -        skipped  skipped\n"),
            "{text}"
        );
        assert!(
            text.contains("\n7.2 every check: skipped: no net\n"),
            "{text}"
        );
        assert!(text.ends_with("0 passed, 0 failed, 2 skipped\n"), "{text}");
    }

    #[test]
    fn another_version_than_the_pinned_one_is_told() {
        let mut moved = row("6.1", "doctor", Judgement::pass(""));
        moved.version = Some("6.1.180-1".to_owned());
        assert!(text(&[moved]).contains("6.1.180-1 instead of 6.1.176-1"));
    }

    #[test]
    fn a_lost_guest_shows_its_console_and_its_boots() {
        let mut lost = row("6.1", "lab", Judgement::fail("the guest crashed"));
        lost.boots = 2;
        lost.console = vec!["BUG: oops".to_owned()];
        let line = lost.line();
        assert!(
            line.ends_with("the guest crashed (booted 2 times)\n    | BUG: oops"),
            "{line}"
        );
    }

    #[test]
    fn json_has_the_same() {
        let mut one = row("6.1", "lab", Judgement::fail("A1"));
        one.backend = Some(Backend::Timer);
        let json = json(&[one]);
        assert_eq!(json["failed"], 1);
        let row = &json["rows"][0];
        assert_eq!(
            (&row["result"], &row["backend"]),
            (&"fail".into(), &"timer".into())
        );
        assert_eq!(row["seconds"], 12.3);
    }
}
