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
    /// Network namespaces.
    pub netns: NetnsFilter,
    /// A cgroup (v2) and everything below it, by id.
    pub cgroup_id: Option<u64>,
    /// An address family.
    pub family: Option<Family>,
}

/// Which network namespaces to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetnsFilter {
    /// All.
    #[default]
    Any,
    /// These, each once; none lets nothing through.
    These(Vec<Namespace>),
    /// Those in a set that is empty at first and may change while tracing, see
    /// [`crate::source::live::Live::wanted_namespaces`]. They are taken to be new when they are added: no
    /// snapshot of existing sockets looks into them.
    Changing,
}

impl NetnsFilter {
    /// The namespaces, if they are known from the start.
    #[must_use]
    pub fn these(&self) -> Option<&[Namespace]> {
        match self {
            Self::These(namespaces) => Some(namespaces),
            Self::Any | Self::Changing => None,
        }
    }

    /// Their inode numbers; none where they are not known from the start.
    pub(crate) fn inodes(&self) -> Vec<u32> {
        let these = self.these().unwrap_or_default();
        these.iter().map(|namespace| namespace.inode).collect()
    }
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
        match &self.netns {
            NetnsFilter::Any => {}
            // One is compared, without a look into the table.
            NetnsFilter::These(namespaces) if namespaces.len() == 1 => {
                config.filters |= filter::NETNS;
                config.netns = namespaces[0].inode;
            }
            NetnsFilter::These(_) | NetnsFilter::Changing => config.filters |= filter::NETNS_SET,
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
            netns: NetnsFilter::These(vec![namespace(4_026_531_840)]),
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

        for netns in [
            NetnsFilter::Changing,
            NetnsFilter::These(vec![namespace(1), namespace(2)]),
        ] {
            let mut config = Config::UNSET;
            let filters = Filters {
                netns,
                ..Filters::default()
            };
            filters.apply(&mut config);
            assert_eq!((config.filters, config.netns), (0b1_0000_0000, 0));
        }
    }

    fn namespace(inode: u32) -> Namespace {
        Namespace {
            inode,
            path: "/proc/self/ns/net".into(),
        }
    }
}
