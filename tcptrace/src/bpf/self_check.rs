//! Owns the tracer's check of itself: sockets whose every property is known change their state, and
//! the records about them must say exactly that. A field read at a wrong offset is found here,
//! before anything is printed.
//!
//! The sockets listen for a moment on a free port of the loopback address, with no backlog. Then two
//! connections show what a listener does not have: [`scene`]. Fields for which no value can be provoked are
//! checked by the layout of their structure only (`offsets/layout.rs`).

pub mod scene;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    num::NonZeroU64,
};

use socket2::{Domain, Socket, Type};
use tcptrace_model::{Comm, TcpState, Transition};

use crate::host::{cgroup, netns::Namespace, process};

/// How many ports are tried when the kernel has none left to choose, and how far apart.
const PORT_ATTEMPTS: usize = 256;
const PORT_STEP: usize = 251;

/// A socket to be checked with.
struct Probe {
    socket: Socket,
    cookie: u64,
    address: IpAddr,
}

/// The sockets of the check, opened before the program is loaded: it is told their cookies.
pub struct SelfCheck {
    probes: Vec<Probe>,
}

/// What a record about one of the sockets must say.
#[derive(Clone, Debug)]
pub struct Expected {
    cookie: u64,
    local: SocketAddr,
    netns: Option<u32>,
    cgroup_id: Option<u64>,
    uid: u32,
    /// Process and thread; `None` where they do not know their own ids as the kernel reports them.
    ids: Option<[u32; 2]>,
    /// The thread's name.
    comm: Option<Comm>,
    reuseaddr: bool,
    reuseport: bool,
    oldstate: TcpState,
    newstate: TcpState,
}

impl SelfCheck {
    /// Opens the sockets. A machine without IPv6 has one less.
    ///
    /// # Errors
    /// When not even an IPv4 socket can be had.
    pub fn prepare() -> io::Result<Self> {
        let mut probes = vec![Probe::open(Ipv4Addr::LOCALHOST.into())?];
        probes.extend(Probe::open(Ipv6Addr::LOCALHOST.into()));
        Ok(Self { probes })
    }

    /// The cookies of the sockets; 0 for one that there is not.
    #[must_use]
    pub fn cookies(&self) -> [u64; 2] {
        let cookie = |index: usize| self.probes.get(index).map_or(0, |probe| probe.cookie);
        [cookie(0), cookie(1)]
    }

    /// Lets the sockets listen and closes them; returns what the records must say, in their order.
    ///
    /// # Errors
    /// When the IPv4 socket cannot be bound or cannot listen.
    pub fn provoke(self) -> io::Result<Vec<Expected>> {
        let mut expected = Vec::new();
        for (index, probe) in self.probes.into_iter().enumerate() {
            match probe.listen_and_close() {
                Ok(pair) => expected.extend(pair),
                // IPv6 may be switched off for addresses although there are sockets.
                Err(_) if index > 0 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(expected)
    }
}

impl Probe {
    fn open(address: IpAddr) -> io::Result<Self> {
        let domain = Domain::for_address(SocketAddr::new(address, 0));
        let socket = Socket::new(domain, Type::STREAM, None)?;
        let cookie = socket.cookie()?;
        Ok(Self {
            socket,
            cookie,
            address,
        })
    }

    /// CLOSE → LISTEN by listen(2), LISTEN → CLOSE by close(2). The IPv4 socket has `SO_REUSEADDR`,
    /// the IPv6 one `SO_REUSEPORT`, so that each bit is seen set and unset.
    fn listen_and_close(self) -> io::Result<[Expected; 2]> {
        let reuseaddr = self.address.is_ipv4();
        if reuseaddr {
            self.socket.set_reuse_address(true)?;
        } else {
            self.socket.set_reuse_port(true)?;
        }
        if is_up(self.address) {
            self.bind(self.address)?;
        } else {
            // As in a fresh namespace. The address can be bound there, but the kernel takes it for a
            // broadcast address and leaves inet_saddr empty: any address, but of this device only.
            self.socket.bind_device(Some(b"lo"))?;
            self.bind(unspecified(self.address))?;
        }
        let local = self.socket.local_addr()?.as_socket();
        let local = local.ok_or_else(|| io::Error::other("the socket has no address"))?;
        self.socket.listen(0)?;
        let listening = Expected {
            cookie: self.cookie,
            local,
            netns: Namespace::own().ok().map(|namespace| namespace.inode),
            cgroup_id: cgroup::own_id(),
            uid: process::effective_uid(),
            ids: process::in_initial_pid_namespace().then(process::own_ids),
            comm: process::own_comm().map(Comm),
            reuseaddr,
            reuseport: !reuseaddr,
            oldstate: TcpState::Close,
            newstate: TcpState::Listen,
        };
        drop(self.socket);
        let closing = Expected {
            oldstate: TcpState::Listen,
            newstate: TcpState::Close,
            ..listening.clone()
        };
        Ok([listening, closing])
    }

    /// Binds to any free port: one that the kernel chooses, or where it has none left (the very thing
    /// that a user may be looking into) one outside its range.
    fn bind(&self, address: IpAddr) -> io::Result<()> {
        let bind = |port| self.socket.bind(&SocketAddr::new(address, port).into());
        let mut result = bind(0);
        let candidates = (1024..=u16::MAX)
            .rev()
            .step_by(PORT_STEP)
            .take(PORT_ATTEMPTS);
        for port in candidates {
            match &result {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => result = bind(port),
                _ => break,
            }
        }
        result
    }
}

/// Whether this loopback address can be reached: a route is looked up, nothing is sent.
fn is_up(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(unspecified(address), 0))
        .and_then(|socket| socket.connect(SocketAddr::new(address, 9)))
        .is_ok()
}

/// "Any address" of the same family.
fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl Expected {
    /// Whether `seen` is about the socket and the change that this is about.
    #[must_use]
    pub fn is_about(&self, seen: &Transition) -> bool {
        seen.socket.cookie == NonZeroU64::new(self.cookie)
            && (seen.oldstate, seen.newstate) == (self.oldstate, self.newstate)
    }

    /// The first thing that `seen` says otherwise; `None` when everything agrees.
    #[must_use]
    pub fn disagreement(&self, seen: &Transition) -> Option<String> {
        fn differ<T: Copy + PartialEq + std::fmt::Debug>(
            what: &str,
            seen: T,
            is: T,
        ) -> Option<String> {
            (seen != is).then(|| format!("{what} is read as {seen:?} where it is {is:?}"))
        }
        let socket = &seen.socket;
        differ(
            "the local address (inet_saddr, skc_v6_rcv_saddr, inet_sport)",
            socket.local,
            self.local,
        )
        .or_else(|| {
            differ(
                "the remote address (skc_daddr, skc_v6_daddr, skc_dport)",
                socket.remote,
                SocketAddr::new(unspecified(self.local.ip()), 0),
            )
        })
        .or_else(|| differ("the user (sk_uid)", socket.uid, self.uid))
        .or_else(|| differ("SO_REUSEADDR (skc_reuse)", socket.reuseaddr, self.reuseaddr))
        .or_else(|| {
            differ(
                "SO_REUSEPORT (skc_reuseport)",
                socket.reuseport,
                self.reuseport,
            )
        })
        .or_else(|| {
            let netns = self.netns?;
            differ(
                "the network namespace (skc_net, net.ns.inum)",
                socket.netns,
                Some(netns),
            )
        })
        // Without a cgroup (v2) of its own the socket's is unknown, which is no error.
        .or_else(|| {
            let (seen, is) = (socket.cgroup_id?, self.cgroup_id?);
            differ(
                "the cgroup (sk_cgrp_data, cgroup.kn, kernfs_node.id)",
                seen,
                is,
            )
        })
        .or_else(|| {
            differ(
                "the process and its thread (tgid, pid)",
                [seen.current.pid, seen.current.tid],
                self.ids?,
            )
        })
        .or_else(|| differ("the thread's name (comm)", seen.current.comm, self.comm?))
    }
}

#[cfg(test)]
mod tests {
    use tcptrace_model::{Socket, Task};

    use super::*;

    fn expected() -> Expected {
        Expected {
            cookie: 5,
            local: "127.0.0.1:4000".parse().unwrap(),
            netns: Some(10),
            cgroup_id: Some(20),
            uid: 0,
            ids: Some([30, 31]),
            comm: Some(Comm(*b"check\0\0\0\0\0\0\0\0\0\0\0")),
            reuseaddr: true,
            reuseport: false,
            oldstate: TcpState::Close,
            newstate: TcpState::Listen,
        }
    }

    fn agreeing() -> Transition {
        Transition {
            ts_ns: 1,
            socket: Socket {
                sk: 1,
                cookie: NonZeroU64::new(5),
                netns: Some(10),
                cgroup_id: Some(20),
                uid: 0,
                local: "127.0.0.1:4000".parse().unwrap(),
                remote: "0.0.0.0:0".parse().unwrap(),
                reuseaddr: true,
                reuseport: false,
            },
            oldstate: TcpState::Close,
            newstate: TcpState::Listen,
            current: Task {
                pid: 30,
                tid: 31,
                comm: Comm(*b"check\0\0\0\0\0\0\0\0\0\0\0"),
            },
            cpu: 0,
            evidence: None,
        }
    }

    #[test]
    fn a_record_that_agrees_is_accepted() {
        assert!(expected().is_about(&agreeing()));
        assert_eq!(expected().disagreement(&agreeing()), None);
    }

    #[test]
    fn every_field_that_disagrees_is_named() {
        let disagree = |change: fn(&mut Transition)| {
            let mut seen = agreeing();
            change(&mut seen);
            expected()
                .disagreement(&seen)
                .expect("a wrong field must be found")
        };
        let says = |sentence: String, word: &str| assert!(sentence.contains(word), "{sentence}");
        says(disagree(|seen| seen.socket.local.set_port(1)), "inet_sport");
        says(disagree(|seen| seen.socket.remote.set_port(1)), "skc_dport");
        says(disagree(|seen| seen.socket.uid = 7), "sk_uid");
        says(disagree(|seen| seen.socket.reuseaddr = false), "skc_reuse");
        says(
            disagree(|seen| seen.socket.reuseport = true),
            "skc_reuseport",
        );
        says(disagree(|seen| seen.socket.netns = None), "net.ns.inum");
        says(
            disagree(|seen| seen.socket.cgroup_id = Some(1)),
            "kernfs_node.id",
        );
        says(disagree(|seen| seen.current.pid = 1), "tgid");
        says(disagree(|seen| seen.current.tid = 30), "pid");
        says(disagree(|seen| seen.current.comm.0[15] = 1), "comm");
    }

    #[test]
    fn the_sockets_say_what_to_expect() {
        let check = SelfCheck::prepare().unwrap();
        assert_ne!(check.cookies()[0], 0);
        let expected = check.provoke().unwrap();
        assert!(expected.len() >= 2);
        assert_ne!(expected[0].local.port(), 0);
    }
}
