//! Who closes, how, and who is left with TIME_WAIT.

mod clients;
mod exits;
mod resets;
mod who_first;

use super::{EADDRINUSE, SUCCEEDS};
use crate::lab::{actor::Received, experiment::Experiment};

pub(super) const ALL: &[Experiment] = &[exits::A2, clients::D1, who_first::D2, resets::K17];

/// What recv() returned, as a reading shows it.
fn in_words(received: Received) -> String {
    match received {
        Received::Data(bytes) => format!("{bytes} bytes"),
        Received::Fin => "FIN".to_owned(),
        Received::Refused(errno) => errno.to_string(),
    }
}
