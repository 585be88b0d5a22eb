//! Owns `Functions`: whether programs on the kernel's functions still run, or somebody has switched the
//! tracing of functions off under a trace.

use crate::host::ftrace;

/// What is known of the kernel's switch. 5.10 does not let anybody use it while programs are attached; 6.1 and
/// later do, and then the programs are not called, which no counter shows.
#[derive(Debug, Default)]
pub(super) struct Functions {
    off: bool,
    untold: Option<String>,
}

impl Functions {
    /// Looks at the switch; true when it is on again: what happened meanwhile was not seen.
    pub(super) fn look(&mut self) -> bool {
        self.found(ftrace::is_switched_off())
    }

    /// Whether what these programs would have recorded is missing now.
    pub(super) fn are_silent(&self) -> bool {
        self.off
    }

    /// What has changed and was not told yet, in one sentence.
    pub(super) fn trouble(&mut self) -> Option<String> {
        self.untold.take()
    }

    fn found(&mut self, off: bool) -> bool {
        if off == self.off {
            return false;
        }
        self.off = off;
        self.untold = Some(if off {
            format!(
                "kernel.ftrace_enabled was set to 0 under this trace: the kernel no longer runs the programs on its functions (fentry), so TIME_WAITs, calls and owners are missed, and what is told is in doubt; to see them again, type: {}",
                ftrace::SWITCH_ON
            )
        } else {
            "kernel.ftrace_enabled is no longer 0: the programs on the kernel's functions (fentry) run again".to_owned()
        });
        !off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let mut functions = Functions::default();
        assert!(!functions.found(false) && functions.trouble().is_none());
        assert!(!functions.found(true) && functions.are_silent());
        let told = functions.trouble().expect("it was switched off");
        assert!(told.contains("sysctl kernel.ftrace_enabled=1"), "{told}");
        assert!(!functions.found(true) && functions.trouble().is_none());
        assert!(functions.found(false) && !functions.are_silent());
        let told = functions.trouble().expect("it was switched on");
        assert!(told.contains("run again"), "{told}");
    }
}
