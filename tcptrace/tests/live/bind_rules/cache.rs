//! Owns what a port remembers of the last bind() and listen() that it granted: by it the kernel lets in
//! newcomers without a look at the holders.
//!
//! The rules are told of sockets, not of this. It matters where an option was changed after bind(), or
//! where the socket that was granted went by another clause than the newcomer. Whoever knows the history,
//! as this test does, knows what it is (net/ipv4/inet_connection_sock.c `inet_csk_get_port`,
//! `sk_reuseport_match`, `inet_csk_update_fastreuse`, v6.18).

use std::net::{IpAddr, Ipv4Addr};

use tcptrace_model::conflict::{Call, KernelVersion, Request};

/// Since then the bucket of the new socket's own address is in the list that is asked whether the port is
/// new, so that it never is: net/ipv4/inet_connection_sock.c `inet_csk_update_fastreuse` (v6.8).
const NEVER_FIRST: KernelVersion = KernelVersion::of(6, 8);

/// Since then it is forgotten when nobody but users of connect() is left, and with what shares a bucket
/// with them, it may be sooner: net/ipv4/inet_hashtables.c `inet_bind_bucket_destroy` (v6.18).
const FORGETS: KernelVersion = KernelVersion::of(6, 18);

/// `struct inet_bind_bucket`, in part.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cache {
    /// `fastreuse` is above 0.
    reuseaddr: bool,
    reuseport: Reuseport,
    may_be_forgotten: bool,
}

/// `fastreuseport`
#[derive(Clone, Copy, Debug, Default)]
enum Reuseport {
    #[default]
    No,
    /// `FASTREUSEPORT_ANY`: whoever has the option and is this user.
    Any(u32),
    /// `FASTREUSEPORT_STRICT`: if its address is covered by this one's, too.
    Strict(Binder),
}

/// A socket that asks, as get_port() sees it.
#[derive(Clone, Copy, Debug)]
struct Binder {
    reuseaddr: bool,
    reuseport: bool,
    uid: u32,
    ip: IpAddr,
    v6only: bool,
}

impl Binder {
    fn of(request: &Request) -> Self {
        let asker = &request.asker;
        let ip = request
            .asked
            .map_or(asker.local.ip(), |asked| asked.addr.ip());
        let is_specific = match ip {
            IpAddr::V4(_) => false,
            IpAddr::V6(v6) => !v6.is_unspecified() && v6.to_ipv4_mapped().is_none(),
        };
        Self {
            // listen() asks as one that listens.
            reuseaddr: asker.reuseaddr && request.call != Call::Listen,
            reuseport: asker.reuseport,
            uid: asker.uid,
            ip,
            v6only: asker.v6only || is_specific,
        }
    }

    /// `sk_rcv_saddr`: that of an IPv6 address is LOOPBACK4_IPV6.
    fn v4(&self) -> Ipv4Addr {
        match self.ip {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(v6) if v6.is_unspecified() => Ipv4Addr::UNSPECIFIED,
            IpAddr::V6(v6) => v6.to_ipv4_mapped().unwrap_or(Ipv4Addr::new(127, 0, 0, 6)),
        }
    }

    fn is_mapped(&self) -> bool {
        self.ip.to_canonical().is_ipv4()
    }

    /// Whether a socket with this address covers one with that: net/ipv4/inet_connection_sock.c
    /// `ipv6_rcv_saddr_equal`, `ipv4_rcv_saddr_equal` with only the first one's wildcard (v6.18).
    fn covers(&self, other: &Self) -> bool {
        let as_v4 =
            !other.v6only && (self.v4() == other.v4() || self.v4() == Ipv4Addr::UNSPECIFIED);
        let IpAddr::V6(ours) = self.ip else {
            return as_v4;
        };
        if self.is_mapped() && other.is_mapped() {
            return as_v4;
        }
        (ours.is_unspecified() && !(self.v6only && other.is_mapped())) || self.ip == other.ip
    }
}

impl Reuseport {
    /// `sk_reuseport_match`
    fn matches(&self, new: &Binder) -> bool {
        new.reuseport
            && match self {
                Self::No => false,
                Self::Any(uid) => *uid == new.uid,
                Self::Strict(last) => last.uid == new.uid && last.covers(new),
            }
    }
}

impl Cache {
    /// Whether the kernel grants it without a look at the holders.
    pub(super) fn lets_in(&self, request: &Request) -> bool {
        let new = Binder::of(request);
        (self.reuseaddr && new.reuseaddr) || self.reuseport.matches(&new)
    }

    /// Whether [`Self::lets_in`] is certain to hold.
    pub(super) fn is_certain(&self) -> bool {
        !self.may_be_forgotten
    }

    /// Remembers that connect() has chosen the port.
    pub(super) fn chosen_by_connect(&mut self, kernel: KernelVersion) {
        self.may_be_forgotten |= kernel >= FORGETS;
    }

    /// Remembers a bind() or listen() that was granted; `first` when nobody had the port before.
    pub(super) fn granted(&mut self, request: &Request, first: bool, kernel: KernelVersion) {
        let new = Binder::of(request);
        if first && kernel < NEVER_FIRST {
            self.reuseaddr = new.reuseaddr;
            self.reuseport = if new.reuseport {
                Reuseport::Any(new.uid)
            } else {
                Reuseport::No
            };
            return;
        }
        self.reuseaddr &= new.reuseaddr;
        if !new.reuseport {
            self.reuseport = Reuseport::No;
        } else if !self.reuseport.matches(&new) {
            self.reuseport = Reuseport::Strict(new);
        }
    }
}
