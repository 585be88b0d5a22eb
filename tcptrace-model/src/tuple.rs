//! Owns `Tuple`: the addresses and ports by which two ends of a connection know each other.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A 4-tuple, seen from one end.
///
/// An IPv4 address and the IPv6 address that maps it are the same here: they are the same to the
/// kernel's hash table too, and the two ends of one connection may differ in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tuple {
    local: (u128, u16),
    remote: (u128, u16),
}

impl Tuple {
    /// The tuple of a socket; `None` when a port is not known (yet).
    pub(crate) fn of(local: SocketAddr, remote: SocketAddr) -> Option<Self> {
        (local.port() != 0 && remote.port() != 0).then(|| Self {
            local: (bits(local.ip()), local.port()),
            remote: (bits(remote.ip()), remote.port()),
        })
    }

    /// The same connection from its other end.
    pub(crate) const fn reversed(self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
        }
    }

    /// The local port.
    pub(crate) const fn local_port(self) -> u16 {
        self.local.1
    }

    /// Whether the socket is connected to itself.
    pub(crate) fn is_own_peer(self) -> bool {
        self.local == self.remote
    }

    /// Whether the connection cannot leave its network namespace: a loopback address, or the same
    /// address at both ends.
    pub(crate) fn stays_in_namespace(self) -> bool {
        self.local.0 == self.remote.0 || is_loopback(self.local.0) || is_loopback(self.remote.0)
    }
}

/// The address as the kernel's IPv6 structures hold it: an IPv4 address mapped.
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Whether two namespaces may be one: an unknown one may be any.
pub(crate) fn may_be_same(one: Option<u32>, other: Option<u32>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one == other,
        (None, _) | (_, None) => true,
    }
}

/// 127.0.0.0/8 (RFC 1122 3.2.1.3), mapped, or ::1 (RFC 4291 2.5.3).
const fn is_loopback(address: u128) -> bool {
    const MAPPED: u128 = Ipv4Addr::new(127, 0, 0, 0).to_ipv6_mapped().to_bits() >> 24;
    address == 1 || address >> 24 == MAPPED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(local: &str, remote: &str) -> Option<Tuple> {
        Tuple::of(local.parse().unwrap(), remote.parse().unwrap())
    }

    #[test]
    fn a_mapped_address_is_the_address_it_maps() {
        assert_eq!(
            tuple("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.2]:999"),
            tuple("10.0.0.1:80", "10.0.0.2:999")
        );
    }

    #[test]
    fn without_both_ports_there_is_no_tuple() {
        assert_eq!(tuple("10.0.0.1:0", "10.0.0.2:80"), None);
        assert_eq!(tuple("10.0.0.1:80", "10.0.0.2:0"), None);
    }

    #[test]
    fn loopback_and_equal_addresses_stay_in_their_namespace() {
        for (local, remote, stays) in [
            ("127.0.0.1:1", "127.0.0.1:2", true),
            ("127.9.9.9:1", "127.0.0.1:2", true),
            ("[::1]:1", "[::1]:2", true),
            ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:2", true),
            ("10.0.0.1:1", "10.0.0.1:2", true),
            ("10.0.0.1:1", "10.0.0.2:2", false),
            ("[fe80::1]:1", "[fe80::2]:2", false),
            ("128.0.0.1:1", "126.0.0.1:2", false),
        ] {
            let tuple = tuple(local, remote).unwrap();
            assert_eq!(tuple.stays_in_namespace(), stays, "{local} {remote}");
            assert_eq!(tuple.reversed().stays_in_namespace(), stays);
        }
    }

    #[test]
    fn a_self_connected_socket_is_its_own_peer() {
        let own = tuple("10.0.0.1:80", "10.0.0.1:80").unwrap();
        assert!(own.is_own_peer());
        assert!(!tuple("10.0.0.1:80", "10.0.0.1:81").unwrap().is_own_peer());
    }
}
