//! Owns the way from a socket's inode number to the process that has it open, through /proc.

use std::{fs, io, path::Path};

use hashbrown::{HashMap, HashSet};
use rustix::{
    fs::{Dir, Mode, OFlags, open, readlinkat_raw},
    io::Errno,
};
use tcptrace_common::TASK_COMM_LEN;
use tcptrace_model::{Comm, Process};

/// Which processes have sockets open.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    by_inode: HashMap<u32, Process>,
    /// Processes whose open files could not be read (`CAP_SYS_PTRACE`); 0 when all owners are found.
    pub(crate) unreadable: usize,
    /// Not all processes were asked: they have too many files open.
    pub(crate) unfinished: bool,
}

impl Owners {
    /// The process with the lowest id that has the socket `inode` open.
    pub(crate) fn of(&self, inode: u32) -> Option<Process> {
        self.by_inode.get(&inode).copied()
    }
}

/// Finds who has the sockets with these inode numbers open, in one pass over all processes. The ids
/// are those of the PID namespace that /proc was mounted for.
///
/// # Errors
/// When /proc is not there.
pub(super) fn owners(inodes: HashSet<u32>) -> io::Result<Owners> {
    owners_among(inodes, usize::MAX, usize::MAX)
}

/// As [`owners`], but looks at no more than `most` open files, and `most_of_one` of one process: each takes
/// some microseconds. What a process opened first is looked at first.
///
/// # Errors
/// When /proc is not there.
pub(crate) fn owners_among(
    mut inodes: HashSet<u32>,
    most: usize,
    most_of_one: usize,
) -> io::Result<Owners> {
    let mut owners = Owners::default();
    let mut left = most;
    for pid in pids()? {
        if inodes.is_empty() {
            // Nobody else needs to be asked, nor needed to be.
            owners.unreadable = 0;
            owners.unfinished = false;
            break;
        }
        let mut left_of_one = left.min(most_of_one);
        if left_of_one == 0 {
            owners.unfinished = true;
            break;
        }
        let mut found = Vec::new();
        let read = sockets(pid, |inode| {
            if inode.is_some_and(|inode| inodes.remove(&inode)) {
                found.extend(inode);
            }
            left -= 1;
            left_of_one -= 1;
            left_of_one > 0 && !inodes.is_empty()
        });
        owners.unfinished |= left_of_one == 0;
        // Any other error: it has just ended.
        if let Err(Errno::ACCESS | Errno::PERM) = read {
            owners.unreadable += 1;
        }
        if found.is_empty() {
            continue;
        }
        match comm(pid) {
            Ok(comm) => owners.by_inode.extend(
                found
                    .into_iter()
                    .map(|inode| (inode, Process { pid, comm })),
            ),
            // It has ended since; another one may have the same sockets open.
            Err(_) => inodes.extend(found),
        }
    }
    Ok(owners)
}

/// The inode numbers of the sockets that process `pid` has open now; none when it is gone, or may not
/// be looked at.
#[must_use]
pub(crate) fn sockets_of(pid: u32) -> HashSet<u32> {
    let mut inodes = HashSet::new();
    // What was found before an error is open all the same.
    let _ = sockets(pid, |inode| {
        inodes.extend(inode);
        true
    });
    inodes
}

/// All processes, lowest id first.
fn pids() -> io::Result<Vec<u32>> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// Hands every file that `pid` has open to `each`, the inode number of those that are sockets, until that
/// says false.
fn sockets(pid: u32, mut each: impl FnMut(Option<u32>) -> bool) -> Result<(), Errno> {
    let directory = open(
        format!("/proc/{pid}/fd"),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // Long enough for a socket; other links are cut off.
    let mut target = [0; 32];
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        match readlinkat_raw(&directory, entry.file_name(), &mut target[..]) {
            Ok(length) => {
                if !each(socket_inode(&target[..length])) {
                    return Ok(());
                }
            }
            // `.` and `..` are no links; a file may have been closed since.
            Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The number in `socket:[123]`: net/socket.c `sockfs_dname` (v6.18).
fn socket_inode(target: &[u8]) -> Option<u32> {
    let number = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    str::from_utf8(number).ok()?.parse().ok()
}

/// The name of a process. It may hold any byte, a line feed too; the kernel adds one at the end:
/// fs/proc/base.c `comm_show` (v6.18).
fn comm(pid: u32) -> io::Result<Comm> {
    let name = fs::read(Path::new("/proc").join(pid.to_string()).join("comm"))?;
    Ok(padded(name.strip_suffix(b"\n").unwrap_or(&name)))
}

/// The names of kernel workers may be longer than a task's: they are cut.
fn padded(name: &[u8]) -> Comm {
    let mut comm = [0; TASK_COMM_LEN];
    for (to, from) in comm[..TASK_COMM_LEN - 1].iter_mut().zip(name) {
        *to = *from;
    }
    Comm(comm)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd};

    use super::*;

    fn inode_of(socket: &impl AsRawFd) -> u32 {
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        socket_inode(link.as_os_str().as_encoded_bytes()).unwrap()
    }

    #[test]
    fn a_socket_of_this_process_has_it_as_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode_of(&listener);
        let owners = owners(HashSet::from([inode])).unwrap();
        let own = Process {
            pid: std::process::id(),
            comm: comm(std::process::id()).unwrap(),
        };
        assert_eq!(owners.of(inode), Some(own));
    }

    #[test]
    fn a_process_has_its_sockets_and_one_that_is_not_there_has_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(sockets_of(std::process::id()).contains(&inode_of(&listener)));
        assert!(sockets_of(u32::MAX).is_empty());
    }

    #[test]
    fn only_what_is_asked_for_is_found() {
        let asked = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let owners = owners(HashSet::from([inode_of(&asked)])).unwrap();
        assert_eq!(owners.of(inode_of(&other)), None);
        assert_eq!(owners.by_inode.len(), 1);
    }

    #[test]
    fn no_more_files_are_looked_at_than_allowed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode_of(&listener);
        let none = owners_among(HashSet::from([inode]), usize::MAX, 1).unwrap();
        assert!(none.unfinished && none.of(inode).is_none());
        let none = owners_among(HashSet::from([inode]), 1, usize::MAX).unwrap();
        assert!(none.unfinished && none.of(inode).is_none());
        let all = owners_among(HashSet::from([inode]), usize::MAX, usize::MAX).unwrap();
        assert!(!all.unfinished && all.of(inode).is_some());
    }

    #[test]
    fn an_inode_that_nobody_has_open_has_no_owner() {
        assert_eq!(owners(HashSet::from([0])).unwrap().of(0), None);
    }

    #[test]
    fn only_links_to_sockets_have_an_inode() {
        assert_eq!(socket_inode(b"socket:[4294967295]"), Some(u32::MAX));
        for odd in [
            &b"pipe:[1]"[..],
            b"socket:[",
            b"socket:[]",
            b"socket:[1",
            b"socket:[4294967296]",
            b"/dev/null",
            b"\xff",
            b"",
        ] {
            assert_eq!(socket_inode(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn names_are_cut_and_padded() {
        assert_eq!(padded(b"a\nb").as_bytes(), b"a\nb");
        assert_eq!(
            padded(b"kworker/u8:1-events_unbound").as_bytes(),
            b"kworker/u8:1-ev"
        );
        assert_eq!(padded(b"").0, [0; TASK_COMM_LEN]);
    }
}
