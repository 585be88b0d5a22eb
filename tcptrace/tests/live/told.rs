//! The lines that tell what transitions amount to: connections, minisockets, stuck states; read as
//! strictly as the transitions.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lines::{address, field, flag, number, small, text};

/// The four addresses and ports of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ends {
    pub(crate) laddr: IpAddr,
    pub(crate) lport: u16,
    pub(crate) raddr: IpAddr,
    pub(crate) rport: u16,
}

/// A process that a line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) pid: u32,
    pub(crate) comm: String,
}

/// An owner, and where it is known from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) process: Named,
    pub(crate) source: String,
}

/// How sure a line is, and what weakens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sure {
    pub(crate) certainty: String,
    pub(crate) doubts: Vec<String>,
}

/// One line of `kind` "connection".
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) ts_ns: u64,
    pub(crate) ends: Ends,
    pub(crate) role: String,
    pub(crate) close: String,
    pub(crate) cause: String,
    pub(crate) signal: Option<u64>,
    pub(crate) exit_status: Option<u64>,
    pub(crate) error: Option<String>,
    pub(crate) reset: Option<Reset>,
    pub(crate) closed_first: Option<String>,
    pub(crate) closed_by: Option<Named>,
    pub(crate) half_closed_ns: Option<u64>,
    pub(crate) states: Vec<Span>,
    pub(crate) established_ns: Option<u64>,
    pub(crate) minisocket: Option<String>,
    pub(crate) never_entered: bool,
    pub(crate) peer: Option<Peer>,
    pub(crate) complete: bool,
    pub(crate) owner: Option<Owner>,
    pub(crate) sure: Sure,
}

/// The RST that ended a connection.
#[derive(Clone, Debug)]
pub(crate) struct Reset {
    pub(crate) direction: String,
    /// The kernel's name for it, where it has one.
    pub(crate) reason: Option<String>,
}

/// A state that a connection went through.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) state: String,
    pub(crate) entered_ns: Option<u64>,
    pub(crate) ns: Option<u64>,
}

/// The other end, on the same host.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) netns: Option<u32>,
    pub(crate) owner: Option<Owner>,
}

/// One line of `kind` "time_wait_entered".
#[derive(Clone, Debug)]
pub(crate) struct Entered {
    pub(crate) ts_ns: u64,
    pub(crate) ends: Ends,
    pub(crate) fin_wait2: bool,
    pub(crate) timeout_ms: u64,
    pub(crate) owner: Option<Owner>,
    pub(crate) sure: Sure,
}

/// One line of `kind` "time_wait".
#[derive(Clone, Debug)]
pub(crate) struct Minisocket {
    pub(crate) ts_ns: u64,
    pub(crate) ends: Ends,
    pub(crate) entered_ns: Option<u64>,
    pub(crate) fin_wait2_ns: Option<u64>,
    pub(crate) time_wait_ns: Option<u64>,
    pub(crate) rearmed: u64,
    pub(crate) rearmed_at_least: bool,
    pub(crate) end: String,
    pub(crate) last_phase: String,
    pub(crate) by: Option<Named>,
    pub(crate) owner: Option<Owner>,
    pub(crate) sure: Sure,
}

/// One line of `kind` "stuck".
#[derive(Clone, Debug)]
pub(crate) struct Stuck {
    pub(crate) ends: Ends,
    pub(crate) state: String,
    pub(crate) for_ns: u64,
    pub(crate) owner: Option<Owner>,
    pub(crate) sure: Sure,
}

impl Connection {
    pub(crate) fn parse(value: &Value) -> Result<Self> {
        Ok(Self {
            ts_ns: number(value, "ts_ns")?,
            ends: Ends::parse(value)?,
            role: word(value, "role")?,
            close: word(value, "close")?,
            cause: word(value, "cause")?,
            signal: where_it_applies(value, "signal")?,
            exit_status: where_it_applies(value, "exit_status")?,
            error: nullable(value, "error", word)?,
            reset: nullable(value, "reset", |value, name| {
                let reset = field(value, name)?;
                number(reset, "ts_ns")?;
                Ok(Reset {
                    direction: word(reset, "direction")?,
                    reason: nullable(reset, "reason", word)?,
                })
            })?,
            closed_first: nullable(value, "closed_first", word)?,
            closed_by: nullable(value, "closed_by", Named::parse)?,
            half_closed_ns: nullable(value, "half_closed_ns", number)?,
            states: list(value, "states")?
                .iter()
                .map(|span| {
                    Ok(Span {
                        state: word(span, "state")?,
                        entered_ns: nullable(span, "entered_ns", number)?,
                        ns: nullable(span, "ns", number)?,
                    })
                })
                .collect::<Result<_>>()?,
            established_ns: nullable(value, "established_ns", number)?,
            minisocket: nullable(value, "minisocket", word)?,
            never_entered: flag(value, "never_entered")?,
            peer: nullable(value, "peer", |value, name| {
                let peer = field(value, name)?;
                text(peer, "skaddr")?;
                Ok(Peer {
                    netns: nullable(peer, "netns", small)?,
                    owner: nullable(peer, "owner", Owner::parse)?,
                })
            })?,
            complete: flag(value, "complete")?,
            owner: nullable(value, "owner", Owner::parse)?,
            sure: Sure::parse(value)?,
        })
    }
}

impl Entered {
    pub(crate) fn parse(value: &Value) -> Result<Self> {
        Ok(Self {
            ts_ns: number(value, "ts_ns")?,
            ends: Ends::parse(value)?,
            fin_wait2: flag(value, "fin_wait2")?,
            timeout_ms: number(value, "timeout_ms")?,
            owner: nullable(value, "owner", Owner::parse)?,
            sure: Sure::parse(value)?,
        })
    }
}

impl Minisocket {
    pub(crate) fn parse(value: &Value) -> Result<Self> {
        Ok(Self {
            ts_ns: number(value, "ts_ns")?,
            ends: Ends::parse(value)?,
            entered_ns: nullable(value, "entered_ns", number)?,
            fin_wait2_ns: nullable(value, "fin_wait2_ns", number)?,
            time_wait_ns: nullable(value, "time_wait_ns", number)?,
            rearmed: number(value, "rearmed")?,
            rearmed_at_least: flag(value, "rearmed_at_least")?,
            end: word(value, "end")?,
            last_phase: word(value, "last_phase")?,
            by: nullable(value, "by", Named::parse)?,
            owner: nullable(value, "owner", Owner::parse)?,
            sure: Sure::parse(value)?,
        })
    }
}

impl Stuck {
    pub(crate) fn parse(value: &Value) -> Result<Self> {
        number(value, "ts_ns")?;
        Ok(Self {
            ends: Ends::parse(value)?,
            state: word(value, "state")?,
            for_ns: number(value, "for_ns")?,
            owner: nullable(value, "owner", Owner::parse)?,
            sure: Sure::parse(value)?,
        })
    }
}

impl Ends {
    fn parse(value: &Value) -> Result<Self> {
        let ipv6 = match text(value, "family")? {
            "ipv4" => false,
            "ipv6" => true,
            other => anyhow::bail!("family is {other:?}, not ipv4 or ipv6"),
        };
        small::<u32>(value, "netns")?;
        Ok(Self {
            laddr: address(value, "laddr", ipv6)?,
            lport: small(value, "lport")?,
            raddr: address(value, "raddr", ipv6)?,
            rport: small(value, "rport")?,
        })
    }

    /// The same connection from its other end.
    pub(crate) fn turned(self) -> Self {
        Self {
            laddr: self.raddr,
            lport: self.rport,
            raddr: self.laddr,
            rport: self.lport,
        }
    }
}

impl Named {
    fn parse(value: &Value, name: &str) -> Result<Self> {
        let process = field(value, name)?;
        Ok(Self {
            pid: small(process, "pid")?,
            comm: word(process, "comm")?,
        })
    }
}

impl Owner {
    fn parse(value: &Value, name: &str) -> Result<Self> {
        Ok(Self {
            process: Named::parse(value, name)?,
            source: word(field(value, name)?, "source")?,
        })
    }
}

impl Sure {
    fn parse(value: &Value) -> Result<Self> {
        let doubts = list(value, "doubts")?.iter().map(|doubt| {
            let doubt = doubt.as_str().context("a doubt that is not a word")?;
            Ok(doubt.to_owned())
        });
        Ok(Self {
            certainty: word(value, "certainty")?,
            doubts: doubts.collect::<Result<_>>()?,
        })
    }

    /// Fails unless nothing weakens it.
    pub(crate) fn is_exact(&self) -> Result<()> {
        ensure!(
            self.certainty == "exact" && self.doubts.is_empty(),
            "it must be exact, but is {}, for {:?}",
            self.certainty,
            self.doubts
        );
        Ok(())
    }

    /// Whether this is among what weakens it.
    pub(crate) fn doubts(&self, what: &str) -> bool {
        self.doubts.iter().any(|doubt| doubt == what)
    }
}

fn word(value: &Value, name: &str) -> Result<String> {
    text(value, name).map(str::to_owned)
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    field(value, name)?
        .as_array()
        .with_context(|| format!("{name} is not a list in {value}"))
}

/// A field that must be there, and may be null.
fn nullable<T>(
    value: &Value,
    name: &str,
    read: impl FnOnce(&Value, &str) -> Result<T>,
) -> Result<Option<T>> {
    match field(value, name)? {
        Value::Null => Ok(None),
        _ => read(value, name).map(Some),
    }
}

/// A number that is there only where it means something.
fn where_it_applies(value: &Value, name: &str) -> Result<Option<u64>> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => number(value, name).map(Some),
    }
}
