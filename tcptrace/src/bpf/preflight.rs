//! Owns the preflight: what this machine must offer before anything is loaded, and for each thing
//! that is missing one sentence that says what to type.

use std::{
    fs,
    mem::MaybeUninit,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::offsets::VMLINUX;
use crate::{
    failure::Failure,
    host::{
        capabilities::{Capabilities, in_initial_user_namespace},
        ftrace,
        kernel_version::KernelVersion,
        tracefs::{Reach, Tracefs},
    },
};

/// What lockdown for confidentiality forbids: kernel/bpf/helpers.c `bpf_base_func_proto` (v6.18) asks for
/// `LOCKDOWN_BPF_READ_KERNEL`. (For integrity, nothing that is used here is forbidden.)
pub(super) const CONFIDENTIAL: &str =
    "the kernel is locked down for confidentiality, so no eBPF program may read its memory";
/// What to do about it.
pub(super) const UNLOCK: &str =
    "boot without lockdown=confidentiality (see: cat /proc/cmdline; Secure Boot may set it)";
/// What the maps beside the ring buffer take, in bytes: less than this.
const OTHER_MAPS: u64 = 16 << 20;
/// The size of buffer that is suggested where memory is short.
const LITTLE_BUFFER: u64 = 1 << 20;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is there.
    Ok,
    /// Tracing works; something beside it does not.
    Degraded,
    /// Tracing cannot work.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it went.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it, when it is not [`Status::Ok`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    /// A check that went well.
    pub(crate) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    /// A check that tracing fails on.
    pub(crate) fn missing(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name,
            status: Status::Missing,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// A check that leaves something out.
    pub(crate) fn degraded(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Degraded,
            ..Self::missing(name, found, remedy)
        }
    }

    /// What was found and what to do about it, in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("{}; {remedy}", self.found),
            None => self.found.clone(),
        }
    }
}

/// What the checks look at.
#[derive(Clone, Debug)]
pub struct Machine {
    version: Result<KernelVersion, String>,
    capabilities: Capabilities,
    initial_user_namespace: bool,
    lockdown: Option<String>,
    has_btf: bool,
    /// The user's file of types, if they are not to be the kernel's own.
    types: Option<PathBuf>,
    tracefs: Result<Reach, String>,
    /// Whether the tracing of the kernel's functions is switched off.
    ftrace_off: bool,
    /// Soft limit of `RLIMIT_MEMLOCK` in bytes; `None` for no limit.
    memlock: Option<u64>,
}

impl Machine {
    /// Looks at this machine. Where the kernel charges eBPF memory against `RLIMIT_MEMLOCK`, the
    /// limit of this process is raised first, if that is allowed.
    #[must_use]
    pub fn probe() -> Self {
        let version = KernelVersion::running().map_err(|error| error.to_string());
        if version.as_ref().is_ok_and(charges_memlock) {
            raise_memlock();
        }
        Self {
            version,
            capabilities: Capabilities::own(),
            initial_user_namespace: in_initial_user_namespace(),
            lockdown: fs::read_to_string("/sys/kernel/security/lockdown").ok(),
            has_btf: Path::new(VMLINUX).exists(),
            types: None,
            tracefs: Tracefs::open().map(|tracefs| tracefs.reach()),
            ftrace_off: ftrace::is_switched_off(),
            memlock: memlock(),
        }
    }

    /// The same machine, with the kernel's types from this file (`--btf`), if one is given.
    #[must_use]
    pub fn with_types(self, types: Option<&Path>) -> Self {
        Self {
            types: types.map(Path::to_owned),
            ..self
        }
    }

    /// Every check, in the order in which a failure matters. `buffer_bytes` is the size of the ring
    /// buffer that is wanted.
    #[must_use]
    pub fn checks(&self, buffer_bytes: u32) -> Vec<Check> {
        vec![
            self.kernel(),
            self.privileges(),
            self.user_namespace(),
            self.lockdown(),
            self.btf(),
            self.memory(buffer_bytes),
            self.tracefs(),
            self.functions(),
            self.more_privileges(),
        ]
    }

    fn kernel(&self) -> Check {
        const NAME: &str = "kernel";
        match &self.version {
            Ok(version) if version.is_at_least(5, 8) => Check::ok(NAME, format!("Linux {version}")),
            Ok(version) => Check::missing(
                NAME,
                format!("Linux {version} has no eBPF ring buffer"),
                "boot Linux 5.8 or later (installed kernels: ls /boot/vmlinuz-*)",
            ),
            Err(error) => Check::missing(NAME, error, "see what runs with: uname -r"),
        }
    }

    fn privileges(&self) -> Check {
        const NAME: &str = "privileges";
        let missing = self.capabilities.missing_for_tracing();
        if missing.is_empty() {
            return Check::ok(NAME, "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN");
        }
        let program = std::env::current_exe()
            .map_or_else(|_| "tcptrace".to_owned(), |path| path.display().to_string());
        Check::missing(
            NAME,
            format!(
                "loading an eBPF program needs {}, which this process lacks",
                missing.join(" and ")
            ),
            format!(
                "run it as root: sudo {program}, or once: sudo setcap cap_bpf,cap_perfmon+ep {program}"
            ),
        )
    }

    fn user_namespace(&self) -> Check {
        const NAME: &str = "user namespace";
        if self.initial_user_namespace {
            return Check::ok(NAME, "the initial one");
        }
        Check::missing(
            NAME,
            "this process lives in a user namespace of its own, where capabilities do not count for eBPF",
            "run it on the host, or in a container without user namespace: docker run --privileged --pid host --userns host",
        )
    }

    fn lockdown(&self) -> Check {
        const NAME: &str = "lockdown";
        // The file lists all modes, with the one in force in brackets.
        let mode = self.lockdown.as_deref().and_then(|text| {
            let (_, rest) = text.split_once('[')?;
            rest.split_once(']').map(|(mode, _)| mode)
        });
        match mode {
            Some("confidentiality") => Check::missing(NAME, CONFIDENTIAL, UNLOCK),
            Some(mode) => Check::ok(NAME, mode),
            None => Check::ok(NAME, "none reported"),
        }
    }

    fn btf(&self) -> Check {
        const NAME: &str = "BTF";
        if let Some(types) = &self.types {
            return Check::ok(NAME, format!("{} (--btf)", types.display()));
        }
        if self.has_btf {
            return Check::ok(NAME, VMLINUX);
        }
        Check::missing(
            NAME,
            format!("this kernel does not describe its types: there is no {VMLINUX}"),
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (see: grep BTF /boot/config-$(uname -r)), and mount sysfs: mount -t sysfs sysfs /sys; or name a file with its raw BTF: --btf FILE",
        )
    }

    fn memory(&self, buffer_bytes: u32) -> Check {
        const NAME: &str = "locked memory";
        if !self.version.as_ref().is_ok_and(charges_memlock) {
            return Check::ok(NAME, "not charged by this kernel");
        }
        let needed = u64::from(buffer_bytes) + OTHER_MAPS;
        match self.memlock {
            Some(limit) if limit < needed => Check::missing(
                NAME,
                format!(
                    "this kernel charges eBPF maps against the limit of locked memory, which is {limit} bytes where {needed} are needed"
                ),
                if limit > LITTLE_BUFFER + OTHER_MAPS {
                    "raise it as root with: ulimit -l unlimited, or ask for less with: --buffer-size 1M"
                } else {
                    "raise it as root (or with CAP_SYS_RESOURCE) with: ulimit -l unlimited"
                },
            ),
            Some(limit) => Check::ok(NAME, format!("limit {limit} bytes")),
            None => Check::ok(NAME, "no limit"),
        }
    }

    fn tracefs(&self) -> Check {
        const NAME: &str = "tracefs";
        match &self.tracefs {
            Ok(Reach::Mounted(mount)) => Check::ok(NAME, *mount),
            Ok(Reach::Detached) => {
                Check::ok(NAME, "not mounted here, but this process can open it")
            }
            Err(sentence) => {
                let (why, remedy) = sentence
                    .split_once("; ")
                    .unwrap_or((sentence, "run this as root"));
                Check::degraded(
                    NAME,
                    format!(
                        "{why}: bind(), listen() and connect() are not seen where the kernel forbids fentry"
                    ),
                    remedy,
                )
            }
        }
    }

    fn functions(&self) -> Check {
        const NAME: &str = "ftrace";
        if self.ftrace_off {
            return Check::degraded(
                NAME,
                "kernel.ftrace_enabled is 0: the kernel runs no program on its functions (fentry)",
                format!("switch it on with: {}", ftrace::SWITCH_ON),
            );
        }
        Check::ok(NAME, "not switched off")
    }

    /// What the trace looks up beside the events, where it is allowed at all.
    fn more_privileges(&self) -> Check {
        const NAME: &str = "more rights";
        if !self.capabilities.missing_for_tracing().is_empty() {
            return Check::degraded(NAME, "none", "first get the privileges above");
        }
        let missing = self.capabilities.missing_for_all();
        if missing.is_empty() {
            return Check::ok(
                NAME,
                "to look at other users' processes, other network namespaces and the kernel's symbols",
            );
        }
        let unknown: Vec<String> = missing
            .iter()
            .map(|(name, unknown)| format!("without {name} it is not known: {unknown}"))
            .collect();
        Check::degraded(NAME, unknown.join("; "), "run it as root: sudo tcptrace")
    }
}

/// Turns the first check that tracing fails on into the failure to report.
///
/// # Errors
/// [`Failure::Unsupported`] with that check's sentence.
pub fn demand(checks: &[Check]) -> Result<(), Failure> {
    match checks.iter().find(|check| check.status == Status::Missing) {
        Some(check) => Err(Failure::Unsupported(check.sentence())),
        None => Ok(()),
    }
}

/// Since 5.11 (kernel/bpf/memory accounting by cgroup) the limit plays no role any more.
fn charges_memlock(version: &KernelVersion) -> bool {
    !version.is_at_least(5, 11)
}

fn memlock() -> Option<u64> {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: getrlimit(2) fills the struct that it is given.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, limit.as_mut_ptr()) };
    // SAFETY: filled when the result is 0.
    let soft = (result == 0).then(|| unsafe { limit.assume_init() }.rlim_cur)?;
    (soft != libc::RLIM_INFINITY).then_some(soft)
}

/// A refusal is no error here: the check on the limit follows.
fn raise_memlock() {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: setrlimit(2) only reads the struct.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
}

#[cfg(test)]
mod tests;
