//! Owns the eBPF programs of another process, each by the name that the kernel has for it.

use std::{
    io,
    mem::{size_of, size_of_val, zeroed},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

use super::{
    floor::{bpf, new_descriptor},
    procfs::{self, Runs},
};

/// Commands of bpf(2): include/uapi/linux/bpf.h (v6.18).
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// Bytes of a program's name, the closing NUL included: `BPF_OBJ_NAME_LEN` there.
const NAME_BYTES: usize = 16;

/// A program.
pub(super) struct Program {
    /// As much of it as the kernel keeps, 15 bytes.
    name: String,
    descriptor: OwnedFd,
}

impl Program {
    /// Those of a process.
    pub(super) fn all_of(pid: u32) -> Result<Vec<Self>> {
        let ids = procfs::program_ids_of(pid)?;
        ids.into_iter()
            .map(|id| Self::open(id).with_context(|| format!("cannot open program {id}")))
            .collect()
    }

    /// As much of its name as the kernel keeps.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn runs(&self) -> Result<Runs> {
        procfs::own_program(&self.descriptor)
    }

    /// Its instructions as the kernel runs them, before they are compiled: checked, rewritten, and without those
    /// that it can never reach.
    pub(super) fn instructions(&self) -> Result<Vec<u64>> {
        let length = describe(&self.descriptor, &mut [])?.lengths[1];
        let mut instructions = vec![0; usize::try_from(length)? / size_of::<u64>()];
        describe(&self.descriptor, &mut instructions)?;
        Ok(instructions)
    }

    fn open(id: u32) -> Result<Self> {
        #[repr(C)]
        struct Get {
            id: u32,
            next_id: u32,
            flags: u32,
        }
        let attr = Get {
            id,
            next_id: 0,
            flags: 0,
        };
        let descriptor = new_descriptor(bpf(BPF_PROG_GET_FD_BY_ID, &attr))?;
        Ok(Self {
            name: name_of(&descriptor)?,
            descriptor,
        })
    }
}

/// The beginning of struct bpf_prog_info.
#[repr(C)]
struct Info {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    /// In bytes, compiled and not.
    lengths: [u32; 2],
    /// Where they go, likewise.
    instructions: [u64; 2],
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; NAME_BYTES],
}

fn name_of(program: &OwnedFd) -> Result<String> {
    let name = describe(program, &mut [])?.name;
    let end = name.iter().position(|byte| *byte == 0);
    Ok(String::from_utf8_lossy(&name[..end.unwrap_or(NAME_BYTES)]).into_owned())
}

/// What the kernel tells of a program, and as many of its instructions as there is room for.
fn describe(program: &OwnedFd, instructions: &mut [u64]) -> Result<Info> {
    #[repr(C)]
    struct Get {
        fd: u32,
        length: u32,
        info: u64,
    }
    // SAFETY: made of integers and arrays of them, for which all zeros are valid.
    let mut info: Info = unsafe { zeroed() };
    info.lengths[1] = u32::try_from(size_of_val(instructions))?;
    info.instructions[1] = instructions.as_mut_ptr() as u64;
    let attr = Get {
        fd: u32::try_from(program.as_raw_fd())?,
        length: u32::try_from(size_of::<Info>())?,
        info: (&raw mut info) as u64,
    };
    if bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) != 0 {
        return Err(io::Error::last_os_error()).context("the kernel does not describe a program");
    }
    Ok(info)
}

/// How many of these instructions call a helper: `BPF_JMP | BPF_CALL` whose source register is 0; 1 is a
/// function of the program's own.
pub(super) fn helper_calls(instructions: &[u64]) -> usize {
    const CALL: u64 = 0x0085;
    const CODE_AND_SOURCE: u64 = 0xf0ff;
    let is_call = |instruction: &&u64| **instruction & CODE_AND_SOURCE == CALL;
    instructions.iter().filter(is_call).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_helpers_are_told_from_other_calls() {
        let (exit, helper, own) = (0x95, 0x0000_0005_0000_0085, 0x0000_0005_0000_1085);
        assert_eq!(helper_calls(&[helper, own, exit, helper]), 2);
        assert_eq!(helper_calls(&[]), 0);
    }
}
