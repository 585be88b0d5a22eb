//! Owns the filters as the eBPF program takes them.

use tcptrace_common::{AF_INET, AF_INET6, Config, PortSet, filter};

use crate::host::netns::Namespace;

/// Which sockets to hear of. All that are given must match.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// Ports (host byte order), each for one of the sets.
    pub ports: Vec<(PortSet, u16)>,
    /// A process, in the initial PID namespace.
    pub pid: Option<u32>,
    /// The user that owns the socket.
    pub uid: Option<u32>,
    /// A network namespace.
    pub netns: Option<Namespace>,
    /// A cgroup (v2) and everything below it, by id.
    pub cgroup_id: Option<u64>,
    /// An address family.
    pub family: Option<Family>,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`
    Ipv4,
    /// `AF_INET6`, v4-mapped addresses included
    Ipv6,
}

impl Filters {
    /// Whether some of them look at what a socket has and a minisocket has not.
    #[must_use]
    pub fn need_the_socket(&self) -> bool {
        self.pid.is_some() || self.uid.is_some() || self.cgroup_id.is_some()
    }

    /// Writes them into what the program is loaded with.
    pub(crate) fn apply(&self, config: &mut Config) {
        for (set, _) in &self.ports {
            config.filters |= match set {
                PortSet::Either => filter::PORT,
                PortSet::Local => filter::LOCAL_PORT,
                PortSet::Remote => filter::REMOTE_PORT,
            };
        }
        if let Some(pid) = self.pid {
            config.filters |= filter::PID;
            config.pid = pid;
        }
        if let Some(uid) = self.uid {
            config.filters |= filter::UID;
            config.uid = uid;
        }
        if let Some(netns) = &self.netns {
            config.filters |= filter::NETNS;
            config.netns = netns.inode;
        }
        if let Some(id) = self.cgroup_id {
            config.filters |= filter::CGROUP;
            config.cgroup_id = id;
        }
        if let Some(family) = self.family {
            config.filters |= filter::FAMILY;
            config.family = match family {
                Family::Ipv4 => AF_INET.into(),
                Family::Ipv6 => AF_INET6.into(),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filter_sets_its_own_bit() {
        let mut config = Config::UNSET;
        Filters::default().apply(&mut config);
        assert_eq!(config, Config::UNSET);

        let filters = Filters {
            ports: vec![(PortSet::Local, 80), (PortSet::Remote, 81)],
            pid: Some(7),
            uid: Some(1000),
            netns: Some(Namespace {
                inode: 4_026_531_840,
                path: "/proc/self/ns/net".into(),
            }),
            cgroup_id: Some(9),
            family: Some(Family::Ipv6),
        };
        filters.apply(&mut config);
        assert_eq!(config.filters, 0b1111_1110);
        assert_eq!(
            (config.pid, config.uid, config.netns),
            (7, 1000, 4_026_531_840)
        );
        assert_eq!((config.cgroup_id, config.family), (9, 10));
    }
}
