//! Owns the empty program on the same hook: what the kernel charges for any program at all.

use std::{
    io,
    mem::size_of_val,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::{Context as _, Result};

/// Commands of bpf(2) and the program type: include/uapi/linux/bpf.h (v6.18).
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
/// `r0 = 0; exit`, as struct bpf_insn lays them out.
const RETURN_0: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];

/// An attached program that does nothing.
pub(super) struct Floor {
    program: OwnedFd,
    _link: OwnedFd,
}

impl Floor {
    /// Loads it and attaches it to `inet_sock_set_state`.
    pub(super) fn attach() -> Result<Self> {
        #[repr(C)]
        struct Load {
            prog_type: u32,
            insn_cnt: u32,
            insns: u64,
            license: u64,
        }
        #[repr(C)]
        struct Attach {
            name: u64,
            prog_fd: u32,
            padding: u32,
        }
        let program = bpf(
            BPF_PROG_LOAD,
            &Load {
                prog_type: BPF_PROG_TYPE_RAW_TRACEPOINT,
                insn_cnt: 2,
                insns: RETURN_0.as_ptr() as u64,
                license: c"GPL".as_ptr() as u64,
            },
        )
        .context("cannot load the empty program")?;
        let link = bpf(
            BPF_RAW_TRACEPOINT_OPEN,
            &Attach {
                name: c"inet_sock_set_state".as_ptr() as u64,
                prog_fd: u32::try_from(program.as_raw_fd())?,
                padding: 0,
            },
        )
        .context("cannot attach the empty program")?;
        Ok(Self {
            program,
            _link: link,
        })
    }

    /// The descriptor of the program, whose fdinfo has its times.
    pub(super) fn fd(&self) -> RawFd {
        self.program.as_raw_fd()
    }
}

/// One call of bpf(2) that returns a descriptor. What `attr` points to must be alive.
fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `attr`, of the size given, and what it points to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of_val(attr),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
