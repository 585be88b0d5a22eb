//! What is measured when a script is played.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tcptrace_model::{
    CallFailed, ClosedFirst, Connection, Direction, HolderFound, Process, TcpState, TimeWait,
};

use super::{
    super::program::{OfEnd, OfFailure, OfHolder, Quantity},
    Held, Player,
};
use crate::lab::{
    reading::Source,
    stage::{Stage, comm},
    value::{Errno, Value},
};

/// What the trace does not know.
const UNKNOWN: &str = "unknown";
/// What there is not.
const NONE: &str = "none";

impl Player<'_> {
    /// Measures it, and says how.
    pub(super) fn measure(
        &mut self,
        quantity: &Quantity,
        stage: &mut Stage,
    ) -> Result<(Value, Source)> {
        Ok(match quantity {
            Quantity::OfEnd(socket, what) => self.of_end(*socket, *what, stage)?,
            Quantity::Port(socket) => {
                let port = self.socket(*socket)?.local().port();
                (u64::from(port).into(), Source::Call)
            }
            Quantity::Address(socket) => {
                let address = self.socket(*socket)?.local().ip();
                (address.to_string().into(), Source::Call)
            }
            Quantity::Size(socket) => match &self.sockets[*socket] {
                Some(Held::Many(many)) => (u64::from(many.count).into(), Source::Call),
                Some(Held::One(_)) | None => {
                    return None.context("these sockets have not been opened");
                }
            },
            Quantity::OfFailure(what) => {
                let failed = self.failure(stage)?;
                let value = match what {
                    OfFailure::Rule => failed.rule.name().into(),
                    OfFailure::Holders => (failed.blocking_total as u64).into(),
                };
                (value, Source::Finding)
            }
            Quantity::OfHolder(what) => {
                let failed = self.failure(stage)?;
                (of_holder(&failed, *what), Source::Finding)
            }
            Quantity::Remedy(name) => {
                let failed = self.failure(stage)?;
                let helps = failed.remedies.iter().any(|remedy| remedy.name() == *name);
                (helps.into(), Source::Finding)
            }
            Quantity::Sockets { port, state } => {
                (stage.count(*port, *state)?.into(), Source::SockDiag)
            }
            Quantity::Counter { group, name } => {
                (stage.counter(group, name)?.into(), Source::Counter)
            }
            Quantity::Sysctl(name) => {
                let value = stage.sysctl(name)?;
                (
                    value.unwrap_or_else(|| NONE.to_owned()).into(),
                    Source::Sysctl,
                )
            }
        })
    }

    fn of_end(&mut self, socket: usize, what: OfEnd, stage: &mut Stage) -> Result<(Value, Source)> {
        let tuple = self.tuple(socket)?;
        match what {
            OfEnd::State => {
                let found = stage.state(tuple)?;
                let now = found.map_or(TcpState::Close, |found| found.state);
                Ok((now.into(), Source::SockDiag))
            }
            OfEnd::Left => {
                let left = stage.state(tuple)?.and_then(|found| found.minisocket_left);
                Ok((
                    left.map_or_else(|| NONE.into(), Value::from),
                    Source::SockDiag,
                ))
            }
            OfEnd::Timeout => {
                let entered = stage.time_wait_entered(tuple)?;
                Ok((time(Some(entered.timeout_ns)), Source::Finding))
            }
            OfEnd::FinWait2 => {
                let found = self.time_wait(socket, stage)?;
                Ok((time(found.fin_wait2_ns), Source::Finding))
            }
            OfEnd::TimeWait => {
                let found = self.time_wait(socket, stage)?;
                Ok((time(found.time_wait_ns), Source::Finding))
            }
            OfEnd::End => {
                let found = self.time_wait(socket, stage)?;
                Ok((found.end.name().into(), Source::Finding))
            }
            OfEnd::States
            | OfEnd::Close
            | OfEnd::Cause
            | OfEnd::ClosedFirst
            | OfEnd::Owner
            | OfEnd::ClosedBy
            | OfEnd::Error
            | OfEnd::Reset
            | OfEnd::Established
            | OfEnd::HalfClosed => {
                let found = stage.connection(tuple)?;
                Ok((of_connection(&found, what), Source::Finding))
            }
        }
    }

    /// What the trace tells of the end of its minisocket; the report tells it once.
    fn time_wait(&mut self, socket: usize, stage: &mut Stage) -> Result<Arc<TimeWait>> {
        if let Some(told) = self.time_waits.get(&socket) {
            return Ok(Arc::clone(told));
        }
        let told = Arc::new(stage.time_wait(self.tuple(socket)?)?);
        self.time_waits.insert(socket, Arc::clone(&told));
        Ok(told)
    }

    /// What the trace tells of the last call that failed; the report tells it once.
    fn failure(&mut self, stage: &mut Stage) -> Result<Arc<CallFailed>> {
        let last = self
            .last_failure
            .as_mut()
            .context("no bind, listen or connect has failed before this line")?;
        if let Some(told) = &last.told {
            return Ok(Arc::clone(told));
        }
        let failed = last.failed;
        let nth = self.failures.get(&failed).copied().unwrap_or(1);
        let errno = Errno(failed.errno);
        let told = Arc::new(stage.nth_call_failed(failed.call, failed.port, errno, nth)?);
        last.told = Some(Arc::clone(&told));
        Ok(told)
    }
}

/// Only for what is of a connection that has ended.
fn of_connection(found: &Connection, what: OfEnd) -> Value {
    match what {
        OfEnd::States => {
            let spans = found.states.iter().map(|span| span.state);
            // It was the transition to CLOSE that told of it.
            let states: Vec<TcpState> = spans.chain([TcpState::Close]).collect();
            states.into()
        }
        OfEnd::Close => found.close.name().into(),
        OfEnd::Cause => found.cause.name().into(),
        OfEnd::ClosedFirst => match found.closed_first {
            Some(ClosedFirst::Local) => "local",
            Some(ClosedFirst::Remote) => "remote",
            Some(ClosedFirst::Both) => "both",
            None => NONE,
        }
        .into(),
        OfEnd::Owner => comm(found.owner.as_ref()).into(),
        OfEnd::ClosedBy => process(found.closed_by.as_ref()).into(),
        OfEnd::Error => match found.error {
            0 => NONE.into(),
            errno => Errno(errno).into(),
        },
        OfEnd::Reset => match found.reset.map(|reset| reset.direction) {
            Some(Direction::Sent) => "sent",
            Some(Direction::Received) => "received",
            None => NONE,
        }
        .into(),
        OfEnd::Established => time(found.established_ns),
        OfEnd::HalfClosed => time(found.half_closed_ns),
        OfEnd::State
        | OfEnd::Left
        | OfEnd::FinWait2
        | OfEnd::TimeWait
        | OfEnd::Timeout
        | OfEnd::End => UNKNOWN.into(),
    }
}

fn of_holder(failed: &CallFailed, what: OfHolder) -> Value {
    let Some(found) = failed.holders.iter().find(|holder| holder.blocks) else {
        return NONE.into();
    };
    let HolderFound {
        holder,
        owner,
        frees_at_ns,
        ..
    } = found;
    let fact = |fact: Option<bool>| fact.map_or_else(|| UNKNOWN.into(), Value::from);
    match what {
        OfHolder::State => holder.state.into(),
        OfHolder::Owner => comm(owner.as_ref()).into(),
        OfHolder::Left => match frees_at_ns {
            Some(frees_ns) => time(Some(frees_ns.saturating_sub(failed.call.ts_ns))),
            None => NONE.into(),
        },
        OfHolder::Reuseaddr => fact(holder.reuseaddr),
        OfHolder::Reuseport => fact(holder.reuseport),
        OfHolder::Address => holder.local.ip().to_string().into(),
    }
}

fn process(process: Option<&Process>) -> String {
    process.map_or_else(
        || UNKNOWN.to_owned(),
        |process| String::from_utf8_lossy(process.comm.as_bytes()).into_owned(),
    )
}

fn time(ns: Option<u64>) -> Value {
    ns.map_or_else(
        || UNKNOWN.into(),
        |ns| Value::from(Duration::from_nanos(ns)),
    )
}
