//! The scripted peer's wire: a TUN device in the stage's namespace, whose segments become steps of the account.

use std::time::Duration;

use anyhow::Result;

use super::Stage;
use crate::lab::{
    limits::{PATIENCE, Skip},
    log::Step,
    wire::{Device, Unavailable},
};

/// A wire, and when it was there.
pub(super) struct Wire {
    device: Device,
    /// Since the beginning of the experiment.
    opened: Duration,
}

impl Stage {
    /// Opens the wire to the scripted peer: one at a time, and it stays until the experiment is over. Every
    /// segment on it becomes a step of the account.
    ///
    /// # Errors
    /// [`Skip`] where there are no TUN devices.
    pub fn wire(&mut self) -> Result<Device> {
        let device =
            Device::open(PATIENCE).map_err(|error| match error.downcast_ref::<Unavailable>() {
                Some(unavailable) => Skip(unavailable.to_string()).into(),
                None => error,
            })?;
        // The device counts from the end of its making, which takes milliseconds.
        let opened = self.log.now();
        self.wires.push(Wire {
            device: device.clone(),
            opened,
        });
        Ok(device)
    }
}

/// All steps, with the segments of the wires among them, in the order of time.
pub(super) fn with_segments(mut steps: Vec<Step>, wires: &[Wire]) -> Vec<Step> {
    for Wire { device, opened } in wires {
        // A device that is gone has nothing more to tell.
        let log = device.log().unwrap_or_default();
        let several = log
            .entries
            .windows(2)
            .any(|pair| pair[0].segment.conversation != pair[1].segment.conversation);
        steps.extend(log.entries.iter().map(|logged| Step {
            after: *opened + logged.at,
            what: if several {
                format!("{:#}", logged.segment)
            } else {
                logged.segment.to_string()
            },
        }));
    }
    steps.sort_by_key(|step| step.after);
    steps
}
