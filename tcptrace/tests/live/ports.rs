//! Port numbers for servers: each is handed out once, outside the range of automatic ports.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the kernel's automatic range (32768 and up), above everything well known.
const FIRST: u16 = 10_000;
const BLOCKS: u32 = 20;
const PER_BLOCK: u16 = 1_000;

/// A port that no other test of this run uses.
///
/// The kernel's event does not say which network namespace it comes from, so two runs of this suite
/// on one machine would see each other's traffic: each run takes a block of ports by its process id.
pub(crate) fn next() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    NEXT.get_or_init(|| {
        let block = u16::try_from(std::process::id() % BLOCKS).unwrap_or(0);
        AtomicU16::new(FIRST + block * PER_BLOCK)
    })
    .fetch_add(1, Ordering::Relaxed)
}

/// `count` different ports.
pub(crate) fn several(count: usize) -> Vec<u16> {
    (0..count).map(|_| next()).collect()
}

/// The ports as the tracer's flags take them: `21000,21001`.
pub(crate) fn list(ports: &[u16]) -> String {
    ports
        .iter()
        .map(u16::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
