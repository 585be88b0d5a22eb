//! Owns `cargo xtask build`: the eBPF object, then the crates that embed it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{artifacts, build_ebpf, say::say, workspace};

/// Build the eBPF object, then the user-space crates.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask build            target/release/tcptrace
  cargo xtask build --debug    target/debug/tcptrace: quicker to build, slower to run")]
pub(crate) struct Args {
    /// Optimised (the default)
    #[arg(long, conflicts_with = "debug")]
    release: bool,
    /// Not optimised, with all checks
    #[arg(long)]
    debug: bool,
}

/// Runs the verb.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let tracer = tracer(args.release || !args.debug)?;
    say(format_args!("built {}", workspace::shown(&tracer)));
    Ok(ExitCode::SUCCESS)
}

/// Builds everything and returns the path of the tracer.
pub(crate) fn tracer(release: bool) -> Result<PathBuf> {
    build_ebpf::ensure()?;
    let mut cargo = workspace::cargo("build");
    cargo.args(["--package", "tcptrace", "--bins"]);
    if release {
        cargo.arg("--release");
    }
    let built = artifacts::built_by(&mut cargo)?;
    let tracer = built
        .into_iter()
        .find(|artifact| artifact.target == "tcptrace");
    Ok(tracer
        .context("package tcptrace has no program of that name")?
        .executable)
}
