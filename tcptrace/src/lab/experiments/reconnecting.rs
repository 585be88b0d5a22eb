//! Clients: what their own TIME_WAIT costs them.

use crate::lab::experiment::Experiment;

pub(super) const ALL: &[Experiment] = &[];
