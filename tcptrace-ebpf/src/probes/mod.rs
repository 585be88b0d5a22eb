//! One file per family of hooks.

mod accept;
mod list_holders;
mod reset;
mod set_state;
mod socket_call;
mod syscalls;
pub(crate) mod time_wait;
mod time_wait_timer;
