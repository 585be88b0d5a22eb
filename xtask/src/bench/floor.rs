//! Owns the empty program on the same hook: what the kernel charges for any program at all.

use std::{
    fs, io,
    mem::{size_of, size_of_val, zeroed},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context as _, Result};

use super::procfs::{self, Runs};

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

/// An attached program that does nothing.
pub(super) struct Floor {
    program: OwnedFd,
    _attached: OwnedFd,
}

impl Floor {
    /// Loads it and attaches it.
    pub(super) fn attach(hook: Hook) -> Result<Self> {
        let (program, attached) = match hook {
            Hook::SetState => {
                let program = load(BPF_PROG_TYPE_RAW_TRACEPOINT)?;
                let attached = attach_raw(&program);
                (program, attached)
            }
            Hook::BindReturns => {
                let program = load(BPF_PROG_TYPE_TRACEPOINT)?;
                let attached = attach_to_bind(&program);
                (program, attached)
            }
        };
        Ok(Self {
            program,
            _attached: attached.context("cannot attach the empty program")?,
        })
    }

    /// Its runs so far.
    pub(super) fn runs(&self) -> Result<Runs> {
        let path = PathBuf::from(format!("/proc/self/fdinfo/{}", self.program.as_raw_fd()));
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let (_, runs) = procfs::program(&text).context("the kernel does not time programs")?;
        Ok(runs)
    }
}

fn load(kind: u32) -> Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
    }
    let attr = Load {
        prog_type: kind,
        insn_cnt: 2,
        insns: RETURN_0.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    bpf(BPF_PROG_LOAD, &attr).context("cannot load the empty program")
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
    Ok(bpf(BPF_RAW_TRACEPOINT_OPEN, &attr)?)
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

/// One call of bpf(2) that returns a descriptor. What `attr` points to must be alive.
fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `attr`, of the size given, and what it points to.
    new_descriptor(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of_val(attr),
        )
    })
}

/// What a system call returned that makes a descriptor.
fn new_descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
