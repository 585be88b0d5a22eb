//! Addresses as experiments write them.

use std::net::{IpAddr, SocketAddr};

/// An address and port, as experiments write them: `127.0.0.1:8000`, or made of two.
#[derive(Clone, Copy, Debug)]
pub struct Address(pub(super) SocketAddr);

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(address)
    }
}

impl From<&'static str> for Address {
    /// # Panics
    /// When it is none: only literals come here.
    fn from(text: &'static str) -> Self {
        match text.parse() {
            Ok(address) => Self(address),
            Err(error) => panic!("{text}: {error}"),
        }
    }
}

impl<A: Into<IpAddr>> From<(A, u16)> for Address {
    fn from(pair: (A, u16)) -> Self {
        Self(pair.into())
    }
}
