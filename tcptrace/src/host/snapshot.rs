//! Owns the snapshot: the TCP sockets that there are now, as inputs for the model.

use std::thread;

use hashbrown::HashSet;
use tcptrace_model::{Existing, Input, Snapshot};

pub use super::sock_diag::Listed;
use super::{
    netns::{self, Namespace},
    open_files,
    process::in_initial_pid_namespace,
    sock_diag::{Family, SockDiag, Trouble},
};

/// Which sockets to take.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The network namespaces to look into; `None` for all that can be found ([`netns::all`]).
    pub namespaces: Option<&'a [Namespace]>,
    /// Whether to take those of `AF_INET`.
    pub ipv4: bool,
    /// Whether to take those of `AF_INET6`, v4-mapped addresses included.
    pub ipv6: bool,
    /// Which of these to take, by ports, user or cgroup.
    pub keep: &'a (dyn Fn(&Listed) -> bool + Sync),
}

impl Scope<'_> {
    /// Every socket in every namespace.
    pub const ALL: Self = Self {
        namespaces: None,
        ipv4: true,
        ipv6: true,
        keep: &|_| true,
    };
}

/// A snapshot, and what it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// [`Snapshot::Begin`], the sockets (those of one namespace together), [`Snapshot::End`].
    pub inputs: Vec<Input>,
    /// What could not be looked into. With any, the snapshot is not complete.
    pub gaps: Vec<Gap>,
    /// Why sockets may be without the process that has them open, as one sentence; `None` when every
    /// process could be asked.
    pub owners_missing: Option<String>,
}

/// Sockets that a snapshot lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Inode number of their network namespace; `None` when it is not one that is known.
    pub netns: Option<u32>,
    /// Why, as one sentence, with what to type where something helps.
    pub why: String,
}

/// Takes a snapshot. `boottime` reads CLOCK_BOOTTIME in ns; the namespace of the calling thread stays
/// as it is.
///
/// Sockets that are only bound are not in it, nor are request sockets: a handshake that the peer has
/// not finished has no connection yet.
#[must_use]
pub fn take(scope: &Scope<'_>, boottime: impl Fn() -> u64 + Sync) -> Taken {
    let begin_ns = boottime();
    // setns(2) moves the thread that calls it: one of its own does, and ends.
    let (sockets, gaps) = thread::scope(|threads| {
        threads
            .spawn(|| look_into_all(scope, &boottime))
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let asked = sockets
        .iter()
        .filter_map(|(_, listed)| listed.inode.map(u32::from))
        .collect();
    let (owners, owners_missing) = owners(asked);
    let mut inputs = Vec::with_capacity(sockets.len() + 2);
    inputs.push(Input::Snapshot(Snapshot::Begin { ts_ns: begin_ns }));
    inputs.extend(sockets.into_iter().map(|(netns, listed)| {
        Input::Snapshot(Snapshot::Socket(Existing {
            ts_ns: listed.ts_ns,
            cookie: listed.cookie,
            netns,
            local: listed.local,
            remote: listed.remote,
            state: listed.state,
            minisocket_expires_in_ns: listed
                .minisocket_expires_in_ms
                .map(|ms| u64::from(ms) * 1_000_000),
            process: listed.inode.and_then(|inode| owners.of(inode.into())),
        }))
    }));
    inputs.push(Input::Snapshot(Snapshot::End {
        ts_ns: boottime(),
        complete: gaps.is_empty(),
    }));
    Taken {
        inputs,
        gaps,
        owners_missing,
    }
}

/// Looks into one namespace after the other, and moves the calling thread there.
fn look_into_all(scope: &Scope<'_>, boottime: &dyn Fn() -> u64) -> (Vec<(u32, Listed)>, Vec<Gap>) {
    let (namespaces, mut gaps) = namespaces(scope);
    let mut here = Namespace::own().ok().map(|own| own.inode);
    let mut all = Vec::new();
    let mut listed = Vec::new();
    for namespace in namespaces {
        let netns = Some(namespace.inode);
        if here != netns {
            match enter(&namespace) {
                Ok(true) => here = netns,
                Ok(false) => continue,
                Err(why) => {
                    gaps.push(Gap { netns, why });
                    continue;
                }
            }
        }
        match look_into(scope, boottime, &mut listed) {
            Ok(true) => {}
            Ok(false) => gaps.push(Gap {
                netns,
                why: "sockets came and went faster than the kernel could list them".to_owned(),
            }),
            Err(trouble @ Trouble::NoSuchThing) => {
                // No namespace has what the kernel lacks.
                gaps.push(Gap {
                    netns: None,
                    why: trouble.to_string(),
                });
                break;
            }
            Err(trouble @ (Trouble::Io(_) | Trouble::Malformed(_))) => gaps.push(Gap {
                netns,
                why: trouble.to_string(),
            }),
        }
        all.extend(listed.drain(..).map(|socket| (namespace.inode, socket)));
    }
    (all, gaps)
}

/// Which namespaces to look into, and what is known to be missing there.
fn namespaces(scope: &Scope<'_>) -> (Vec<Namespace>, Vec<Gap>) {
    if let Some(these) = scope.namespaces {
        return (these.to_vec(), Vec::new());
    }
    let found = netns::all();
    let gap = (found.unreadable_processes > 0).then(|| Gap {
        netns: None,
        why: format!(
            "permission denied to look up the network namespaces of some processes ({}): run as root (CAP_SYS_PTRACE)",
            found.unreadable_processes
        ),
    });
    (found.namespaces, gap.into_iter().collect())
}

/// Moves the calling thread into a namespace. Returns false when it is gone, and its sockets with it.
fn enter(namespace: &Namespace) -> Result<bool, String> {
    let gone = |error: &std::io::Error| {
        // A process may end between opening its directory and looking into it.
        error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
    };
    let refused = |error: std::io::Error| {
        format!(
            "cannot enter network namespace {}: {error}; run as root (CAP_SYS_ADMIN)",
            namespace.inode
        )
    };
    match namespace.enter() {
        Ok(()) => Ok(true),
        // The process through which it was found has ended; there may be another one.
        Err(error) if gone(&error) => match Namespace::find(&namespace.inode.to_string()) {
            Err(_) => Ok(false),
            Ok(same) => match same.enter() {
                Ok(()) => Ok(true),
                Err(error) if gone(&error) => Ok(false),
                Err(error) => Err(refused(error)),
            },
        },
        Err(error) => Err(refused(error)),
    }
}

/// Lists the sockets of the calling thread's namespace. Returns whether the list is consistent.
fn look_into(
    scope: &Scope<'_>,
    boottime: &dyn Fn() -> u64,
    into: &mut Vec<Listed>,
) -> Result<bool, Trouble> {
    let families = [(scope.ipv4, Family::Ipv4), (scope.ipv6, Family::Ipv6)];
    let mut kernel = SockDiag::open()?;
    let mut consistent = true;
    for (_, family) in families.into_iter().filter(|(wanted, _)| *wanted) {
        consistent &= kernel.list(family, boottime, &scope.keep, into)?;
    }
    Ok(consistent)
}

fn owners(inodes: HashSet<u32>) -> (open_files::Owners, Option<String>) {
    if inodes.is_empty() {
        return Default::default();
    }
    if !in_initial_pid_namespace() {
        let why = "the owners of sockets older than the trace are not known: this process does not see the process ids of the whole machine; run outside of containers";
        return (open_files::Owners::default(), Some(why.to_owned()));
    }
    match open_files::owners(inodes) {
        Ok(owners) => {
            let why = (owners.unreadable > 0).then(|| {
                format!(
                    "permission denied to read the open files of some processes ({}), so that sockets of theirs that are older than the trace have no owner: run as root (CAP_SYS_PTRACE)",
                    owners.unreadable
                )
            });
            (owners, why)
        }
        Err(error) => {
            let why = format!(
                "the owners of sockets older than the trace are not known: cannot read /proc: {error}"
            );
            (open_files::Owners::default(), Some(why))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, TcpListener, TcpStream},
        os::unix::fs::MetadataExt,
        path::{Path, PathBuf},
        slice,
        sync::mpsc,
        time::{Duration, Instant},
    };

    use socket2::SockRef;
    use tcptrace_model::TcpState;

    use super::*;
    use crate::host::clock::boottime_ns;

    /// The sockets of this process's namespace, with `port` on either side.
    fn with_port(port: u16) -> Vec<Existing> {
        let own = Namespace::own().unwrap();
        let taken = take(
            &Scope {
                namespaces: Some(slice::from_ref(&own)),
                keep: &|listed| [listed.local.port(), listed.remote.port()].contains(&port),
                ..Scope::ALL
            },
            boottime_ns,
        );
        assert_eq!(taken.gaps, []);
        sockets(&taken)
    }

    /// What lies between the begin and the end, which are checked.
    fn sockets(taken: &Taken) -> Vec<Existing> {
        let [
            Input::Snapshot(Snapshot::Begin { ts_ns: begin }),
            between @ ..,
            Input::Snapshot(Snapshot::End {
                ts_ns: end,
                complete,
            }),
        ] = taken.inputs.as_slice()
        else {
            panic!("not framed: {taken:?}");
        };
        assert_eq!(*complete, taken.gaps.is_empty());
        between
            .iter()
            .map(|input| match input {
                Input::Snapshot(Snapshot::Socket(existing)) => {
                    assert!((*begin..=*end).contains(&existing.ts_ns), "{existing:?}");
                    *existing
                }
                other => panic!("{other:?} within a snapshot"),
            })
            .collect()
    }

    fn connection(address: &str) -> (TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    }

    fn one(all: &[Existing], local: SocketAddr, remote: Option<SocketAddr>) -> Existing {
        let mut matching = all.iter().filter(|existing| {
            existing.local == local && remote.is_none_or(|remote| existing.remote == remote)
        });
        let found = *matching
            .next()
            .unwrap_or_else(|| panic!("no {local} in {all:?}"));
        assert_eq!(matching.next(), None);
        found
    }

    #[test]
    fn the_sockets_of_this_process_are_there_with_state_cookie_and_owner() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (listener, client, server) = connection(address);
            let at = listener.local_addr().unwrap();
            let from = client.local_addr().unwrap();
            let all = with_port(at.port());
            let listening = SocketAddr::new(
                match at {
                    SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
                },
                0,
            );
            for (socket, local, remote, state) in [
                (SockRef::from(&listener), at, listening, TcpState::Listen),
                (SockRef::from(&client), from, at, TcpState::Established),
                (SockRef::from(&server), at, from, TcpState::Established),
            ] {
                let found = one(&all, local, Some(remote));
                assert_eq!(found.state, state);
                assert_eq!(found.cookie.unwrap().get(), socket.cookie().unwrap());
                assert_eq!(found.netns, Namespace::own().unwrap().inode);
                assert_eq!(found.minisocket_expires_in_ns, None);
                let pid = found.process.map(|process| process.pid);
                assert_eq!(pid, in_initial_pid_namespace().then(std::process::id));
            }
        }
    }

    #[test]
    fn mapped_addresses_are_listed_as_ipv6() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _server = listener.accept().unwrap();
        let all = with_port(port);
        let mapped = |port| format!("[::ffff:127.0.0.1]:{port}").parse().unwrap();
        let from = client.local_addr().unwrap();
        one(&all, mapped(port), Some(mapped(from.port())));
        one(&all, from, None);
    }

    #[test]
    fn a_connection_that_waits_is_a_minisocket_with_at_most_a_minute_left() {
        let (listener, client, server) = connection("127.0.0.1:0");
        let at = listener.local_addr().unwrap();
        let from = client.local_addr().unwrap();
        let cookie = SockRef::from(&client).cookie().unwrap();
        let port = at.port();
        drop(client);
        // The kernel may delay the ACK of the FIN.
        let patience = Instant::now() + Duration::from_secs(5);
        let waiting = loop {
            let waiting = one(&with_port(port), from, Some(at));
            if waiting.state != TcpState::FinWait1 || Instant::now() > patience {
                break waiting;
            }
        };
        assert_eq!(waiting.state, TcpState::FinWait2);
        let left_ns = waiting.minisocket_expires_in_ns.unwrap();
        assert!(left_ns <= 60_000_000_000, "{left_ns}");
        assert_eq!(waiting.cookie.unwrap().get(), cookie);
        assert_eq!(waiting.process, None);
        assert_eq!(
            one(&with_port(port), at, Some(from)).state,
            TcpState::CloseWait
        );

        drop(server);
        let waiting = one(&with_port(port), from, Some(at));
        assert_eq!(waiting.state, TcpState::TimeWait);
        let left_ns = waiting.minisocket_expires_in_ns.unwrap();
        assert!(
            (50_000_000_000..=60_000_000_000).contains(&left_ns),
            "{left_ns}"
        );
        assert_eq!(waiting.cookie.unwrap().get(), cookie);
    }

    #[test]
    fn a_child_that_nobody_has_accepted_has_no_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        let child = one(
            &with_port(at.port()),
            at,
            Some(client.local_addr().unwrap()),
        );
        assert_eq!(child.state, TcpState::Established);
        assert_eq!(child.process, None);
    }

    #[test]
    fn families_and_sockets_that_nobody_wants_are_left_out() {
        let (listener, _client, _server) = connection("127.0.0.1:0");
        let at = listener.local_addr().unwrap();
        let own = Namespace::own().unwrap();
        let count = |scope| {
            sockets(&take(&scope, boottime_ns))
                .iter()
                .filter(|existing| existing.local == at)
                .count()
        };
        let here = Scope {
            namespaces: Some(slice::from_ref(&own)),
            ..Scope::ALL
        };
        assert_eq!(count(here), 2);
        assert_eq!(
            count(Scope {
                ipv4: false,
                ..here
            }),
            0
        );
        assert_eq!(
            count(Scope {
                ipv6: false,
                ..here
            }),
            2
        );
        let mine = crate::host::process::effective_uid();
        let owned: &(dyn Fn(&Listed) -> bool + Sync) = &|listed| listed.uid == Some(mine);
        assert_eq!(
            count(Scope {
                keep: owned,
                ..here
            }),
            2
        );
        let foreign: &(dyn Fn(&Listed) -> bool + Sync) = &|listed| listed.uid == Some(mine + 1);
        assert_eq!(
            count(Scope {
                keep: foreign,
                ..here
            }),
            0
        );
    }

    #[test]
    fn a_snapshot_of_everything_holds_the_own_namespace_and_stays_in_it() {
        let before = Namespace::own().unwrap();
        let (listener, _client, _server) = connection("127.0.0.1:0");
        let at = listener.local_addr().unwrap();
        let taken = take(&Scope::ALL, boottime_ns);
        let all = sockets(&taken);
        assert!(
            all.iter()
                .any(|existing| existing.local == at && existing.state == TcpState::Listen)
        );
        for gap in &taken.gaps {
            assert_ne!(gap.netns, Some(before.inode), "{gap:?}");
        }
        assert_eq!(Namespace::own().unwrap(), before);
    }

    #[test]
    fn another_namespace_is_looked_into() {
        let (to_test, from_elsewhere) = mpsc::channel();
        let (done, until_done) = mpsc::channel::<()>();
        let elsewhere = thread::spawn(move || {
            // SAFETY: unshare(2) takes an integer; it moves this thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
                let listener = TcpListener::bind("0.0.0.0:0").unwrap();
                let thread =
                    Path::new("/proc").join(std::fs::read_link("/proc/thread-self").unwrap());
                let namespace = Namespace {
                    path: thread.join("ns/net"),
                    ..Namespace::own().unwrap()
                };
                to_test
                    .send((namespace, listener.local_addr().unwrap()))
                    .unwrap();
                // Ends when the test drops the other end.
                until_done.recv().unwrap_err();
            }
        });
        // Without privileges there is no other namespace to look into.
        if let Ok((namespace, at)) = from_elsewhere.recv() {
            let before = Namespace::own().unwrap();
            let taken = take(
                &Scope {
                    namespaces: Some(slice::from_ref(&namespace)),
                    ..Scope::ALL
                },
                boottime_ns,
            );
            let all = sockets(&taken);
            assert_eq!(all.len(), 1, "{all:?}");
            assert_eq!((all[0].local, all[0].state), (at, TcpState::Listen));
            assert_eq!(all[0].netns, namespace.inode);
            assert_eq!(Namespace::own().unwrap(), before);
        }
        drop(done);
        elsewhere.join().unwrap();
    }

    #[test]
    fn a_namespace_that_is_gone_is_no_gap() {
        let gone = Namespace {
            inode: 1,
            path: "/proc/0/ns/net".into(),
        };
        let taken = take(
            &Scope {
                namespaces: Some(slice::from_ref(&gone)),
                ..Scope::ALL
            },
            boottime_ns,
        );
        assert_eq!((taken.inputs.len(), taken.gaps.len()), (2, 0));
    }

    #[test]
    fn what_is_no_namespace_is_a_gap_and_makes_the_snapshot_incomplete() {
        let path = PathBuf::from("/proc/self/ns/mnt");
        let odd = Namespace {
            inode: u32::try_from(path.metadata().unwrap().ino()).unwrap(),
            path,
        };
        let taken = take(
            &Scope {
                namespaces: Some(slice::from_ref(&odd)),
                ..Scope::ALL
            },
            boottime_ns,
        );
        assert_eq!(sockets(&taken), []);
        assert_eq!(taken.gaps[0].netns, Some(odd.inode));
    }
}
