//! Owns `cargo xtask run`: builds, and becomes the tracer, as root.

use std::{
    ffi::OsString,
    fs,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{build, process, workspace};

/// Build, then run the tracer, through sudo when not root.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask run -- --port 8000           every transition on port 8000
  cargo xtask run -- --port 8000 -d 10     for ten seconds
  cargo xtask run -- doctor                what this kernel supports")]
pub(crate) struct Args {
    /// What to pass to tcptrace, after `--`
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// Runs the verb. Returns only when the tracer could not be started: it takes this process's place,
/// so that signals reach it and its exit status is what the caller sees.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let tracer = build::tracer(true)?;
    let mut command = if is_root()? {
        Command::new(&tracer)
    } else if let Some(sudo) = process::on_path("sudo") {
        let mut command = Command::new(sudo);
        command.arg("--").arg(&tracer);
        command
    } else {
        bail!(
            "tracing needs root, and there is no sudo here; become root and run {}",
            workspace::shown(&tracer)
        );
    };
    let error = command.args(&args.flags).exec();
    Err(anyhow!(error).context(format!("cannot run `{}`", process::shown(&command))))
}

/// Whether this process is root.
pub(crate) fn is_root() -> Result<bool> {
    // The kernel gives this folder to the effective user of the process.
    Ok(fs::metadata("/proc/self")
        .context("/proc is not mounted")?
        .uid()
        == 0)
}
