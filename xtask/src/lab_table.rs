//! Owns `cargo xtask lab-table`: the table of claims in docs/lab.md, measured by the lab on this kernel.

use std::{
    fmt::Write as _,
    fs,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{build, process, run, say::say, workspace};

/// Where the table is.
const PAGE: &str = "docs/lab.md";
/// What stands around it.
const BEGIN: &str = "<!-- table: cargo xtask lab-table -->";
const END: &str = "<!-- end of table -->";

/// Let the lab try every claim on this kernel, and write the table of docs/lab.md.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if a verdict in the table is not what this kernel does
    #[arg(long)]
    check: bool,
}

/// Runs the verb.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let reports = played()?;
    let page = workspace::root().join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| format!("cannot read {PAGE}"))?;
    let (before, rest) = text
        .split_once(BEGIN)
        .with_context(|| format!("{PAGE} has no line {BEGIN}"))?;
    let (old, after) = rest
        .split_once(END)
        .with_context(|| format!("{PAGE} has no line {END}"))?;
    let new = table(&reports)?;
    if args.check {
        if verdicts(old) == verdicts(&new) {
            say(format_args!(
                "{PAGE}: every verdict is what this kernel does"
            ));
            return Ok(ExitCode::SUCCESS);
        }
        for (was, is) in verdicts(old).iter().zip(verdicts(&new)) {
            if *was != is {
                say(format_args!("{PAGE} has {was:?}, this kernel {is:?}"));
            }
        }
        bail!(
            "the table in {PAGE} is not that of this kernel; write it anew with: cargo xtask lab-table"
        );
    }
    fs::write(&page, format!("{before}{BEGIN}\n\n{new}\n{END}{after}"))
        .with_context(|| format!("cannot write {PAGE}"))?;
    say(format_args!("{PAGE}: {} experiments", reports.len()));
    Ok(ExitCode::SUCCESS)
}

/// What the lab says of each experiment.
fn played() -> Result<Vec<Value>> {
    let tracer = build::tracer(true)?;
    if !run::is_root()? {
        bail!("the lab needs root; become root and type it again");
    }
    say("playing all experiments, which takes about 100 s");
    let mut command = Command::new(&tracer);
    command.args(["lab", "run", "--all", "--json"]);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{}`", process::shown(&command)))?;
    let reports: Vec<Value> = String::from_utf8(output.stdout)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("the lab's JSON cannot be read")?;
    for report in &reports {
        if report["as_expected"] != true {
            bail!(
                "{} did not go as expected; look at it with: tcptrace lab run {}",
                report["id"],
                report["id"].as_str().unwrap_or_default()
            );
        }
    }
    if !output.status.success() || reports.is_empty() {
        bail!("`{}` failed: {}", process::shown(&command), output.status);
    }
    Ok(reports)
}

/// The table: a row for each experiment.
fn table(reports: &[Value]) -> Result<String> {
    let kernel = reports
        .first()
        .and_then(|report| report["kernel"].as_str())
        .context("the lab does not say on which kernel")?;
    let mut table = format!("Measured on Linux {}.\n\n", version(kernel));
    table.push_str("| claim | what it says | verdict | what the kernel did |\n|---|---|---|---|\n");
    for report in reports {
        let claims: Vec<&str> = report["claims"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let verdict = match report["verdict"].as_str() {
            Some("holds") => "holds".to_owned(),
            Some("does_not_hold") => "**does not hold**".to_owned(),
            Some("holds_only_if") => format!(
                "**holds only if** {}",
                report["condition"].as_str().unwrap_or_default()
            ),
            other => bail!("{} has the verdict {other:?}", report["id"]),
        };
        let _ = writeln!(
            table,
            "| {} | {} | {verdict} | {} |",
            claims.join(", "),
            cell(report["says"].as_str().unwrap_or_default()),
            cell(&decisive(report)),
        );
    }
    Ok(table)
}

/// The readings that decided, in one cell.
fn decisive(report: &Value) -> String {
    let readings = report["measured"].as_array().into_iter().flatten();
    let told: Vec<String> = readings
        .filter(|reading| reading["decisive"] == true)
        .map(|reading| {
            format!(
                "{}: {}",
                reading["what"].as_str().unwrap_or_default(),
                reading["told"].as_str().unwrap_or_default()
            )
        })
        .collect();
    told.join("; ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Claims and verdicts of a table, without what differs from run to run.
fn verdicts(table: &str) -> Vec<(String, String)> {
    table
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let claims = cells.next()?.to_owned();
            let verdict = cells.nth(1)?.to_owned();
            Some((claims, verdict))
        })
        .collect()
}

/// `6.18` of `6.18.44-1-amd64`.
fn version(release: &str) -> String {
    let numbers: Vec<&str> = release.splitn(3, '.').take(2).collect();
    numbers.join(".")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Value {
        json!({
            "id": "A5", "claims": ["A5", "K1"], "says": "It helps | always.",
            "verdict": "holds_only_if", "condition": "both have it", "kernel": "6.18.44-x",
            "measured": [
                {"what": "on both", "decisive": true, "told": "succeeds"},
                {"what": "on neither", "decisive": false, "told": "EADDRINUSE"},
            ],
        })
    }

    #[test]
    fn a_row_has_claims_verdict_and_what_decided() {
        let table = table(&[report()]).unwrap();
        assert!(table.starts_with("Measured on Linux 6.18.\n"), "{table}");
        let row = "| A5, K1 | It helps \\| always. | **holds only if** both have it | on both: succeeds |";
        assert_eq!(table.lines().last(), Some(row));
    }

    #[test]
    fn verdicts_are_compared_without_numbers() {
        let old = "| claim | what it says | verdict | what the kernel did |\n|---|---|---|---|\n\
                   | A7 | 4 min | **does not hold** | 61.2s |\n";
        let new = old.replace("61.2s", "60.9s");
        assert_eq!(verdicts(old), verdicts(&new));
        assert_ne!(
            verdicts(old),
            verdicts(&new.replace("does not hold", "holds"))
        );
        assert_eq!(
            verdicts(old)[1],
            ("A7".to_owned(), "**does not hold**".to_owned())
        );
    }

    #[test]
    fn a_failed_experiment_has_no_row() {
        let mut undecided = report();
        undecided["verdict"] = Value::Null;
        assert!(table(&[undecided]).is_err());
        assert!(table(&[]).is_err());
    }
}
