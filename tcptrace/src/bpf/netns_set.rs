//! Owns the set of network namespaces that are wanted, as the programs look it up; it may change while
//! they run.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use aya::maps::{HashMap, MapData, MapError};

/// A handle on the set. It holds the kernel's table open by itself: any thread may change the set, at any
/// time, and once there are no programs left that is merely in vain.
#[derive(Clone)]
pub struct NetnsSet(Arc<Mutex<HashMap<MapData, u32, u8>>>);

impl NetnsSet {
    /// The set that this table is.
    pub(super) fn new(table: HashMap<MapData, u32, u8>) -> Self {
        Self(Arc::new(Mutex::new(table)))
    }

    /// Adds the namespace with this inode number, which may be in the set already. All that happens in
    /// it from now on is recorded.
    ///
    /// # Errors
    /// When [`tcptrace_common::WANTED_NAMESPACES`] are in the set.
    pub fn add(&self, inode: u32) -> anyhow::Result<()> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .insert(inode, 1, 0)
            .with_context(|| format!("cannot trace network namespace {inode}, too"))
    }

    /// Takes the namespace with this inode number out of the set, if it is in it. The kernel gives the
    /// number of a namespace that is gone to a new one, so this is for whoever has added it to do. What
    /// ends with the namespace itself, such as minisockets, is recorded only while it is in the set.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&self, inode: u32) -> anyhow::Result<()> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match table.remove(&inode) {
            Err(error) if !is_absent(&error) => {
                Err(error).with_context(|| format!("cannot stop tracing network namespace {inode}"))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Whether the kernel says that there is no such entry.
fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}
