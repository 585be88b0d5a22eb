//! What a close looks like on the wire: four segments, three, or both FINs at once.

use crate::lab::experiment::Experiment;

pub(super) const ALL: &[Experiment] = &[];
