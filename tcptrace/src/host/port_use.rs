//! Owns the count of a namespace's automatic ports: who holds them, from sock_diag.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use tcptrace_model::conflict::{BindSysctls, PortUse};

use super::{netns::Namespace, sock_diag};

/// The TCP sockets of one namespace at one moment, as far as ports go.
#[derive(Clone, Debug)]
pub struct PortHolders {
    /// CLOCK_BOOTTIME ns before the first was looked at.
    pub ts_ns: u64,
    holders: Vec<Holder>,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    port: u16,
    state: u8,
    remote: SocketAddr,
}

impl PortHolders {
    /// Lists the sockets of `namespace` that have a local port; those that are only bound from 6.8 on.
    ///
    /// # Errors
    /// One sentence: the namespace cannot be entered, or the kernel does not list sockets.
    pub fn list(
        namespace: &Namespace,
        boottime: &(dyn Fn() -> u64 + Sync),
    ) -> Result<Self, String> {
        namespace.inside(|| list_here(boottime)).map_err(|error| {
            format!(
                "cannot enter network namespace {}: {error}",
                namespace.inode
            )
        })?
    }

    /// Counts them: those of the range that the kernel chooses from, and of these the ones that are
    /// connected to `destination`. `range` is that of the socket that asks, where it has one of its own.
    #[must_use]
    pub fn count(
        &self,
        sysctls: &BindSysctls,
        reserved: &Reserved,
        range: Option<(u16, u16)>,
        destination: Option<SocketAddr>,
    ) -> PortUse {
        let range = within(sysctls.port_range, range);
        let is_within = |port: u16| (range.0..=range.1).contains(&port);
        let mut held = HashSet::new();
        let mut by_state = [0; 14];
        let mut to_destination = [0; 14];
        for holder in self.holders.iter().filter(|holder| is_within(holder.port)) {
            held.insert(holder.port);
            let state = usize::from(holder.state);
            if let Some(count) = by_state.get_mut(state) {
                *count += 1;
            }
            if destination.is_some_and(|wanted| same(wanted, holder.remote))
                && let Some(count) = to_destination.get_mut(state)
            {
                *count += 1;
            }
        }
        PortUse {
            ts_ns: self.ts_ns,
            range,
            reserved: reserved.within(range),
            held: u32::try_from(held.len()).unwrap_or(u32::MAX),
            by_state,
            to_destination,
            destination,
        }
    }
}

/// The ports that automatic choice leaves out: `net.ipv4.ip_local_reserved_ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved(Vec<(u16, u16)>);

impl Reserved {
    /// Reads the kernel's text, such as `8080,9000-9010`. What is no port is left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(
            text.trim()
                .split(',')
                .filter_map(|part| {
                    let (first, last) = part.split_once('-').unwrap_or((part, part));
                    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
                })
                .collect(),
        )
    }

    /// How many ports of `range`, both within, they are.
    #[must_use]
    pub fn within(&self, (low, high): (u16, u16)) -> u32 {
        self.0
            .iter()
            .map(|(first, last)| {
                let (first, last) = (u32::from(*first.max(&low)), u32::from(*last.min(&high)));
                (last + 1).saturating_sub(first)
            })
            .sum()
    }
}

/// The range of a namespace, narrowed by `IP_LOCAL_PORT_RANGE`, of which a bound that is 0 or outside does
/// not count: net/ipv4/inet_connection_sock.c `inet_sk_get_local_port_range` (v6.18).
fn within((low, high): (u16, u16), of_socket: Option<(u16, u16)>) -> (u16, u16) {
    let (own_low, own_high) = of_socket.unwrap_or((0, 0));
    let is_inside = |port: u16| (low..=high).contains(&port);
    (
        if is_inside(own_low) { own_low } else { low },
        if is_inside(own_high) { own_high } else { high },
    )
}

/// Whether two addresses are one destination: an IPv4 one may be written as v4-mapped.
fn same(wanted: SocketAddr, has: SocketAddr) -> bool {
    let plain = |addr: IpAddr| addr.to_canonical();
    wanted.port() == has.port() && plain(wanted.ip()) == plain(has.ip())
}

/// Lists those of the calling thread's namespace, as [`PortHolders::list`] does.
pub(crate) fn list_here(boottime: &dyn Fn() -> u64) -> Result<PortHolders, String> {
    let ts_ns = boottime();
    let listed =
        sock_diag::with_local_port(None, boottime).map_err(|trouble| trouble.to_string())?;
    Ok(PortHolders {
        ts_ns,
        holders: listed
            .into_iter()
            .map(|one| Holder {
                port: one.local.port(),
                state: one.state.number(),
                remote: one.remote,
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(port: u16, state: u8, remote: &str) -> Holder {
        Holder {
            port,
            state,
            remote: remote.parse().unwrap(),
        }
    }

    #[test]
    fn ports_are_counted_once_and_sockets_by_state_and_destination() {
        let holders = PortHolders {
            ts_ns: 7,
            holders: vec![
                holder(40_000, 6, "192.0.2.1:80"),
                holder(40_000, 1, "192.0.2.2:80"),
                holder(40_001, 6, "[::ffff:192.0.2.1]:80"),
                holder(40_003, 7, "0.0.0.0:0"),
                holder(50_000, 6, "192.0.2.1:80"),
            ],
        };
        let sysctls = BindSysctls {
            port_range: (40_000, 40_010),
            ..BindSysctls::default()
        };
        let reserved = Reserved::parse("80,40009-40020\n");
        let count = holders.count(
            &sysctls,
            &reserved,
            None,
            Some("192.0.2.1:80".parse().unwrap()),
        );
        assert_eq!((count.ts_ns, count.range), (7, (40_000, 40_010)));
        assert_eq!((count.held, count.reserved), (3, 2));
        assert_eq!(
            (count.by_state[6], count.by_state[1], count.by_state[7]),
            (2, 1, 1)
        );
        assert_eq!((count.to_destination[6], count.to_destination[1]), (2, 0));

        let narrow = holders.count(&sysctls, &reserved, Some((40_002, 0)), None);
        assert_eq!((narrow.range, narrow.held), ((40_002, 40_010), 1));
        assert_eq!(narrow.to_destination, [0; 14]);
    }

    #[test]
    fn reserved_ports_are_read_as_the_kernel_writes_them() {
        assert_eq!(Reserved::parse("\n"), Reserved::default());
        let reserved = Reserved::parse("1,5-7,65535\n");
        assert_eq!(reserved.within((1, 65_535)), 5);
        assert_eq!(reserved.within((6, 100)), 2);
        assert_eq!(reserved.within((8, 100)), 0);
    }

    #[test]
    fn a_socket_that_is_there_is_counted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sysctls = BindSysctls {
            port_range: (port, port),
            ..BindSysctls::default()
        };
        let holders = PortHolders::list(&Namespace::own().unwrap(), &|| 0);
        // Without privileges no namespace can be entered, not even one's own.
        if let Ok(holders) = holders {
            let count = holders.count(&sysctls, &Reserved::default(), None, None);
            assert_eq!(count.held, 1);
            assert_eq!(count.by_state[10], 1);
        }
    }
}
