//! Owns the programs on the same hooks that others are compared with: an empty one, which is what the kernel charges
//! for any program at all, there or wherever tcptrace has one, one that only counts, and one that only hands over
//! records.

use std::{
    ffi::CStr,
    fs, io,
    mem::{size_of, size_of_val, zeroed},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use tcptrace_common::{AcceptRecord, ResetRecord, TransitionRecord};

use super::{
    bare::Ring,
    procfs::{self, Runs},
};

/// Commands of bpf(2), program types and an ioctl of perf events: include/uapi/linux/bpf.h and
/// include/uapi/linux/perf_event.h (v6.18).
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_PROG_TYPE_TRACEPOINT: u32 = 5;
const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
/// `r0 = 0; exit`, as struct bpf_insn lays them out.
const RETURN_0: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
/// Where tracefs may be mounted.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Where the empty program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// The raw tracepoint of state changes.
    SetState,
    /// The tracepoint where bind(2) returns.
    BindReturns,
}

/// A kind of tracepoint, and which.
#[derive(Clone, Copy)]
enum Place {
    Raw(&'static CStr),
    Syscall(&'static str),
}

/// Where tcptrace has programs with `--backend timer --calls syscalls`, the backends that every kernel has.
const EVERYWHERE: [Place; 18] = [
    Place::Raw(c"inet_sock_set_state"),
    Place::Raw(c"inet_sock_set_state"),
    Place::Raw(c"tcp_send_reset"),
    Place::Raw(c"tcp_receive_reset"),
    Place::Raw(c"timer_expire_entry"),
    Place::Raw(c"timer_cancel"),
    Place::Raw(c"timer_start"),
    Place::Syscall("sys_exit_bind"),
    Place::Syscall("sys_exit_bind"),
    Place::Syscall("sys_exit_listen"),
    Place::Syscall("sys_exit_listen"),
    Place::Syscall("sys_exit_connect"),
    Place::Syscall("sys_exit_connect"),
    Place::Syscall("sys_enter_bind"),
    Place::Syscall("sys_enter_listen"),
    Place::Syscall("sys_enter_connect"),
    Place::Syscall("sys_exit_accept"),
    Place::Syscall("sys_exit_accept4"),
];

/// Bytes of the record of a state change.
const TRANSITION: usize = size_of::<TransitionRecord>();

impl Place {
    /// Bytes of the record that a program there makes for every connection, if it does: of the two on state changes,
    /// the first.
    fn record(self, index: usize) -> Option<usize> {
        match self {
            Self::Raw(_) if index == 0 => Some(TRANSITION),
            Self::Raw(name) if name == c"tcp_send_reset" || name == c"tcp_receive_reset" => {
                Some(size_of::<ResetRecord>())
            }
            Self::Syscall("sys_exit_accept" | "sys_exit_accept4") => {
                Some(size_of::<AcceptRecord>())
            }
            Self::Raw(_) | Self::Syscall(_) => None,
        }
    }
}

/// Attached programs of this benchmark's own.
pub(super) struct Floor {
    programs: Vec<Program>,
    /// What they fill.
    ring: Option<Ring>,
}

/// One of them.
struct Program {
    // Detached first.
    _attached: OwnedFd,
    program: OwnedFd,
}

impl Floor {
    /// One that does nothing.
    pub(super) fn attach(hook: Hook) -> Result<Self> {
        Self::with(hook, &RETURN_0)
    }

    /// Programs that do nothing, wherever tcptrace has one.
    pub(super) fn everywhere() -> Result<Self> {
        let programs = EVERYWHERE
            .into_iter()
            .map(|place| Program::attach(place, &RETURN_0))
            .collect::<Result<_>>()?;
        Ok(Self {
            programs,
            ring: None,
        })
    }

    /// The same, but that those hand over a record which make one for every connection.
    pub(super) fn everywhere_that_records() -> Result<Self> {
        let ring = Ring::new()?;
        let mut programs = Vec::new();
        for (index, place) in EVERYWHERE.into_iter().enumerate() {
            let instructions = match place.record(index) {
                Some(bytes) => ring.program(bytes)?,
                None => RETURN_0.to_vec(),
            };
            programs.push(Program::attach(place, &instructions)?);
        }
        Ok(Self {
            programs,
            ring: Some(ring),
        })
    }

    /// One that hands over a record as large as that of a state change.
    pub(super) fn that_records() -> Result<Self> {
        let ring = Ring::new()?;
        let mut floor = Self::with(Hook::SetState, &ring.program(TRANSITION)?)?;
        floor.ring = Some(ring);
        Ok(floor)
    }

    /// The same with a program that goes so many times through a loop of three instructions.
    pub(super) fn that_counts(hook: Hook, times: u16) -> Result<Self> {
        Self::with(hook, &counting(times))
    }

    fn with(hook: Hook, instructions: &[u64]) -> Result<Self> {
        let place = match hook {
            Hook::SetState => Place::Raw(c"inet_sock_set_state"),
            Hook::BindReturns => Place::Syscall("sys_exit_bind"),
        };
        Ok(Self {
            programs: vec![Program::attach(place, instructions)?],
            ring: None,
        })
    }

    /// The time of all, and the runs of the one that runs most often.
    pub(super) fn runs(&self) -> Result<Runs> {
        let mut sum = Runs::default();
        for program in &self.programs {
            let runs = procfs::own_program(&program.program)?;
            sum.time_ns += runs.time_ns;
            sum.count = sum.count.max(runs.count);
        }
        Ok(sum)
    }
}

impl Program {
    fn attach(place: Place, instructions: &[u64]) -> Result<Self> {
        let (program, attached) = match place {
            Place::Raw(name) => {
                let program = load(BPF_PROG_TYPE_RAW_TRACEPOINT, instructions)?;
                let attached = attach_raw(&program, name)
                    .with_context(|| format!("cannot attach a program to {name:?}"));
                (program, attached)
            }
            Place::Syscall(name) => {
                let program = load(BPF_PROG_TYPE_TRACEPOINT, instructions)?;
                let attached = attach_to_syscall(&program, name)
                    .with_context(|| format!("cannot attach a program to {name}"));
                (program, attached)
            }
        };
        Ok(Self {
            _attached: attached?,
            program,
        })
    }
}

/// `r0 = 0; r1 = times; do { r0 += r1; r1 -= 1 } while (r1 != 0); r0 = 0; exit`
fn counting(times: u16) -> Vec<u64> {
    let [return_0, exit] = RETURN_0;
    vec![
        return_0,
        0x0000_0000_0000_01b7 | u64::from(times) << 32,
        0x0000_0000_0000_100f,
        0x0000_0001_0000_0117,
        0x0000_0000_fffd_0155,
        return_0,
        exit,
    ]
}

fn load(kind: u32, instructions: &[u64]) -> Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
    }
    let attr = Load {
        prog_type: kind,
        insn_cnt: u32::try_from(instructions.len())?,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    new_descriptor(bpf(BPF_PROG_LOAD, &attr)).context("cannot load a program")
}

fn attach_raw(program: &OwnedFd, name: &CStr) -> Result<OwnedFd> {
    #[repr(C)]
    struct Attach {
        name: u64,
        prog_fd: u32,
        padding: u32,
    }
    let attr = Attach {
        name: name.as_ptr() as u64,
        prog_fd: u32::try_from(program.as_raw_fd())?,
        padding: 0,
    };
    Ok(new_descriptor(bpf(BPF_RAW_TRACEPOINT_OPEN, &attr))?)
}

/// By a perf event. On whichever CPU that is, the program runs on all.
fn attach_to_syscall(program: &OwnedFd, name: &str) -> Result<OwnedFd> {
    /// The beginning of struct perf_event_attr; the rest is 0.
    #[repr(C)]
    struct Attr {
        kind: u32,
        size: u32,
        config: u64,
        rest: [u64; 6],
    }
    let id = TRACEFS
        .iter()
        .find_map(|folder| fs::read_to_string(format!("{folder}/events/syscalls/{name}/id")).ok())
        .context("tracefs is not mounted; type: mount -t tracefs nodev /sys/kernel/tracing")?;
    // SAFETY: made of integers and arrays of them, for which all zeros are valid.
    let mut attr: Attr = unsafe { zeroed() };
    attr.kind = PERF_TYPE_TRACEPOINT;
    attr.size = u32::try_from(size_of::<Attr>())?;
    attr.config = id.trim().parse()?;
    // SAFETY: the kernel reads `attr`, of the size that it names; the rest are integers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            -1,
            0,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let event = new_descriptor(result)?;
    for (request, argument) in [
        (PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()),
        (PERF_EVENT_IOC_ENABLE, 0),
    ] {
        // SAFETY: both requests take an integer.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } != 0 {
            return Err(io::Error::last_os_error().into());
        }
    }
    Ok(event)
}

/// One call of bpf(2). What `attr` points to must be alive.
pub(super) fn bpf<T>(command: libc::c_int, attr: &T) -> libc::c_long {
    // SAFETY: the kernel reads `attr`, of the size given, and what it points to.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of_val(attr),
        )
    }
}

/// What a system call returned that makes a descriptor.
pub(super) fn new_descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
