//! Owns `cargo xtask lint`: formatting, clippy, documentation, and the length of files.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{build_ebpf, process, say::say, toolchain, workspace};

/// One concern a file: beyond this a file has more than one.
const LONGEST_FILE: usize = 600;

/// Check formatting, clippy (eBPF crate included), documentation, and that no file is over 600 lines.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// How one check ended.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// One check.
type Check = fn() -> Result<Outcome>;

/// Runs the verb: every check, even after one has failed.
pub(crate) fn main(_args: &Args) -> Result<ExitCode> {
    // tcptrace embeds the object: without it, not even clippy can look at that crate.
    build_ebpf::ensure()?;
    let checks: [(&str, Check); 5] = [
        ("length of files", length),
        ("formatting", formatting),
        ("clippy", clippy),
        ("clippy, eBPF crate", clippy_ebpf),
        ("documentation", documentation),
    ];
    let mut all_passed = true;
    for (name, check) in checks {
        match check()? {
            Outcome::Passed => say(format_args!("{name}: passed")),
            Outcome::Skipped(reason) => say(format_args!("{name}: skipped: {reason}")),
            Outcome::Failed(reason) => {
                say(format_args!("{name}: FAILED: {reason}"));
                all_passed = false;
            }
        }
    }
    Ok(if all_passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn length() -> Result<Outcome> {
    let mut files = Vec::new();
    collect_sources(&workspace::root(), &mut files).context("cannot list the sources")?;
    let mut too_long = Vec::new();
    for file in files {
        let lines = fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?
            .lines()
            .count();
        if lines > LONGEST_FILE {
            too_long.push(format!("{} has {lines} lines", workspace::shown(&file)));
        }
    }
    if too_long.is_empty() {
        return Ok(Outcome::Passed);
    }
    too_long.sort();
    Ok(Outcome::Failed(format!(
        "over {LONGEST_FILE} lines: {}",
        too_long.join(", ")
    )))
}

fn formatting() -> Result<Outcome> {
    if !is_installed("fmt") {
        return Ok(Outcome::Skipped("rustfmt is not installed".to_owned()));
    }
    judge(
        workspace::cargo("fmt").args(["--all", "--check"]),
        "run `cargo fmt --all`",
    )
}

fn clippy() -> Result<Outcome> {
    if !is_installed("clippy") {
        return Ok(Outcome::Skipped("clippy is not installed".to_owned()));
    }
    let mut command = workspace::cargo("clippy");
    judge(
        command.args(["--all-targets", "--", "-D", "warnings"]),
        "see above",
    )
}

fn clippy_ebpf() -> Result<Outcome> {
    let compiler = toolchain::compiler()?;
    let Some(mut command) = compiler.clippy()? else {
        let reason = format!("no clippy with {}", compiler.description());
        return Ok(Outcome::Skipped(reason));
    };
    judge(
        command.args(["--bins", "--", "-D", "warnings"]),
        "see above",
    )
}

fn documentation() -> Result<Outcome> {
    let mut command = workspace::cargo("doc");
    command
        .args(["--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-Dwarnings");
    judge(&mut command, "see above")
}

fn judge(command: &mut Command, remedy: &str) -> Result<Outcome> {
    Ok(if process::status(command)?.success() {
        Outcome::Passed
    } else {
        Outcome::Failed(remedy.to_owned())
    })
}

fn is_installed(verb: &str) -> bool {
    process::succeeds(workspace::cargo(verb).arg("--version"))
}

/// The files that people write as code, below `folder`.
fn collect_sources(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !path.is_symlink() {
            if !name.starts_with('.') && name != "target" {
                collect_sources(&path, files)?;
            }
        } else if path
            .extension()
            .is_some_and(|extension| extension == "rs" || extension == "sh")
        {
            files.push(path);
        }
    }
    Ok(())
}
