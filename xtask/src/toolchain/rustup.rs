//! Owns the rustup way to an eBPF compiler: a nightly that compiles `core` from `rust-src`.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::{Compiler, Core, linker, rustc::Rustc};
use crate::{process, say::say};

/// The nightly to install where there is none to use: the newest whose LLVM the linker can load.
pub(super) const PINNED: &str = "nightly-2026-05-20";
/// A whole toolchain has some 100 MB; a machine without network must not hang for good.
const LIMIT: Duration = Duration::from_secs(600);

/// An installed nightly that has `rust-src`, if there is one.
pub(super) fn find() -> Option<Compiler> {
    usable_nightlies()
        .ok()?
        .into_iter()
        .find_map(|(_, rustc)| from_source(rustc))
}

/// Completes an installed nightly, or installs one. Either changes the rustup home, and says so.
pub(super) fn provision() -> Result<Compiler> {
    let nightlies = usable_nightlies()?;
    let mut failure = None;
    if let Some((name, _)) = nightlies.first() {
        say(format_args!(
            "adds rust-src to the rustup toolchain {name} (in the rustup home, outside this \
             workspace; some 4 MB)"
        ));
        let mut add = rustup();
        match process::run_within(
            add.args(["component", "add", "rust-src", "--toolchain", name]),
            LIMIT,
        ) {
            Ok(()) => return installed(name),
            Err(error) => failure = Some(error),
        }
    }
    say(format_args!(
        "installs the rustup toolchain {PINNED} with rust-src (in the rustup home, outside this \
         workspace; some 150 MB)"
    ));
    let mut install = rustup();
    install.args(["toolchain", "install", PINNED, "--profile", "minimal"]);
    install.args(["--component", "rust-src", "--no-self-update"]);
    let result = process::run_within(&mut install, LIMIT).and_then(|()| installed(PINNED));
    match failure {
        Some(earlier) => result.with_context(|| format!("{earlier:#}; and then")),
        None => result,
    }
}

fn installed(name: &str) -> Result<Compiler> {
    let rustc = ask(name)?;
    from_source(rustc).with_context(|| format!("{name} has no rust-src after all"))
}

fn from_source(rustc: Rustc) -> Option<Compiler> {
    // The cargo of the same toolchain: -Z build-std goes with the layout of its sources.
    let cargo = rustc.sysroot.join("bin/cargo");
    (rustc.has_core_sources() && cargo.is_file()).then(|| Compiler {
        clippy: Some(rustc.sysroot.join("bin/cargo-clippy")).filter(|path| path.is_file()),
        cargo,
        core: Core::FromSource,
        rustc,
    })
}

/// The installed nightlies whose LLVM a linker exists for.
fn usable_nightlies() -> Result<Vec<(String, Rustc)>> {
    process::require("rustup", "rustup")?;
    let text = process::capture(rustup().args(["toolchain", "list"]))?;
    let known = nightlies(&text)
        .into_iter()
        .filter_map(|name| Some((name.clone(), ask(&name).ok()?)));
    Ok(known
        .filter(|(_, rustc)| linker::for_llvm(rustc.version.llvm).is_ok())
        .collect())
}

fn ask(toolchain: &str) -> Result<Rustc> {
    let mut which = rustup();
    let path = process::capture(which.args(["which", "--toolchain", toolchain, "rustc"]))?;
    let path = Path::new(path.trim());
    if !path.is_file() {
        bail!("{toolchain} has no rustc at {}", path.display());
    }
    Rustc::ask(path, Vec::new())
}

fn rustup() -> Command {
    let mut command = Command::new("rustup");
    // Its own backtrace is of use to nobody here.
    command.env_remove("RUST_BACKTRACE");
    command
}

/// The names of the nightlies in the output of `rustup toolchain list`.
fn nightlies(text: &str) -> Vec<String> {
    let names = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| name.starts_with("nightly"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nightlies_are_told_from_other_toolchains() {
        let text = "\
stable-x86_64-unknown-linux-gnu (active, default)
nightly-2026-05-20-x86_64-unknown-linux-gnu
nightly-x86_64-unknown-linux-gnu (override)
1.95.0-x86_64-unknown-linux-gnu
";
        let expected = [
            "nightly-2026-05-20-x86_64-unknown-linux-gnu",
            "nightly-x86_64-unknown-linux-gnu",
        ];
        assert_eq!(nightlies(text), expected);
        assert_eq!(nightlies("no installed toolchains\n"), [""; 0]);
    }
}
