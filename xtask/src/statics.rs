//! Owns how user-space crates are built so that one binary serves the host and a guest without a
//! C library: statically.

use std::{env, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{arch::Arch, cross::Cross, process};

/// How the tests, and the tracer they run, are linked.
#[derive(Debug)]
pub(crate) enum Linkage {
    /// For the target of that name, with the C library in the binary.
    Static {
        /// The host's own triple. Named, so that cargo keeps the flags from the procedural macros,
        /// which cannot be static.
        target: String,
    },
    /// For another architecture, with the C library in the binary.
    Cross(Cross),
    /// The ordinary way, because of this reason.
    Dynamic(String),
}

impl Linkage {
    /// The one for guests of an architecture; an error if this machine cannot build for them.
    pub(crate) fn for_guests(arch: Arch) -> Result<Self> {
        match arch {
            Arch::Amd64 => match Self::of_this_machine()? {
                Self::Dynamic(reason) => bail!(
                    "the guest has no shared libraries, so its programs must be static: {reason}"
                ),
                linkage => Ok(linkage),
            },
            Arch::Arm64 => Cross::find_or_provision(arch).map(Self::Cross),
        }
    }

    /// The best that this machine allows.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let rustc = process::capture(Command::new("rustc").arg("-vV"))?;
        let target = rustc
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .context("no `host` in the output of rustc -vV")?;
        // GNU's C library comes in two parts; the static one is often not installed. Musl's target
        // needs neither.
        if !target.ends_with("-gnu") || has_static_libc() {
            return Ok(Self::Static {
                target: target.to_owned(),
            });
        }
        Ok(Self::Dynamic(
            "no static C library here (libc.a; package libc6-dev)".to_owned(),
        ))
    }

    /// Adds to a cargo command what makes it link so.
    pub(crate) fn apply(&self, command: &mut Command) {
        // Line numbers for backtraces, no types: a fifth of the size in the guest's memory.
        command.env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only");
        let target = match self {
            Self::Static { target } => target,
            Self::Cross(cross) => return cross.apply(command),
            Self::Dynamic(_) => return,
        };
        command.args(["--target", target]);
        // Not by CARGO_TARGET_…_RUSTFLAGS: cargo would ignore it where RUSTFLAGS is set.
        let (name, separator) = match env::var("CARGO_ENCODED_RUSTFLAGS") {
            Ok(_) => ("CARGO_ENCODED_RUSTFLAGS", "\u{1f}"),
            Err(_) => ("RUSTFLAGS", " "),
        };
        let wanted = ["-C", "target-feature=+crt-static"].join(separator);
        let flags = match env::var(name) {
            Ok(present) if !present.is_empty() => [present, wanted].join(separator),
            Ok(_) | Err(_) => wanted,
        };
        command.env(name, flags);
    }
}

fn has_static_libc() -> bool {
    // A compiler that knows no such file gives the name back as it is.
    let found = process::capture(Command::new("cc").arg("-print-file-name=libc.a"));
    found.is_ok_and(|path| Path::new(path.trim()).is_absolute())
}
