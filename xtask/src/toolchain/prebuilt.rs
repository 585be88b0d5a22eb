//! Owns the other way to an eBPF compiler: a rustc that ships `core` for the eBPF target, installed
//! on this machine or unpacked from Debian's packages.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{Compiler, Core, TARGET, linker, rustc::Rustc};
use crate::{debian, process, provision, workspace};

/// Debian's compiler for its browsers, and `core` for the eBPF targets. Also what to install by hand.
pub(super) const PACKAGES: [&str; 3] = [
    "rustc-web",
    "libstd-rust-web-dev",
    "libstd-rust-web-dev-bpf",
];
/// Its folder in `.toolchain`.
const FOLDER: &str = "debian-rustc";

/// The rustc that the user has named.
pub(super) fn named(program: &Path) -> Result<Compiler> {
    let rustc = Rustc::ask(program, Vec::new())?;
    if !rustc.ships_core() {
        bail!(
            "{} ships no core for {TARGET} (looked in {})",
            program.display(),
            rustc.sysroot.join("lib/rustlib").display()
        );
    }
    linker::for_llvm(rustc.version.llvm)?;
    Ok(compiler(rustc))
}

/// An installed one.
pub(super) fn find_installed() -> Option<Compiler> {
    // A rustup proxy comes first on PATH where there is one; a distribution's compiler lies behind.
    let candidates = [
        process::on_path("rustc"),
        Some(PathBuf::from("/usr/bin/rustc")),
    ];
    let existing = candidates
        .into_iter()
        .flatten()
        .filter(|program| program.exists());
    existing
        .into_iter()
        .find_map(|program| usable(&program, Vec::new()))
}

/// One that an earlier run has unpacked.
pub(super) fn find_unpacked() -> Option<Compiler> {
    in_folder(&provision::existing(FOLDER)?).ok()
}

/// Unpacks Debian's packages.
pub(super) fn provision() -> Result<Compiler> {
    let folder = provision::once(FOLDER, |aside| {
        debian::unpack_with_dependencies(&PACKAGES, aside)?;
        in_folder(aside).map(drop)
    })?;
    in_folder(&folder)
}

fn in_folder(folder: &Path) -> Result<Compiler> {
    usable(
        &folder.join("usr/bin/rustc"),
        debian::library_folders(folder),
    )
    .with_context(|| {
        format!(
            "what is in {} is no rustc with core for {TARGET}",
            workspace::shown(folder)
        )
    })
}

fn usable(program: &Path, library_folders: Vec<PathBuf>) -> Option<Compiler> {
    let rustc = Rustc::ask(program, library_folders).ok()?;
    let fits = rustc.ships_core() && linker::for_llvm(rustc.version.llvm).is_ok();
    fits.then(|| compiler(rustc))
}

fn compiler(rustc: Rustc) -> Compiler {
    Compiler {
        rustc,
        cargo: workspace::cargo_program(),
        core: Core::Shipped,
        clippy: None,
    }
}
