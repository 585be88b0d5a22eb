//! Owns the kernel's switch for the tracing of its functions, which programs on functions (fentry) depend
//! on.

use std::fs;

const SWITCH: &str = "/proc/sys/kernel/ftrace_enabled";

/// What switches it on.
pub(crate) const SWITCH_ON: &str = "sudo sysctl kernel.ftrace_enabled=1";

/// Whether it is off, so that no program on a function runs: kernel/trace/ftrace.c `ftrace_enable_sysctl`
/// (v6.18). 5.10 then refuses to attach such a program, and refuses to switch off while one is attached; 6.1
/// and later attach it without a word (all as measured).
///
/// False where there is no such switch: that kernel calls the programs in another way.
pub(crate) fn is_switched_off() -> bool {
    fs::read_to_string(SWITCH).is_ok_and(|value| is_off(&value))
}

/// Why no program on a function can be used, and what to type; `None` where nothing is in the way.
pub(crate) fn obstacle() -> Option<String> {
    is_switched_off().then(|| {
        format!(
            "the kernel runs no program on its functions (fentry) while kernel.ftrace_enabled is 0 (to change it, type: {SWITCH_ON})"
        )
    })
}

fn is_off(value: &str) -> bool {
    value.trim() == "0"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_zero_is_off() {
        assert!(is_off("0\n"));
        assert!(!is_off("1\n"));
        assert!(!is_off(""));
    }
}
