//! The tracer's JSON lines, read strictly: a field that is missing or of the wrong type is an error.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::event::{Event, State, Step};
use crate::told::{Connection, Entered, Minisocket, Stuck};

/// One line of `kind` "transition".
#[derive(Clone, Debug)]
pub(crate) struct Transition {
    pub(crate) event: Event,
    pub(crate) time: String,
    pub(crate) netns: u32,
    pub(crate) cookie: Option<u64>,
    pub(crate) uid: u32,
    pub(crate) cgroup_id: u64,
    pub(crate) cpu: u32,
    pub(crate) reuseaddr: bool,
    pub(crate) reuseport: bool,
    pub(crate) in_state_ns: Option<u64>,
    pub(crate) current: Task,
}

/// The task that the kernel was running on behalf of, or had interrupted.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) comm: String,
}

/// Everything the tracer printed between its first and its last line.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) transitions: Vec<Transition>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) entered: Vec<Entered>,
    pub(crate) time_waits: Vec<Minisocket>,
    pub(crate) stuck: Vec<Stuck>,
    /// The `call_failed` lines as they are.
    pub(crate) calls_failed: Vec<Value>,
    /// The `call` lines as they are.
    pub(crate) calls: Vec<Value>,
    /// The transitions that `lost` lines tell of, added up.
    pub(crate) lost: u64,
    /// Records of other kinds likewise.
    pub(crate) lost_others: u64,
    /// The `lost` lines themselves, for errors.
    pub(crate) lost_lines: Vec<String>,
    pub(crate) start: Value,
    pub(crate) summary: Value,
}

impl Report {
    /// Reads the whole output of a trace that ended by itself or by a signal.
    pub(crate) fn parse(lines: &[String]) -> Result<Self> {
        let mut report = Self::default();
        for (index, line) in lines.iter().enumerate() {
            let value: Value = serde_json::from_str(line)
                .with_context(|| format!("line {} is not JSON: {line:?}", index + 1))?;
            let kind = text(&value, "kind")?;
            ensure!(
                (kind == "start") == (index == 0),
                "`start` must be the first line and only that; line {} is {line}",
                index + 1
            );
            ensure!(
                (kind == "summary") == (index + 1 == lines.len()),
                "`summary` must be the last of {} lines and only that; line {} is {line}",
                lines.len(),
                index + 1
            );
            match kind {
                "start" => report.start = value,
                "summary" => report.summary = value,
                "transition" => report
                    .transitions
                    .push(transition(&value).with_context(|| format!("in the line {line}"))?),
                "connection" => report.connections.push(
                    Connection::parse(&value).with_context(|| format!("in the line {line}"))?,
                ),
                "time_wait_entered" => report
                    .entered
                    .push(Entered::parse(&value).with_context(|| format!("in the line {line}"))?),
                "time_wait" => report.time_waits.push(
                    Minisocket::parse(&value).with_context(|| format!("in the line {line}"))?,
                ),
                "stuck" => report
                    .stuck
                    .push(Stuck::parse(&value).with_context(|| format!("in the line {line}"))?),
                "call_failed" => report.calls_failed.push(value),
                "call" => report.calls.push(value),
                "lost" => {
                    let records = number(&value, "records")?;
                    if text(&value, "record_kind")? == "transition" {
                        report.lost += records;
                    } else {
                        report.lost_others += records;
                    }
                    report.lost_lines.push(line.clone());
                }
                other => bail!("a line of kind {other:?}, which no document names: {line}"),
            }
        }
        report.check_summary()?;
        Ok(report)
    }

    /// The events alone, for comparison with the kernel's.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.transitions
            .iter()
            .map(|transition| transition.event.clone())
            .collect()
    }

    /// Fails unless the summary counts what the lines tell, each by its word.
    pub(crate) fn check_counts(&self) -> Result<()> {
        let summary = &self.summary;
        for (name, lines) in [
            ("connections", self.connections.len()),
            ("time_waits_entered", self.entered.len()),
            ("stuck", self.stuck.len()),
        ] {
            let counted = number(summary, name)?;
            ensure!(
                counted == lines as u64,
                "summary counts {counted} {name}, but {lines} were told"
            );
        }
        let tally = |words: &mut dyn Iterator<Item = &str>| {
            let mut counts: BTreeMap<String, u64> = BTreeMap::new();
            for word in words {
                *counts.entry(word.to_owned()).or_default() += 1;
            }
            counts
        };
        let connections = self.connections.iter();
        let closes = tally(&mut connections.clone().map(|line| line.close.as_str()));
        let causes = tally(&mut connections.map(|line| line.cause.as_str()));
        let ended = self.time_waits.iter();
        let ended = ended.filter(|line| !line.sure.doubts("trace_ended"));
        let ends = tally(&mut ended.map(|line| line.end.as_str()));
        for (name, told) in [
            ("closes", closes),
            ("causes", causes),
            ("time_wait_ends", ends),
        ] {
            let counted: BTreeMap<String, u64> =
                serde_json::from_value(field(summary, name)?.clone())
                    .with_context(|| format!("{name} in {summary}"))?;
            ensure!(
                counted == told,
                "summary counts the {name} as {counted:?}, but the lines make {told:?}"
            );
        }
        Ok(())
    }

    fn check_summary(&self) -> Result<()> {
        let shown = number(&self.summary, "shown")?;
        let lost = number(&self.summary, "lost")?;
        ensure!(
            shown == self.transitions.len() as u64,
            "summary counts {shown} transitions shown, but {} were printed",
            self.transitions.len()
        );
        ensure!(
            lost == self.lost + self.lost_others,
            "summary counts {lost} lost records, but the lost lines add up to {}",
            self.lost + self.lost_others
        );
        Ok(())
    }
}

fn transition(value: &Value) -> Result<Transition> {
    let ipv6 = match text(value, "family")? {
        "ipv4" => false,
        "ipv6" => true,
        other => bail!("family is {other:?}, not ipv4 or ipv6"),
    };
    let step = Step {
        skaddr: pointer(text(value, "skaddr")?)?,
        ipv6,
        laddr: address(value, "laddr", ipv6)?,
        lport: small(value, "lport")?,
        raddr: address(value, "raddr", ipv6)?,
        rport: small(value, "rport")?,
        old: state(value, "oldstate")?,
        new: state(value, "newstate")?,
    };
    let current = field(value, "current")?;
    Ok(Transition {
        event: Event {
            ts_ns: number(value, "ts_ns")?,
            tid: 0,
            step,
        },
        time: text(value, "time")?.to_owned(),
        netns: small(value, "netns")?,
        cookie: value
            .get("cookie")
            .map(|_| number(value, "cookie"))
            .transpose()?,
        uid: small(value, "uid")?,
        cgroup_id: number(value, "cgroup_id")?,
        cpu: small(value, "cpu")?,
        reuseaddr: flag(value, "reuseaddr")?,
        reuseport: flag(value, "reuseport")?,
        in_state_ns: match field(value, "in_state_ns")? {
            Value::Null => None,
            _ => Some(number(value, "in_state_ns")?),
        },
        current: Task {
            pid: small(current, "pid")?,
            tid: small(current, "tid")?,
            comm: text(current, "comm")?.to_owned(),
        },
    })
}

/// The kernel's address of a socket, as `0x` and sixteen digits or fewer.
fn pointer(text: &str) -> Result<u64> {
    let digits = text
        .strip_prefix("0x")
        .with_context(|| format!("skaddr {text:?} does not begin with 0x"))?;
    u64::from_str_radix(digits, 16).with_context(|| format!("skaddr {text:?} is not hexadecimal"))
}

/// A field that must be an address of this family.
pub(crate) fn address(value: &Value, name: &str, ipv6: bool) -> Result<IpAddr> {
    let written = text(value, name)?;
    let address: IpAddr = written
        .parse()
        .with_context(|| format!("{name} {written:?} is no IP address"))?;
    ensure!(
        address.is_ipv6() == ipv6,
        "{name} {written} does not fit the family of the line"
    );
    Ok(address)
}

fn state(value: &Value, name: &str) -> Result<State> {
    let written = text(value, name)?;
    State::from_name(written).with_context(|| format!("{name} {written:?} is no TCP state"))
}

/// A field that must be there.
pub(crate) fn field<'a>(value: &'a Value, name: &str) -> Result<&'a Value> {
    value
        .get(name)
        .with_context(|| format!("the field {name} is missing in {value}"))
}

/// A field that must be a string.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    field(value, name)?
        .as_str()
        .with_context(|| format!("{name} is not a string in {value}"))
}

/// A field that must be a number from 0 to `u64::MAX`.
pub(crate) fn number(value: &Value, name: &str) -> Result<u64> {
    field(value, name)?
        .as_u64()
        .with_context(|| format!("{name} is not an integer in {value}"))
}

/// A field that must be a number in the range of its type.
pub(crate) fn small<T: TryFrom<u64>>(value: &Value, name: &str) -> Result<T> {
    let wide = number(value, name)?;
    T::try_from(wide)
        .ok()
        .with_context(|| format!("{name} is {wide}: out of its range"))
}

/// A field that must be true or false.
pub(crate) fn flag(value: &Value, name: &str) -> Result<bool> {
    field(value, name)?
        .as_bool()
        .with_context(|| format!("{name} is not true or false in {value}"))
}
