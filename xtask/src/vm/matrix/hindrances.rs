//! Owns the checks that take something away which only a whole kernel can lose, and what must be found then:
//! the tracing of functions, and what lockdown forbids. What a process can lose is tested by the live tests
//! `hindrances: …`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    checks::{Check, Judge, Kernels, SCENE},
    judge::{Doctor, Judgement, last_line},
};
use crate::vm::kernels::{Backend, Pinned};

const COMMON: &str = include_str!("hindrances/common.sh");
/// The live test that is run under lockdown for integrity.
const TESTS: &str = "calls: accept";
/// The tracer's exit status where tracing is not possible.
const CANNOT_TRACE: u8 = 3;
/// What a trace of the scene tells where it sees everything.
const TOLD: [&str; 4] = ["connection", "time_wait_entered", "call_failed", "summary"];

/// What a check takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hindrance {
    /// `kernel.ftrace_enabled`.
    Ftrace,
    /// Lockdown for integrity, then for confidentiality.
    Lockdown,
}

/// One thing that was tried.
#[derive(Debug, PartialEq, Eq)]
struct Tried<'a> {
    what: &'a str,
    output: &'a str,
    status: u8,
}

/// Their checks.
pub(super) fn checks() -> [Check; 2] {
    [
        check(
            "ftrace off",
            Hindrance::Ftrace,
            include_str!("hindrances/ftrace.sh"),
        ),
        check(
            "lockdown",
            Hindrance::Lockdown,
            include_str!("hindrances/lockdown.sh"),
        ),
    ]
}

fn check(name: &'static str, hindrance: Hindrance, script: &str) -> Check {
    let script = script
        .replace("FENTRY", Backend::Fentry.flags())
        .replace("TIMER", Backend::Timer.flags())
        .replace("TESTS", TESTS);
    Check {
        name,
        backend: None,
        script: format!("{SCENE}{COMMON}{script}"),
        limit: Duration::from_secs(600),
        judge: Judge::Hindrance(hindrance),
        kernels: Kernels::All,
        needs_modules: true,
    }
}

/// Whether what was found is what must be found under this kernel.
pub(super) fn judge(hindrance: Hindrance, pinned: &Pinned, stdout: &str) -> Judgement {
    let all = All(tried(stdout));
    let note = match hindrance {
        Hindrance::Ftrace => ftrace(&all, pinned),
        Hindrance::Lockdown => lockdown(&all, pinned),
    };
    match note {
        Ok(note) => Judgement::pass(note),
        Err(error) => Judgement::fail(format!("{error:#}")),
    }
}

/// fentry would attach and never run (Linux 5.10 refuses to attach), so the tracer must not use it. 7.3 has no
/// such state: it does not let anybody switch it off.
fn ftrace(all: &All<'_>, pinned: &Pinned) -> Result<String> {
    if all.get("switch off")?.status != 0 {
        all.get("doctor")?.is_doctor(pinned.backend)?;
        all.get("backend fentry")?.ends_with(0)?;
        all.get("calls fentry")?.ends_with(0)?;
        for scene in ["scene", "scene under which it is switched off"] {
            all.get(scene)?.sees_all()?;
        }
        return Ok("the kernel does not let it be switched off".to_owned());
    }
    all.get("doctor")?.is_doctor(Backend::Timer)?;
    let what = [
        "kernel.ftrace_enabled is 0",
        "sysctl kernel.ftrace_enabled=1",
    ];
    all.get("doctor")?.has(&what)?;
    all.get("backend fentry")?.refuses(&what)?;
    all.get("calls fentry")?.refuses(&what)?;
    all.get("scene")?.sees_all()?;
    let scene = all.get("scene under which it is switched off")?;
    // An end that was never seen to begin is no TIME_WAIT that was never entered.
    scene.has_not("\"end\":\"never_entered\"")?;
    let seen = if all.get("switched off")?.status != 0 {
        scene.sees_all()?;
        "the kernel does not let it be switched off under a trace"
    } else if pinned.backend == Backend::Timer {
        scene.sees_all()?;
        "no function is traced here"
    } else {
        scene.ends_with(0)?;
        scene.has(&[
            "\"kind\":\"connection\"",
            "\"records_lost\"",
            "was set to 0 under this trace",
            "run again",
        ])?;
        "told when it is switched off under a trace"
    };
    Ok(format!("TIME_WAIT by timer, calls by syscalls; {seen}"))
}

/// For integrity nothing is forbidden that the tracer does; for confidentiality, every read of the kernel's
/// memory is.
fn lockdown(all: &All<'_>, pinned: &Pinned) -> Result<String> {
    let locked = all.get("lock for integrity")?;
    if locked.status != 0 {
        bail!("the kernel cannot be locked down: {}", locked.output.trim());
    }
    all.get("doctor under integrity")?
        .is_doctor(pinned.backend)?;
    if pinned.backend == Backend::Fentry {
        all.get("scene by functions")?.sees_all()?;
    }
    all.get("scene by tracepoints")?.sees_all()?;
    let tests = all.get("tests")?;
    tests.ends_with(0)?;
    let count = TESTS.split('|').count();
    tests.has(&[&format!(
        "test result: ok. {count} passed; 0 failed; 0 ignored"
    )])?;
    all.get("lock for confidentiality")?.ends_with(0)?;
    let words = [
        "locked down for confidentiality",
        "lockdown=confidentiality",
    ];
    let doctor = all.get("doctor under confidentiality")?;
    doctor.ends_with(CANNOT_TRACE)?;
    doctor.has(&words)?;
    all.get("trace under confidentiality")?.refuses(&words)?;
    let explain = all.get("explain under confidentiality")?;
    explain.ends_with(0)?;
    explain.has_not("sudo")?;
    let unseen = all.get("trace without securityfs")?;
    unseen.refuses(&words)?;
    Ok(format!(
        "integrity: all, by {}; confidentiality: refused, explain answers",
        pinned.backend.word()
    ))
}

/// Everything that was tried.
struct All<'a>(Vec<Tried<'a>>);

impl<'a> All<'a> {
    fn get(&self, what: &str) -> Result<&Tried<'a>> {
        let found = self.0.iter().find(|tried| tried.what == what);
        found.with_context(|| format!("{what:?} was not tried"))
    }
}

impl Tried<'_> {
    fn ends_with(&self, status: u8) -> Result<()> {
        ensure!(
            self.status == status,
            "{}: it ended with {}, not {status}: {}",
            self.what,
            self.status,
            last_line(self.output)
        );
        Ok(())
    }

    fn has(&self, words: &[&str]) -> Result<()> {
        for word in words {
            ensure!(
                self.output.contains(word),
                "{}: nothing of {word:?}; {}",
                self.what,
                last_line(self.output)
            );
        }
        Ok(())
    }

    fn has_not(&self, word: &str) -> Result<()> {
        let line = self.output.lines().find(|line| line.contains(word));
        match line {
            Some(line) => bail!("{}: {word:?} in {}", self.what, last_line(line)),
            None => Ok(()),
        }
    }

    /// Exit status and sentence of what cannot be traced.
    fn refuses(&self, words: &[&str]) -> Result<()> {
        self.ends_with(CANNOT_TRACE)?;
        self.has(words)
    }

    /// A doctor that finds this backend for everything.
    fn is_doctor(&self, backend: Backend) -> Result<()> {
        self.ends_with(0)?;
        let doctor = Doctor::parse(self.output).with_context(|| self.what.to_owned())?;
        ensure!(doctor.has(backend), "{}: {}", self.what, doctor.found());
        Ok(())
    }

    /// A trace to which nothing of the scene is hidden or in doubt.
    fn sees_all(&self) -> Result<()> {
        self.ends_with(0)?;
        for kind in TOLD {
            self.has(&[&format!("{{\"kind\":\"{kind}\"")])?;
        }
        self.has_not("\"end\":\"never_entered\"")?;
        self.has_not("\"records_lost\"")
    }
}

/// The parts of the output of a script: see `told` in `common.sh`. One that has not ended is none.
fn tried(stdout: &str) -> Vec<Tried<'_>> {
    let mut all = Vec::new();
    let mut rest = stdout;
    while let Some((what, after)) = rest
        .split_once("== ")
        .and_then(|(_, part)| part.split_once('\n'))
    {
        let Some((output, end)) = after.split_once("== status ") else {
            break;
        };
        let (status, next) = end.split_once('\n').unwrap_or((end, ""));
        if let Ok(status) = status.trim().parse() {
            all.push(Tried {
                what,
                output,
                status,
            });
        }
        rest = next;
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::vm::{kernels, matrix::judge::Verdict};

    fn pinned(backend: Backend) -> Pinned {
        let kernels = kernels::all().expect("the table can be read");
        let has = |kernel: &Pinned| kernel.backend == backend;
        kernels.into_iter().find(has).expect("there is one")
    }

    fn part(what: &str, output: &str, status: u8) -> String {
        format!("== {what}\n{output}\n== status {status}\n")
    }

    fn doctor(time_wait: &str, calls: &str) -> String {
        let report = json!({
            "can_trace": true,
            "backends": {"time_wait": time_wait, "calls": calls},
            "checks": [{"name": "ftrace", "status": "degraded",
                "found": "kernel.ftrace_enabled is 0", "remedy": "sysctl kernel.ftrace_enabled=1"}],
        });
        report.to_string()
    }

    fn scene(more: &str) -> String {
        let lines = TOLD.map(|kind| format!("{{\"kind\":\"{kind}\"}}\n"));
        format!("{}{more}", lines.concat())
    }

    /// What a kernel writes that lets it be switched off under a trace.
    fn good() -> String {
        let no = "kernel.ftrace_enabled is 0: sysctl kernel.ftrace_enabled=1";
        [
            part("switch off", "", 0),
            part("doctor", &doctor("timer", "syscalls"), 0),
            part("backend fentry", no, 3),
            part("calls fentry", no, 3),
            part("scene", &scene(""), 0),
            part(
                "scene under which it is switched off",
                "{\"kind\":\"connection\",\"doubts\":[\"records_lost\"]}\nit was set to 0 under this trace\nthey run again",
                0,
            ),
            part("switched off", "", 0),
        ]
        .concat()
    }

    fn verdict(output: &str) -> Verdict {
        judge(Hindrance::Ftrace, &pinned(Backend::Fentry), output).verdict
    }

    #[test]
    fn what_was_tried_has_its_output_and_its_status() {
        let text = format!(
            "noise\n{}{}== three\n",
            part("one", "a\nb", 0),
            part("two", "", 3)
        );
        let all = tried(&text);
        let seen: Vec<(&str, &str, u8)> = all
            .iter()
            .map(|tried| (tried.what, tried.output.trim(), tried.status))
            .collect();
        assert_eq!(seen, [("one", "a\nb", 0), ("two", "", 3)]);
        assert_eq!(tried("== one\nit hung"), []);
    }

    #[test]
    fn a_switched_off_ftrace_must_be_noticed() {
        assert_eq!(verdict(&good()), Verdict::Pass);
        for (right, wrong) in [
            (r#""time_wait":"timer""#, r#""time_wait":"fentry""#),
            ("== status 3", "== status 0"),
            ("sysctl kernel.ftrace_enabled=1\n", "\n"),
            ("{\"kind\":\"call_failed\"}", ""),
            ("was set to 0 under this trace", ""),
            ("records_lost", "never_entered"),
        ] {
            assert!(good().contains(right), "{right}");
            let output = good().replace(right, wrong);
            assert_eq!(verdict(&output), Verdict::Fail, "{wrong:?}");
        }
        assert_eq!(verdict(""), Verdict::Fail);
    }

    #[test]
    fn a_kernel_that_keeps_it_on_must_see_everything() {
        let kept = good().replace(
            &part("switched off", "", 0),
            &part("switched off", "busy", 1),
        );
        assert_eq!(verdict(&kept), Verdict::Fail);
        let (before, _) = kept
            .split_once("== scene under which")
            .expect("it is there");
        let whole = [
            before,
            &part("scene under which it is switched off", &scene(""), 0),
            &part("switched off", "busy", 1),
        ]
        .concat();
        assert_eq!(verdict(&whole), Verdict::Pass);
    }

    #[test]
    fn a_kernel_without_such_a_state_must_trace_functions_as_ever() {
        let kept = |backends: [&str; 2], of_scene: &str| {
            [
                part("switch off", "not supported", 1),
                part("doctor", &doctor(backends[0], backends[1]), 0),
                part("backend fentry", "", 0),
                part("calls fentry", "", 0),
                part("scene", of_scene, 0),
                part("scene under which it is switched off", &scene(""), 0),
            ]
            .concat()
        };
        let fentry = ["fentry", "fentry"];
        assert_eq!(verdict(&kept(fentry, &scene(""))), Verdict::Pass);
        assert_eq!(verdict(&kept(fentry, "")), Verdict::Fail);
        let timers = ["timer", "syscalls"];
        assert_eq!(verdict(&kept(timers, &scene(""))), Verdict::Fail);
    }

    #[test]
    fn a_kernel_that_was_not_locked_down_is_no_pass() {
        let output = part("lock for integrity", "no such file", 1);
        let judgement = judge(Hindrance::Lockdown, &pinned(Backend::Fentry), &output);
        assert_eq!(judgement.verdict, Verdict::Fail);
        assert!(
            judgement.note.contains("no such file"),
            "{}",
            judgement.note
        );
    }

    #[test]
    fn the_scripts_have_nothing_left_to_fill_in() {
        for check in checks() {
            for word in ["FENTRY", "TIMER", "TESTS"] {
                // TCPTRACE_LIVE_ONLY='…' has its value.
                assert!(!check.script.contains(&format!("{word}\n")), "{word}");
                assert!(!check.script.contains(&format!("'{word}'")), "{word}");
            }
        }
    }
}
