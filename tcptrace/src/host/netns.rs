//! Owns network namespaces: as users name them (inode number, name of ip netns, path), and all there are.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::MetadataExt},
    },
    panic,
    path::{Path, PathBuf},
    thread,
};

/// `NS_GET_NSTYPE` of include/uapi/linux/nsfs.h (v6.18): `_IO(0xb7, 0x3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
/// `NS_GET_USERNS` of include/uapi/linux/nsfs.h (v6.18): `_IO(0xb7, 0x1)`.
const NS_GET_USERNS: libc::Ioctl = 0xb701;
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
    /// `NotFound` when the file is gone or stands for another namespace by now, such as that of a
    /// later process with the same id; anything else when the privileges are missing (`CAP_SYS_ADMIN`).
    pub fn enter(&self) -> io::Result<()> {
        let file = File::open(&self.path)?;
        if file.metadata()?.ino() != u64::from(self.inode) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // SAFETY: setns(2) only takes the descriptor, which is open.
        if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Runs `body` in this namespace, on a thread of its own; that of the calling thread stays as it is. Where it
    /// is that of the calling thread already, this takes no privileges.
    ///
    /// # Errors
    /// Those of [`Self::enter`]; `body` has not run then.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> io::Result<T> {
        // setns(2) moves the thread that calls it, and /proc/sys/net shows the namespace of who reads it.
        in_a_thread(|| {
            // A new thread is where its parent is.
            if !Self::own().is_ok_and(|own| own.inode == self.inode) {
                self.enter()?;
            }
            Ok(body())
        })
    }

    /// Whether its path still leads to a namespace with its inode number: that of the process it was found by, or
    /// where it is mounted.
    #[must_use]
    pub fn is_still_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|file| file.ino() == u64::from(self.inode))
    }

    /// Whether the capabilities of this process count in it: it belongs to the user namespace of this process
    /// or to one below that. fs/nsfs.c `ns_ioctl` (v6.18) shows no others.
    #[must_use]
    pub fn is_within_reach(&self) -> bool {
        let Ok(file) = File::open(&self.path) else {
            return false;
        };
        // SAFETY: the request takes no argument and returns a new descriptor, or fails.
        let owner = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_USERNS) };
        if owner < 0 {
            return false;
        }
        // SAFETY: the descriptor is new and nobody else's.
        drop(unsafe { OwnedFd::from_raw_fd(owner) });
        true
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
        candidates()
            .find(|path| fs::metadata(path).is_ok_and(|file| file.ino() == u64::from(inode)))
            .map(|path| Self { inode, path })
            .ok_or_else(|| {
                format!(
                    "no process is in network namespace {inode}, and it is mounted nowhere; list them with: lsns -t net"
                )
            })
    }
}

/// A network namespace that nobody else knows. Nothing is in it but `lo`, which is down; the kernel takes it
/// down when this and all that was opened there have gone.
pub struct NewNamespace(File);

impl NewNamespace {
    /// Makes one. That of the calling thread stays as it is.
    ///
    /// # Errors
    /// `CAP_SYS_ADMIN` is missing, or the kernel's limit is reached.
    pub fn make() -> io::Result<Self> {
        in_a_thread(|| {
            // SAFETY: unshare(2) takes an integer; CLONE_NEWNET moves the calling thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
                File::open("/proc/thread-self/ns/net").map(Self)
            } else {
                Err(io::Error::last_os_error())
            }
        })
    }

    /// Runs `body` in it, on a thread of its own.
    ///
    /// # Errors
    /// As [`Self::make`]; `body` has not run then.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_a_thread(|| {
            // SAFETY: setns(2) only takes the descriptor, which is open.
            if unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
                Ok(body())
            } else {
                Err(io::Error::last_os_error())
            }
        })
    }
}

/// A namespace is a thread's.
fn in_a_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|threads| {
        threads
            .spawn(body)
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// The network namespaces that could be found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Each once; that of the calling thread first.
    pub namespaces: Vec<Namespace>,
    /// Processes that may be in yet another namespace: looking it up was refused (`CAP_SYS_PTRACE`).
    pub unreadable_processes: usize,
}

/// Finds all network namespaces that a process is in, or that are mounted anywhere (ip netns does
/// so in /run/netns, Docker in /run/docker/netns). One that is only held by an open descriptor, by a
/// single thread of a process or mounted in another mount namespace is not found.
#[must_use]
pub fn all() -> Found {
    let mut namespaces: Vec<Namespace> = Namespace::own().into_iter().collect();
    let mut known: HashSet<u32> = namespaces.iter().map(|own| own.inode).collect();
    let mut refused = Vec::new();
    for path in candidates() {
        match fs::metadata(&path) {
            Ok(file) => {
                if let Ok(inode) = u32::try_from(file.ino())
                    && known.insert(inode)
                {
                    namespaces.push(Namespace { inode, path });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refused.push(path),
            // The process has just ended.
            Err(_) => {}
        }
    }
    if !refused.is_empty() {
        let known: HashSet<u64> = namespaces
            .iter()
            .filter_map(|namespace| device_list(&namespace.path))
            .collect();
        refused.retain(|path| device_list(path).is_none_or(|list| !known.contains(&list)));
    }
    Found {
        namespaces,
        unreadable_processes: refused.len(),
    }
}

/// The inode number of /proc/PID/net/dev, for the path /proc/PID/ns/net. Each namespace has a file of
/// its own there, so two processes with the same one are in the same namespace, and it may be looked
/// at without any privilege: fs/proc/proc_net.c `get_proc_task_net`, net/core/net-procfs.c
/// `dev_proc_net_init` (v6.18).
fn device_list(path: &Path) -> Option<u64> {
    let process = path.parent()?.parent()?;
    Some(fs::metadata(process.join("net/dev")).ok()?.ino())
}

/// The files that stand for network namespaces: one for each process, and those that are mounted.
fn candidates() -> impl Iterator<Item = PathBuf> {
    let of_processes = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .map(|entry| entry.path().join("ns/net"));
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounted = mounted(&mountinfo)
        .into_iter()
        // Something else may have been mounted over it.
        .filter(|(inode, path)| fs::metadata(path).is_ok_and(|file| file.ino() == *inode))
        .map(|(_, path)| path);
    of_processes.chain(mounted)
}

/// Which network namespaces are mounted, by inode number, and where. The fourth field of a line is what is mounted, such as
/// `net:[4026531840]`, the fifth where, with some bytes as `\040`: fs/proc_namespace.c
/// `show_mountinfo`, fs/nsfs.c `nsfs_show_path` (v6.18).
fn mounted(mountinfo: &[u8]) -> Vec<(u64, PathBuf)> {
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ').skip(3);
            let what = fields.next()?.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
            let place = OsString::from_vec(unescaped(fields.next()?));
            Some((str::from_utf8(what).ok()?.parse().ok()?, place.into()))
        })
        .collect()
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let code = (*first == b'\\')
            .then(|| str::from_utf8(tail.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_namespaces_begin_with_the_own_one_and_hold_each_once() {
        let found = all();
        assert_eq!(found.namespaces[0], Namespace::own().unwrap());
        let inodes: HashSet<u32> = found.namespaces.iter().map(|one| one.inode).collect();
        assert_eq!(inodes.len(), found.namespaces.len());
    }

    #[test]
    fn processes_in_one_namespace_show_the_same_list_of_devices() {
        let own = device_list(Path::new("/proc/self/ns/net"));
        assert!(own.is_some());
        assert_eq!(own, device_list(&Namespace::own().unwrap().path));
        // Without privileges there is no other namespace to compare with.
        if let Ok(elsewhere) = NewNamespace::make() {
            let list = || device_list(Path::new("/proc/thread-self/ns/net"));
            let other = elsewhere.inside(list).unwrap();
            assert!(other.is_some() && other != own, "{other:?}, {own:?}");
        }
    }

    #[test]
    fn mounted_namespaces_are_read_from_mountinfo() {
        let mountinfo = b"23 1 0:21 / /proc rw - proc proc rw\n\
            30 23 0:4 net:[4026532237] /run/netns/blue rw shared:1 - nsfs nsfs rw\n\
            31 23 0:4 net:[4026532238] /run/my\\040nets/a\\134b rw - nsfs nsfs rw\n\
            32 23 0:4 mnt:[4026532239] /run/mnt rw - nsfs nsfs rw\nodd\n";
        assert_eq!(
            mounted(mountinfo),
            [
                (4_026_532_237, PathBuf::from("/run/netns/blue")),
                (4_026_532_238, PathBuf::from("/run/my nets/a\\b")),
            ]
        );
        assert_eq!(unescaped(br"a\04"), br"a\04");
    }

    #[test]
    fn a_path_that_stands_for_another_namespace_is_not_entered() {
        let own = Namespace::own().unwrap();
        assert!(own.is_still_there());
        let stale = Namespace { inode: 1, ..own };
        assert!(!stale.is_still_there());
        assert_eq!(stale.enter().unwrap_err().kind(), io::ErrorKind::NotFound);
        let never = stale.inside(|| unreachable!("it was not entered"));
        assert_eq!(never.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

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
