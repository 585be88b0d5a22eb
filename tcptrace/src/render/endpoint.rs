//! Owns addresses with ports as text, of which every line has two.

use std::{
    fmt::{self, Display, Formatter, Write as _},
    net::{SocketAddr, SocketAddrV4},
};

/// `255.255.255.255:65535`
const LONGEST_IPV4: usize = 21;

/// An address and a port, as the standard library writes them: IPv4 in a tenth of the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint(pub(super) SocketAddr);

impl Endpoint {
    /// Adds it to `text`.
    pub(super) fn push_to(self, text: &mut String) {
        match self.0 {
            SocketAddr::V4(address) => {
                let mut bytes = [0; LONGEST_IPV4];
                text.push_str(ipv4(&mut bytes, address));
            }
            SocketAddr::V6(address) => {
                // Writing to a String cannot fail.
                let _ = write!(text, "{address}");
            }
        }
    }
}

impl Display for Endpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            SocketAddr::V4(address) => f.pad(ipv4(&mut [0; LONGEST_IPV4], address)),
            SocketAddr::V6(address) => address.fmt(f),
        }
    }
}

/// An IPv4 address and a port, written into `bytes`.
fn ipv4(bytes: &mut [u8; LONGEST_IPV4], address: SocketAddrV4) -> &str {
    let mut length = 0;
    for (octet, end) in address.ip().octets().into_iter().zip(b"...:") {
        let (digits, count) = OCTETS[usize::from(octet)];
        // As many as there can be: what follows takes the place of those that there are not.
        bytes[length..length + 3].copy_from_slice(&digits);
        bytes[length + count] = *end;
        length += count + 1;
    }
    let mut port = itoa::Buffer::new();
    let port = port.format(address.port()).as_bytes();
    bytes[length..length + port.len()].copy_from_slice(port);
    length += port.len();
    // Digits, points and a colon are never refused.
    str::from_utf8(&bytes[..length]).unwrap_or_default()
}

/// The digits of each octet, and how many they are.
static OCTETS: [([u8; 3], usize); 256] = {
    let mut octets = [([0; 3], 0); 256];
    let mut octet: u8 = 0;
    loop {
        let digits = [
            b'0' + octet / 100,
            b'0' + octet / 10 % 10,
            b'0' + octet % 10,
        ];
        octets[octet as usize] = match octet {
            0..10 => ([digits[2], 0, 0], 1),
            10..100 => ([digits[1], digits[2], 0], 2),
            100.. => (digits, 3),
        };
        if octet == u8::MAX {
            break;
        }
        octet += 1;
    }
    octets
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_standard_library_writes() {
        for text in [
            "0.0.0.0:0",
            "9.10.99.100:9",
            "255.255.255.255:65535",
            "127.0.0.1:8000",
            "[::1]:22",
            "[::ffff:10.0.0.1]:443",
            "[fe80::1%3]:1",
        ] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Endpoint(address).to_string(), address.to_string());
            let mut pushed = "at ".to_owned();
            Endpoint(address).push_to(&mut pushed);
            assert_eq!(pushed, format!("at {address}"));
            let (padded, expected) = (
                format!("{:<30}|{:>30}", Endpoint(address), Endpoint(address)),
                format!("{address:<30}|{address:>30}"),
            );
            assert_eq!(padded, expected);
        }
    }
}
