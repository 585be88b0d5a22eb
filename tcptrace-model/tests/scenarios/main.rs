//! Scenarios for the tracker: what the kernel reports, and what is told of it.

mod aborts;
mod calls;
mod closing;
mod entering;
mod handshakes;
mod lives;
mod losses;
mod owners;
mod proofs;
mod scene;
mod snapshots;
mod stories;
mod stuck;
mod time_wait;
mod twins;
