//! Who closes, how, and who is left with TIME_WAIT.

use crate::lab::experiment::Experiment;

pub(super) const ALL: &[Experiment] = &[];
