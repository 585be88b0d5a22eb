//! Sockets that are only bound or listen: who may share a port, and what is left of them.

use crate::lab::experiment::Experiment;

pub(super) const ALL: &[Experiment] = &[];
