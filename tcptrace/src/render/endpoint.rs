//! Owns addresses with ports as text, of which every line has two.

use std::{
    fmt::{self, Display, Formatter},
    net::SocketAddr,
};

/// `255.255.255.255:65535`
const LONGEST_IPV4: usize = 21;

/// An address and a port, as the standard library writes them: IPv4 in a tenth of the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint(pub(super) SocketAddr);

impl Display for Endpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let SocketAddr::V4(address) = self.0 else {
            return self.0.fmt(f);
        };
        let mut text = [0; LONGEST_IPV4];
        let mut length = 0;
        let mut put = |bytes: &[u8]| {
            text[length..length + bytes.len()].copy_from_slice(bytes);
            length += bytes.len();
        };
        let mut digits = itoa::Buffer::new();
        for (octet, end) in address.ip().octets().into_iter().zip(b"...:") {
            put(digits.format(octet).as_bytes());
            put(&[*end]);
        }
        put(digits.format(address.port()).as_bytes());
        f.pad(str::from_utf8(&text[..length]).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_standard_library_writes() {
        for text in [
            "0.0.0.0:0",
            "255.255.255.255:65535",
            "127.0.0.1:8000",
            "[::1]:22",
            "[::ffff:10.0.0.1]:443",
            "[fe80::1%3]:1",
        ] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Endpoint(address).to_string(), address.to_string());
            let (padded, expected) = (
                format!("{:<30}|{:>30}", Endpoint(address), Endpoint(address)),
                format!("{address:<30}|{address:>30}"),
            );
            assert_eq!(padded, expected);
        }
    }
}
