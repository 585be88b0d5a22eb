//! Sockets that are only bound or listen: who may share a port, and what is left of them.

mod addresses;
mod after_failed_bind;
mod kept_ports;
mod listen_twice;
mod reuse_port;
mod unconnected;

use super::{EACCES, EADDRINUSE, EADDRNOTAVAIL, EINVAL, SUCCEEDS};
use crate::lab::{experiment::Experiment, limits::Skip, stage::Stage};

pub(super) const ALL: &[Experiment] = &[
    listen_twice::K9,
    reuse_port::K10,
    addresses::K11,
    kept_ports::K26,
    unconnected::D3,
    after_failed_bind::D4,
    after_failed_bind::K7,
];

/// A user without privileges: `nobody` nearly everywhere, and it need not exist.
const NOBODY: u32 = 65_534;

/// Fails with a [`Skip`] where the namespace has no IPv6.
fn need_ipv6(stage: &Stage) -> anyhow::Result<()> {
    match stage.sysctl("net.ipv6.conf.lo.disable_ipv6")?.as_deref() {
        Some("0") => Ok(()),
        Some(_) | None => Err(Skip("this kernel has no IPv6, or it is disabled".to_owned()).into()),
    }
}
