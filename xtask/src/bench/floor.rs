//! Owns the programs on the same hook that others are compared with: an empty one, which is what the kernel charges
//! for any program at all, one that only counts, and one that only calls helpers.

use std::{
    fs, io,
    mem::{size_of, size_of_val, zeroed},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

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
/// The folder of the tracepoint where bind(2) returns, and where tracefs may be mounted.
const BIND_RETURNS: &str = "events/syscalls/sys_exit_bind/id";
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Where the empty program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// The raw tracepoint of state changes.
    SetState,
    /// The tracepoint where bind(2) returns.
    BindReturns,
}

/// An attached program of this benchmark's own.
pub(super) struct Floor {
    // Detached first.
    _attached: OwnedFd,
    program: OwnedFd,
    /// What it fills.
    ring: Option<Ring>,
}

impl Floor {
    /// One that does nothing.
    pub(super) fn attach(hook: Hook) -> Result<Self> {
        Self::with(hook, &RETURN_0)
    }

    /// One that calls the helpers which a record of a state change takes.
    pub(super) fn that_records() -> Result<Self> {
        let ring = Ring::new()?;
        let mut floor = Self::with(Hook::SetState, &ring.program())?;
        floor.ring = Some(ring);
        Ok(floor)
    }

    /// The same with a program that goes so many times through a loop of three instructions.
    pub(super) fn that_counts(hook: Hook, times: u16) -> Result<Self> {
        Self::with(hook, &counting(times))
    }

    fn with(hook: Hook, instructions: &[u64]) -> Result<Self> {
        let (program, attached) = match hook {
            Hook::SetState => {
                let program = load(BPF_PROG_TYPE_RAW_TRACEPOINT, instructions)?;
                let attached = attach_raw(&program);
                (program, attached)
            }
            Hook::BindReturns => {
                let program = load(BPF_PROG_TYPE_TRACEPOINT, instructions)?;
                let attached = attach_to_bind(&program);
                (program, attached)
            }
        };
        Ok(Self {
            _attached: attached.context("cannot attach a program")?,
            program,
            ring: None,
        })
    }

    /// Its runs so far.
    pub(super) fn runs(&self) -> Result<Runs> {
        procfs::own_program(&self.program)
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

fn attach_raw(program: &OwnedFd) -> Result<OwnedFd> {
    #[repr(C)]
    struct Attach {
        name: u64,
        prog_fd: u32,
        padding: u32,
    }
    let attr = Attach {
        name: c"inet_sock_set_state".as_ptr() as u64,
        prog_fd: u32::try_from(program.as_raw_fd())?,
        padding: 0,
    };
    Ok(new_descriptor(bpf(BPF_RAW_TRACEPOINT_OPEN, &attr))?)
}

/// By a perf event. On whichever CPU that is, the program runs on all.
fn attach_to_bind(program: &OwnedFd) -> Result<OwnedFd> {
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
        .find_map(|folder| fs::read_to_string(format!("{folder}/{BIND_RETURNS}")).ok())
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
