//! Owns the stock kernels that guests boot: fetched from Debian's archive, unpacked in `.toolchain`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    arch::Arch,
    debian::{self, Apt},
    provision, workspace,
};

/// Debian's build for virtual machines: small, with the drivers that QEMU needs built in.
const FLAVOUR: &str = "cloud-amd64";

/// What a user of sock_diag needs (`ss` and the tracer's snapshot of existing sockets), in the order of
/// loading, the interface that the tests of bind() make, and that of the scripted peer. On a whole system
/// the kernel loads them when they are first asked for.
const MODULES: [&str; 4] = ["inet_diag", "tcp_diag", "dummy", "tun"];

/// A kernel to boot.
pub(super) struct Kernel {
    /// The image.
    pub(super) image: PathBuf,
    /// The modules that the guest loads, in this order; those that are built in are not among them.
    pub(super) modules: Vec<PathBuf>,
    /// Whether its packages have modules at all. Debian's backports keep the images of older kernels, but
    /// not the packages with their modules.
    pub(super) has_modules: bool,
}

/// The kernel of a Debian suite, fetched if it is not there yet.
pub(super) fn of_suite(suite: &str) -> Result<Kernel> {
    let name = format!("kernels/{suite}-{FLAVOUR}");
    let folder = provision::once(&name, |aside| {
        let apt = Apt::of_suite(suite, Arch::Amd64)?;
        let meta = format!("linux-image-{FLAVOUR}");
        let missing = || format!("no {meta} in Debian's {suite}");
        let packages = packages_behind(&meta, |package| apt.dependencies(package))
            .and_then(|packages| packages.with_context(missing))
            .with_context(missing)?;
        apt.unpack(&packages, aside)?;
        image(aside).map(drop)
    })
    .with_context(|| format!("kernel of Debian {suite}"))?;
    in_folder(&folder)
}

/// A kernel of exactly these packages, the image first; `apt` is asked only if it is not there yet.
pub(super) fn of_packages<'a>(
    version: &str,
    packages: &[String],
    apt: impl FnOnce() -> Result<&'a Apt>,
) -> Result<Kernel> {
    let folder = provision::once(&folder_of(version, packages), |aside| {
        apt()?.unpack(packages, aside)?;
        image(aside).map(drop)
    })?;
    in_folder(&folder)
}

/// The kernel of these packages if it is there already.
pub(super) fn unpacked(version: &str, packages: &[String]) -> Option<Kernel> {
    in_folder(&provision::existing(&folder_of(version, packages))?).ok()
}

/// Debian's static busybox, the guest's shell.
pub(super) fn busybox(arch: Arch) -> Result<PathBuf> {
    let folder = match arch {
        Arch::Amd64 => provision::once("busybox", |aside| {
            debian::unpack_with_dependencies(&["busybox-static"], aside)
        }),
        Arch::Arm64 => provision::once("busybox-arm64", |aside| {
            Apt::of_machine_and(arch)?.unpack(&["busybox-static:arm64".to_owned()], aside)
        }),
    };
    let folder = folder.context("busybox for the guest")?;
    // Its place moved with Debian's merge of /bin into /usr/bin.
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| folder.join(place));
    let found = places.into_iter().find(|place| place.is_file());
    found.with_context(|| format!("no busybox in {}", workspace::shown(&folder)))
}

fn folder_of(version: &str, packages: &[String]) -> String {
    let image = packages.first().map_or("", String::as_str);
    format!("kernels/{image}_{version}")
}

fn in_folder(folder: &Path) -> Result<Kernel> {
    Ok(Kernel {
        image: image(folder)?,
        modules: modules(folder),
        has_modules: versions(folder).any(|version| version.join("kernel").is_dir()),
    })
}

/// The packages with the files of the kernel that the metapackage points at: the image, and from 7.2
/// on, where the image is an empty shell, its parts.
pub(super) fn packages_behind(
    meta: &str,
    dependencies: impl Fn(&str) -> Result<Vec<String>>,
) -> Result<Option<Vec<String>>> {
    let image = dependencies(meta)?
        .into_iter()
        .find(|name| is_numbered(name, "linux-image-"));
    let Some(image) = image else {
        return Ok(None);
    };
    with_parts(image, dependencies).map(Some)
}

/// The image and the packages that it consists of.
pub(super) fn with_parts(
    image: String,
    dependencies: impl Fn(&str) -> Result<Vec<String>>,
) -> Result<Vec<String>> {
    let mut packages = dependencies(&image)?;
    packages.retain(|name| {
        ["linux-base-", "linux-binary-", "linux-modules-"]
            .iter()
            .any(|part| is_numbered(name, part))
    });
    packages.insert(0, image);
    Ok(packages)
}

fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The modules in an unpacked tree; newer suites compress them.
fn modules(tree: &Path) -> Vec<PathBuf> {
    let of_version = |version: PathBuf| {
        ["net/ipv4", "drivers/net"].map(|kind| version.join("kernel").join(kind))
    };
    let folders: Vec<PathBuf> = versions(tree).flat_map(of_version).collect();
    let found = MODULES.iter().filter_map(|name| {
        let files = folders.iter().flat_map(|folder| {
            ["ko", "ko.xz"].map(|ending| folder.join(format!("{name}.{ending}")))
        });
        files.into_iter().find(|file| file.is_file())
    });
    found.collect()
}

/// The kernel in an unpacked tree; it has moved from /boot into the modules' folder.
fn image(tree: &Path) -> Result<PathBuf> {
    let in_boot = list(tree.join("boot")).filter(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    });
    let in_modules = versions(tree).map(|version| version.join("vmlinuz"));
    in_boot
        .chain(in_modules)
        .find(|path| path.is_file())
        .with_context(|| format!("no vmlinuz in {}", workspace::shown(tree)))
}

/// The folders that are named after the kernel's release.
fn versions(tree: &Path) -> impl Iterator<Item = PathBuf> {
    let folders = ["lib/modules", "usr/lib/modules"].map(|folder| tree.join(folder));
    folders.into_iter().flat_map(list)
}

fn list(folder: PathBuf) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(package: &str) -> Result<Vec<String>> {
        let names: &[&str] = match package {
            "linux-image-cloud-amd64" => &["linux-image-6.1.0-50-cloud-amd64"],
            "linux-image-6.1.0-50-cloud-amd64" => &["initramfs-tools", "kmod", "linux-base"],
            "linux-image-new" => &["linux-image-7.2-cloud-amd64"],
            "linux-image-7.2-cloud-amd64" => &[
                "linux-base",
                "linux-binary-7.2-cloud-amd64",
                "linux-modules-7.2-cloud-amd64",
            ],
            other => anyhow::bail!("no package {other}"),
        };
        Ok(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn modules_are_found_in_the_order_of_loading_compressed_or_not() {
        let tree = std::env::temp_dir().join(format!("xtask-modules-{}", std::process::id()));
        let folder = tree.join("lib/modules/6.1.0/kernel/net/ipv4");
        fs::create_dir_all(&folder).expect("a folder can be made");
        for file in ["tcp_diag.ko.xz", "inet_diag.ko", "udp_diag.ko"] {
            fs::write(folder.join(file), "").expect("a file can be written");
        }
        let found = modules(&tree);
        fs::remove_dir_all(&tree).expect("it can be removed");
        let expected = ["inet_diag.ko", "tcp_diag.ko.xz"].map(|file| folder.join(file));
        assert_eq!(found, expected);
        assert!(modules(&tree).is_empty(), "all of them may be built in");
    }

    #[test]
    fn a_kernel_without_its_package_of_modules_is_known() {
        let tree = std::env::temp_dir().join(format!("xtask-kernel-{}", std::process::id()));
        fs::create_dir_all(tree.join("boot")).expect("a folder can be made");
        fs::write(tree.join("boot/vmlinuz-6.19"), "").expect("a file can be written");
        let without = in_folder(&tree).expect("it has an image");
        fs::create_dir_all(tree.join("usr/lib/modules/6.19/kernel")).expect("it can be made");
        let with = in_folder(&tree).expect("it has an image");
        fs::remove_dir_all(&tree).expect("it can be removed");
        assert!(!without.has_modules && with.has_modules);
    }

    #[test]
    fn older_kernels_are_one_package() {
        let packages = packages_behind("linux-image-cloud-amd64", archive).expect("it is known");
        assert_eq!(
            packages.expect("it has an image"),
            ["linux-image-6.1.0-50-cloud-amd64"]
        );
    }

    #[test]
    fn newer_kernels_come_in_parts() {
        let packages = packages_behind("linux-image-new", archive).expect("it is known");
        let expected = [
            "linux-image-7.2-cloud-amd64",
            "linux-binary-7.2-cloud-amd64",
            "linux-modules-7.2-cloud-amd64",
        ];
        assert_eq!(packages.expect("it has an image"), expected);
    }

    #[test]
    fn a_suite_without_the_kernel_is_an_error() {
        assert!(packages_behind("linux-image-cloud-riscv", archive).is_err());
        let empty = packages_behind("linux-image-6.1.0-50-cloud-amd64", archive);
        assert!(empty.expect("the package is there").is_none());
    }
}
