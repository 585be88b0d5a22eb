//! Owns the number of CPUs.

/// CPUs that are online, whether or not this process may run on them: 1 at least.
#[must_use]
pub fn online() -> u32 {
    // SAFETY: sysconf(3) takes a number and touches nothing.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(online).unwrap_or(1).max(1)
}
