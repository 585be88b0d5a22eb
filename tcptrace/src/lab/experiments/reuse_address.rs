//! SO_REUSEADDR: on which of the two sockets, on which states, and what it does not depend on.

use crate::lab::experiment::Experiment;

pub(super) const ALL: &[Experiment] = &[];
