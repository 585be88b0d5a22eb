//! The kernel's rules for bind(), listen() and connect(), row by row.

mod bind_outcomes;
mod bind_overlap;
mod bind_prechecks;
mod connect;
mod explain;
mod listen;
mod port_zero;
mod properties;
mod remedies;
mod scene;
