//! Owns the words of the command line: what a port, a state, a size, a time may look like.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    time::Duration,
};

use tcptrace_model::TcpState;

/// Smallest and largest ring buffer, in bytes.
const BUFFER_SIZES: RangeInclusive<u64> = 4096..=1 << 30;

/// A port or a range of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports(pub(super) RangeInclusive<u16>);

/// `80` or `8000-8010`.
pub(super) fn ports(word: &str) -> Result<Ports, String> {
    let port = |number: &str| {
        let number = number.trim();
        let parsed: u64 = number.parse().map_err(|_| {
            format!("{number:?} is no port: a port is a number from 1 to 65535, a range looks like 8000-8010")
        })?;
        u16::try_from(parsed)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("{parsed} is no port: ports go from 1 to 65535"))
    };
    let Some((first, last)) = word.split_once('-') else {
        return port(word).map(|port| Ports(port..=port));
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!(
            "the range begins at {first} and ends at {last}, before it"
        ));
    }
    Ok(Ports(first..=last))
}

/// What would be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `None` for any address, of both families.
    pub(super) address: Option<IpAddr>,
    /// The interface that a link-local address belongs to, by name or index.
    pub(super) zone: Option<String>,
    /// 0 for one that the kernel chooses.
    pub(super) port: u16,
}

/// `8000`, `127.0.0.1:8000`, `[::1]:8000` or `[fe80::1%eth0]:8000`.
pub(super) fn place(word: &str) -> Result<Place, String> {
    let looks = "it looks like 8000, 127.0.0.1:8000 or [::1]:8000";
    let (address, number) = match word.rsplit_once(':') {
        None => (None, word),
        Some((address, number)) => (Some(address), number),
    };
    let port = || {
        number
            .parse()
            .map_err(|_| format!("{number:?} is no port, which goes from 0 to 65535; {looks}"))
    };
    let Some(address) = address else {
        return Ok(Place {
            address: None,
            zone: None,
            port: port()?,
        });
    };
    let no_address = || format!("{address:?} is no address (names are not looked up); {looks}");
    let (address, zone) = match address.strip_prefix('[') {
        None => (
            address
                .parse::<Ipv4Addr>()
                .map_err(|_| no_address())?
                .into(),
            None,
        ),
        Some(rest) => {
            let inner = rest.strip_suffix(']').ok_or_else(no_address)?;
            let (inner, zone) = match inner.split_once('%') {
                Some((inner, zone)) => (inner, Some(zone.to_owned())),
                None => (inner, None),
            };
            let address = inner.parse::<Ipv6Addr>().map_err(|_| no_address())?;
            (IpAddr::from(address), zone)
        }
    };
    Ok(Place {
        address: Some(address),
        zone,
        port: port()?,
    })
}

/// How long a connection may stay in a passing state before it is told; `None` for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StuckAfter(pub(super) Option<Duration>);

/// A state in the kernel's spelling (`fin_wait1`) or that of ss (`fin-wait-1`), in any case.
pub(super) fn state(word: &str) -> Result<TcpState, String> {
    let plain = |name: &str| name.to_lowercase().replace(['_', '-'], "");
    let wanted = match plain(word).as_str() {
        // What ss says for CLOSE and LISTEN.
        "closed" | "unconnected" => "close".to_owned(),
        "listening" => "listen".to_owned(),
        other => other.to_owned(),
    };
    TcpState::ALL
        .into_iter()
        .find(|state| plain(state.name()) == wanted)
        .ok_or_else(|| {
            let names: Vec<String> = TcpState::ALL
                .iter()
                .map(|state| state.name().to_lowercase())
                .collect();
            format!(
                "{word:?} is no TCP state; the states are {}",
                names.join(", ")
            )
        })
}

/// A time to run for: see [`time`], not 0.
pub(super) fn duration(word: &str) -> Result<Duration, String> {
    time(word)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| {
            format!("{word:?} is no time to run for; it looks like 10, 0.5, 500ms, 2m or 1h")
        })
}

/// A time to wait for: see [`time`]; `0` or `never` for ever.
pub(super) fn stuck_after(word: &str) -> Result<StuckAfter, String> {
    if word.eq_ignore_ascii_case("never") {
        return Ok(StuckAfter(None));
    }
    time(word)
        .map(|duration| StuckAfter(Some(duration).filter(|duration| !duration.is_zero())))
        .ok_or_else(|| {
            format!(
                "{word:?} is no time to wait for; it looks like 60, 0.5, 500ms, 2m, 1h or never"
            )
        })
}

/// Bytes, or a number with `K`, `M` or `G`: a power of two.
pub(super) fn buffer_size(word: &str) -> Result<u32, String> {
    let (digits, shift) = match word.to_uppercase().strip_suffix(['K', 'M', 'G']) {
        Some(digits) => (
            digits.to_owned(),
            match word.to_uppercase().chars().last() {
                Some('K') => 10,
                Some('M') => 20,
                _ => 30,
            },
        ),
        None => (word.to_owned(), 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| bytes.is_power_of_two() && BUFFER_SIZES.contains(bytes))
        .and_then(|bytes| u32::try_from(bytes).ok())
        .ok_or_else(|| {
            format!("{word:?} is no buffer size; it is a power of two from 4K to 1G, such as 8M")
        })
}

/// Seconds (`10`, `0.5`), or a number with a unit (`500ms`, `2m`, `1h30m`).
fn time(word: &str) -> Option<Duration> {
    if let Ok(seconds) = word.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let duration = word.parse::<jiff::SignedDuration>().ok()?;
    Duration::try_from(duration).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_a_port_and_maybe_an_address() {
        let of = |address: Option<&str>, zone: Option<&str>, port| Place {
            address: address.map(|address| address.parse().unwrap()),
            zone: zone.map(str::to_owned),
            port,
        };
        assert_eq!(place("8000"), Ok(of(None, None, 8000)));
        assert_eq!(place("0"), Ok(of(None, None, 0)));
        assert_eq!(place("10.0.0.1:80"), Ok(of(Some("10.0.0.1"), None, 80)));
        assert_eq!(place("[::1]:80"), Ok(of(Some("::1"), None, 80)));
        assert_eq!(
            place("[fe80::1%eth0]:80"),
            Ok(of(Some("fe80::1"), Some("eth0"), 80))
        );
        for odd in [
            "",
            "x",
            "65536",
            "-1",
            "127.0.0.1",
            "::1",
            "::1:80",
            "[::1]",
            "[::1:80",
            "localhost:80",
            ":80",
            "1.2.3.4:",
        ] {
            assert!(place(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn ports_and_ranges() {
        assert_eq!(ports("80"), Ok(Ports(80..=80)));
        assert_eq!(ports("65535"), Ok(Ports(65_535..=65_535)));
        assert_eq!(ports("8000-8010"), Ok(Ports(8000..=8010)));
        assert!(ports("0").unwrap_err().contains("from 1 to 65535"));
        assert!(ports("99999").unwrap_err().contains("99999"));
        assert!(ports("http").unwrap_err().contains("http"));
        assert!(ports("90-80").unwrap_err().contains("before"));
        assert!(ports("-5").is_err());
    }

    #[test]
    fn states_in_both_spellings() {
        for word in ["fin_wait1", "FIN_WAIT1", "fin-wait-1", "FIN-WAIT-1"] {
            assert_eq!(state(word), Ok(TcpState::FinWait1), "{word}");
        }
        assert_eq!(state("listening"), Ok(TcpState::Listen));
        assert_eq!(state("closed"), Ok(TcpState::Close));
        assert_eq!(state("time-wait"), Ok(TcpState::TimeWait));
        assert!(state("fin_wait3").unwrap_err().contains("fin_wait2"));
    }

    #[test]
    fn times_with_and_without_unit() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for word in ["0", "-1", "-5s", "x", "", "nan", "inf"] {
            assert!(duration(word).is_err(), "{word}");
        }
    }

    #[test]
    fn patience_may_be_endless() {
        let seconds = |seconds| StuckAfter(Some(Duration::from_secs(seconds)));
        assert_eq!(stuck_after("60"), Ok(seconds(60)));
        assert_eq!(stuck_after("2m"), Ok(seconds(120)));
        for word in ["0", "0s", "never", "Never"] {
            assert_eq!(stuck_after(word), Ok(StuckAfter(None)), "{word}");
        }
        for word in ["-1", "-5s", "x", "", "nan", "inf"] {
            assert!(stuck_after(word).is_err(), "{word}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!(buffer_size("4096"), Ok(4096));
        assert_eq!(buffer_size("4K"), Ok(4096));
        assert_eq!(buffer_size("8m"), Ok(8 << 20));
        assert_eq!(buffer_size("1G"), Ok(1 << 30));
        for word in ["2K", "5000", "2G", "0", "M", "-4K", "99999999999G"] {
            assert!(buffer_size(word).is_err(), "{word}");
        }
    }
}
