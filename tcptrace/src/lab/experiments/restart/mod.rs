//! A server that starts again on the port that it had.

mod client_open;
mod half_a_minute;
mod too_early;
mod whole_port;

use std::time::Duration;

use tcptrace_model::{CallFailed, HolderFound, TcpState};

use super::{EADDRINUSE, EADDRNOTAVAIL, SUCCEEDS};
use crate::lab::{
    experiment::Experiment,
    reading::Source,
    stage::{Stage, comm},
    value::Expected,
};

pub(super) const ALL: &[Experiment] = &[
    too_early::A1,
    client_open::A4,
    whole_port::C2,
    client_open::C5,
    half_a_minute::C6,
];

/// The socket in the way of a call, of which there is to be one, by a reading called `what`; `None` when the
/// trace names none.
fn in_the_way(stage: &mut Stage, failed: &CallFailed, what: &str) -> Option<HolderFound> {
    let mut blocking = failed.holders.iter().filter(|holder| holder.blocks);
    let holder = blocking.next().copied();
    let count = usize::from(holder.is_some()) + blocking.count();
    stage
        .reading(what)
        .expect(1)
        .measured(count as u64, Source::Finding);
    holder
}

/// Reads what is in the way of a server that was killed and has started again: what it left, in this state.
fn read_holder_of_dead(stage: &mut Stage, failed: &CallFailed, was_in: TcpState) {
    let Some(holder) = in_the_way(stage, failed, "sockets in the way") else {
        return;
    };
    stage
        .reading("state of the socket in the way")
        .claim(was_in)
        .measured(holder.holder.state, Source::Finding);
    stage
        .reading("its owner, which is dead")
        .expect("server")
        .measured(comm(holder.owner.as_ref()), Source::Finding);
    stage
        .reading(format!("left of its {}", was_in.name()))
        .expect(most_of_a_minute())
        .measured(left(failed, &holder), Source::Finding);
}

/// How long after a call the timer of the socket in its way runs out; 0 when that is not known.
fn left(failed: &CallFailed, holder: &HolderFound) -> Duration {
    let frees_ns = holder.frees_at_ns.unwrap_or_default();
    Duration::from_nanos(frees_ns.saturating_sub(failed.call.ts_ns))
}

/// What is left of a minute that has begun not long ago: 30 s are for a busy machine.
fn most_of_a_minute() -> Expected {
    Expected::between(Duration::from_secs(30), Duration::from_secs(60))
}
