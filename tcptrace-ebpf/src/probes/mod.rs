//! One file per family of hooks.

mod set_state;
