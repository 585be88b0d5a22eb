//! Owns the counting of what user space does for a record: instructions, by valgrind's callgrind.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::base::Figures;
use crate::{
    artifacts,
    bench::{stats, tracer::Refused},
    process, workspace,
};

/// The benchmark of package tcptrace whose instructions are counted.
const BENCHMARK: &str = "cost";
/// Connections. What a run takes beside its records is the same in both, and goes with the difference.
const FEW: u32 = 300;
const MANY: u32 = 600;
/// What is counted: a way of the benchmark, less another one.
const STAGES: [(&str, &str, &str); 5] = [
    ("decode", "decode", "made"),
    ("model", "model", "decode"),
    ("JSON lines", "json", "model"),
    ("text", "text", "model"),
    ("recording", "record", "decode"),
];

/// What one run took.
#[derive(Clone, Copy)]
struct Count {
    instructions: f64,
    records: f64,
}

/// Instructions for each record.
pub(super) fn count() -> Result<Figures> {
    let Some(valgrind) = process::on_path("valgrind") else {
        return Err(Refused("valgrind is not on PATH (package valgrind)".to_owned()).into());
    };
    let program = build()?;
    let each = |way: &str| -> Result<f64> {
        let few = run(&valgrind, &program, way, FEW)?;
        let many = run(&valgrind, &program, way, MANY)?;
        Ok((many.instructions - few.instructions) / (many.records - few.records))
    };
    let mut known = Figures::new();
    let mut figures = Figures::new();
    for (name, way, less) in STAGES {
        for way in [way, less] {
            if !known.contains_key(way) {
                known.insert(way.to_owned(), each(way)?);
            }
        }
        figures.insert(name.to_owned(), known[way] - known[less]);
    }
    Ok(figures)
}

fn build() -> Result<PathBuf> {
    let mut cargo = workspace::cargo("bench");
    cargo.args(["--package", "tcptrace", "--bench", BENCHMARK, "--no-run"]);
    let built = artifacts::built_by(&mut cargo)?;
    let program = built
        .into_iter()
        .find(|artifact| artifact.target == BENCHMARK && artifact.kind == "bench");
    Ok(program
        .context("package tcptrace has no benchmark `cost`")?
        .executable)
}

fn run(valgrind: &Path, program: &Path, way: &str, lives: u32) -> Result<Count> {
    let mut command = Command::new(valgrind);
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([way, &lives.to_string()]);
    let output = command
        .output()
        .with_context(|| format!("cannot run `{}`", process::shown(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let records = records(&String::from_utf8_lossy(&output.stdout));
    match (collected(&said), records) {
        (Some(instructions), Some(records)) if output.status.success() => Ok(Count {
            instructions: stats::as_f64(instructions),
            records: stats::as_f64(records),
        }),
        _ => bail!(
            "`{}` counted nothing, {}: {}",
            process::shown(&command),
            output.status,
            said.lines().next_back().unwrap_or("it did not say why")
        ),
    }
}

/// `==4711== Collected : 84839409`
fn collected(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains("Collected :"))?;
    line.split_whitespace().next_back()?.parse().ok()
}

/// `6600 records`
fn records(text: &str) -> Option<u64> {
    text.trim().strip_suffix(" records")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callgrind_and_the_benchmark_say_is_read() {
        let text = "==1== Events    : Ir\n==1== Collected : 84839409\n==1== \n==1== I   refs: 84,839,409\n";
        assert_eq!(collected(text), Some(84_839_409));
        assert_eq!(collected("valgrind: cannot"), None);
        assert_eq!(records("6600 records\n"), Some(6600));
        assert_eq!(records(""), None);
    }
}
