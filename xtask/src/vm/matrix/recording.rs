//! Owns the check of a recording: what the guest wrote is replayed on the host, and must show the same.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use super::bulk;
use crate::process;

/// What stands before the two parts of the output.
const REPLAY: &str = "== replay\n";
const RECORDING: &str = "== recording\n";
/// What a trace of the script must have told, as the kinds of its lines.
const TOLD: [&str; 4] = ["connection", "time_wait", "call_failed", "summary"];

/// Replays on the host and compares. The recording and both outputs stay in `folder`.
pub(super) fn judge(stdout: &str, tracer: &Path, folder: &Path) -> Result<String> {
    let (of_guest, encoded) = parts(stdout)?;
    let missing: Vec<&str> = TOLD
        .into_iter()
        .filter(|kind| !has(of_guest, kind))
        .collect();
    ensure!(
        missing.is_empty(),
        "the trace told nothing of {}",
        missing.join(", ")
    );
    let recording = folder.join("it.rec");
    bulk::decode(encoded, &recording)?;
    fs::write(folder.join("replay.guest"), of_guest)?;
    let of_host = process::capture(
        Command::new(tracer)
            .arg("replay")
            .arg(&recording)
            .arg("--json"),
    )
    .context("the host cannot replay what the guest recorded")?;
    fs::write(folder.join("replay.host"), &of_host)?;
    if let Some((guest, host)) = first_difference(of_guest, &of_host) {
        bail!("the host's replay differs from the guest's: {host:?} instead of {guest:?}");
    }
    Ok(format!("{} lines, the same here", of_host.lines().count()))
}

/// The guest's replay and its recording in base64.
fn parts(stdout: &str) -> Result<(&str, &str)> {
    stdout
        .split_once(REPLAY)
        .and_then(|(_, rest)| rest.split_once(RECORDING))
        .context("the guest wrote no recording")
}

fn has(lines: &str, kind: &str) -> bool {
    let wanted = format!("{{\"kind\":\"{kind}\"");
    lines.lines().any(|line| line.starts_with(&wanted))
}

/// The first lines that are not the same; an end as `(nothing)`.
fn first_difference<'a>(one: &'a str, other: &'a str) -> Option<(&'a str, &'a str)> {
    let (mut one, mut other) = (one.lines(), other.lines());
    loop {
        match (one.next(), other.next()) {
            (None, None) => return None,
            (left, right) if left == right => {}
            (left, right) => {
                return Some((left.unwrap_or("(nothing)"), right.unwrap_or("(nothing)")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_has_two_parts() {
        let text = "before\n== replay\n{}\n{}\n== recording\nAAAA\n";
        assert_eq!(parts(text).expect("both are there"), ("{}\n{}\n", "AAAA\n"));
        assert!(parts("== replay\n{}\n").is_err());
    }

    #[test]
    fn a_line_more_or_less_is_a_difference() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(("b", "c")));
        assert_eq!(first_difference("a\n", "a\nc\n"), Some(("(nothing)", "c")));
    }

    #[test]
    fn a_kind_of_line_is_found_by_its_beginning() {
        let lines = "{\"kind\":\"start\"}\n{\"kind\":\"time_wait_entered\",\"x\":1}\n";
        assert!(has(lines, "start") && has(lines, "time_wait_entered"));
        assert!(!has(lines, "time_wait"));
    }
}
