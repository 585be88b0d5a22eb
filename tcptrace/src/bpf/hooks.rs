//! Owns the hooks: which program goes where, attaching and detaching them, and the choice of the
//! backend for minisockets, which is made by really attaching.

use std::{fmt, io, os::fd::OwnedFd};

use anyhow::{Context, anyhow};
use aya::{
    Btf, Ebpf,
    programs::{
        FEntry, FExit, ProgramError, ProgramFd, RawTracePoint, TracePoint, fentry::FEntryLinkId,
        fexit::FExitLinkId, raw_trace_point::RawTracePointLinkId,
    },
};
use tcptrace_model::RecordKind;

use super::{
    offsets::KernelTypes,
    perf,
    preflight::{CONFIDENTIAL, UNLOCK},
};
use crate::failure::Failure;

/// include/linux/errno.h (v6.18), which user space has no copy of.
const ENOTSUPP: i32 = 524;

/// The tracepoint of all transitions.
pub const SET_STATE: &str = "inet_sock_set_state";

/// How minisockets are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeWaitBackend {
    /// By the functions that make and end them.
    Fentry,
    /// By the events of their timers.
    Timer,
}

impl TimeWaitBackend {
    /// The name that output uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Timer => "timer",
        }
    }
}

/// Which backend is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The best that this kernel allows.
    #[default]
    Auto,
    /// fentry and fexit, or nothing.
    Fentry,
    /// Tracepoints of timers, or nothing.
    Timer,
}

/// Where a program goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// A raw tracepoint.
    RawTracepoint(&'static str),
    /// The beginning of a kernel function.
    Entry(&'static str),
    /// The end of a kernel function.
    Exit(&'static str),
    /// The tracepoint of one system call, by name and number.
    Syscall(&'static str, u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RawTracepoint(name) => write!(f, "the raw tracepoint {name}"),
            Self::Entry(function) => write!(f, "the entry of {function} (fentry)"),
            Self::Exit(function) => write!(f, "the end of {function} (fexit)"),
            Self::Syscall(name, _) => write!(f, "the tracepoint syscalls/{name}"),
        }
    }
}

/// A program and its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hook {
    /// Name of the program in the object.
    pub(crate) program: &'static str,
    /// Where it goes.
    pub(crate) place: Place,
    /// What it records.
    pub(crate) kind: RecordKind,
}

const fn tracepoint(program: &'static str, name: &'static str, kind: RecordKind) -> Hook {
    Hook {
        program,
        place: Place::RawTracepoint(name),
        kind,
    }
}

/// Transitions, in the order in which they are attached: the second takes over what the kernel skips
/// of the first.
pub(crate) const TRANSITIONS: [Hook; 2] = [
    tracepoint(SET_STATE, SET_STATE, RecordKind::Transition),
    tracepoint(
        "inet_sock_set_state_nested",
        SET_STATE,
        RecordKind::Transition,
    ),
];

/// RSTs.
pub(crate) const RESETS: [Hook; 2] = [
    tracepoint("tcp_send_reset", "tcp_send_reset", RecordKind::Reset),
    tracepoint("tcp_receive_reset", "tcp_receive_reset", RecordKind::Reset),
];

/// Minisockets by their timers.
pub(crate) const TIMERS: [Hook; 3] = [
    tracepoint(
        "timer_expire_entry",
        "timer_expire_entry",
        RecordKind::TimeWait,
    ),
    tracepoint("timer_cancel", "timer_cancel", RecordKind::Descheduled),
    tracepoint("timer_start", "timer_start", RecordKind::TimeWait),
];

/// Minisockets by the functions of the running kernel.
///
/// # Errors
/// Names the function that this kernel does not have, or has with other arguments.
pub(crate) fn functions(types: &KernelTypes) -> Result<Vec<Hook>, String> {
    // Renamed in 6.11, when it took over the setting of the timer.
    let hashdance = ["inet_twsk_hashdance_schedule", "inet_twsk_hashdance"]
        .into_iter()
        .find(|name| types.arguments(name).is_some())
        .ok_or("this kernel has no function inet_twsk_hashdance_schedule")?;
    let judged = match types.arguments("tcp_timewait_state_process") {
        Some(3) => "tcp_timewait_state_process_3",
        Some(4) => "tcp_timewait_state_process_4",
        Some(5) => "tcp_timewait_state_process_5",
        Some(other) => {
            return Err(format!(
                "this kernel's tcp_timewait_state_process has {other} arguments, which this version does not know"
            ));
        }
        None => return Err("this kernel has no function tcp_timewait_state_process".to_owned()),
    };
    let hook = |program, place, kind| Hook {
        program,
        place,
        kind,
    };
    // Some compilers leave nothing of it that could be attached to.
    let kill = types.arguments("inet_twsk_kill").map(|_| {
        hook(
            "inet_twsk_kill",
            Place::Entry("inet_twsk_kill"),
            RecordKind::Descheduled,
        )
    });
    let mut hooks = vec![
        hook(
            "tcp_timewait_state_process",
            Place::Entry("tcp_timewait_state_process"),
            RecordKind::Descheduled,
        ),
        hook(
            judged,
            Place::Exit("tcp_timewait_state_process"),
            RecordKind::Descheduled,
        ),
        hook(
            "inet_twsk_deschedule_put",
            Place::Entry("inet_twsk_deschedule_put"),
            RecordKind::Descheduled,
        ),
        hook(
            "tw_timer_handler",
            Place::Entry("tw_timer_handler"),
            RecordKind::TimeWait,
        ),
        hook(
            "inet_twsk_schedule",
            Place::Exit("__inet_twsk_schedule"),
            RecordKind::TimeWait,
        ),
        hook(
            "inet_twsk_hashdance_schedule",
            Place::Exit(hashdance),
            RecordKind::TimeWait,
        ),
    ];
    // After those that leave word of what they have recorded.
    hooks.splice(4..4, kill);
    Ok(hooks)
}

/// Why minisockets cannot be watched by the functions of a kernel with these types, as far as types tell; `None`
/// when they can.
#[must_use]
pub fn obstacle(types: &KernelTypes) -> Option<String> {
    functions(types).err()
}

/// accept(), where the kernel has it as this version knows it.
pub(crate) fn accept(types: &KernelTypes) -> Option<Hook> {
    let program = match types.arguments("inet_csk_accept")? {
        2 => "inet_csk_accept_2",
        4 => "inet_csk_accept_4",
        _ => return None,
    };
    Some(Hook {
        program,
        place: Place::Exit("inet_csk_accept"),
        kind: RecordKind::Accept,
    })
}

/// A program that is attached.
pub(crate) struct Link {
    hook: Hook,
    id: LinkId,
}

enum LinkId {
    RawTracepoint(RawTracePointLinkId),
    Entry(FEntryLinkId),
    Exit(FExitLinkId),
    Tracepoint(OwnedFd),
}

/// Why a program is not where it should be.
#[derive(Debug)]
pub(crate) struct Refused {
    place: Place,
    why: Why,
}

#[derive(Debug)]
enum Why {
    NoTypes,
    Program(ProgramError),
    Io(io::Error),
}

impl From<ProgramError> for Why {
    fn from(error: ProgramError) -> Self {
        Self::Program(error)
    }
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place;
        match &self.why {
            Why::NoTypes => write!(f, "cannot attach to {place} without the kernel's BTF"),
            Why::Program(ProgramError::LoadError {
                io_error,
                verifier_log,
            }) => {
                let log = verifier_log.to_string();
                let last = log
                    .lines()
                    .rev()
                    .map(str::trim)
                    .find(|line| !is_statistics(line));
                let why = last.map_or_else(String::new, |line| format!(" ({line})"));
                write!(
                    f,
                    "the kernel refuses the eBPF program for {place}: {io_error}{why}"
                )
            }
            Why::Program(ProgramError::SyscallError(error)) => {
                write!(f, "cannot attach to {place}: {}", reason(&error.io_error))
            }
            Why::Program(error) => write!(f, "cannot attach to {place}: {error}"),
            Why::Io(error) => {
                write!(f, "cannot attach to {place}: {}", reason(error))?;
                match perf::restriction(error) {
                    Some(why) => write!(f, "; {why}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        if let Why::Program(ProgramError::LoadError { verifier_log, .. }) = &refused.why
            && is_kept_from_memory(&verifier_log.to_string())
        {
            return Self::Unsupported(format!("{CONFIDENTIAL}; {UNLOCK}"));
        }
        Self::Unsupported(format!(
            "{refused}; see what this kernel allows with: tcptrace doctor"
        ))
    }
}

impl Hook {
    /// The kernel function that it is at the beginning or the end of.
    pub(crate) fn function(self) -> Option<&'static str> {
        match self.place {
            Place::Entry(function) | Place::Exit(function) => Some(function),
            Place::RawTracepoint(_) | Place::Syscall(..) => None,
        }
    }

    /// Loads the program and attaches it. `btf` is needed for functions.
    pub(crate) fn attach(self, ebpf: &mut Ebpf, btf: Option<&Btf>) -> Result<Link, Refused> {
        self.try_attach(ebpf, btf)
            .map(|id| Link { hook: self, id })
            .map_err(|why| Refused {
                place: self.place,
                why,
            })
    }

    fn try_attach(self, ebpf: &mut Ebpf, btf: Option<&Btf>) -> Result<LinkId, Why> {
        let program = ebpf
            .program_mut(self.program)
            .ok_or(ProgramError::NotLoaded)?;
        match self.place {
            Place::RawTracepoint(name) => {
                let program: &mut RawTracePoint = program.try_into()?;
                if program.fd().is_err() {
                    program.load()?;
                }
                Ok(LinkId::RawTracepoint(program.attach(name)?))
            }
            Place::Entry(function) => {
                let program: &mut FEntry = program.try_into()?;
                program.load(function, btf.ok_or(Why::NoTypes)?)?;
                Ok(LinkId::Entry(program.attach()?))
            }
            Place::Exit(function) => {
                let program: &mut FExit = program.try_into()?;
                program.load(function, btf.ok_or(Why::NoTypes)?)?;
                Ok(LinkId::Exit(program.attach()?))
            }
            Place::Syscall(_, number) => {
                let program: &mut TracePoint = program.try_into()?;
                // It may be at another tracepoint already.
                if program.fd().is_err() {
                    program.load()?;
                }
                Ok(LinkId::Tracepoint(perf::attach(program.fd()?, number)?))
            }
        }
    }
}

impl Link {
    /// Takes the program off its hook.
    pub(crate) fn detach(self, ebpf: &mut Ebpf) -> anyhow::Result<()> {
        let name = self.hook.program;
        let program = ebpf
            .program_mut(name)
            .with_context(|| format!("the object has no program {name}"))?;
        let detached = match self.id {
            LinkId::RawTracepoint(id) => {
                <&mut RawTracePoint>::try_from(program).and_then(|program| program.detach(id))
            }
            LinkId::Entry(id) => {
                <&mut FEntry>::try_from(program).and_then(|program| program.detach(id))
            }
            LinkId::Exit(id) => {
                <&mut FExit>::try_from(program).and_then(|program| program.detach(id))
            }
            LinkId::Tracepoint(event) => {
                drop(event);
                Ok(())
            }
        };
        detached.map_err(|error| anyhow!("cannot detach {name}: {error}"))
    }

    /// The program's name, which other links may have, too.
    pub(crate) fn name(&self) -> &'static str {
        self.hook.program
    }

    /// The program's descriptor, and what it records.
    pub(crate) fn program(&self, ebpf: &Ebpf) -> anyhow::Result<(ProgramFd, RecordKind)> {
        let name = self.hook.program;
        let program = ebpf
            .program(name)
            .with_context(|| format!("the object has no program {name}"))?;
        let fd = program
            .fd()
            .and_then(|fd| fd.try_clone().map_err(Into::into))
            .with_context(|| name.to_owned())?;
        Ok((fd, self.hook.kind))
    }
}

/// Lets the kernel check programs of raw tracepoints that will be attached later. One that it refuses is refused
/// once more then, and told.
pub(crate) fn load_ahead<'a>(hooks: impl Iterator<Item = &'a Hook>, ebpf: &mut Ebpf) {
    for hook in hooks {
        if let Some(program) = ebpf.program_mut(hook.program)
            && let Ok(program) = <&mut RawTracePoint>::try_from(program)
        {
            let _ = program.load();
        }
    }
}

/// Attaches all, or none.
pub(crate) fn attach_all(
    hooks: &[Hook],
    ebpf: &mut Ebpf,
    btf: Option<&Btf>,
) -> Result<Vec<Link>, Refused> {
    let mut links = Vec::new();
    for hook in hooks {
        match hook.attach(ebpf, btf) {
            Ok(link) => links.push(link),
            Err(refused) => {
                for link in links {
                    // What cannot be taken off records what nobody reads; that it was refused counts.
                    let _ = link.detach(ebpf);
                }
                return Err(refused);
            }
        }
    }
    Ok(links)
}

/// Whether the verifier's log says that a program may not read the kernel's memory. With the privileges that
/// a program is loaded with, only lockdown forbids that, also where no securityfs is mounted that says so:
/// kernel/bpf/verifier.c `check_helper_call` ("unknown func" on 6.1).
fn is_kept_from_memory(log: &str) -> bool {
    log.lines().any(|line| {
        line.contains("bpf_probe_read")
            && (line.contains("unknown func") || line.contains("cannot use helper"))
    })
}

/// What the kernel answered, in words also where the C library has none: `ENOTSUPP` is the kernel's own. It
/// comes from kernel/bpf/trampoline.c: `register_fentry` (v6.1), where ftrace has no direct calls; before, on
/// architectures without any of this, from the weak `arch_prepare_bpf_trampoline` (v5.10).
fn reason(error: &io::Error) -> String {
    if error.raw_os_error() != Some(ENOTSUPP) {
        return error.to_string();
    }
    "this kernel cannot call eBPF programs from its functions (ENOTSUPP, errno 524), which takes CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y, on arm64 Linux 6.4 or later".to_owned()
}

/// Whether a line of the verifier's log is about its own work: kernel/bpf/verifier.c
/// `print_verification_stats` (v6.18). The reason for a refusal stands before.
fn is_statistics(line: &str) -> bool {
    line.is_empty()
        || ["processed ", "verification time ", "stack depth "]
            .iter()
            .any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_is_known_by_the_helper_that_is_refused() {
        assert!(is_kept_from_memory(
            "0: (85)\nunknown func bpf_probe_read#4\nprocessed 9 insns"
        ));
        assert!(is_kept_from_memory(
            "program of this type cannot use helper bpf_probe_read_kernel#113"
        ));
        assert!(!is_kept_from_memory("unknown func bpf_loop#181"));
        assert!(!is_kept_from_memory("call bpf_probe_read_kernel#113"));
    }

    #[test]
    fn an_error_of_the_kernel_alone_is_put_into_words() {
        let refused = Refused {
            place: Place::Entry("tw_timer_handler"),
            why: Why::Io(io::Error::from_raw_os_error(ENOTSUPP)),
        };
        let text = refused.to_string();
        let begin =
            "cannot attach to the entry of tw_timer_handler (fentry): this kernel cannot call";
        assert!(text.starts_with(begin), "{text}");
        assert!(!text.contains("Unknown error"), "{text}");
        let known = reason(&io::Error::from_raw_os_error(libc::EPERM));
        assert!(known.starts_with("Operation not permitted"), "{known}");
    }

    #[test]
    fn statistics_are_no_reason() {
        assert!(is_statistics("stack depth 456+0+0"));
        assert!(is_statistics(
            "processed 12 insns (limit 1000000) max_states_per_insn 0"
        ));
        assert!(!is_statistics("R1 type=scalar expected=fp"));
    }
}
