//! How values are written: addresses, states, errnos, times, numbers, options, and the words of findings.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tcptrace_model::{
    CloseCause, CloseSequence, TcpState, TimeWaitEnd,
    conflict::{Remedy, Rule},
};

use super::super::{
    fault::Fault,
    program::{Kind, Vocabulary},
    words::{Line, Word},
};
use crate::{
    lab::{
        actor::Options,
        value::{Called, Errno, Value},
    },
    render::names,
};

/// Units of time, in ns, the longer name first where one ends with the other.
const UNITS: [(&str, u64); 5] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
];
const OPTIONS: [&str; 7] = [
    "SO_REUSEADDR",
    "SO_REUSEPORT",
    "SO_LINGER",
    "TCP_LINGER2",
    "IPV6_V6ONLY",
    "IP_FREEBIND",
    "IP_BIND_ADDRESS_NO_PORT",
];

/// A value of this kind.
pub(super) fn value(kind: Kind, line: &mut Line<'_>) -> Result<Value, Fault> {
    let word = line.need(what(kind))?;
    let text = word.text;
    Ok(match kind {
        Kind::Call => called(&word, &[])?,
        Kind::Received => match text {
            "data" | "fin" => Value::from(text),
            _ => called(&word, &["data", "fin"])?,
        },
        Kind::State => state(&word)?.into(),
        Kind::States => {
            let mut states = vec![state(&word)?];
            while line.eat(">") {
                states.push(state(&line.need("a state")?)?);
            }
            states.into()
        }
        Kind::Errno if text == "none" => Value::from(text),
        Kind::Errno => errno(&word, &["none"])?.into(),
        Kind::Word(vocabulary) => {
            let known = vocabulary.words();
            if !known.contains(&text) {
                let wrong = format!("{text} is no {}", vocabulary.name());
                return Err(Fault::new(word.at, wrong).meant(text, known));
            }
            Value::from(text)
        }
        Kind::Actor | Kind::Text => Value::from(text),
        Kind::Time => time(&word)?.into(),
        Kind::Count => number::<u64>(&word, "a number")?.into(),
        Kind::Fact => match text {
            "yes" => true.into(),
            "no" => false.into(),
            _ => {
                return Err(Fault::new(word.at, format!("{text} is neither yes nor no"))
                    .rather("yes or no"));
            }
        },
    })
}

/// What a value of this kind is called.
pub(super) const fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::Call => "a result: `ok`, or an errno such as EADDRINUSE",
        Kind::Received => "what is read: `data`, `fin`, or an errno",
        Kind::State | Kind::States => "a state such as TIME_WAIT",
        Kind::Errno => "an errno, or `none`",
        Kind::Word(_) => "a word",
        Kind::Actor => "the name of an actor",
        Kind::Text => "a text",
        Kind::Time => "a time such as 60s",
        Kind::Count => "a number",
        Kind::Fact => "`yes` or `no`",
    }
}

impl Vocabulary {
    fn words(self) -> Vec<&'static str> {
        match self {
            Self::Close => CloseSequence::ALL.iter().map(|one| one.name()).collect(),
            Self::Cause => CloseCause::ALL.iter().map(|one| one.name()).collect(),
            Self::ClosedFirst => vec!["local", "remote", "both", "none"],
            Self::Reset => vec!["sent", "received", "none"],
            Self::End => TimeWaitEnd::ALL.iter().map(|one| one.name()).collect(),
            Self::Rule => Rule::ALL.iter().map(|one| one.name()).collect(),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Cause => "cause",
            Self::ClosedFirst => "closed_first",
            Self::Reset => "reset",
            Self::End => "end",
            Self::Rule => "rule",
        }
    }
}

/// The name of a remedy.
pub(super) fn remedy(word: &Word<'_>) -> Result<&'static str, Fault> {
    let known = remedies();
    let found = known.iter().find(|one| **one == word.text);
    found.copied().ok_or_else(|| {
        Fault::new(
            word.at.clone(),
            format!("no remedy is called {}", word.text),
        )
        .meant(word.text, known)
    })
}

/// The names of all remedies.
fn remedies() -> [&'static str; 18] {
    let any = IpAddr::from([0, 0, 0, 0]);
    [
        Remedy::ReuseaddrOnNew,
        Remedy::ReuseaddrOnBoth,
        Remedy::ReuseportOnNew,
        Remedy::ReuseportOnBoth,
        Remedy::V6onlyOnNew,
        Remedy::OtherAddress(any),
        Remedy::Wait,
        Remedy::CloseHolders(Vec::new()),
        Remedy::Freebind,
        Remedy::NonlocalBind,
        Remedy::Capability,
        Remedy::UnprivilegedPortStart(0),
        Remedy::WiderPortRange,
        Remedy::OtherDestination,
        Remedy::TcpTwReuse,
        Remedy::AutobindReuse,
        Remedy::NewSocket,
        Remedy::ClearV6only,
    ]
    .map(|remedy| remedy.name())
}

fn called(word: &Word<'_>, others: &[&'static str]) -> Result<Value, Fault> {
    match word.text {
        // The second is what reports say.
        "ok" | "succeeds" => Ok(Called::Ok(()).into()),
        _ => {
            let others: Vec<&str> = others.iter().copied().chain(["ok"]).collect();
            Ok(errno(word, &others)?.into())
        }
    }
}

/// An errno; `others` may stand in its place.
fn errno(word: &Word<'_>, others: &[&'static str]) -> Result<Errno, Fault> {
    names::error_number(word.text).map(Errno).ok_or_else(|| {
        let fault = Fault::new(word.at.clone(), format!("no errno is called {}", word.text));
        let other = others.join(", ");
        let known = names::errors().chain(others.iter().copied());
        // All of them are too many to list.
        match fault.clone().meant(word.text, known) {
            told if word.text.starts_with('E') || word.text.starts_with('e') => told,
            _ => fault.rather(format!("{other}, or an errno such as EADDRINUSE")),
        }
    })
}

/// A state, by the kernel's name.
pub(super) fn state(word: &Word<'_>) -> Result<TcpState, Fault> {
    let found = TcpState::ALL.iter().find(|state| state.name() == word.text);
    found.copied().ok_or_else(|| {
        Fault::new(word.at.clone(), format!("no state is called {}", word.text))
            .meant(word.text, TcpState::ALL.iter().map(|state| state.name()))
    })
}

/// A number.
pub(super) fn number<N: std::str::FromStr>(word: &Word<'_>, what: &str) -> Result<N, Fault> {
    word.text
        .parse()
        .map_err(|_| Fault::new(word.at.clone(), format!("{} is not {what}", word.text)))
}

/// A port that a socket can have.
pub(super) fn port(line: &mut Line<'_>) -> Result<u16, Fault> {
    let word = line.need("a port")?;
    let port = number(&word, "a port: 1 to 65535")?;
    if port == 0 {
        return Err(Fault::new(word.at, "no socket has port 0").rather("1 to 65535"));
    }
    Ok(port)
}

/// A time with its unit.
pub(super) fn time(word: &Word<'_>) -> Result<Duration, Fault> {
    let digits = word
        .text
        .trim_end_matches(|one: char| one.is_ascii_alphabetic());
    let unit = &word.text[digits.len()..];
    let unit = UNITS.iter().find(|(name, _)| *name == unit);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let decimals = u32::try_from(part.len()).ok().filter(|count| *count <= 9);
    let ns = unit.zip(decimals).and_then(|((_, unit), decimals)| {
        let whole: u64 = whole.parse().ok()?;
        let part: u64 = part.parse().ok()?;
        whole
            .checked_mul(*unit)?
            .checked_add(part.checked_mul(*unit)? / 10_u64.pow(decimals))
    });
    ns.map(Duration::from_nanos).ok_or_else(|| {
        Fault::new(word.at.clone(), format!("{} is not a time", word.text))
            .rather("such as 60s, 1.5s, 200ms, 2min")
    })
}

/// An address with a port.
pub(super) fn socket_address(word: &Word<'_>) -> Result<SocketAddr, Fault> {
    word.text.parse().map_err(|_| {
        let fault = Fault::new(
            word.at.clone(),
            format!("{} is not an address with a port", word.text),
        );
        if let Ok(address) = word.text.parse::<IpAddr>() {
            return fault.rather(match address {
                IpAddr::V4(address) => format!("such as {address}:8000"),
                // The last part of it may be meant to be the port.
                IpAddr::V6(_) => "an IPv6 address is in brackets: [::1]:8000".to_owned(),
            });
        }
        match word.text.rsplit_once(':') {
            Some((host, port))
                if host.parse::<IpAddr>().is_ok() && port.parse::<u16>().is_err() =>
            {
                fault.rather("a port is a number from 0 to 65535")
            }
            _ => fault.rather("such as 127.0.0.1:8000 or [::1]:8000; names are not looked up"),
        }
    })
}

/// Options of a socket, at least one.
pub(super) fn options(line: &mut Line<'_>) -> Result<Options, Fault> {
    let mut options = Options::NONE;
    let first = line.need("an option such as SO_REUSEADDR")?;
    option(&first, &mut options)?;
    while let Some(word) = line.peek()
        && word.text.contains('_')
        && word.text.starts_with(|one: char| one.is_ascii_uppercase())
    {
        let word = word.clone();
        option(&word, &mut options)?;
        line.take();
    }
    Ok(options)
}

fn option(word: &Word<'_>, options: &mut Options) -> Result<(), Fault> {
    let (name, value) = match word.text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word.text, None),
    };
    let wrong = |right: &str| {
        let text = word.text;
        Err(Fault::new(word.at.clone(), format!("{text} cannot be set")).rather(right))
    };
    let seconds = |value: &str| {
        let number = value.strip_suffix('s').unwrap_or(value);
        number.parse::<i32>().ok()
    };
    let switch = match name {
        "SO_REUSEADDR" => &mut options.reuseaddr,
        "SO_REUSEPORT" => &mut options.reuseport,
        "IPV6_V6ONLY" => &mut options.v6only,
        "IP_FREEBIND" => &mut options.freebind,
        "IP_BIND_ADDRESS_NO_PORT" => &mut options.bind_address_no_port,
        "SO_LINGER" => {
            let time = value
                .and_then(seconds)
                .and_then(|time| time.try_into().ok());
            options.linger = time;
            return match time {
                Some(_) => Ok(()),
                None => wrong("it has a time: SO_LINGER=0s"),
            };
        }
        "TCP_LINGER2" => {
            options.linger2 = value.and_then(seconds);
            return match options.linger2 {
                Some(_) => Ok(()),
                None => wrong("it has a time: TCP_LINGER2=3s"),
            };
        }
        _ => {
            return Err(
                Fault::new(word.at.clone(), format!("no option is called {name}"))
                    .meant(name, OPTIONS),
            );
        }
    };
    *switch = Some(match value {
        None | Some("1") => true,
        Some("0") => false,
        Some(_) => return wrong("it is 0 or 1"),
    });
    Ok(())
}
