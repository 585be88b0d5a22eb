//! Options in words, for the account of what happened.

use std::fmt::Write as _;

use super::protocol::Options;

/// ` with SO_REUSEADDR=1`; nothing when none is set.
pub(super) fn with(options: Options) -> String {
    match words(options) {
        words if words.is_empty() => words,
        words => format!(" with{words}"),
    }
}

/// The options that are set, each after a space.
pub(super) fn words(options: Options) -> String {
    let Options {
        reuseaddr,
        reuseport,
        v6only,
        linger,
        linger2,
        freebind,
        bind_address_no_port,
    } = options;
    // Writing to a String cannot fail.
    let mut words = String::new();
    for (name, on) in [
        ("SO_REUSEADDR", reuseaddr),
        ("SO_REUSEPORT", reuseport),
        ("IPV6_V6ONLY", v6only),
        ("IP_FREEBIND", freebind),
        ("IP_BIND_ADDRESS_NO_PORT", bind_address_no_port),
    ] {
        if let Some(on) = on {
            let _ = write!(words, " {name}={}", u8::from(on));
        }
    }
    if let Some(seconds) = linger {
        let _ = write!(words, " SO_LINGER={seconds}s");
    }
    if let Some(seconds) = linger2 {
        let _ = write!(words, " TCP_LINGER2={seconds}s");
    }
    words
}
