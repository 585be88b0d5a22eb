//! Owns the table of kernels in `kernels.txt`: which there are, where they come from, what pins them.

use anyhow::{Context as _, Result, bail, ensure};

use crate::arch::Arch;

const TABLE: &str = include_str!("kernels.txt");

/// One kernel of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pinned {
    /// Whether it is booted only with `--full`.
    pub(super) only_full: bool,
    /// The series, which is what people call it: `6.1`.
    pub(super) name: String,
    /// As Debian calls it.
    pub(super) arch: Arch,
    /// The Debian suite that has it.
    pub(super) suite: String,
    /// The version of its packages.
    pub(super) version: String,
    /// What it must allow for TIME_WAIT and calls.
    pub(super) backend: Backend,
    /// Image and parts, the image first.
    pub(super) packages: Vec<Package>,
}

/// One package, and what its file must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    /// SHA-256 of the .deb, in hex.
    pub(super) sha256: String,
}

/// How the tracer sees TIME_WAIT and calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Backend {
    /// By the kernel's own functions.
    Fentry,
    /// By the tracepoints of timers and of system calls.
    Timer,
}

/// Every kernel of the table, in its order.
pub(super) fn all() -> Result<Vec<Pinned>> {
    parse(TABLE).context("kernels.txt")
}

impl Pinned {
    /// How rows of results name it: the architecture is told where it is not the usual one.
    pub(super) fn label(&self) -> String {
        match self.arch {
            Arch::Amd64 => self.name.clone(),
            Arch::Arm64 => format!("{} {}", self.name, self.arch.debian()),
        }
    }

    /// What the names of images of this series begin with, and how they end.
    pub(super) fn image_of_series(&self) -> (String, String) {
        let series = self.name.split('-').next().unwrap_or(&self.name);
        (
            format!("linux-image-{series}"),
            format!("-{}", self.flavour()),
        )
    }

    /// How many times as long as others its guests may take: arm64 is emulated three to four times slower.
    pub(super) fn patience(&self) -> u32 {
        match self.arch {
            Arch::Amd64 => 1,
            Arch::Arm64 => 3,
        }
    }

    /// Debian's build for virtual machines: small, with the drivers that QEMU needs built in.
    pub(super) fn flavour(&self) -> String {
        format!("cloud-{}", self.arch.debian())
    }
}

impl Backend {
    /// As `tcptrace doctor` calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Timer => "timer",
        }
    }

    /// What makes the tracer use it, and nothing else.
    pub(super) fn flags(self) -> &'static str {
        match self {
            Self::Fentry => "--backend fentry --calls fentry",
            Self::Timer => "--backend timer --calls syscalls",
        }
    }
}

fn parse(table: &str) -> Result<Vec<Pinned>> {
    let mut kernels: Vec<Pinned> = Vec::new();
    for (number, line) in (1..).zip(table.lines()) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let context = || format!("line {number}: {line:?}");
        if line.starts_with(' ') {
            let kernel = kernels.last_mut().with_context(context)?;
            kernel.packages.push(package(&words).with_context(context)?);
        } else {
            kernels.push(kernel(&words).with_context(context)?);
        }
    }
    for kernel in &kernels {
        ensure!(
            !kernel.packages.is_empty(),
            "{} has no packages",
            kernel.label()
        );
    }
    Ok(kernels)
}

fn kernel(words: &[&str]) -> Result<Pinned> {
    let &[set, name, arch, suite, version, backend] = words else {
        bail!("a kernel has six words");
    };
    Ok(Pinned {
        only_full: match set {
            "default" => false,
            "full" => true,
            other => bail!("{other:?} is no set"),
        },
        name: name.to_owned(),
        arch: match arch {
            "amd64" => Arch::Amd64,
            "arm64" => Arch::Arm64,
            other => bail!("{other:?} is no architecture"),
        },
        suite: suite.to_owned(),
        version: version.to_owned(),
        backend: match backend {
            "fentry" => Backend::Fentry,
            "timer" => Backend::Timer,
            other => bail!("{other:?} is no backend"),
        },
        packages: Vec::new(),
    })
}

fn package(words: &[&str]) -> Result<Package> {
    let &[name, sha256] = words else {
        bail!("a package has a name and a checksum");
    };
    let is_sha256 = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    ensure!(is_sha256, "{sha256:?} is no SHA-256");
    Ok(Package {
        name: name.to_owned(),
        sha256: sha256.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_has_the_kernels_that_people_run() {
        let kernels = all().expect("the table can be read");
        let labels = |full: bool| -> Vec<String> {
            let wanted = kernels.iter().filter(|kernel| kernel.only_full == full);
            wanted.map(Pinned::label).collect()
        };
        assert_eq!(labels(false), ["5.10", "6.1", "6.12", "7.2"]);
        assert!(labels(true).contains(&"5.10 arm64".to_owned()));
        let all: BTreeSet<String> = kernels.iter().map(Pinned::label).collect();
        assert_eq!(all.len(), kernels.len(), "each is there once");
    }

    #[test]
    fn an_image_is_of_its_series_and_architecture() {
        for kernel in all().expect("the table can be read") {
            let (begin, end) = kernel.image_of_series();
            let image = &kernel.packages[0].name;
            assert!(
                image.starts_with(&begin) && image.ends_with(&end),
                "{image}"
            );
        }
    }

    #[test]
    fn what_is_not_complete_is_refused_with_its_line() {
        let of = |text: &str| format!("{:#}", parse(text).expect_err("it is wrong"));
        assert!(of("default 6.1 amd64 bookworm\n").contains("line 1"));
        assert!(of("default 6.1 amd64 bookworm 6.1.1-1 fentry\n").contains("no packages"));
        assert!(of("    linux-image 00\n").contains("line 1"));
        let short = "default 6.1 amd64 bookworm 6.1.1-1 fentry\n    linux-image-6.1 00\n";
        assert!(of(short).contains("SHA-256"), "{}", of(short));
        assert!(of("some 6.1 amd64 bookworm 6.1.1-1 fentry\n").contains("no set"));
    }
}
