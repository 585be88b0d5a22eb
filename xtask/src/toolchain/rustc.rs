//! Owns what can be known about one rustc: its version, its LLVM, its sysroot, what it ships.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::TARGET;
use crate::{debian, process};

/// A compiler on this machine that answers.
#[derive(Debug, Clone)]
pub(crate) struct Rustc {
    /// The program.
    pub(crate) program: PathBuf,
    /// Its sysroot.
    pub(crate) sysroot: PathBuf,
    /// Where its own shared libraries lie if the loader does not find them by itself.
    pub(crate) library_folders: Vec<PathBuf>,
    /// What it says about itself.
    pub(crate) version: Version,
}

/// The part of `rustc -vV` that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// The first word after `rustc`: `1.97.0-nightly`.
    pub(crate) release: String,
    /// The triple it runs on.
    pub(crate) host: String,
    /// The major version of its LLVM.
    pub(crate) llvm: u32,
}

impl Rustc {
    /// Asks `program`; `library_folders` as in [`Rustc::library_folders`].
    pub(crate) fn ask(program: &Path, library_folders: Vec<PathBuf>) -> Result<Self> {
        let ask = |arguments: &[&str]| {
            let mut command = Command::new(program);
            if let Some(path) = library_path(&library_folders) {
                command.env("LD_LIBRARY_PATH", path);
            }
            process::capture(command.args(arguments))
        };
        let version = Version::parse(&ask(&["-vV"])?)
            .with_context(|| format!("{} is not a usable rustc", program.display()))?;
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
        Ok(Self {
            program: program.to_path_buf(),
            sysroot,
            library_folders,
            version,
        })
    }

    /// Whether it ships `core` compiled for the eBPF target.
    pub(crate) fn ships_core(&self) -> bool {
        self.ships("core", TARGET)
    }

    /// Whether it ships this library of Rust's compiled for a target.
    pub(crate) fn ships(&self, library: &str, target: &str) -> bool {
        let folder = self.sysroot.join("lib/rustlib").join(target).join("lib");
        let begin = format!("lib{library}-");
        let files = fs::read_dir(folder).into_iter().flatten();
        files.flatten().any(|entry| {
            let name = entry.file_name();
            let is_library = name.to_string_lossy().starts_with(&begin);
            is_library
                && Path::new(&name)
                    .extension()
                    .is_some_and(|extension| extension == "rlib")
        })
    }

    /// Whether the sources of `core` are there to be compiled.
    pub(crate) fn has_core_sources(&self) -> bool {
        self.sysroot
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .is_file()
    }

    /// The shared library of its LLVM, which bpf-linker loads.
    pub(crate) fn llvm_library(&self) -> Result<PathBuf> {
        let mut folders = self.library_folders.clone();
        folders.push(self.sysroot.join("lib"));
        folders.extend(debian::library_folders(&self.sysroot));
        folders.extend(debian::library_folders(&self.sysroot.join("..")));
        let mut names = Vec::new();
        for folder in &folders {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            names.extend(entries.map(|entry| entry.path()));
        }
        names.sort();
        let found = names.into_iter().find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            is_llvm_library(&name, self.version.llvm)
        });
        let Some(library) = found else {
            bail!(
                "the libLLVM {} of {} is in none of its folders (it may be linked in statically)",
                self.version.llvm,
                self.program.display()
            );
        };
        Ok(library)
    }
}

impl Version {
    /// Reads the output of `rustc -vV`.
    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("no `{name}` in the output of rustc -vV"))
        };
        let llvm = field("LLVM version")?;
        let major = llvm.split('.').next().unwrap_or(llvm);
        Ok(Self {
            release: field("release")?.to_owned(),
            host: field("host")?.to_owned(),
            llvm: major
                .parse()
                .with_context(|| format!("LLVM version {llvm:?}"))?,
        })
    }
}

/// The folders as a value of `LD_LIBRARY_PATH`, unless there are none.
pub(crate) fn library_path(folders: &[PathBuf]) -> Option<std::ffi::OsString> {
    if folders.is_empty() {
        None
    } else {
        std::env::join_paths(folders).ok()
    }
}

/// Whether a file of that name is the real library, not the linker script beside it that rustup's
/// toolchains carry under the older name (`libLLVM-22-rust-….so`).
fn is_llvm_library(name: &str, major: u32) -> bool {
    let starts = |prefix: String| name.starts_with(&prefix);
    starts(format!("libLLVM.so.{major}.")) || starts(format!("libLLVM-{major}.so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHTLY: &str = "\
rustc 1.97.0-nightly (e50aa6fba 2026-05-19)
binary: rustc
commit-hash: e50aa6fba4e63ab34c72bf9acfd2c307c1155d1a
commit-date: 2026-05-19
host: x86_64-unknown-linux-gnu
release: 1.97.0-nightly
LLVM version: 22.1.4
";

    #[test]
    fn the_verbose_version_is_read() {
        let expected = Version {
            release: "1.97.0-nightly".into(),
            host: "x86_64-unknown-linux-gnu".into(),
            llvm: 22,
        };
        assert_eq!(Version::parse(NIGHTLY).expect("it is complete"), expected);
    }

    #[test]
    fn a_compiler_without_llvm_is_refused() {
        let other = NIGHTLY.replace("LLVM version: 22.1.4", "cranelift: 1");
        let error = Version::parse(&other).expect_err("it has no LLVM");
        assert!(error.to_string().contains("LLVM version"), "{error}");
    }

    #[test]
    fn the_llvm_of_the_compiler_is_told_from_others_beside_it() {
        assert!(is_llvm_library("libLLVM.so.22.1-rust-1.97.0-nightly", 22));
        assert!(is_llvm_library("libLLVM.so.22.1", 22));
        assert!(is_llvm_library("libLLVM-15.so.1", 15));
        assert!(!is_llvm_library("libLLVM-14.so.1", 22));
        assert!(!is_llvm_library("libLLVM-22-rust-1.97.0-nightly.so", 22));
    }
}
