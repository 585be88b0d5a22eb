//! Owns the tracer's place among those that want the CPU.

/// Ten steps up: where the CPUs are too few for all, some nine tenths of one (kernel/sched/core.c
/// `sched_prio_to_weight`, v6.18).
const NICE: libc::c_int = -10;

/// Lets the calling thread, and those that it starts from now on, have the CPU before what it traces when both want
/// it. It wants little, but without that little the buffer runs full and records are lost. Where that is not allowed
/// (it takes `CAP_SYS_NICE`), or somebody has chosen another place already, nothing changes.
pub(crate) fn prefer() {
    // SAFETY: both take integers; 0 is the calling thread. A place of -1 looks like an error, and is left as it is
    // like any other that was chosen.
    unsafe {
        if libc::getpriority(libc::PRIO_PROCESS, 0) == 0 {
            libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_was_chosen_is_kept() {
        // SAFETY: as above. The thread is this test's own.
        let nice = |value| unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) };
        // SAFETY: as above.
        let now = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        assert_eq!(nice(5), 0);
        prefer();
        assert_eq!(now(), 5);
    }
}
