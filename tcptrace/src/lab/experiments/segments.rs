//! Segments that arrive in TIME_WAIT, from a scripted peer.

use crate::lab::experiment::Experiment;

pub(super) const ALL: &[Experiment] = &[];
