//! TIME_WAIT: what begins it, how long each phase lasts, and what ends it, seen by every backend that
//! this kernel has.

mod counts;
mod ends;
mod expected;
mod namespaces;
mod observers;
mod recycled;
mod timers;
mod whole;

pub(crate) use ends::{play_destroyed, play_ends, play_never_entered};
pub(crate) use namespaces::{CONNECTIONS as GONE, play_gone};
pub(crate) use timers::handler;
pub(crate) use whole::{PARTS, play_whole};

use crate::{Needs, Scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        // First, since it takes a minute of waiting, in which the others run.
        Scenario::new("time_wait: its whole time", whole::all).needing(Needs::Peer),
        Scenario::new("time_wait: what ends it", ends::all).needing(Needs::Peer),
        Scenario::new("time_wait: destroyed", ends::destroyed).needing(Needs::SockDestroy),
        Scenario::new("time_wait: never entered", ends::never_entered),
        Scenario::new("time_wait: memory used again", recycled::each_is_itself),
        Scenario::new("time_wait: gone with its namespace", namespaces::gone),
        Scenario::new("time_wait: counted as the kernel counts", counts::equal),
    ]
}
