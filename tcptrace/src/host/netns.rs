//! Owns network namespaces as users name them: by inode number, by name (ip netns), by path.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

/// `NS_GET_NSTYPE` of include/uapi/linux/nsfs.h (v6.18): `_IO(0xb7, 0x3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
/// Where iproute2 keeps named namespaces.
const NAMED: &str = "/run/netns";

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its inode number: what the kernel calls `net->ns.inum`.
    pub inode: u32,
    /// A file that stands for it.
    pub path: PathBuf,
}

impl Namespace {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn own() -> Result<Self, String> {
        Self::at(Path::new("/proc/thread-self/ns/net"))
    }

    /// Finds the namespace that `word` names: a number is an inode, a word with a slash is a path,
    /// anything else a name under /run/netns.
    ///
    /// # Errors
    /// One sentence: nothing of that name, or not a network namespace; and what to type.
    pub fn find(word: &str) -> Result<Self, String> {
        if let Ok(inode) = word.parse::<u32>() {
            return Self::with_inode(inode);
        }
        if word.contains('/') {
            return Self::at(Path::new(word));
        }
        let path = Path::new(NAMED).join(word);
        if word.is_empty() || !path.exists() {
            return Err(format!(
                "there is no network namespace named {word:?} in {NAMED}; list the names with: ip netns"
            ));
        }
        Self::at(&path)
    }

    /// Moves the calling thread into this namespace.
    ///
    /// # Errors
    /// When the file is gone or the privileges are missing (`CAP_SYS_ADMIN`).
    pub fn enter(&self) -> io::Result<()> {
        let file = File::open(&self.path)?;
        // SAFETY: setns(2) only takes the descriptor, which is open.
        if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn at(path: &Path) -> Result<Self, String> {
        let not_one = || {
            format!(
                "{} is not a network namespace; a path looks like /proc/PID/ns/net or {NAMED}/NAME",
                path.display()
            )
        };
        let file = File::open(path).map_err(|error| {
            format!(
                "cannot open network namespace {}: {error}; list those of running processes with: lsns -t net",
                path.display()
            )
        })?;
        // SAFETY: the request takes no argument and returns the CLONE_* flag, or fails on a file of
        // another kind.
        let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            return Err(not_one());
        }
        let inode = file.metadata().map_err(|_| not_one())?.ino();
        Ok(Self {
            inode: u32::try_from(inode).map_err(|_| not_one())?,
            path: path.to_owned(),
        })
    }

    fn with_inode(inode: u32) -> Result<Self, String> {
        let of_processes = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
            .map(|entry| entry.path().join("ns/net"));
        let named = fs::read_dir(NAMED)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        of_processes
            .chain(named)
            .find(|path| fs::metadata(path).is_ok_and(|file| file.ino() == u64::from(inode)))
            .map(|path| Self { inode, path })
            .ok_or_else(|| {
                format!(
                    "no process and no name in {NAMED} has network namespace {inode}; list them with: lsns -t net"
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_found_in_every_way() {
        let own = Namespace::own().unwrap();
        let by_path = Namespace::find("/proc/self/ns/net").unwrap();
        assert_eq!(by_path.inode, own.inode);
        let by_inode = Namespace::find(&own.inode.to_string()).unwrap();
        assert_eq!(by_inode.inode, own.inode);
    }

    #[test]
    fn what_is_no_namespace_is_named() {
        for word in [
            "no-such-name",
            "/no/such/path",
            "/proc/self/ns/mnt",
            "/proc/self/stat",
            "1",
        ] {
            let sentence = Namespace::find(word).unwrap_err();
            assert!(sentence.contains(word), "{sentence}");
        }
        assert!(Namespace::find("").is_err());
    }
}
