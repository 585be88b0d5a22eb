//! Owns `cargo xtask kernel-support`: docs/kernel-support.md, made of what `cargo xtask vm --matrix` found.

use std::{fmt::Write as _, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{say::say, workspace};

/// The page.
const PAGE: &str = "docs/kernel-support.md";
/// What does not come from the matrix.
const HEAD: &str = include_str!("kernel_support/head.md");
/// The checks of the matrix that look at a stock kernel as it is; the others take something away.
const WHOLE: [&str; 7] = [
    "doctor",
    "live",
    "bind rules",
    "agreement",
    "types",
    "lab",
    "recording",
];

/// Write docs/kernel-support.md from results of the kernel matrix.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask vm --matrix --full --json matrix.json && cargo xtask kernel-support matrix.json
  cargo xtask kernel-support matrix.json again.json     what ran again counts more than before")]
pub(crate) struct Args {
    /// What `cargo xtask vm --matrix --json FILE` wrote; of several, the last one that has a check counts
    #[arg(required = true, value_name = "FILE")]
    results: Vec<PathBuf>,
}

/// One check of one kernel, as the matrix wrote it.
#[derive(serde::Deserialize, Clone)]
struct Row {
    kernel: String,
    version: Option<String>,
    check: String,
    backend: Option<String>,
    result: String,
    note: String,
    seconds: f64,
    details: Vec<Value>,
}

#[derive(serde::Deserialize)]
struct Results {
    rows: Vec<Row>,
}

/// Runs the verb.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let mut rows: Vec<Row> = Vec::new();
    for path in &args.results {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let found: Results = serde_json::from_str(&text)
            .with_context(|| format!("{} is no result of the matrix", path.display()))?;
        for row in found.rows {
            match rows.iter_mut().find(|known| known.is_same_check(&row)) {
                Some(known) => *known = row,
                None => rows.push(row),
            }
        }
    }
    rows.sort_by_key(|row| place(&row.kernel));
    let text = page(&rows)?;
    let failed = rows.iter().filter(|row| row.result == "fail").count();
    if failed > 0 {
        bail!("{failed} checks failed: what is to be said of these kernels is not known yet");
    }
    fs::write(workspace::root().join(PAGE), text)
        .with_context(|| format!("cannot write {PAGE}"))?;
    say(format_args!("{PAGE}: {} checks", rows.len()));
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn is_same_check(&self, other: &Self) -> bool {
        (&self.kernel, &self.check, &self.backend) == (&other.kernel, &other.check, &other.backend)
    }

    /// As in a table's head.
    fn label(&self) -> String {
        match &self.backend {
            Some(backend) => format!("{} ({backend})", self.check),
            None => self.check.clone(),
        }
    }
}

/// By architecture and version; the checks of one kernel stay in their order.
fn place(kernel: &str) -> (bool, Vec<u32>) {
    let numbers = kernel
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse().ok());
    (kernel.contains(' '), numbers.collect())
}

fn page(rows: &[Row]) -> Result<String> {
    let kernels = kernels(rows);
    ensure!(!kernels.is_empty(), "no kernel was run");
    let mut text = HEAD.to_owned();
    let doctors: Vec<&Row> = rows
        .iter()
        .filter(|row| row.check == "doctor" && !row.details.is_empty())
        .collect();
    let listed = &doctors
        .first()
        .context("no doctor's list of features is in it")?
        .details;
    let _ = write!(text, "\n## What each feature takes\n\n{}", takes(listed));
    let _ = write!(
        text,
        "\n## What each kernel has\n\nBy `tcptrace doctor` under stock Debian kernels. *partly* and *no* are explained below the table.\n\n{}",
        has(listed, &doctors)
    );
    let (whole, hindered): (Vec<Row>, Vec<Row>) = rows
        .iter()
        .cloned()
        .partition(|row| WHOLE.contains(&row.check.as_str()));
    if !hindered.is_empty() {
        let _ = write!(
            text,
            "\n## With something taken away\n\nThe same kernels, and what is left where a system lacks something or forbids it.\n\n{}",
            hindrances(&hindered)
        );
    }
    let _ = write!(
        text,
        "\n## What was run\n\nSeconds of the host, boot included, in an emulated machine.\n\n{}",
        runs(&kernels, &whole)
    );
    Ok(text)
}

/// Labels and versions, in the order of the matrix.
fn kernels(rows: &[Row]) -> Vec<(String, String)> {
    let mut kernels: Vec<(String, String)> = Vec::new();
    for row in rows {
        if let Some(version) = &row.version
            && !kernels.iter().any(|(label, _)| *label == row.kernel)
        {
            kernels.push((row.kernel.clone(), version.clone()));
        }
    }
    kernels
}

fn field<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap_or_default()
}

fn takes(features: &[Value]) -> String {
    let mut table = vec![
        ["feature", "shows", "Linux", "because of", "without it"]
            .map(str::to_owned)
            .to_vec(),
    ];
    table.extend(features.iter().map(|feature| {
        vec![
            format!("`{}`", field(feature, "name")),
            field(feature, "shows").to_owned(),
            field(feature, "since").to_owned(),
            field(feature, "because").to_owned(),
            field(feature, "without").to_owned(),
        ]
    }));
    markdown(&table)
}

/// Features by kernels, and below the reasons why something is missing, each once.
fn has(listed: &[Value], doctors: &[&Row]) -> String {
    let mut table = vec![vec!["feature".to_owned()]];
    table[0].extend(doctors.iter().map(|row| row.kernel.clone()));
    let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
    for feature in listed {
        let name = field(feature, "name");
        let mut line = vec![format!("`{name}`")];
        for doctor in doctors {
            let found = doctor.details.iter().find(|one| field(one, "name") == name);
            let Some(found) = found else {
                line.push("?".to_owned());
                continue;
            };
            line.push(match field(found, "support") {
                "full" => field(found, "by").to_owned(),
                "partial" => "*partly*".to_owned(),
                _ => "*no*".to_owned(),
            });
            if let Some(why) = found["why"].as_str() {
                let reason = format!("`{name}`: {why}");
                match reasons.iter_mut().find(|(known, _)| *known == reason) {
                    Some((_, kernels)) => kernels.push(doctor.kernel.clone()),
                    None => reasons.push((reason, vec![doctor.kernel.clone()])),
                }
            }
        }
        table.push(line);
    }
    let mut text = markdown(&table);
    if !reasons.is_empty() {
        text.push('\n');
    }
    for (reason, kernels) in reasons {
        let _ = writeln!(text, "- {} on {}.", reason, kernels.join(", "));
    }
    text
}

/// Kernels that said the same of a check share a line.
fn hindrances(rows: &[Row]) -> String {
    let mut lines: Vec<(String, String, Vec<String>)> = Vec::new();
    for row in rows {
        let said = match row.result.as_str() {
            "skipped" => format!("not run: {}", row.note),
            _ => row.note.clone(),
        };
        let is_same =
            |line: &&mut (String, String, Vec<String>)| line.0 == row.label() && line.1 == said;
        match lines.iter_mut().find(is_same) {
            Some((_, _, kernels)) => kernels.push(row.kernel.clone()),
            None => lines.push((row.label(), said, vec![row.kernel.clone()])),
        }
    }
    lines.sort_by(|one, other| {
        let place = |line: &(String, String, Vec<String>)| {
            rows.iter().position(|row| row.label() == line.0)
        };
        place(one).cmp(&place(other))
    });
    let mut table = vec![
        ["taken away", "what is left", "on"]
            .map(str::to_owned)
            .to_vec(),
    ];
    table.extend(
        lines
            .into_iter()
            .map(|(what, said, kernels)| vec![what, said, kernels.join(", ")]),
    );
    markdown(&table)
}

/// Kernels by checks, and below why some were not run.
fn runs(kernels: &[(String, String)], rows: &[Row]) -> String {
    let mut columns: Vec<String> = Vec::new();
    for row in rows {
        if !columns.contains(&row.label()) {
            columns.push(row.label());
        }
    }
    let mut table = vec![vec!["kernel".to_owned(), "version".to_owned()]];
    table[0].extend(columns.clone());
    let mut reasons: Vec<String> = Vec::new();
    for (kernel, version) in kernels {
        let mut line = vec![kernel.clone(), version.clone()];
        for column in &columns {
            let row = rows
                .iter()
                .find(|row| row.kernel == *kernel && row.label() == *column);
            line.push(match row {
                None => "-".to_owned(),
                Some(row) if row.result == "pass" => format!("pass {:.0} s", row.seconds),
                Some(row) => {
                    let reason = format!("{kernel}, {column}: {}", row.note);
                    reasons.push(reason);
                    row.result.clone()
                }
            });
        }
        table.push(line);
    }
    let mut text = markdown(&table);
    if !reasons.is_empty() {
        text.push('\n');
    }
    for reason in reasons {
        let _ = writeln!(text, "- {reason}.");
    }
    text
}

fn markdown(table: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (number, line) in table.iter().enumerate() {
        let cells: Vec<String> = line.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let _ = writeln!(text, "|{}", "---|".repeat(line.len()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(kernel: &str, check: &str, result: &str, note: &str, details: &Value) -> Row {
        Row {
            kernel: kernel.to_owned(),
            version: Some(format!("{kernel}.1-1")),
            check: check.to_owned(),
            backend: None,
            result: result.to_owned(),
            note: note.to_owned(),
            seconds: 12.3,
            details: details.as_array().cloned().unwrap_or_default(),
        }
    }

    fn doctor(kernel: &str, support: &str, why: &Value) -> Row {
        let feature = json!([{
            "name": "calls", "shows": "a|b", "since": "5.8", "because": "x", "without": "y",
            "support": support, "by": "fentry", "why": why,
        }]);
        row(kernel, "doctor", "pass", "", &feature)
    }

    #[test]
    fn the_page_has_features_kernels_and_what_was_run() {
        let rows = [
            doctor("5.10", "full", &Value::Null),
            doctor("7.2", "none", &json!("it is gone")),
            row("5.10", "without BTF", "pass", "says: no BTF", &Value::Null),
            row("7.2", "without BTF", "pass", "says: no BTF", &Value::Null),
            row("7.2", "lab", "skipped", "no modules", &Value::Null),
        ];
        let page = page(&rows).expect("it is complete");
        for line in [
            "| `calls` | a\\|b | 5.8 | x | y |",
            "| feature | 5.10 | 7.2 |",
            "| `calls` | fentry | *no* |",
            "- `calls`: it is gone on 7.2.",
            "| without BTF | says: no BTF | 5.10, 7.2 |",
            "| kernel | version | doctor | lab |",
            "| 7.2 | 7.2.1-1 | pass 12 s | skipped |",
            "- 7.2, lab: no modules.",
        ] {
            assert!(
                page.lines().any(|one| one == line),
                "{line}\nis not in\n{page}"
            );
        }
    }

    #[test]
    fn kernels_come_by_version() {
        let mut labels = ["7.2", "6.1 arm64", "7.3-rc", "6.12", "6.1"];
        labels.sort_by_key(|label| place(label));
        assert_eq!(labels, ["6.1", "6.12", "7.2", "7.3-rc", "6.1 arm64"]);
    }

    #[test]
    fn no_result_is_no_page() {
        assert!(page(&[]).is_err());
        assert!(page(&[row("5.10", "lab", "pass", "", &Value::Null)]).is_err());
    }
}
