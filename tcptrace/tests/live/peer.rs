//! The remote host of a test's network namespace, played by the test with the peers of `lab::wire`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tcptrace::lab::wire::{Device, Unavailable, Version};
pub(crate) use tcptrace::lab::wire::{Flags, Odd, Peer};

use crate::sockets::Socket;
use crate::{PATIENCE, netns};

/// The way to the remote host, which is there from when it is first needed.
#[derive(Clone, Default)]
pub(crate) struct Wire(Arc<Mutex<Option<Device>>>);

impl Wire {
    /// A client at `port` of the remote host that has not sent anything yet to `local_port` here.
    pub(crate) fn client(&self, local_port: u16, port: u16) -> Result<Peer> {
        Peer::client(&self.device()?, Version::V4, local_port, port)
    }

    /// A server at `port` of the remote host, before the kernel's SYN.
    pub(crate) fn server(&self, port: u16) -> Result<Peer> {
        Peer::server(&self.device()?, Version::V4, port)
    }

    /// A socket of the kernel that listens for connections of the remote host.
    pub(crate) fn listener(&self, port: u16) -> Result<Socket> {
        // The address is the device's.
        self.device()?;
        let listener = Socket::new(false)?;
        listener.set_reuse_address(true)?;
        listener.bind(Version::V4.local(port))?;
        listener.listen(1)?;
        Ok(listener)
    }

    /// Made in the network namespace of the first thread that asks; the others are in the same one.
    fn device(&self) -> Result<Device> {
        let mut device = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = &*device {
            return Ok(device.clone());
        }
        let new = Device::open(PATIENCE)?;
        *device = Some(new.clone());
        Ok(new)
    }
}

/// Where the kernel's sockets connect to.
pub(crate) fn address(port: u16) -> SocketAddr {
    Version::V4.remote(port)
}

/// Why there can be no remote host on this machine; `None` where there can.
pub(crate) fn obstacle() -> Result<Option<String>> {
    match netns::with_new(|_| Device::open(PATIENCE).map(drop)) {
        Ok(()) => Ok(None),
        Err(error) => match error.downcast_ref::<Unavailable>() {
            Some(unavailable) => Ok(Some(unavailable.to_string())),
            None => Err(error),
        },
    }
}
