//! How connections close, segment by segment: with four segments or three, one after the other or at once.

mod crossing;
mod four;
mod one_side;

use crate::lab::experiment::Experiment;

pub(super) const ALL: &[Experiment] = &[four::A3, one_side::C1, crossing::K16];
