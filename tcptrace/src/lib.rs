//! tcptrace shows what the Linux kernel really does when TCP connections close.
//!
//! One line to keep in mind: kernel hooks → records → ring buffer → [`bpf::decode`] →
//! [`tcptrace_model::Input`] → [`tcptrace_model::Tracker`] → [`tcptrace_model::Finding`] →
//! [`render`].

pub mod bpf;
pub mod cli;
pub mod failure;
pub mod host;
pub mod lab;
pub mod record;
pub mod render;
pub mod source;
