//! Owns Debian packages as a source of tools: fetched and unpacked into a folder, nothing installed,
//! nothing of the machine's package management changed.

mod sources;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{arch::Arch, process, provision, say::say, workspace};

/// Long enough for the package lists over a slow line, short enough not to hang for good.
const UPDATE_LIMIT: Duration = Duration::from_secs(300);
/// The largest set of packages has about 120 MB.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(900);

/// A view of package lists: the machine's own, or private ones.
pub(crate) struct Apt {
    options: Vec<OsString>,
}

/// What an index says of one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offered {
    /// Its version.
    pub(crate) version: String,
    /// SHA-256 of its file, in hex.
    pub(crate) sha256: String,
}

impl Apt {
    /// The packages of a Debian suite such as `bookworm` for an architecture, whatever this machine runs:
    /// from the machine's own archive, with private lists.
    pub(crate) fn of_suite(suite: &str, arch: Arch) -> Result<Self> {
        require_tools()?;
        let name = folder_of_suite(suite, arch);
        let _lock = provision::lock(&name)?;
        let folder = workspace::toolchain_dir().join(name);
        let none = folder.join("none");
        let (list, status) = (folder.join("one.sources"), folder.join("status"));
        fs::create_dir_all(&none).with_context(|| format!("cannot create {}", none.display()))?;
        fs::write(
            &list,
            sources::with_suite(&sources::of_this_machine()?, suite)?,
        )?;
        fs::write(&status, "")?;
        let mut apt = Self {
            options: Vec::new(),
        };
        apt.keep_apart(&folder)?;
        apt.set("Dir::State::status", &status);
        apt.set("Dir::Etc::sourcelist", &list);
        apt.set("Dir::Etc::sourceparts", &none);
        apt.set("Dir::Etc::preferences", "/dev/null");
        apt.set("Dir::Etc::preferencesparts", &none);
        apt.set("APT::Architecture", arch.debian());
        apt.set("APT::Architectures", arch.debian());
        apt.update()?;
        Ok(apt)
    }

    /// The packages of this machine's release for this machine and for another architecture, by private
    /// lists that are up to date. The names of the latter's end in `:arm64`.
    pub(crate) fn of_machine_and(arch: Arch) -> Result<Self> {
        let mut apt = Self::of_machine()?;
        let mut dpkg = Command::new("dpkg");
        let own = process::capture(dpkg.arg("--print-architecture"))?;
        let name = format!("apt/machine-{}", arch.debian());
        let _lock = provision::lock(&name)?;
        apt.keep_apart(&workspace::toolchain_dir().join(name))?;
        let both = format!("{},{}", own.trim(), arch.debian());
        apt.set("APT::Architectures", both);
        apt.update()?;
        Ok(apt)
    }

    /// The packages of this machine's release, as its own lists have them.
    fn of_machine() -> Result<Self> {
        require_tools()?;
        Ok(Self {
            options: Vec::new(),
        })
    }

    /// The packages of this machine's release, by private lists that are up to date.
    fn of_machine_updated() -> Result<Self> {
        let mut apt = Self::of_machine()?;
        apt.keep_apart(&workspace::toolchain_dir().join("apt/machine"))?;
        apt.update()?;
        Ok(apt)
    }

    /// What `package` depends on directly.
    pub(crate) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let mut command = self.command("apt-cache");
        let text = process::capture(command.args(["depends", "--important", package]))?;
        Ok(direct_dependencies(&text))
    }

    /// The names of all packages that begin so.
    pub(crate) fn names(&self, begin: &str) -> Result<Vec<String>> {
        let text = process::capture(self.command("apt-cache").args(["pkgnames", begin]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The newest version of a package, by the suite's signed index; `None` if there is none.
    pub(crate) fn offered(&self, package: &str) -> Result<Option<Offered>> {
        let known = self.names(package)?.iter().any(|name| name == package);
        if !known {
            return Ok(None);
        }
        let mut command = self.command("apt-cache");
        let text = process::capture(command.args(["show", "--no-all-versions", package]))?;
        // A name may be known only because others depend on it.
        Ok(offered_in(&text))
    }

    /// Fetches exactly these packages and unpacks them into `folder`.
    pub(crate) fn unpack(&self, packages: &[String], folder: &Path) -> Result<()> {
        let downloads = folder.join("downloads");
        fs::create_dir_all(&downloads)?;
        let uris = process::capture(
            self.command("apt-get")
                .args(["download", "--print-uris"])
                .args(packages),
        )?;
        let mut names = packages.to_vec();
        process::shorten(&mut names, 5);
        say(format_args!(
            "fetches Debian's packages {} ({} MB), to be unpacked in .toolchain",
            names.join(" "),
            total_size(&uris).div_ceil(1_000_000)
        ));
        let mut fetch = self.command("apt-get");
        // Without it apt warns that its own user cannot write to our folder.
        fetch
            .args(["-o", "APT::Sandbox::User=root", "-qq", "download"])
            .args(packages);
        process::run_silently_within(fetch.current_dir(&downloads), DOWNLOAD_LIMIT)?;
        for entry in fs::read_dir(&downloads)? {
            process::run(
                Command::new("dpkg-deb")
                    .arg("-x")
                    .arg(entry?.path())
                    .arg(folder),
            )?;
        }
        fs::remove_dir_all(&downloads)?;
        Ok(())
    }

    /// These packages, and those of their dependencies that this machine does not have.
    pub(crate) fn to_unpack(&self, packages: &[&str]) -> Result<Vec<String>> {
        let mut command = self.command("apt-get");
        command
            .args(["install", "-s", "--no-install-recommends"])
            .args(packages);
        Ok(would_install(&process::capture(&mut command)?))
    }

    fn keep_apart(&mut self, folder: &Path) -> Result<()> {
        let (lists, cache) = (folder.join("lists"), folder.join("cache"));
        for path in [lists.join("partial"), cache.join("archives/partial")] {
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        self.set("Dir::State::lists", &lists);
        self.set("Dir::Cache", &cache);
        // Apt's own user has no right to our folders.
        self.set("APT::Sandbox::User", "root");
        self.set("Acquire::Languages", "none");
        Ok(())
    }

    fn set(&mut self, option: &str, value: impl AsRef<Path>) {
        let mut setting = OsString::from(format!("{option}="));
        setting.push(value.as_ref());
        self.options.extend(["-o".into(), setting]);
    }

    fn update(&self) -> Result<()> {
        say("reads Debian's package lists (private copies in .toolchain/apt)");
        let mut command = self.command("apt-get");
        command.args(["-o", "APT::Update::Error-Mode=any", "-qq", "update"]);
        process::run_silently_within(&mut command, UPDATE_LIMIT)
            .context("the package lists cannot be fetched")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(&self.options)
            .args(["-o", "Acquire::http::Timeout=30"]);
        // The output is read by us.
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// Unpacks `packages`, and what they need that is not installed, into `folder`.
pub(crate) fn unpack_with_dependencies(packages: &[&str], folder: &Path) -> Result<()> {
    let unpack = |apt: &Apt| apt.unpack(&apt.to_unpack(packages)?, folder);
    let machine = Apt::of_machine()?;
    // Lists that are missing or out of date show only when a package cannot be found or fetched.
    let Err(stale) = unpack(&machine) else {
        return Ok(());
    };
    let _lock = provision::lock("apt/machine")?;
    let fresh = Apt::of_machine_updated().and_then(|updated| unpack(&updated));
    fresh.map_err(|error| {
        anyhow!("with this machine's package lists: {stale:#}; with fresh ones: {error:#}")
    })
}

/// The folders in an unpacked tree that hold shared libraries.
pub(crate) fn library_folders(tree: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for top in ["usr/lib", "lib"] {
        for entry in fs::read_dir(tree.join(top)).into_iter().flatten().flatten() {
            // `x86_64-linux-gnu` and its like: Debian's multiarch folders.
            if entry.file_name().to_string_lossy().contains("-linux-gnu") {
                folders.push(entry.path());
            }
        }
    }
    folders
}

/// Where a suite's lists are kept.
fn folder_of_suite(suite: &str, arch: Arch) -> String {
    match arch {
        Arch::Amd64 => format!("apt/{suite}"),
        Arch::Arm64 => format!("apt/{suite}-{}", arch.debian()),
    }
}

fn require_tools() -> Result<()> {
    for (program, package) in [("apt-get", "apt"), ("dpkg-deb", "dpkg")] {
        process::require(program, package)
            .context("Debian's packages can be used on Debian and its like only")?;
    }
    if !Path::new("/var/lib/dpkg/status").exists() {
        bail!("this machine has apt but no package database (/var/lib/dpkg/status)");
    }
    Ok(())
}

/// The packages that `apt-get install -s` says it would install.
fn would_install(simulation: &str) -> Vec<String> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        // The C library has to be the machine's: its loader accepts no other.
        .filter(|package| !["libc6", "libc6:amd64", "libc-bin"].contains(package))
        .map(str::to_owned)
        .collect()
}

/// The names in the output of `apt-cache depends`, without alternatives' providers.
fn direct_dependencies(text: &str) -> Vec<String> {
    let mut names = text
        .lines()
        .filter_map(|line| {
            line.trim_start_matches([' ', '|'])
                .strip_prefix("Depends: ")
        })
        .map(|name| name.trim().to_owned())
        .collect::<Vec<_>>();
    names.sort();
    names.dedup();
    names
}

/// Version and checksum in the output of `apt-cache show`.
fn offered_in(text: &str) -> Option<Offered> {
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name));
    Some(Offered {
        version: field("Version: ")?.to_owned(),
        sha256: field("SHA256: ")?.to_owned(),
    })
}

/// The bytes to fetch, from `apt-get download --print-uris`.
fn total_size(uris: &str) -> u64 {
    uris.lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_names_what_is_not_installed() {
        let simulation = "\
NOTE: This is only a simulation!
Remv qemu-utils [1:10.0.2]
Inst libllvm22 (1:22.1.8 Debian-Security:12/oldstable-security [amd64])
Inst libc6 [2.36-9] (2.36-10 Debian:12/oldstable [amd64])
Inst rustc-web (1.96.0+dfsg1 Debian-Security:12/oldstable-security [amd64])
Conf libllvm22 (1:22.1.8 Debian-Security:12/oldstable-security [amd64])
";
        assert_eq!(would_install(simulation), ["libllvm22", "rustc-web"]);
    }

    #[test]
    fn dependencies_are_listed_once_and_without_providers() {
        let text = "\
linux-image-7.2-cloud-amd64
  Depends: linux-modules-7.2-cloud-amd64
 |Depends: linux-binary-7.2-cloud-amd64
  Depends: linux-binary-7.2-cloud-amd64
    linux-binary-unsigned
";
        let expected = [
            "linux-binary-7.2-cloud-amd64",
            "linux-modules-7.2-cloud-amd64",
        ];
        assert_eq!(direct_dependencies(text), expected);
    }

    #[test]
    fn version_and_checksum_of_a_package_are_read() {
        let text = "Package: a\nVersion: 6.1.176-1\nSize: 5\nSHA256: ef01\nDescription: a\n";
        let expected = Offered {
            version: "6.1.176-1".to_owned(),
            sha256: "ef01".to_owned(),
        };
        assert_eq!(offered_in(text), Some(expected));
        assert_eq!(offered_in(""), None);
    }

    #[test]
    fn sizes_are_added_up() {
        let uris = "'uri-1' a_1.deb 29378692 SHA256:00\n'uri-2' b_1.deb 21977620 SHA256:11\n";
        assert_eq!(total_size(uris), 51_356_312);
    }
}
