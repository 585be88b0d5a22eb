//! `tcptrace lab`: that the kernel does what each experiment expects of it, that each expectation can fail, that
//! docs/lab.md says what was measured, and that nothing is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Scenario, sys, tracer};

/// Experiments that a kernel may not allow: SOCK_DESTROY of a minisocket needs 6.1 and CONFIG_INET_DIAG_DESTROY.
const MAY_BE_SKIPPED: [&str; 1] = ["K25"];
/// The claims, each with how many there are of its letter.
const CLAIMS: [(char, u32); 5] = [('A', 7), ('B', 6), ('C', 6), ('D', 7), ('K', 26)];

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "lab: the kernel does what is expected, and every expectation can fail",
            || {
                // One after the other: two labs at once are too much for an emulated machine.
                all()?;
                contradicted()
            },
        ),
        Scenario::new("lab: as text", text),
        Scenario::new("lab: ctrl-c leaves nothing behind", || {
            left_behind(libc::SIGINT)
        }),
        Scenario::new("lab: killed, it leaves nothing behind", || {
            left_behind(libc::SIGKILL)
        }),
        Scenario::new("lab: recordings that are kept can be replayed", recordings),
    ]
}

fn all() -> Result<()> {
    let (reports, output) = reports(&["--all"])?;
    for report in &reports {
        let id = text_of(report, "id")?;
        if report["ending"] == "skipped" && MAY_BE_SKIPPED.contains(&id) {
            eprintln!("{id} skipped: {}", report["reason"]);
            continue;
        }
        ensure!(
            report["as_expected"] == true,
            "{id} is not as expected: {report:#}"
        );
    }
    ensure!(
        output.status.success(),
        "every experiment is as expected, but the lab ends with {}",
        output.status
    );
    let tried: BTreeSet<&str> = reports.iter().flat_map(claims_of).collect();
    for (letter, count) in CLAIMS {
        for number in 1..=count {
            let claim = format!("{letter}{number}");
            ensure!(tried.contains(claim.as_str()), "nobody tries {claim}");
        }
    }
    table_is_true(&reports)
}

/// The table in the documentation has the verdicts of this kernel, if it was made on one of this version.
fn table_is_true(reports: &[Value]) -> Result<()> {
    let page = include_str!("../../../docs/lab.md");
    let kernel = text_of(&reports[0], "kernel")?;
    let made_on = page
        .lines()
        .find_map(|line| line.strip_prefix("Measured on Linux ")?.strip_suffix('.'))
        .context("docs/lab.md does not say on which kernel its table was made")?;
    if !kernel.starts_with(&format!("{made_on}.")) {
        eprintln!(
            "docs/lab.md was made on {made_on}: its verdicts are not compared with those of {kernel}"
        );
        return Ok(());
    }
    for report in reports {
        let claims: Vec<&str> = claims_of(report).collect();
        let begin = format!("| {} | ", claims.join(", "));
        let row = page
            .lines()
            .find(|line| line.starts_with(&begin))
            .with_context(|| format!("docs/lab.md has no row for {claims:?}"))?;
        let verdict = match report["verdict"].as_str() {
            Some("holds") => "| holds |".to_owned(),
            Some("does_not_hold") => "| **does not hold** |".to_owned(),
            Some("holds_only_if") => {
                format!("| **holds only if** {} |", text_of(report, "condition")?)
            }
            _ => bail!("no verdict: {report:#}"),
        };
        ensure!(
            row.contains(&verdict),
            "docs/lab.md says {row:?}, the kernel {verdict:?}; write it anew with: cargo xtask lab-table"
        );
    }
    Ok(())
}

/// With every expectation turned into a wrong one, none is met.
fn contradicted() -> Result<()> {
    let (reports, output) = reports(&["--all", "--contradict"])?;
    for report in &reports {
        let id = text_of(report, "id")?;
        if report["ending"] == "skipped" && MAY_BE_SKIPPED.contains(&id) {
            continue;
        }
        ensure!(report["ending"] == "played", "{id}: {report:#}");
        let readings = report["measured"].as_array().context("no readings")?;
        ensure!(!readings.is_empty(), "{id} measures nothing");
        for reading in readings {
            ensure!(
                reading["met"] == false,
                "{id} has an expectation that cannot fail: {reading}"
            );
        }
    }
    ensure!(
        output.status.success(),
        "no wrong expectation was met, but the lab ends with {}",
        output.status
    );
    Ok(())
}

/// Three experiments tell a reader what TIME_WAIT is for, who gets it, and why a restart fails.
fn text() -> Result<()> {
    let output = finished(&["A1", "D2", "B4", "--ladder"])?;
    let told = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{}: {told}", output.status);
    for words in [
        "The claim:",
        "What happened:",
        "Measured",
        "Verdict: holds.",
        "EADDRINUSE",
        "left by server[",
        "TIME_WAIT begins",
        "Why:",
        "3 played in",
    ] {
        // Wherever the lines are broken.
        let told_in_one: Vec<&str> = told.split_whitespace().collect();
        ensure!(
            told_in_one.join(" ").contains(words),
            "{words:?} is not in:\n{told}"
        );
    }
    ensure!(!told.contains('\x1b'), "no colour in a pipe: {told:?}");
    Ok(())
}

/// Its processes and namespaces go with it, however it ends.
fn left_behind(signal: i32) -> Result<()> {
    let mut lab = Lab(command(&["--all"]).stdout(Stdio::null()).spawn()?);
    let pid = lab.0.id();
    // Experiments are under way when there are actors.
    let mut namespaces = BTreeSet::new();
    sys::wait_until(
        || {
            namespaces.extend(namespaces_of(pid));
            namespaces.len() > 5 && !children_of(pid).is_empty()
        },
        "experiments to be under way",
    )?;
    let actors = children_of(pid);
    sys::signal(pid, signal)?;
    let began = Instant::now();
    lab.0.wait()?;
    ensure!(
        began.elapsed() < Duration::from_secs(20),
        "it took {:?} to end",
        began.elapsed()
    );
    let own = fs::metadata("/proc/self/ns/net")?.ino();
    namespaces.remove(&own);
    sys::wait_until(
        || {
            let alive = all_processes();
            actors.iter().all(|actor| !alive.contains(actor))
                && alive
                    .iter()
                    .all(|pid| namespaces_of(*pid).is_disjoint(&namespaces))
        },
        "its processes and namespaces to go",
    )
}

fn recordings() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("tcptrace-lab-{}", std::process::id()));
    let kept = folder.to_str().context("an odd name")?;
    let output = finished(&["A1", "--keep-recording", kept])?;
    ensure!(output.status.success(), "{}", output.status);
    let replayed = Command::new(tracer::program())
        .arg("replay")
        .arg(folder.join("A1.rec"))
        .arg("--json")
        .output()?;
    fs::remove_dir_all(&folder)?;
    let lines = String::from_utf8(replayed.stdout)?;
    ensure!(
        replayed.status.success(),
        "{}",
        String::from_utf8_lossy(&replayed.stderr)
    );
    ensure!(
        lines.contains(r#""kind":"call_failed""#) && lines.contains(r#""comm":"restarted""#),
        "the failed bind() is not in its recording: {lines}"
    );
    Ok(())
}

/// A lab that is being played. It is gone when this is.
struct Lab(Child);

impl Drop for Lab {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(tracer::program());
    command
        .args(["lab", "run"])
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn finished(arguments: &[&str]) -> Result<Output> {
    let child = command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(child.wait_with_output()?)
}

/// Plays and returns what it says of each experiment.
fn reports(arguments: &[&str]) -> Result<(Vec<Value>, Output)> {
    let output = finished(&[arguments, &["--json"]].concat())?;
    let reports = std::str::from_utf8(&output.stdout)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()?;
    ensure!(
        !reports.is_empty(),
        "the lab says nothing: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((reports, output))
}

fn claims_of(report: &Value) -> impl Iterator<Item = &str> {
    report["claims"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn text_of<'a>(report: &'a Value, field: &str) -> Result<&'a str> {
    report[field]
        .as_str()
        .with_context(|| format!("no {field} in {report}"))
}

/// The network namespaces that the threads of a process are in, by inode number.
fn namespaces_of(pid: u32) -> BTreeSet<u64> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| Some(fs::metadata(thread.path().join("ns/net")).ok()?.ino()))
        .collect()
}

fn all_processes() -> BTreeSet<u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn children_of(parent: u32) -> BTreeSet<u32> {
    let is_child = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            // The name, in parentheses, may hold anything; state and parent follow it.
            let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
            after.split_whitespace().nth(1) == Some(parent.to_string().as_str())
        })
    };
    all_processes().into_iter().filter(is_child).collect()
}
