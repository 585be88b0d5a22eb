//! Owns what guests of one architecture need besides a kernel.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    arch::Arch,
    statics::Linkage,
    test::suites::Speed,
    vm::{self, Programs, kernel, qemu::Qemu},
};

/// What all guests of an architecture have.
pub(super) struct Equipment {
    pub(super) qemu: Qemu,
    pub(super) busybox: PathBuf,
    pub(super) programs: Programs,
}

impl Equipment {
    /// Finds, fetches or builds it. Inside: why another architecture than this machine's cannot be had here,
    /// which is no failure. `own`: how programs for this machine's own are linked.
    ///
    /// # Errors
    /// What everything else needs, too, is missing; or programs that could be built are broken.
    pub(super) fn of(arch: Arch, own: &Linkage) -> Result<Result<Self, String>> {
        let (machine, programs) = match arch {
            Arch::Amd64 => (Self::machine(arch)?, vm::programs(own, Speed::Optimised)?),
            Arch::Arm64 => match tools(arch) {
                Ok((machine, linkage)) => (machine, vm::programs(&linkage, Speed::Optimised)?),
                Err(error) => {
                    let name = arch.debian();
                    return Ok(Err(format!("no {name} guests here: {error:#}")));
                }
            },
        };
        let (qemu, busybox) = machine;
        Ok(Ok(Self {
            qemu,
            busybox,
            programs,
        }))
    }

    /// The emulator and the shell.
    pub(super) fn machine(arch: Arch) -> Result<(Qemu, PathBuf)> {
        Ok((Qemu::find_or_provision(arch)?, kernel::busybox(arch)?))
    }
}

fn tools(arch: Arch) -> Result<((Qemu, PathBuf), Linkage)> {
    Ok((Equipment::machine(arch)?, Linkage::for_guests(arch)?))
}
