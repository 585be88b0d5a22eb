//! Owns what is asked: a bind() of a socket that nobody has made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tcptrace_common::{AF_INET, AF_INET6};
use tcptrace_model::{
    TcpState,
    conflict::{Address, Asked, Asker, Call, Family, Request},
};

use crate::cli::{args::explain::SocketArgs, words::Place};

/// `sizeof(struct sockaddr_in)` and `sizeof(struct sockaddr_in6)`.
const LENGTHS: [u32; 2] = [16, 28];

/// A bind() that nobody has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) asker: Asker,
    pub(super) asked: Asked,
    /// Whether the address is one of the host's.
    pub(super) address: Option<Address>,
}

/// What is known of the socket beside its flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) uid: u32,
    pub(super) may_bind_privileged: Option<bool>,
    /// Index of the interface that it is bound to; 0 for none.
    pub(super) device: u32,
    /// Index of the interface of a link-local address; 0 for none.
    pub(super) scope: u32,
}

impl Question {
    /// The questions that the words ask: two for any address, which both families have.
    pub(super) fn all(place: &Place, socket: &SocketArgs, who: Who) -> Vec<Self> {
        let addresses = match place.address {
            Some(address) => vec![address],
            None if socket.v6only => vec![Ipv6Addr::UNSPECIFIED.into()],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        addresses
            .into_iter()
            .map(|address| Self::new(SocketAddr::new(address, place.port), socket, who))
            .collect()
    }

    fn new(addr: SocketAddr, socket: &SocketArgs, who: Who) -> Self {
        let (family, number, len, any): (_, _, _, IpAddr) = if addr.is_ipv4() {
            (
                Family::V4,
                AF_INET,
                LENGTHS[0],
                Ipv4Addr::UNSPECIFIED.into(),
            )
        } else {
            (
                Family::V6,
                AF_INET6,
                LENGTHS[1],
                Ipv6Addr::UNSPECIFIED.into(),
            )
        };
        Self {
            asker: Asker {
                family,
                state: TcpState::Close,
                local: SocketAddr::new(any, 0),
                reuseaddr: socket.reuseaddr,
                force_reuse: false,
                reuseport: socket.reuseport,
                reuseport_group: false,
                v6only: socket.v6only,
                freebind: socket.freebind,
                transparent: false,
                bind_address_no_port: false,
                device: who.device,
                uid: who.uid,
                port_range: None,
                may_bind_privileged: who.may_bind_privileged,
            },
            asked: Asked {
                family: number,
                len,
                addr,
                scope: who.scope,
            },
            address: None,
        }
    }

    /// As the rules take it.
    pub(super) fn request(&self) -> Request {
        Request {
            call: Call::Bind,
            asker: self.asker,
            asked: Some(self.asked),
            address: self.address,
        }
    }
}
