//! Programs that are started with some of root's rights only, or where something of the machine is hidden.

use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::sys::check;

/// Numbers of capabilities: include/uapi/linux/capability.h (v6.18).
pub(crate) const NET_ADMIN: u32 = 12;
pub(crate) const SYS_PTRACE: u32 = 19;
pub(crate) const SYS_ADMIN: u32 = 21;
pub(crate) const SYS_RESOURCE: u32 = 24;
pub(crate) const SYSLOG: u32 = 34;
pub(crate) const PERFMON: u32 = 38;
pub(crate) const BPF: u32 = 39;

/// The user "nobody", on every distribution.
pub(crate) const NOBODY: u32 = 65_534;

/// What a program may do, and what it sees.
#[derive(Clone, Debug)]
pub(crate) struct Rights {
    /// Whether it runs as nobody, who has the capabilities as ambient ones.
    nobody: bool,
    /// A bit for each capability that it has, if this process has it.
    capabilities: u64,
    /// Directories that are empty for it.
    hidden: Vec<&'static str>,
    /// Whether it is in a user namespace of its own.
    user_namespace: bool,
}

impl Rights {
    /// Those of this process.
    pub(crate) fn all() -> Self {
        Self {
            nobody: false,
            capabilities: u64::MAX,
            hidden: Vec::new(),
            user_namespace: false,
        }
    }

    /// Root without these capabilities.
    pub(crate) fn without(capabilities: &[u32]) -> Self {
        Self {
            capabilities: !bits(capabilities),
            ..Self::all()
        }
    }

    /// Root with these capabilities alone.
    pub(crate) fn only(capabilities: &[u32]) -> Self {
        Self {
            capabilities: bits(capabilities),
            ..Self::all()
        }
    }

    /// Nobody with these capabilities alone, as far as this process has them.
    pub(crate) fn of_nobody(capabilities: &[u32]) -> Result<Self> {
        let status = std::fs::read_to_string("/proc/thread-self/status")?;
        let mut lines = status.lines();
        let own = lines.find_map(|line| line.strip_prefix("CapPrm:"));
        let own = u64::from_str_radix(own.context("no CapPrm")?.trim(), 16)?;
        Ok(Self {
            nobody: true,
            capabilities: bits(capabilities) & own,
            ..Self::all()
        })
    }

    /// The same where these directories are empty.
    pub(crate) fn hiding(mut self, directories: &[&'static str]) -> Self {
        self.hidden.extend(directories);
        self
    }

    /// The same in a user namespace of its own.
    pub(crate) fn in_user_namespace(mut self) -> Self {
        self.user_namespace = true;
        self
    }

    /// The command, with these rights and no others.
    pub(crate) fn command(&self, program: &std::path::Path, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/");
        let hidden = self
            .hidden
            .iter()
            .map(|directory| CString::new(*directory).context("a path with a NUL"))
            .collect::<Result<Vec<CString>>>()?;
        let Self {
            nobody,
            capabilities,
            user_namespace,
            ..
        } = *self;
        // SAFETY: between fork and exec it makes system calls only, with memory that was there before.
        unsafe {
            command.pre_exec(move || {
                hide(&hidden)?;
                if user_namespace {
                    be_root_of_a_user_namespace()?;
                }
                if nobody {
                    become_nobody_with(capabilities)
                } else {
                    keep_only(capabilities)
                }
            })
        };
        Ok(command)
    }
}

fn bits(capabilities: &[u32]) -> u64 {
    capabilities.iter().fold(0, |bits, one| bits | 1 << one)
}

/// Mounts an empty file system over each directory, in a mount namespace of its own. One that is not there
/// need not be hidden.
fn hide(directories: &[CString]) -> io::Result<()> {
    if directories.is_empty() {
        return Ok(());
    }
    // SAFETY: the strings end with NUL and outlive the calls; neither call takes other memory.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let none = std::ptr::null();
        check(libc::mount(
            c"none".as_ptr(),
            c"/".as_ptr(),
            none,
            private,
            none.cast(),
        ))?;
        for directory in directories {
            let tmpfs = c"tmpfs".as_ptr();
            let mounted = libc::mount(tmpfs, directory.as_ptr(), tmpfs, 0, none.cast());
            match check(mounted).map_err(|error| error.raw_os_error()) {
                Ok(_) | Err(Some(libc::ENOENT)) => {}
                Err(errno) => return Err(io::Error::from_raw_os_error(errno.unwrap_or(0))),
            }
        }
    }
    Ok(())
}

/// Root there is root here, and has no capabilities here.
fn be_root_of_a_user_namespace() -> io::Result<()> {
    let map = b"0 0 1";
    // SAFETY: a string that ends with NUL, and as many bytes as are said.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWUSER))?;
        let path = c"/proc/self/uid_map".as_ptr();
        let file = check(libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC))?;
        let written = libc::write(file, map.as_ptr().cast(), map.len());
        check(libc::c_int::try_from(written).unwrap_or(-1))?;
    }
    Ok(())
}

/// Root has what is left in its bounding set once it runs a program: capabilities(7).
fn keep_only(capabilities: u64) -> io::Result<()> {
    for one in (0..64).filter(|one| capabilities & (1 << one) == 0) {
        // SAFETY: prctl takes integers here.
        let dropped = check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, one, 0, 0, 0) });
        match dropped.map_err(|error| error.raw_os_error()) {
            // The kernel knows no capability of that number.
            Ok(_) | Err(Some(libc::EINVAL)) => {}
            Err(errno) => return Err(io::Error::from_raw_os_error(errno.unwrap_or(0))),
        }
    }
    Ok(())
}

/// Ambient capabilities outlive the exec of a program without any of its own.
fn become_nobody_with(capabilities: u64) -> io::Result<()> {
    /// include/uapi/linux/capability.h (v6.18): `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let [low, high] = [capabilities & 0xffff_ffff, capabilities >> 32]
        .map(|half| u32::try_from(half).unwrap_or(0));
    let mut header = [VERSION, 0];
    // struct __user_cap_data_struct, twice: effective, permitted, inheritable.
    let mut data = [low, low, low, high, high, high];
    // SAFETY: the system calls take integers, and two arrays of the size that this version has.
    unsafe {
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        check(libc::setresgid(NOBODY, NOBODY, NOBODY))?;
        check(libc::setresuid(NOBODY, NOBODY, NOBODY))?;
        let set = libc::syscall(libc::SYS_capset, header.as_mut_ptr(), data.as_mut_ptr());
        check(libc::c_int::try_from(set).unwrap_or(-1))?;
        for one in (0..64).filter(|one| capabilities & (1 << one) != 0) {
            let raise = libc::PR_CAP_AMBIENT_RAISE;
            check(libc::prctl(libc::PR_CAP_AMBIENT, raise, one, 0, 0))?;
        }
    }
    Ok(())
}
