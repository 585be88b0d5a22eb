//! Owns how a kernel of the table comes to this machine: the pinned packages, or what its suite has now.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail, ensure};

use crate::{
    arch::Arch,
    debian::Apt,
    say::say,
    vm::{
        kernel::{self, Kernel},
        kernels::Pinned,
    },
};

/// A kernel to boot for a line of the table.
pub(super) struct Found {
    pub(super) kernel: Kernel,
    /// The version of its packages, which may not be the pinned one.
    pub(super) version: String,
}

/// The suites that were asked for something, each of which is read once for an architecture. The reason of one that cannot be
/// read is kept as text: it is told for every kernel of the suite.
#[derive(Default)]
pub(super) struct Archive {
    suites: BTreeMap<(String, Arch), Result<Apt, String>>,
}

impl Archive {
    /// Finds, or fetches, the kernel. `alone`: it is the table's only one of its suite.
    pub(super) fn find(&mut self, pinned: &Pinned, alone: bool) -> Result<Found> {
        let wanted: Vec<String> = names(pinned);
        if let Some(kernel) = kernel::unpacked(&pinned.version, &wanted) {
            return Ok(Found {
                kernel,
                version: pinned.version.clone(),
            });
        }
        let apt = self.suite(&pinned.suite, pinned.arch)?;
        let (version, packages) = if is_offered(pinned, apt)? {
            (pinned.version.clone(), wanted)
        } else {
            present(pinned, alone, apt)?
        };
        Ok(Found {
            kernel: kernel::of_packages(&version, &packages, || Ok(apt))?,
            version,
        })
    }

    fn suite(&mut self, suite: &str, arch: Arch) -> Result<&Apt> {
        let read = || Apt::of_suite(suite, arch).map_err(|error| format!("{error:#}"));
        let key = (suite.to_owned(), arch);
        let entry = self.suites.entry(key).or_insert_with(read);
        entry.as_ref().map_err(|reason| anyhow!("{reason}"))
    }
}

/// Whether the suite still has every pinned package. One of the same version with another content is not
/// what was tested, and nothing that Debian's archive does.
fn is_offered(pinned: &Pinned, apt: &Apt) -> Result<bool> {
    for package in &pinned.packages {
        let Some(offered) = apt.offered(&package.name)? else {
            return Ok(false);
        };
        if offered.version != pinned.version {
            return Ok(false);
        }
        ensure!(
            offered.sha256 == package.sha256,
            "{} {} in Debian's {} is not the file that kernels.txt pins: its SHA-256 is {}",
            package.name,
            offered.version,
            pinned.suite,
            offered.sha256
        );
    }
    Ok(true)
}

/// Version and packages of what the suite has instead: the newest of the series; or else, for a suite that
/// stands for one line of the table, the kernel that it has.
fn present(pinned: &Pinned, alone: bool, apt: &Apt) -> Result<(String, Vec<String>)> {
    let (begin, end) = pinned.image_of_series();
    let image = newest(&apt.names(&begin)?, &begin, &end);
    let dependencies = |package: &str| apt.dependencies(package);
    let packages = match image {
        Some(image) => kernel::with_parts(image, dependencies)?,
        None if alone => {
            let meta = format!("linux-image-{}", pinned.flavour());
            kernel::packages_behind(&meta, dependencies)?
                .ok_or_else(|| anyhow!("Debian's {} has no {meta}", pinned.suite))?
        }
        None => bail!("Debian's {} no longer has a {}", pinned.suite, pinned.name),
    };
    let offered = packages
        .first()
        .map(|image| apt.offered(image))
        .transpose()?;
    let Some(offered) = offered.flatten() else {
        bail!(
            "Debian's {} does not say which {} it has",
            pinned.suite,
            pinned.name
        );
    };
    say(format_args!(
        "Debian's {} has moved on: {} instead of {}",
        pinned.suite, offered.version, pinned.version
    ));
    Ok((offered.version, packages))
}

fn names(pinned: &Pinned) -> Vec<String> {
    let packages = pinned.packages.iter();
    packages.map(|package| package.name.clone()).collect()
}

/// The newest of the images whose names begin and end so; `linux-image-6.1` does not begin 6.12.
fn newest(names: &[String], begin: &str, end: &str) -> Option<String> {
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect()
    };
    let of_series = names.iter().filter(|name| {
        name.strip_prefix(begin)
            .and_then(|rest| rest.strip_suffix(end))
            .is_some_and(|between| !between.starts_with(|c: char| c.is_ascii_digit()))
    });
    of_series.max_by_key(|name| numbers(name)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_series_is_found_by_its_numbers() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-60-cloud-amd64-dbg",
            "linux-image-6.12.94+deb13-cloud-amd64",
            "linux-image-6.1.0-70-amd64",
        ]
        .map(str::to_owned);
        let newest = |series: &str| newest(&names, series, "-cloud-amd64");
        assert_eq!(newest("linux-image-6.1"), Some(names[1].clone()));
        assert_eq!(newest("linux-image-6.12"), Some(names[3].clone()));
        assert_eq!(newest("linux-image-7.2"), None);
    }
}
