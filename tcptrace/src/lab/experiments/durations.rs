//! How long TIME_WAIT and FIN_WAIT2 last, how many there may be, and what ends them early.

use crate::lab::experiment::Experiment;

pub(super) const ALL: &[Experiment] = &[];
