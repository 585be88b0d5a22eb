//! Owns the clocks: CLOCK_BOOTTIME, which stamps every record, and its distance from the wall clock.

use std::{io, mem::MaybeUninit};

/// CLOCK_BOOTTIME in ns: the clock of `ts_ns` everywhere.
#[must_use]
pub fn boottime_ns() -> u64 {
    u64::try_from(read(libc::CLOCK_BOOTTIME)).unwrap_or(0)
}

/// What to add to CLOCK_BOOTTIME to get nanoseconds since 1970 UTC, as of now.
#[must_use]
pub fn wall_offset_ns() -> i64 {
    // The wall clock is read between two reads of the other: their middle is the best match.
    let before = read(libc::CLOCK_BOOTTIME);
    let wall = read(libc::CLOCK_REALTIME);
    let after = read(libc::CLOCK_BOOTTIME);
    wall - (before + (after - before) / 2)
}

/// What to add to CLOCK_MONOTONIC to get CLOCK_BOOTTIME, in ns, as of now: the time spent suspended,
/// in whole µs, for the clocks are not read at the same moment.
#[must_use]
pub fn suspended_ns() -> u64 {
    let monotonic = read(libc::CLOCK_MONOTONIC);
    u64::try_from(read(libc::CLOCK_BOOTTIME) - monotonic).unwrap_or(0) / 1000 * 1000
}

/// The kernel's HZ: the resolution of a coarse clock is one tick, kernel/time/posix-timers.c
/// `posix_get_coarse_res` (v6.18).
///
/// # Errors
/// When the kernel has no coarse clock.
pub fn hz() -> io::Result<u32> {
    let mut resolution = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: clock_getres(2) fills the timespec that it is given.
    if unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, resolution.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it returned 0, so the timespec is filled.
    let tick_ns = unsafe { resolution.assume_init() }.tv_nsec;
    u32::try_from((1_000_000_000 + tick_ns / 2) / tick_ns.max(1))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn read(clock: libc::clockid_t) -> i64 {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: clock_gettime(2) fills the timespec; it cannot fail for these clocks (Linux 2.6.39).
    let now = unsafe {
        libc::clock_gettime(clock, now.as_mut_ptr());
        now.assume_init()
    };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hz_is_one_that_kernels_have() {
        assert!([100, 250, 300, 1000].contains(&hz().unwrap()), "{:?}", hz());
    }

    #[test]
    fn boot_time_plus_offset_is_the_wall_clock() {
        let wall = i64::try_from(boottime_ns()).unwrap() + wall_offset_ns();
        let expected = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos();
        let difference = i128::from(wall) - i128::try_from(expected).unwrap();
        assert!(difference.abs() < 1_000_000_000, "{difference} ns apart");
    }
}
