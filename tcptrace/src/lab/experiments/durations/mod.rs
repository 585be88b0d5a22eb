//! How long TIME_WAIT and FIN_WAIT2 last, how many there may be, and what ends them early.

mod destroyed;
mod fin_timeout;
mod granularity;
mod limit;
mod namespace;
mod pile;
mod setting;
mod two_msl;

use std::time::{Duration, Instant};

use anyhow::Result;
use tcptrace_model::{Finding, TcpState};

use crate::lab::{
    actor::{Actor, Address, Many, Options, Sock, must},
    experiment::Experiment,
    stage::Stage,
    tuple::Tuple,
    value::Expected,
};

pub(super) const ALL: &[Experiment] = &[
    two_msl::A7,
    pile::B1,
    setting::B2,
    fin_timeout::K18,
    limit::K19,
    granularity::K20,
    namespace::K21,
    destroyed::K25,
];

/// Where the server of an experiment listens.
const SERVER: &str = "127.0.0.1:8000";
const PORT: u16 = 8000;
/// `TCP_TIMEWAIT_LEN` of include/net/tcp.h (v6.18).
const TIME_WAIT: Duration = Duration::from_secs(60);
/// How much later than the timer wheel allows a timer of 60 s may run on a busy machine.
const BUSY: Duration = Duration::from_secs(3);
/// How long after an event the trace tells of it, on a busy machine that is emulated.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

/// A connection whose server has closed first and is in TIME_WAIT. The server still had its socket when the
/// client's FIN came, so the minisocket begins with the real TIME_WAIT.
fn server_in_time_wait(stage: &Stage, listener: &Sock<'_>, client: &Actor) -> Result<Tuple> {
    let at_client = client.connected(SERVER, Options::NONE)?;
    let at_server = listener.accept()?;
    must(at_server.shutdown()?, "shutdown()")?;
    stage.await_state(at_server.tuple()?, TcpState::FinWait2)?;
    at_client.close()?;
    stage.await_state(at_server.tuple()?, TcpState::TimeWait)?;
    at_server.close()?;
    at_server.tuple()
}

/// Connections of which the server has sent its FIN and waits for that of the client.
struct HalfClosed {
    at_client: Many,
    at_server: Many,
}

/// Opens `count` connections to `server`, and lets that close its side of each, with its sockets still open.
fn half_closed(
    stage: &Stage,
    listener: &Sock<'_>,
    client: &Actor,
    server: impl Into<Address>,
    count: u32,
) -> Result<HalfClosed> {
    let before = stage.count(PORT, TcpState::FinWait2)?;
    let at_client = client.connect_many(server, Options::NONE, count)?;
    if let Some(errno) = at_client.refused {
        anyhow::bail!("only {} of {count} connections: {errno}", at_client.count);
    }
    let at_server = listener.accept_many(count)?;
    listener.actor().shutdown_many(at_server)?;
    stage.until(format_args!("{count} in FIN_WAIT2"), || {
        let now = stage.count(PORT, TcpState::FinWait2)?;
        Ok((now == before + u64::from(count)).then_some(()))
    })?;
    Ok(HalfClosed {
        at_client,
        at_server,
    })
}

/// What the trace has told of `count` things, or of fewer when no more come within `limit`: a kernel that keeps
/// events from it may have kept one of very many.
fn told<T>(
    stage: &Stage,
    count: u32,
    limit: Duration,
    mut wanted: impl FnMut(&Finding) -> Option<T>,
) -> Result<Vec<T>> {
    let end = Instant::now() + limit;
    stage.until_within(
        limit + TOLD_WITHIN,
        format_args!("the trace to tell"),
        || {
            let told = stage.observed().all(&mut wanted);
            Ok((told.len() >= count as usize || Instant::now() >= end).then_some(told))
        },
    )
}

/// How long a timer of 60 s lasts on this kernel.
fn a_minute(stage: &Stage) -> Expected {
    Expected::between(
        TIME_WAIT,
        TIME_WAIT + stage.kernel().granularity(TIME_WAIT) + BUSY,
    )
}

/// What a timer is set to for `seconds`: read a tick later at most, and counted in ticks.
fn set_to(stage: &Stage, seconds: u64) -> Expected {
    let tick = Duration::from_secs(1) / stage.kernel().hz.max(1);
    let time = Duration::from_secs(seconds);
    Expected::between(time.saturating_sub(2 * tick), time)
}
