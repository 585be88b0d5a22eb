//! Owns the question whether two sockets' local addresses overlap, asked as the kernel asks it: of the
//! fields that it stores, some of which do not hold what one would think.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::KernelVersion;

/// What the IPv4 field of an IPv6 socket holds whose address has no IPv4 counterpart:
/// include/linux/ipv6.h `LOOPBACK4_IPV6` (v6.18).
pub(super) const LOOPBACK4_IPV6: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// The first kernel that looks up a specific address in a table of its own (`bhash2`):
/// net/ipv4/inet_connection_sock.c `inet_use_bhash2_on_bind` (v6.1).
const ADDRESS_TABLE: KernelVersion = KernelVersion::of(6, 1);

/// The first kernel whose table knows that `::ffff:0.0.0.0` is any address to a socket with a v4-mapped
/// one, too: before, an `AF_INET6` socket met only `::` there, or the 0.0.0.0 of an `AF_INET` one:
/// net/ipv4/inet_hashtables.c `inet_bind2_bucket_match_addr_any` (v6.6, v6.8).
const MAPPED_ANY: KernelVersion = KernelVersion::of(6, 8);

/// The fields that say to which local addresses a socket belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    /// `skc_rcv_saddr`
    v4: Ipv4Addr,
    /// `skc_v6_rcv_saddr`; `None` for an `AF_INET` socket, as `inet6_rcv_saddr` has it.
    v6: Option<Ipv6Addr>,
    /// `skc_ipv6only`
    v6only: bool,
}

/// What `ipv6_addr_type` tells of an address, as far as it matters here. `AF_INET` sockets count as mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Mapped,
    Specific,
}

impl Fields {
    /// The fields of a socket with the local address `ip`: an IPv6 address belongs to an `AF_INET6` socket.
    pub(super) fn new(ip: IpAddr, v6only: bool) -> Self {
        match ip {
            IpAddr::V4(v4) => Self {
                v4,
                v6: None,
                v6only: false,
            },
            IpAddr::V6(v6) => Self {
                v4: v4_field(v6),
                v6: Some(v6),
                v6only,
            },
        }
    }

    /// `skc_ipv6only`
    pub(super) fn v6only(self) -> bool {
        self.v6only
    }

    /// Whether bind() consults the table of addresses instead of all holders of the port:
    /// net/ipv4/inet_hashtables.h `inet_use_hash2_on_bind` (v6.18).
    fn is_specific(self) -> bool {
        match self.kind() {
            Kind::Any => false,
            Kind::Specific => true,
            Kind::Mapped => !self.v4.is_unspecified(),
        }
    }

    fn kind(self) -> Kind {
        match self.v6 {
            None => Kind::Mapped,
            Some(v6) if v6.is_unspecified() => Kind::Any,
            Some(v6) if v6.to_ipv4_mapped().is_some() => Kind::Mapped,
            Some(_) => Kind::Specific,
        }
    }
}

/// Whether `new`, which asks for a port, overlaps with `old`, which holds it.
pub(super) fn overlap(new: Fields, old: Fields, kernel: KernelVersion) -> bool {
    if kernel >= ADDRESS_TABLE && new.is_specific() {
        shares_table_entry(new, old, kernel)
    } else {
        rcv_saddr_equal(new, old)
    }
}

/// Whether `fast`, the address of the last socket with `SO_REUSEPORT` that got the port, stands for that of
/// `new`: net/ipv4/inet_connection_sock.c `sk_reuseport_match` (v6.18, the same since 5.10). Only `fast`
/// is taken as a wildcard.
pub(super) fn covers(fast: Fields, new: Fields) -> bool {
    let v4_covers = !new.v6only && (fast.v4 == new.v4 || fast.v4.is_unspecified());
    let Some(v6) = fast.v6 else {
        return v4_covers;
    };
    match (fast.kind(), new.kind()) {
        (Kind::Mapped, Kind::Mapped) => v4_covers,
        (Kind::Any, Kind::Mapped) => !fast.v6only,
        (Kind::Any, Kind::Any | Kind::Specific) => true,
        (Kind::Mapped | Kind::Specific, _) => new.v6 == Some(v6),
    }
}

/// net/ipv4/inet_connection_sock.c `inet_rcv_saddr_equal` (v6.18, the same since 5.10), with wildcards.
fn rcv_saddr_equal(new: Fields, old: Fields) -> bool {
    match new.v6 {
        Some(v6) => ipv6_rcv_saddr_equal(new, v6, old),
        None => ipv4_rcv_saddr_equal(new, old),
    }
}

fn ipv6_rcv_saddr_equal(new: Fields, v6: Ipv6Addr, old: Fields) -> bool {
    let (kind, old_kind) = (new.kind(), old.kind());
    if kind == Kind::Mapped && old_kind == Kind::Mapped {
        return ipv4_rcv_saddr_equal(new, old);
    }
    (old_kind == Kind::Any && !(old.v6only && kind == Kind::Mapped))
        || (kind == Kind::Any && !(new.v6only && old_kind == Kind::Mapped))
        || old.v6 == Some(v6)
}

fn ipv4_rcv_saddr_equal(new: Fields, old: Fields) -> bool {
    !old.v6only && (new.v4 == old.v4 || new.v4.is_unspecified() || old.v4.is_unspecified())
}

/// The two places of `bhash2` where bind() to a specific address looks: the entry of that address, and
/// those of any address. net/ipv4/inet_hashtables.c `inet_bind2_bucket_addr_match`,
/// `inet_bind2_bucket_match_addr_any`, net/ipv4/inet_connection_sock.c `__inet_bhash2_conflict` (v6.18).
/// The first point releases of 6.1 to 6.8 had some of it wrong; what was backported counts here.
fn shares_table_entry(new: Fields, old: Fields, kernel: KernelVersion) -> bool {
    if old.v6only && new.kind() == Kind::Mapped {
        return false;
    }
    if old.kind() == Kind::Any {
        return true;
    }
    if new.kind() == Kind::Mapped {
        let is_any = old.v4.is_unspecified()
            && (kernel >= MAPPED_ANY || new.v6.is_none() || old.v6.is_none());
        return old.kind() == Kind::Mapped && (is_any || old.v4 == new.v4);
    }
    old.v6 == new.v6
}

/// `skc_rcv_saddr` of an IPv6 socket: net/ipv6/af_inet6.c `__inet6_bind`, net/ipv6/tcp_ipv6.c
/// `tcp_v6_connect`, `tcp_v6_syn_recv_sock` (v6.18).
fn v4_field(v6: Ipv6Addr) -> Ipv4Addr {
    if v6.is_unspecified() {
        return Ipv4Addr::UNSPECIFIED;
    }
    v6.to_ipv4_mapped().unwrap_or(LOOPBACK4_IPV6)
}
