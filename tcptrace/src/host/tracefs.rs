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
pub(crate) struct Tracefs(OwnedFd);

impl Tracefs {
    /// Opens it where it is mounted; else mounts it nowhere, for this process alone, which takes
    /// CAP_SYS_ADMIN and Linux 5.2.
    ///
    /// # Errors
    /// When the kernel refuses, or has none.
    pub(crate) fn open() -> io::Result<Self> {
        let mounted = MOUNTS
            .into_iter()
            .find(|mount| Path::new(mount).join("events").exists());
        match mounted {
            Some(mount) => Ok(Self(File::open(mount)?.into())),
            None => detached().map(Self),
        }
    }

    /// The text of a file, by its path within.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be read.
    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        let file = openat(
            &self.0,
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
        let (Ok(detached), Ok(tracefs)) = (detached().map(Tracefs), Tracefs::open()) else {
            return;
        };
        let file = "events/sock/inet_sock_set_state/id";
        let id = detached.read(file).unwrap();
        assert!(id.trim().parse::<u64>().is_ok(), "{id}");
        assert_eq!(tracefs.read(file).unwrap(), id);
        assert!(detached.read("events/no/such").is_err());
    }
}
