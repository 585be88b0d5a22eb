//! Owns the reading of what the checks write: pure functions from a guest's output to a verdict.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    test::libtest,
    vm::kernels::{Backend, Pinned},
};

/// How many failures a reason names.
const NAMED: usize = 5;
/// How many characters of one failure's own words it shows.
const SHOWN: usize = 300;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Fail,
    /// Not run, or nothing of it could run: never as good as a pass.
    Skipped,
}

/// A verdict and what is to be said of it: what passed, what failed and how, why it was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) verdict: Verdict,
    pub(super) note: String,
}

/// What the doctor of one kernel found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doctor {
    can_trace: bool,
    time_wait: String,
    calls: String,
    /// What is not as good as it could be: name and finding.
    degraded: Vec<(String, String)>,
    /// What it says of each feature, as it says it.
    pub(super) features: Vec<Value>,
}

impl Judgement {
    /// It is as it should be.
    pub(super) fn pass(note: impl Into<String>) -> Self {
        Self::new(Verdict::Pass, note)
    }

    /// It is not.
    pub(super) fn fail(note: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, note)
    }

    /// It was not run.
    pub(super) fn skipped(note: impl Into<String>) -> Self {
        Self::new(Verdict::Skipped, note)
    }

    fn new(verdict: Verdict, note: impl Into<String>) -> Self {
        let note = note.into();
        Self { verdict, note }
    }
}

impl Doctor {
    /// Reads the line of `tcptrace doctor --json`.
    pub(super) fn parse(stdout: &str) -> Result<Self> {
        let is_report = |line: &&str| line.starts_with('{');
        let line = stdout.lines().find(is_report).context("no JSON came")?;
        let report: Value = serde_json::from_str(line).context("the JSON cannot be read")?;
        let backend = |need: &str| {
            report["backends"][need]
                .as_str()
                .unwrap_or("none")
                .to_owned()
        };
        let checks = report["checks"].as_array().into_iter().flatten();
        let degraded = checks.filter(|check| check["status"] != "ok").map(|check| {
            let text = |field: &str| check[field].as_str().unwrap_or_default().to_owned();
            (text("name"), text("found"))
        });
        Ok(Self {
            can_trace: report["can_trace"] == true,
            time_wait: backend("time_wait"),
            calls: backend("calls"),
            degraded: degraded.collect(),
            features: report["features"].as_array().cloned().unwrap_or_default(),
        })
    }

    /// Whether it is what a stock kernel like this one must allow.
    pub(super) fn judge(&self, pinned: &Pinned) -> Judgement {
        let found = self.found();
        let degraded: Vec<String> = self
            .degraded
            .iter()
            .map(|(name, found)| format!("{name}: {found}"))
            .collect();
        let note = [vec![found], degraded].concat().join("; ");
        let wanted = pinned.backend.word();
        if !self.can_trace {
            Judgement::fail(note)
        } else if self.best() != pinned.backend {
            Judgement::fail(format!("{note}; a kernel like this one has {wanted}"))
        } else {
            Judgement::pass(note)
        }
    }

    /// Why nothing can be run with this backend; `None` where it can.
    pub(super) fn refuses(&self, backend: Backend) -> Option<String> {
        match (backend, self.best()) {
            // Wherever the tracer runs at all, the tracepoints are there.
            (Backend::Timer, _) | (Backend::Fentry, Backend::Fentry) => None,
            (Backend::Fentry, Backend::Timer) => {
                let of_hooks =
                    |(name, _): &&(String, String)| name == "TIME_WAIT" || name == "calls";
                let found = self.degraded.iter().find(of_hooks);
                let reason = found.map_or("no fentry", |(_, found)| found.as_str());
                Some(format!("doctor: {reason}"))
            }
        }
    }

    /// Whether it traces, and by this backend alone.
    pub(super) fn has(&self, backend: Backend) -> bool {
        let calls = match backend {
            Backend::Fentry => "fentry",
            Backend::Timer => "syscalls",
        };
        self.can_trace && self.time_wait == backend.word() && self.calls == calls
    }

    /// The backends that it found.
    pub(super) fn found(&self) -> String {
        format!("TIME_WAIT by {}, calls by {}", self.time_wait, self.calls)
    }

    /// Both needs decide: a row is about both.
    fn best(&self) -> Backend {
        if self.time_wait == "fentry" && self.calls == "fentry" {
            Backend::Fentry
        } else {
            Backend::Timer
        }
    }
}

/// Each test with how it ended: objects with `name` and `result`, which is `pass`, `fail` or `skipped`; of a
/// failed one also `said`, its words line by line.
pub(super) fn each_test(stdout: &str) -> Vec<Value> {
    let failed = failed_tests(stdout);
    let ended = |line: &str| {
        let (name, word) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
        let result = match word.trim() {
            "ok" => "pass",
            "FAILED" => "fail",
            "ignored" => "skipped",
            _ => return None,
        };
        let name = name.trim();
        Some(match failed.iter().find(|(failed, _)| failed == name) {
            Some((_, said)) => json!({"name": name, "result": result, "said": said}),
            None => json!({"name": name, "result": result}),
        })
    };
    stdout.lines().filter_map(ended).collect()
}

/// Reads the output of a test program. Ignored tests are failures: a stock kernel and root lack nothing,
/// so what does not run there is broken, not missing.
pub(super) fn tests(stdout: &str, stderr: &str, status: u8) -> Judgement {
    let tally = libtest::judge(libtest::count_in(stdout), status == 0);
    if tally.is_empty() {
        return Judgement::fail("no test ran");
    }
    let passed = format!("{} passed", tally.passed);
    if tally.failed == 0 && tally.skipped == 0 {
        return Judgement::pass(passed);
    }
    let mut parts = vec![passed];
    let failed: Vec<String> = failed_tests(stdout)
        .into_iter()
        .map(|(name, said)| {
            format!(
                "{name} ({})",
                cut(said.first().copied().unwrap_or_default())
            )
        })
        .collect();
    if !failed.is_empty() {
        parts.push(format!("{} failed: {}", tally.failed, joined(&failed)));
    } else if tally.failed > 0 {
        parts.push(format!("it ended with {status}: {}", last_line(stderr)));
    }
    if tally.skipped > 0 {
        let reasons: Vec<String> = stderr
            .lines()
            .filter(|line| line.contains("skipped: "))
            .map(str::to_owned)
            .collect();
        parts.push(format!("{} not run: {}", tally.skipped, joined(&reasons)));
    }
    Judgement::fail(parts.join("; "))
}

/// Reads the lines of `tcptrace lab run --json`. What the lab skips is said and does not fail the row,
/// unless nothing else is in it.
pub(super) fn lab(stdout: &str, stderr: &str, status: u8) -> Judgement {
    let mut reports = Vec::new();
    for line in stdout.lines().filter(|line| line.starts_with('{')) {
        match serde_json::from_str::<Value>(line) {
            Ok(report) => reports.push(report),
            Err(error) => return Judgement::fail(format!("a line cannot be read: {error}")),
        }
    }
    let is_skipped = |report: &&Value| report["ending"] == "skipped";
    let skipped: Vec<String> = reports.iter().filter(is_skipped).map(with_reason).collect();
    let played = reports.iter().filter(|report| !is_skipped(report));
    let wrong: Vec<String> = played
        .clone()
        .filter(|report| report["as_expected"] != true)
        .map(unexpected)
        .collect();
    let count = played.count();
    let mut note = format!("{} of {count} as expected", count - wrong.len());
    if !skipped.is_empty() {
        note = format!("{note}; {} skipped: {}", skipped.len(), joined(&skipped));
    }
    if !wrong.is_empty() {
        Judgement::fail(format!("{note}; {}", joined(&wrong)))
    } else if count == 0 && status == 0 {
        Judgement::skipped(note)
    } else if status != 0 {
        Judgement::fail(format!(
            "{note}; it ended with {status}: {}",
            last_line(stderr)
        ))
    } else {
        Judgement::pass(note)
    }
}

/// The last line that says something, shortened.
pub(super) fn last_line(text: &str) -> String {
    let said = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty());
    cut(said.unwrap_or("(it said nothing)"))
}

/// Names of failed tests with the lines that each said, less empty ones.
fn failed_tests(stdout: &str) -> Vec<(String, Vec<&str>)> {
    let header = |line: &str| -> Option<String> {
        let name = line.strip_prefix("---- ")?.strip_suffix(" ----")?;
        Some(name.to_owned())
    };
    let mut failed: Vec<(String, Vec<&str>)> = Vec::new();
    for line in stdout.lines() {
        if let Some(name) = header(line) {
            failed.push((name, Vec::new()));
        } else if line == "failures:" && !failed.is_empty() {
            // All have spoken; their names come again.
            break;
        } else if let Some((_, said)) = failed.last_mut()
            && !line.trim().is_empty()
        {
            said.push(line.trim_end());
        }
    }
    failed
}

fn unexpected(report: &Value) -> String {
    let readings = report["measured"].as_array().into_iter().flatten();
    let wrong: Vec<String> = readings
        .filter(|reading| reading["met"] == false)
        .map(|reading| {
            let text = |field: &str| reading[field].as_str().unwrap_or("-").to_owned();
            format!(
                "{}: {}, expected {}",
                text("what"),
                text("told"),
                text("expected")
            )
        })
        .collect();
    if wrong.is_empty() {
        return with_reason(report);
    }
    let id = report["id"].as_str().unwrap_or("?");
    format!("{id} ({})", cut(&wrong.join(", ")))
}

fn with_reason(report: &Value) -> String {
    let text = |field: &str| report[field].as_str().unwrap_or_default().to_owned();
    format!(
        "{} ({} {})",
        text("id"),
        text("ending"),
        cut(&text("reason"))
    )
}

fn joined(parts: &[String]) -> String {
    let mut shown = parts.iter().take(NAMED).cloned().collect::<Vec<_>>();
    if parts.len() > NAMED {
        shown.push(format!("and {} more", parts.len() - NAMED));
    }
    shown.join("; ")
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::kernels;

    fn doctor(time_wait: &str, calls: &str, can_trace: bool) -> Doctor {
        let report = json!({
            "kind": "doctor", "can_trace": can_trace,
            "backends": {"time_wait": time_wait, "calls": calls},
            "checks": [
                {"name": "BTF", "status": "ok", "found": "there"},
                {"name": "TIME_WAIT", "status": "degraded", "found": "errno 524"},
            ],
        });
        Doctor::parse(&format!("noise\n{report}\n")).expect("it is a report")
    }

    fn pinned(backend: Backend) -> Pinned {
        let kernels = kernels::all().expect("the table can be read");
        let has = |kernel: &Pinned| kernel.backend == backend;
        kernels.into_iter().find(has).expect("there is one")
    }

    fn verdict(judgement: &Judgement) -> Verdict {
        judgement.verdict
    }

    #[test]
    fn a_kernel_must_allow_what_the_table_says() {
        let fentry = pinned(Backend::Fentry);
        assert_eq!(
            verdict(&doctor("fentry", "fentry", true).judge(&fentry)),
            Verdict::Pass
        );
        let lost = doctor("timer", "fentry", true).judge(&fentry);
        assert_eq!(lost.verdict, Verdict::Fail);
        assert!(lost.note.contains("errno 524"), "{}", lost.note);
        assert_eq!(
            verdict(&doctor("none", "none", false).judge(&fentry)),
            Verdict::Fail
        );
        let timer = pinned(Backend::Timer);
        assert_eq!(
            verdict(&doctor("timer", "syscalls", true).judge(&timer)),
            Verdict::Pass
        );
        assert!(Doctor::parse("it died").is_err());
    }

    #[test]
    fn only_what_the_doctor_has_seen_is_run() {
        let both = doctor("fentry", "fentry", true);
        assert_eq!(both.refuses(Backend::Fentry), None);
        let one = doctor("timer", "syscalls", true);
        assert_eq!(
            one.refuses(Backend::Fentry),
            Some("doctor: errno 524".to_owned())
        );
        assert_eq!(one.refuses(Backend::Timer), None);
    }

    #[test]
    fn failed_tests_are_named_with_their_words() {
        let output = "test a: b ... FAILED\n\nfailures:\n\n---- a: b ----\nit broke\nmore\n\n\
                      failures:\n    a: b\n\n\
                      test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let judgement = tests(output, "", 101);
        assert_eq!(judgement.verdict, Verdict::Fail);
        assert_eq!(judgement.note, "3 passed; 1 failed: a: b (it broke)");
    }

    #[test]
    fn each_test_is_told_with_its_result() {
        let output = "running 3 tests\ntest a: b  ... ok\ntest c ... FAILED\ntest d ... ignored\n\
                      test result: FAILED. 1 passed; 1 failed; 1 ignored\n";
        let expected = [("a: b", "pass"), ("c", "fail"), ("d", "skipped")]
            .map(|(name, result)| json!({"name": name, "result": result}));
        assert_eq!(each_test(output), expected);
    }

    #[test]
    fn a_failed_test_is_told_with_all_its_words() {
        let output = "test a ... FAILED\ntest b ... FAILED\n\nfailures:\n\n---- a ----\none\n  two\n\n\
                      ---- b ----\n\nthree\n\nfailures:\n    a\n    b\n";
        let told = each_test(output);
        assert_eq!(told[0]["said"], json!(["one", "  two"]));
        assert_eq!(told[1]["said"], json!(["three"]));
    }

    #[test]
    fn features_are_taken_as_the_doctor_says_them() {
        let report = json!({"features": [{"name": "calls", "support": "full"}]});
        let doctor = Doctor::parse(&format!("noise\n{report}\n")).expect("it is a report");
        let features = doctor.features;
        assert_eq!(features.len(), 1);
        assert_eq!(features[0]["support"], "full");
    }

    #[test]
    fn no_test_or_an_ignored_one_is_no_pass() {
        let result = |passed, ignored| {
            format!("test result: ok. {passed} passed; 0 failed; {ignored} ignored; 0 measured\n")
        };
        assert_eq!(verdict(&tests(&result(3, 0), "", 0)), Verdict::Pass);
        assert_eq!(verdict(&tests(&result(0, 0), "", 0)), Verdict::Fail);
        assert_eq!(verdict(&tests("", "", 0)), Verdict::Fail);
        assert_eq!(
            tests("", "no such test\n", 1).note,
            "0 passed; it ended with 1: no such test"
        );
        assert_eq!(verdict(&tests(&result(3, 0), "", 137)), Verdict::Fail);
        let ignored = tests(&result(3, 2), "live tests skipped: no TUN\n", 0);
        assert_eq!(ignored.verdict, Verdict::Fail);
        assert!(ignored.note.contains("no TUN"), "{}", ignored.note);
    }

    fn experiment(id: &str, ending: &str, as_expected: bool) -> String {
        let report = json!({
            "id": id, "ending": ending, "as_expected": as_expected, "reason": "no such option",
            "measured": [{"what": "errno", "told": "0", "expected": "98", "met": as_expected}],
        });
        format!("{report}\n")
    }

    #[test]
    fn the_lab_passes_when_all_that_was_played_is_as_expected() {
        let good = experiment("A1", "played", true);
        let skipped = experiment("K2", "skipped", false);
        let bad = experiment("A2", "played", false);
        let both = lab(&(good.clone() + &skipped), "", 0);
        assert_eq!(both.verdict, Verdict::Pass);
        assert_eq!(
            both.note,
            "1 of 1 as expected; 1 skipped: K2 (skipped no such option)"
        );
        assert_eq!(verdict(&lab(&skipped, "", 0)), Verdict::Skipped);
        let failed = lab(&(good.clone() + &bad), "", 1);
        assert_eq!(failed.verdict, Verdict::Fail);
        assert!(
            failed.note.contains("A2 (errno: 0, expected 98)"),
            "{}",
            failed.note
        );
        assert_eq!(verdict(&lab(&good, "died", 101)), Verdict::Fail);
        assert_eq!(verdict(&lab("", "", 1)), Verdict::Fail);
        assert_eq!(verdict(&lab("{broken\n", "", 0)), Verdict::Fail);
    }
}
