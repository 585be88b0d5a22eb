//! Segments that arrive in TIME_WAIT, from a scripted peer.

mod last_ack;
mod old_duplicate;
mod overview;
mod rearm;
mod reset;
mod same_pair;
mod syn;

use crate::lab::experiment::Experiment;

pub(super) const ALL: &[Experiment] = &[
    last_ack::B3,
    old_duplicate::B4,
    same_pair::C3,
    overview::D7,
    syn::K14,
    reset::K15,
    rearm::K24,
];
