//! Experiments from files: the examples of docs/lab, played by the real binary, and what it says of wrong files.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    PATIENCE, Scenario, lines,
    tracer::{Process, command},
};

const EXAMPLES: [(&str, &str); 2] = [
    (
        "restart.toml",
        include_str!("../../../docs/lab/restart.toml"),
    ),
    (
        "port-range.toml",
        include_str!("../../../docs/lab/port-range.toml"),
    ),
];
/// The exit status for a file that cannot be understood.
const WRONG_USAGE: i32 = 2;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("lab scripts: the examples", examples),
        Scenario::new("lab scripts: every expectation can fail", contradicted),
        Scenario::new("lab scripts: a file with errors", wrong),
        Scenario::new("lab scripts: a line that cannot be played", unplayable),
    ]
}

/// A folder that is removed with all that is in it.
struct Folder(PathBuf);

impl Folder {
    fn with(name: &str, files: &[(&str, &str)]) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tcptrace-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        let folder = Self(path);
        for (name, text) in files {
            fs::write(folder.0.join(name), text)?;
        }
        Ok(folder)
    }

    fn file(&self, name: &str) -> Result<String> {
        let path: &Path = &self.0.join(name);
        Ok(path.to_str().context("a path of UTF-8")?.to_owned())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is in the way of nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What `tcptrace lab run --json` gave.
struct Played {
    status: Option<i32>,
    reports: Vec<Value>,
    stderr: String,
}

fn play(words: &[&str]) -> Result<Played> {
    let (mut process, mut stdout) = Process::start(command(&["lab", "run", "--json"], words))?;
    let mut told = String::new();
    stdout.read_to_string(&mut told)?;
    let status = process.wait(PATIENCE)?.code();
    let reports = told
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| format!("not JSON: {told}"))?;
    Ok(Played {
        status,
        reports,
        stderr: process.stderr(),
    })
}

fn examples() -> Result<()> {
    let folder = Folder::with("examples", &EXAMPLES)?;
    let played = play(&[
        &folder.file("restart.toml")?,
        &folder.file("port-range.toml")?,
    ])?;
    ensure!(
        played.status == Some(0) && played.reports.len() == 2,
        "exit status {:?}: {:?} {}",
        played.status,
        played.reports,
        played.stderr
    );
    for (report, id) in played.reports.iter().zip(["restart", "port-range"]) {
        ensure!(lines::text(report, "id")? == id, "no {id} in {report}");
        ensure!(
            lines::flag(report, "as_expected")?
                && report["verdict"] == "holds_only_if"
                && report["condition"].is_string(),
            "not the verdict of {id}: {report}"
        );
        ensure!(
            report["measured"].as_array().is_some_and(|all| all
                .iter()
                .any(|one| one["source"] == "finding" && one["met"] == true)),
            "the trace must have told of it: {report}"
        );
    }
    Ok(())
}

fn contradicted() -> Result<()> {
    let folder = Folder::with("contradicted", &EXAMPLES)?;
    let played = play(&[
        &folder.file("restart.toml")?,
        &folder.file("port-range.toml")?,
        "--contradict",
    ])?;
    ensure!(
        played.status == Some(0),
        "an expectation cannot fail: {:?} {}",
        played.reports,
        played.stderr
    );
    Ok(())
}

fn wrong() -> Result<()> {
    let folder = Folder::with(
        "wrong",
        &[(
            "wrong.toml",
            "title = \"T\"\nclaim = \"C\"\nscript = '''\nserver: lisen 127.0.0.1:8000 as listener\n\
             client: connect 127.0.0.1:8000 claim ECONREFUSED\n'''\n",
        )],
    )?;
    let file = folder.file("wrong.toml")?;
    let played = play(&[&file])?;
    ensure!(
        played.status == Some(WRONG_USAGE) && played.reports.is_empty(),
        "exit status {:?} {:?}",
        played.status,
        played.reports
    );
    for words in [
        format!("{file}:4: no actor can lisen"),
        "did you mean listen?".to_owned(),
        format!("{file}:5: no errno is called ECONREFUSED"),
        "did you mean ECONNREFUSED?".to_owned(),
    ] {
        ensure!(
            played.stderr.contains(&words),
            "{words:?} is not in {}",
            played.stderr
        );
    }
    Ok(())
}

/// A call fails that was not said to, and a sysctl does not exist: the report names the line.
fn unplayable() -> Result<()> {
    let script = |line: &str| {
        format!(
            "title = \"T\"\nclaim = \"C\"\nscript = '''\n{line}\nx: bind 127.0.0.1:8000 claim ok\n'''\n"
        )
    };
    let refused = script("client: connect 127.0.0.1:8000");
    let unknown = script("sysctl net.ipv4.no_such_thing = 1");
    let folder = Folder::with(
        "unplayable",
        &[("refused.toml", &refused), ("unknown.toml", &unknown)],
    )?;
    for (name, words) in [
        (
            "refused.toml",
            "refused.toml:4: client: connect 127.0.0.1:8000: ECONNREFUSED",
        ),
        (
            "unknown.toml",
            "unknown.toml:4: sysctl net.ipv4.no_such_thing = 1: cannot set net.ipv4.no_such_thing",
        ),
    ] {
        let played = play(&[&folder.file(name)?])?;
        let report = played.reports.first().context("no report")?;
        ensure!(
            played.status == Some(1)
                && lines::text(report, "ending")? == "failed"
                && lines::text(report, "reason")?.contains(words),
            "{words:?} is not in {report}"
        );
    }
    Ok(())
}
