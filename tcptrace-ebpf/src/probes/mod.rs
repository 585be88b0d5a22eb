//! One file per family of hooks.

mod accept;
mod reset;
mod set_state;
pub(crate) mod time_wait;
mod time_wait_timer;
