//! Owns the way to tracefs, mounted or not: `ip netns exec` hides it behind a /sys of its own, and
//! containers have none.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

/// Where it usually is.
const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// tracefs, open.
#[derive(Debug)]
pub(crate) struct Tracefs {
    root: OwnedFd,
    reach: Reach,
}

/// Where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Mounted, at this path.
    Mounted(&'static str),
    /// Mounted nowhere that this process sees, but opened all the same.
    Detached,
}

impl Tracefs {
    /// Opens it where it is mounted; else mounts it nowhere, for this process alone, which takes
    /// CAP_SYS_ADMIN and Linux 5.2.
    ///
    /// # Errors
    /// One sentence, with what to type: only root may read it, the kernel refuses, or has none.
    pub(crate) fn open() -> Result<Self, String> {
        let mut closed_to_us = None;
        for mount in MOUNTS {
            match Path::new(mount).join("events").try_exists() {
                Ok(true) => {
                    let root = File::open(mount)
                        .map_err(|error| format!("cannot open {mount}: {error}; run this as root"))?
                        .into();
                    let reach = Reach::Mounted(mount);
                    return Ok(Self { root, reach });
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    closed_to_us.get_or_insert(mount);
                }
                Ok(false) | Err(_) => {}
            }
        }
        match (detached(), closed_to_us) {
            (Ok(root), _) => Ok(Self {
                root,
                reach: Reach::Detached,
            }),
            (Err(_), Some(mount)) => Err(format!(
                "only root may read tracefs, at {mount}; run this as root, or with CAP_DAC_READ_SEARCH"
            )),
            (Err(error), None) => Err(format!(
                "tracefs is not mounted, and cannot be opened otherwise ({error}); mount it with: sudo mount -t tracefs tracefs /sys/kernel/tracing"
            )),
        }
    }

    /// Where it was found.
    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    /// The text of a file, by its path within.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be read.
    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        let file = openat(
            &self.root,
            path,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut text = String::new();
        File::from(file).read_to_string(&mut text)?;
        Ok(text)
    }
}

fn detached() -> io::Result<OwnedFd> {
    let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detached_one_shows_the_same_as_the_mounted_one() {
        // Without privileges neither can be had.
        let (Ok(root), Ok(tracefs)) = (detached(), Tracefs::open()) else {
            return;
        };
        let detached = Tracefs {
            root,
            reach: Reach::Detached,
        };
        let file = "events/sock/inet_sock_set_state/id";
        let id = detached.read(file).unwrap();
        assert!(id.trim().parse::<u64>().is_ok(), "{id}");
        assert_eq!(tracefs.read(file).unwrap(), id);
        assert!(detached.read("events/no/such").is_err());
    }
}
