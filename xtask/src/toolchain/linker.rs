//! Owns bpf-linker: which version goes with which LLVM, and its one-time build.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{process, provision, say::say, workspace};

/// The last release that loads the compiler's own LLVM instead of asking for a system-wide one.
const VERSION: &str = "0.10.3";

/// What to give to `cargo install bpf-linker`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    version: &'static str,
    feature: String,
    folder: String,
}

/// The bpf-linker that can load this LLVM.
pub(super) fn for_llvm(major: u32) -> Result<Choice> {
    if !(20..=22).contains(&major) {
        bail!("bpf-linker {VERSION} cannot load LLVM {major}; it knows 20, 21 and 22");
    }
    Ok(Choice {
        version: VERSION,
        feature: format!("rust-llvm-{major}"),
        folder: format!("bpf-linker-{VERSION}-llvm{major}"),
    })
}

/// The path of the bpf-linker for this LLVM, built first if it is not there.
pub(super) fn ensure(llvm: u32) -> Result<PathBuf> {
    let choice = for_llvm(llvm)?;
    let folder = provision::once(&choice.folder, |aside| choice.build(aside))
        .context("bpf-linker cannot be built")?;
    Ok(folder.join("bin/bpf-linker"))
}

impl Choice {
    fn build(&self, folder: &Path) -> Result<()> {
        let Self {
            version, feature, ..
        } = self;
        say(format_args!(
            "builds bpf-linker {version} from the crate registry into .toolchain (once; one to two \
             minutes)"
        ));
        let build = folder.join("build");
        let mut install = workspace::cargo("install");
        install.args(["bpf-linker", "--version", version, "--locked", "--quiet"]);
        install.args(["--no-default-features", "--features", feature]);
        install
            .arg("--root")
            .arg(folder)
            .arg("--target-dir")
            .arg(&build);
        // Flags meant for the project are none of its business; a `rustc` it runs is only asked for
        // the machine's architecture.
        install
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        process::run(&mut install)?;
        fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_llvm_has_its_own_linker_in_its_own_folder() {
        let current = for_llvm(22).expect("LLVM 22 is known");
        assert_eq!(current.feature, "rust-llvm-22");
        let older = for_llvm(21).expect("LLVM 21 is known");
        assert_eq!(older.feature, "rust-llvm-21");
        assert_ne!(current.folder, older.folder);
    }

    #[test]
    fn an_llvm_that_no_linker_loads_is_refused() {
        for major in [19, 23] {
            let error = for_llvm(major).expect_err("it is not known");
            assert!(error.to_string().contains(&major.to_string()), "{error}");
        }
    }
}
