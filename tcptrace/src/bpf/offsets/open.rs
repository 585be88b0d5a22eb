//! Owns how a kernel's types are opened: its own, or those of a user's file.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _},
    path::Path,
    sync::Mutex,
};

use anyhow::{Context, Result, anyhow};
use btf_rs::{Backend, Btf};

use super::{KernelTypes, VMLINUX, file, names::Names};

impl KernelTypes {
    /// That of the running kernel.
    ///
    /// # Errors
    /// When the kernel has none, or it cannot be parsed.
    pub fn running() -> Result<Self> {
        Self::open(Path::new(VMLINUX))
    }

    /// That in a user's file of raw BTF (`--btf`), or that of the running kernel.
    ///
    /// # Errors
    /// One sentence: what the file is instead; or as [`Self::running`].
    pub fn of(file: Option<&Path>) -> Result<Self> {
        let Some(path) = file else {
            return Self::running();
        };
        file::check(path)?;
        Ok(Self {
            file: Some(path.to_owned()),
            ..Self::open(path)?
        })
    }

    /// That in a file of raw BTF.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be parsed.
    pub fn open(path: &Path) -> Result<Self> {
        let read = || {
            let raw = fs::read(path)?;
            let btf = Btf::from_file_with_backend(path, Backend::Mmap)
                // Before 6.16 the file in /sys cannot be mapped: a copy in memory can.
                .or_else(|_| copy_in_memory(&raw).map(|(btf, _)| btf))?;
            Ok(Self {
                btf,
                names: Names::read(&raw)?,
                structures: Mutex::default(),
                file: None,
            })
        };
        read().map_err(|error: anyhow::Error| {
            anyhow!("cannot read BTF from {}: {error:#}", path.display())
        })
    }
}

/// Copies the file's bytes to anonymous memory and maps that.
fn copy_in_memory(bytes: &[u8]) -> Result<(Btf, File)> {
    // SAFETY: memfd_create(2) takes a NUL-terminated name and returns a new descriptor or -1.
    let fd = unsafe { libc::memfd_create(c"tcptrace-btf".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("cannot make a memory file");
    }
    // SAFETY: the descriptor is new and nobody else's.
    let mut copy = unsafe { File::from_raw_fd(fd) };
    copy.write_all(bytes)?;
    copy.seek(SeekFrom::Start(0))?;
    // A thread may have descriptors of its own.
    let name = format!("/proc/thread-self/fd/{}", copy.as_raw_fd());
    let btf =
        Btf::from_file_with_backend(&name, Backend::Mmap).map_err(|error| anyhow!("{error}"))?;
    Ok((btf, copy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_in_memory_gives_the_same_offsets() {
        if !Path::new(VMLINUX).exists() {
            return;
        }
        let types = KernelTypes::running().unwrap();
        let (btf, _file) = copy_in_memory(&fs::read(VMLINUX).unwrap()).unwrap();
        let offsets = types.offsets().unwrap();
        let copied = KernelTypes {
            btf,
            structures: Mutex::default(),
            ..types
        };
        assert_eq!(copied.offsets().unwrap(), offsets);
    }

    #[test]
    fn no_btf_is_an_error_that_names_the_file() {
        let error = KernelTypes::open(Path::new("/no/such/btf")).err().unwrap();
        assert!(error.to_string().contains("/no/such/btf"));
    }
}
