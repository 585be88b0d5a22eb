//! Owns the capabilities of this process, as far as eBPF and bind() need them.

use std::fs;

/// The bits of `CapEff` in /proc/self/status: include/uapi/linux/capability.h (v6.18).
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYSLOG: u32 = 34;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The effective capabilities of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Those of this process; none when /proc cannot be read.
    #[must_use]
    pub fn own() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::from_status(&status).unwrap_or(Self(0))
    }

    /// Those that the text of a /proc/PID/status file tells.
    fn from_status(status: &str) -> Option<Self> {
        let bits = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(bits.trim(), 16).ok().map(Self)
    }

    /// What is missing for loading and attaching the programs: kernel/bpf/syscall.c `bpf_prog_load`
    /// (v6.18) wants `CAP_BPF` and `CAP_PERFMON`, or `CAP_SYS_ADMIN`, which stands for both.
    #[must_use]
    pub fn missing_for_tracing(self) -> Vec<&'static str> {
        if self.has(CAP_SYS_ADMIN) {
            return Vec::new();
        }
        [("CAP_BPF", CAP_BPF), ("CAP_PERFMON", CAP_PERFMON)]
            .into_iter()
            .filter(|(_, bit)| !self.has(*bit))
            .map(|(name, _)| name)
            .collect()
    }

    /// What is missing for what a trace looks up beside the events, and what is then not known.
    #[must_use]
    pub fn missing_for_all(self) -> Vec<(&'static str, &'static str)> {
        // Either lets it look into the directories of others' processes.
        let may_search = self.has(CAP_DAC_READ_SEARCH) || self.has(CAP_DAC_OVERRIDE);
        [
            // kernel/kallsyms.c `kallsyms_show_value` (v6.18).
            (
                "CAP_SYSLOG",
                self.has(CAP_SYSLOG),
                "what ends a TIME_WAIT before its time (and without fentry all of TIME_WAIT)",
            ),
            // fs/proc/fd.c `proc_fd_permission`, kernel/ptrace.c `ptrace_may_access` (v6.18).
            (
                "CAP_SYS_PTRACE",
                self.has(CAP_SYS_PTRACE),
                "which processes of other users have sockets open",
            ),
            (
                "CAP_DAC_READ_SEARCH",
                may_search,
                "the same, and (by a user other than root, without fentry) bind(), listen() and connect()",
            ),
            // kernel/nsproxy.c `setns`, kernel/net_namespace.c `netns_install` (v6.18).
            (
                "CAP_SYS_ADMIN",
                self.has(CAP_SYS_ADMIN),
                "the sockets of other network namespaces that are older than the trace",
            ),
        ]
        .into_iter()
        .filter(|(_, has, _)| !has)
        .map(|(name, _, unknown)| (name, unknown))
        .collect()
    }

    /// Whether it may bind a port below `ip_unprivileged_port_start`, in a network namespace that belongs to
    /// the user namespace of this process.
    #[must_use]
    pub fn may_bind_privileged(self) -> bool {
        self.has(CAP_NET_BIND_SERVICE)
    }

    /// Every capability: for tests of what depends on them.
    #[cfg(test)]
    pub(crate) const fn all() -> Self {
        Self(u64::MAX)
    }

    /// No capability: for tests of what depends on them.
    #[cfg(test)]
    pub(crate) const fn none() -> Self {
        Self(0)
    }

    /// CAP_BPF and CAP_PERFMON: for tests of what depends on the others.
    #[cfg(test)]
    pub(crate) const fn for_tracing_only() -> Self {
        Self(1 << CAP_BPF | 1 << CAP_PERFMON)
    }

    const fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }
}

/// Whether this process lives in the initial user namespace, where capabilities count for eBPF.
/// True when that cannot be found out.
#[must_use]
pub fn in_initial_user_namespace() -> bool {
    // Only the initial one maps every id to itself.
    fs::read_to_string("/proc/self/uid_map").map_or(true, |map| {
        map.split_whitespace().eq(["0", "0", "4294967295"])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(bits: &[u32]) -> Capabilities {
        Capabilities(bits.iter().map(|bit| 1 << bit).sum())
    }

    #[test]
    fn either_pair_or_admin_is_enough() {
        assert!(
            with(&[CAP_BPF, CAP_PERFMON])
                .missing_for_tracing()
                .is_empty()
        );
        assert!(with(&[CAP_SYS_ADMIN]).missing_for_tracing().is_empty());
        assert_eq!(with(&[CAP_BPF]).missing_for_tracing(), ["CAP_PERFMON"]);
        assert_eq!(with(&[]).missing_for_tracing(), ["CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn what_is_missing_beside_the_events_is_named() {
        assert!(Capabilities::all().missing_for_all().is_empty());
        let names = |bits: &[u32]| -> Vec<&str> {
            let missing = with(bits).missing_for_all().into_iter();
            missing.map(|(name, _)| name).collect()
        };
        assert_eq!(
            names(&[]),
            [
                "CAP_SYSLOG",
                "CAP_SYS_PTRACE",
                "CAP_DAC_READ_SEARCH",
                "CAP_SYS_ADMIN"
            ]
        );
        let rest = [CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_SYSLOG];
        assert_eq!(names(&rest), ["CAP_DAC_READ_SEARCH"]);
        assert!(names(&[&rest[..], &[CAP_DAC_OVERRIDE]].concat()).is_empty());
    }

    #[test]
    fn the_status_file_is_read() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000001fffeffffff\n";
        let capabilities = Capabilities::from_status(status).unwrap();
        assert!(capabilities.missing_for_tracing().is_empty());
        assert_eq!(Capabilities::from_status("CapEff:\tnonsense"), None);
    }
}
