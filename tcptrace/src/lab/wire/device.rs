//! Owns `Device`: a TUN device with the conversations of all its peers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{
    Log, Segment, Version,
    traffic::{PeerId, Ports, Traffic},
    tun::{self, Tun},
};

/// How often a thread looks for a segment that another one may have read.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The way to the remote host of one network namespace, for any number of [`Peer`]s there.
///
/// The device is there as long as a clone of this or a peer on it is, and keeps its namespace there for as
/// long. Clones may be used in several threads.
///
/// The kernel is never held up: what it has sent waits until a peer looks for a segment or sends one, and of
/// more than 500 packets (TUN_READQ_SIZE, include/uapi/linux/if_tun.h, v6.18) the last ones are lost as on any wire.
///
/// [`Peer`]: super::Peer
#[derive(Clone)]
pub struct Device(Arc<Shared>);

struct Shared {
    tun: Tun,
    opened: Instant,
    patience: Duration,
    /// Why there is no IPv6.
    without_v6: Option<String>,
    traffic: Mutex<Traffic>,
}

impl Device {
    /// Makes a device in the network namespace of the calling thread, brings it up and gives the kernel's end
    /// its addresses. `patience` is how long the peers on it wait for what they expect.
    ///
    /// A namespace can have one at a time, as all have the same addresses.
    ///
    /// # Errors
    /// [`Unavailable`] where there are no TUN devices, for want of the driver or of privileges; others where
    /// the new device cannot be given its addresses.
    ///
    /// [`Unavailable`]: super::Unavailable
    pub fn open(patience: Duration) -> Result<Self> {
        let tun = Tun::create()?;
        tun.bring_up()?;
        let without_v6 = tun.add_v6().err().map(|error| format!("{error:#}"));
        Ok(Self(Arc::new(Shared {
            tun,
            opened: Instant::now(),
            patience,
            without_v6,
            traffic: Mutex::default(),
        })))
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.tun.name()
    }

    /// What went over it so far.
    ///
    /// # Errors
    /// When the device cannot be read, since its namespace has lost it.
    pub fn log(&self) -> Result<Log> {
        let mut traffic = self.traffic();
        self.read_all(&mut traffic)?;
        Ok(traffic.log())
    }

    pub(super) fn patience(&self) -> Duration {
        self.0.patience
    }

    /// From now on there is a peer with these ports, which gets what comes from now on.
    pub(super) fn enter(&self, ports: Ports) -> Result<PeerId> {
        match (ports.version, &self.0.without_v6) {
            (Version::V6, Some(why)) => bail!("there is no IPv6 on {}: {why}", self.name()),
            (Version::V4, _) | (Version::V6, None) => {}
        }
        let mut traffic = self.traffic();
        self.read_all(&mut traffic)?;
        Ok(traffic.enter(ports))
    }

    pub(super) fn leave(&self, id: PeerId) {
        self.traffic().leave(id);
    }

    pub(super) fn ports(&self, id: PeerId) -> Option<Ports> {
        self.traffic().ports(id)
    }

    /// Hands the kernel a segment of a peer, and takes in what it answers at once.
    pub(super) fn send(&self, segment: Segment, data: &[u8]) -> Result<()> {
        let packet = segment.encode(data)?;
        let mut traffic = self.traffic();
        // What the kernel had sent before is logged before.
        self.read_all(&mut traffic)?;
        traffic.pass(self.0.opened.elapsed(), segment);
        self.0.tun.write(&packet)?;
        self.read_all(&mut traffic)
    }

    /// The next segment for a peer; `None` if none comes in time.
    pub(super) fn receive(&self, id: PeerId, within: Duration) -> Result<Option<Segment>> {
        let deadline = Instant::now() + within;
        loop {
            {
                let mut traffic = self.traffic();
                self.read_all(&mut traffic)?;
                if let Some(segment) = traffic.next(id) {
                    return Ok(Some(segment));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.0.tun.wait(left.min(LOOK_AGAIN))?;
        }
    }

    /// Takes in all that the kernel has sent.
    fn read_all(&self, traffic: &mut Traffic) -> Result<()> {
        let mut buffer = tun::buffer();
        while let Some(packet) = self.0.tun.read(&mut buffer)? {
            if let Some(segment) = Segment::decode(packet) {
                traffic.pass(self.0.opened.elapsed(), segment);
            }
        }
        Ok(())
    }

    /// A panic elsewhere leaves nothing half done in it.
    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.0
            .traffic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
