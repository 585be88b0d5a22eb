//! SO_REUSEADDR: on which of the two sockets, on which states, and what it does not depend on.

mod addresses;
mod ignored;
mod late;
mod matrix;
mod old_and_new;
mod timestamps;

use super::{EADDRINUSE, SUCCEEDS};
use crate::lab::{experiment::Experiment, value::Called};

pub(super) const ALL: &[Experiment] = &[
    matrix::A5,
    addresses::A6,
    timestamps::D5,
    ignored::D6,
    matrix::K3,
    matrix::K4,
    late::K8,
];

const REFUSED: Called = Err(EADDRINUSE);
