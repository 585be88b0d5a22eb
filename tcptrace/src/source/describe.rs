//! Owns what a trace says of itself before it begins.

use anyhow::Error;

use super::live::Live;
use crate::{
    failure::Failure,
    host::{clock, kernel_version::KernelVersion, netns::Namespace, sysctl},
    render::Start,
};

/// What `live` begins with now, in `netns` (that of the calling thread if there is none).
///
/// # Errors
/// When the kernel does not say which one it is.
pub fn start(live: &Live, netns: Option<Namespace>) -> Result<Start, Failure> {
    Ok(Start {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ts_ns: clock::boottime_ns(),
        kernel: KernelVersion::running().map_err(Error::from)?.release,
        hz: clock::hz().ok(),
        backends: live
            .backends()
            .into_iter()
            .map(|(need, backend)| (need.to_owned(), backend.to_owned()))
            .collect(),
        degraded: live.degraded().to_vec(),
        sysctls: sysctl::read_all(netns.as_ref()),
        netns: netns
            .or_else(|| Namespace::own().ok())
            .map(|namespace| namespace.inode),
        clock_offset_ns: clock::wall_offset_ns(),
    })
}
