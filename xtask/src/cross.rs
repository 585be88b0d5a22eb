//! Owns what builds static programs for another architecture: a compiler with that target's standard
//! library, and a linker with its C library. What is on the machine comes first.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::{
    arch::Arch,
    debian::{self, Apt},
    process, provision,
    say::say,
    toolchain::rustc::{self, Rustc},
    workspace,
};

/// A standard library has some 30 MB; a machine without network must not hang for good.
const RUSTUP_LIMIT: Duration = Duration::from_secs(300);

/// A toolchain whose programs run on another architecture.
#[derive(Debug)]
pub(crate) struct Cross {
    arch: Arch,
    /// `None`: the one that cargo uses anyway.
    rustc: Option<Rustc>,
    linker: Linker,
}

/// A C compiler that links for the architecture.
#[derive(Debug)]
struct Linker {
    program: PathBuf,
    /// The folder that it was unpacked in, which its linker scripts are relative to.
    unpacked: Option<PathBuf>,
}

impl Cross {
    /// Finds a toolchain, or sets one up in `.toolchain` (rustup's home, if its standard library can be had
    /// from there).
    pub(crate) fn find_or_provision(arch: Arch) -> Result<Self> {
        let linker = Linker::find_or_provision(arch)
            .with_context(|| format!("no linker for {}", arch.target()))?;
        let rustc = rustc(arch).with_context(|| format!("no rustc for {}", arch.target()))?;
        Ok(Self {
            arch,
            rustc,
            linker,
        })
    }

    /// Adds to a cargo command what makes it build for the architecture, in a folder of its own: it may be
    /// another compiler than the one of the other builds.
    pub(crate) fn apply(&self, command: &mut Command) {
        let target = self.arch.target();
        command.args(["--target", target]);
        command
            .arg("--target-dir")
            .arg(workspace::root().join("target").join(self.arch.debian()));
        let variable = target.to_uppercase().replace('-', "_");
        command.env(
            format!("CARGO_TARGET_{variable}_LINKER"),
            &self.linker.program,
        );
        let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
        let mut folders = Vec::new();
        if let Some(unpacked) = &self.linker.unpacked {
            flags.push(format!("-Clink-arg=--sysroot={}", unpacked.display()));
            folders.extend(debian::library_folders(unpacked));
        }
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", &rustc.program);
            folders.extend(rustc.library_folders.clone());
        }
        // Not added to the caller's own flags: those are for the other architecture.
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        if let Some(path) = rustc::library_path(&folders) {
            command.env("LD_LIBRARY_PATH", path);
        }
    }
}

impl Linker {
    fn find_or_provision(arch: Arch) -> Result<Self> {
        if let Some(program) = process::on_path(arch.gcc()) {
            let installed = Self {
                program,
                unpacked: None,
            };
            if installed.has_static_libc() {
                return Ok(installed);
            }
        }
        let gcc = format!("gcc-{}-linux-gnu", arch.machine());
        let libc = format!("libc6-dev-{}-cross", arch.debian());
        let folder = provision::once(&format!("gcc-{}", arch.debian()), |aside| {
            debian::unpack_with_dependencies(&[&gcc, &libc], aside)?;
            let unpacked = Self::in_folder(arch, aside);
            ensure!(
                unpacked.has_static_libc(),
                "Debian's {gcc} and {libc} have no libc.a"
            );
            Ok(())
        })?;
        Ok(Self::in_folder(arch, &folder))
    }

    fn in_folder(arch: Arch, folder: &Path) -> Self {
        Self {
            program: folder.join("usr/bin").join(arch.gcc()),
            unpacked: Some(folder.to_path_buf()),
        }
    }

    fn has_static_libc(&self) -> bool {
        // A compiler that knows no such file gives the name back as it is.
        let found = process::capture(Command::new(&self.program).arg("-print-file-name=libc.a"));
        found.is_ok_and(|path| Path::new(path.trim()).is_absolute())
    }
}

/// The compiler to use instead of cargo's own, if that has no standard library for the architecture and
/// rustup has none either.
fn rustc(arch: Arch) -> Result<Option<Rustc>> {
    let own = || -> Result<bool> {
        let program = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let rustc = Rustc::ask(Path::new(&program), Vec::new())?;
        Ok(rustc.ships("std", arch.target()))
    };
    if own()? {
        return Ok(None);
    }
    let name = format!("rustc-{}", arch.debian());
    if let Some(folder) = provision::existing(&name) {
        return unpacked(&folder, arch).map(Some);
    }
    let by_rustup = || {
        add_by_rustup(arch)?;
        ensure!(own()?, "rustup has added it to another toolchain");
        Ok(())
    };
    let Err(rustup) = by_rustup() else {
        return Ok(None);
    };
    let debian = provision::once(&name, |aside| {
        unpack(arch, aside)?;
        unpacked(aside, arch).map(drop)
    });
    match debian {
        Ok(folder) => unpacked(&folder, arch).map(Some),
        Err(debian) => Err(anyhow!("rustup: {rustup:#}; Debian's packages: {debian:#}")),
    }
}

fn add_by_rustup(arch: Arch) -> Result<()> {
    process::require("rustup", "rustup")?;
    let target = arch.target();
    say(format_args!(
        "adds the target {target} to the rustup toolchain (in the rustup home, outside this workspace; \
         some 30 MB)"
    ));
    let mut rustup = Command::new("rustup");
    rustup
        .current_dir(workspace::root())
        .args(["target", "add", target]);
    process::run_silently_within(&mut rustup, RUSTUP_LIMIT)
}

/// Debian's compiler for its browsers, with the standard libraries of both architectures: build scripts run
/// here.
fn unpack(arch: Arch, folder: &Path) -> Result<()> {
    let apt = Apt::of_machine_and(arch)?;
    let mut packages = apt.to_unpack(&["rustc-web"])?;
    packages.push(format!("libstd-rust-web-dev:{}", arch.debian()));
    apt.unpack(&packages, folder)
}

fn unpacked(folder: &Path, arch: Arch) -> Result<Rustc> {
    let program = folder.join("usr/bin/rustc");
    let rustc = Rustc::ask(&program, debian::library_folders(folder))?;
    let shown = workspace::shown(folder);
    if !rustc.ships("std", arch.target()) {
        bail!("the rustc in {shown} has no std for {}", arch.target());
    }
    let (has, needed) = (&rustc.version.release, env!("CARGO_PKG_RUST_VERSION"));
    ensure!(
        is_at_least(has, needed),
        "the rustc in {shown} is {has}, and {needed} is needed"
    );
    Ok(rustc)
}

/// Whether release `1.96.0` is `1.89` or newer.
fn is_at_least(release: &str, needed: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        let numbers = text.split(['.', '-']).map(str::parse);
        numbers.map_while(Result::ok).collect()
    };
    numbers(release) >= numbers(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert!(is_at_least("1.96.0", "1.89"));
        assert!(is_at_least("1.89.0-nightly", "1.89"));
        assert!(is_at_least("1.100.0", "1.89"));
        assert!(!is_at_least("1.85.0", "1.89"));
    }

    #[test]
    fn cargo_is_told_of_target_linker_and_libraries() {
        let folder = env::temp_dir();
        let cross = Cross {
            arch: Arch::Arm64,
            rustc: None,
            linker: Linker::in_folder(Arch::Arm64, &folder),
        };
        let mut command = Command::new("cargo");
        cross.apply(command.arg("build"));
        let line = process::shown(&command);
        assert!(
            line.starts_with("cargo build --target aarch64-unknown-linux-gnu"),
            "{line}"
        );
        let value = |name: &str| {
            let mut values = command.get_envs();
            let found = values.find(|(known, _)| *known == name)?.1?;
            Some(found.to_string_lossy().into_owned())
        };
        let linker = value("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER");
        assert!(linker.is_some_and(|path| path.ends_with("usr/bin/aarch64-linux-gnu-gcc")));
        let flags = value("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
        let wanted = format!(
            "-Ctarget-feature=+crt-static\u{1f}-Clink-arg=--sysroot={}",
            folder.display()
        );
        assert_eq!(flags, wanted);
        assert_eq!(value("RUSTC"), None);
    }
}
