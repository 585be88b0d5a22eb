//! Owns QEMU: the one on this machine or an unpacked one, and the command line that is known to be
//! reliable.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{debian, process, provision};

const PROGRAM: &str = "qemu-system-x86_64";

/// A QEMU that can be started.
#[derive(Debug, Clone)]
pub(super) enum Qemu {
    /// Installed on this machine.
    Installed(PathBuf),
    /// Unpacked from Debian's packages into this folder.
    Unpacked(PathBuf),
}

/// What differs from one guest to the next.
pub(super) struct Hardware<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) memory_mb: u32,
    pub(super) fast_clock: bool,
    /// Where what the guest writes to its serial ports 0, 1, 2, … goes.
    pub(super) ports: &'a [PathBuf],
}

/// Finds QEMU, or unpacks Debian's.
pub(super) fn find_or_provision() -> Result<Qemu> {
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "the guests run this machine's own binaries on x86_64, and this machine is {}",
            std::env::consts::ARCH
        );
    }
    if let Some(program) = process::on_path(PROGRAM) {
        return Ok(Qemu::Installed(program));
    }
    let folder = provision::once("qemu", |aside| {
        debian::unpack_with_dependencies(&["qemu-system-x86"], aside)?;
        process::capture(
            Qemu::Unpacked(aside.to_path_buf())
                .program()
                .arg("--version"),
        )
        .map(drop)
    })?;
    Ok(Qemu::Unpacked(folder))
}

impl Qemu {
    /// The command that boots the guest.
    pub(super) fn boot(&self, hardware: &Hardware<'_>) -> Command {
        let mut command = self.program();
        // Software emulation everywhere, so that every machine sees the same. One CPU: a second one
        // gains nothing. No cx16: with it some 6 % of the boots of a 6.12 kernel crash.
        command.args([
            "-accel",
            "tcg,thread=single",
            "-cpu",
            "qemu64,-cx16",
            "-smp",
            "1",
        ]);
        command.args(["-machine", "pc", "-m", &hardware.memory_mb.to_string()]);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command
            .arg("-kernel")
            .arg(hardware.kernel)
            .arg("-initrd")
            .arg(hardware.initramfs);
        // panic=-1: a panic ends QEMU at once (with -no-reboot) instead of waiting for our timeout.
        command.args(["-append", "console=ttyS0 quiet panic=-1"]);
        for port in hardware.ports {
            command
                .arg("-serial")
                .arg(format!("file:{}", port.display()));
        }
        if hardware.fast_clock {
            // The guest's clock follows its instructions, and jumps ahead when it is idle.
            command.args(["-icount", "shift=1,sleep=off"]);
        }
        command
    }

    fn program(&self) -> Command {
        match self {
            Self::Installed(program) => Command::new(program),
            Self::Unpacked(folder) => {
                let mut command = Command::new(folder.join("usr/bin").join(PROGRAM));
                let libraries = debian::library_folders(folder);
                let modules = libraries.iter().map(|library| library.join("qemu"));
                if let Some(modules) = modules.into_iter().find(|path| path.is_dir()) {
                    command.env("QEMU_MODULE_DIR", modules);
                }
                if let Ok(path) = std::env::join_paths(&libraries) {
                    command.env("LD_LIBRARY_PATH", path);
                }
                // The firmware comes in two packages.
                for firmware in ["usr/share/qemu", "usr/share/seabios"] {
                    command.arg("-L").arg(folder.join(firmware));
                }
                command
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(fast_clock: bool) -> String {
        let hardware = Hardware {
            kernel: Path::new("/k/vmlinuz"),
            initramfs: Path::new("/v/initramfs"),
            memory_mb: 768,
            fast_clock,
            ports: &["/v/console.log".into(), "/v/stdout".into()],
        };
        process::shown(&Qemu::Installed("/usr/bin/qemu-system-x86_64".into()).boot(&hardware))
    }

    #[test]
    fn the_command_line_has_what_is_known_to_matter() {
        let line = line(false);
        for part in [
            "-cpu qemu64,-cx16 -smp 1",
            "-accel tcg,thread=single",
            "-m 768",
            "-no-reboot",
            "'console=ttyS0 quiet panic=-1'",
            "-serial file:/v/console.log -serial file:/v/stdout",
        ] {
            assert!(line.contains(part), "{part:?} is not in: {line}");
        }
        assert!(!line.contains("-icount"));
    }

    #[test]
    fn a_fast_clock_is_asked_for_by_icount() {
        assert!(line(true).contains("-icount shift=1,sleep=off"));
    }
}
