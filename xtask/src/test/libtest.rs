//! Owns the running of one test binary, and the reading of what it says about its tests.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    ops::AddAssign,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::process;

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Tally {
    /// One suite that could not run.
    pub(crate) const SKIPPED: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };
    /// One suite that broke down.
    pub(crate) const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };

    /// Whether no test was there, or none matched.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Runs a test program, shows its output on stdout, and counts.
pub(crate) fn run(command: &mut Command) -> Result<Tally> {
    let shown = process::shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{shown}`"))?;
    let counted = count(child.stdout.take().context("it has no stdout")?)?;
    let status = child.wait()?;
    Ok(judge(counted, status.success()))
}

/// What the counts are worth given how the program ended: one that dies, or that fails without a
/// failed test, is itself a failure.
pub(crate) fn judge(counted: Tally, ended_well: bool) -> Tally {
    let mut tally = counted;
    if !ended_well && tally.failed == 0 {
        tally += Tally::FAILED;
    }
    tally
}

/// Copies the output to stdout and adds up its result lines.
fn count(output: impl Read) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        std::io::stdout().write_all(&line)?;
        if let Some(found) = parse_result(&String::from_utf8_lossy(&line)) {
            tally += found;
        }
        line.clear();
    }
    Ok(tally)
}

/// Adds up the result lines of a whole output.
pub(crate) fn count_in(output: &str) -> Tally {
    let mut tally = Tally::default();
    output
        .lines()
        .filter_map(parse_result)
        .for_each(|found| tally += found);
    tally
}

/// `test result: ok. 3 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn parse_result(line: &str) -> Option<Tally> {
    let (_verdict, counts) = line
        .trim()
        .strip_prefix("test result: ")?
        .split_once(". ")?;
    let number = |name: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(name)?.trim_end().parse().ok())
    };
    Some(Tally {
        passed: number("passed")?,
        failed: number("failed")?,
        skipped: number("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_read() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 4 filtered \
                    out; finished in 0.01s\n";
        assert_eq!(
            parse_result(line),
            Some(Tally {
                passed: 3,
                failed: 1,
                skipped: 2
            })
        );
        assert_eq!(parse_result("test a::test result ... ok"), None);
        assert_eq!(parse_result("test result: ok. something else"), None);
    }

    #[test]
    fn every_result_line_of_an_output_counts() {
        let output = "running 1 test\r\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\r\n\
                      test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured\r\n";
        assert_eq!(
            count_in(output),
            Tally {
                passed: 3,
                failed: 0,
                skipped: 1
            }
        );
    }

    #[test]
    fn a_program_that_dies_is_a_failure_of_its_own() {
        let mut dies = Command::new("sh");
        let tally = run(dies.args(["-c", "kill -9 $$"])).expect("it starts");
        assert_eq!(tally, Tally::FAILED);
        assert_eq!(
            judge(
                Tally {
                    passed: 1,
                    failed: 1,
                    skipped: 0
                },
                false
            )
            .failed,
            1
        );
    }
}
