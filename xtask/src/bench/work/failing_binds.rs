//! Owns the workload of calls that fail: bind() to a port that another socket listens on.

use std::{
    io,
    net::{SocketAddrV4, TcpListener},
};

use anyhow::{Context as _, Result, bail};

use super::{FIRST_PORT, Ready, churn};
use crate::bench::{
    stage::{Side, Stage},
    sys,
};

/// The socket in the way.
pub(in crate::bench) struct FailingBinds<'a> {
    stage: &'a Stage,
    _listener: Vec<TcpListener>,
}

impl<'a> FailingBinds<'a> {
    /// Listens.
    pub(super) fn prepare(stage: &'a Stage) -> Result<Self> {
        Ok(Self {
            stage,
            _listener: churn::listen(stage, FIRST_PORT..FIRST_PORT + 1)?,
        })
    }

    /// One driver's share.
    pub(super) fn drive(&self, times: u32, ready: Ready<'_>) -> Result<()> {
        let entered = self.stage.enter(Side::Server);
        let socket = sys::socket(libc::SOCK_STREAM);
        ready();
        entered?;
        let socket = socket?;
        let address = SocketAddrV4::new(self.stage.address(), FIRST_PORT);
        for _ in 0..times {
            match sys::bind(&socket, address) {
                Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {}
                Err(error) => {
                    return Err::<(), io::Error>(error).context("bind() failed otherwise");
                }
                Ok(()) => bail!("bind() did not fail, although another socket listens there"),
            }
        }
        Ok(())
    }
}
