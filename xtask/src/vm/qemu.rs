//! Owns QEMU: the one on this machine or an unpacked one, and the command line that is known to be
//! reliable.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{arch::Arch, debian, process, provision};

/// A QEMU that can be started.
#[derive(Debug, Clone)]
pub(super) struct Qemu {
    /// What it emulates.
    arch: Arch,
    origin: Origin,
}

#[derive(Debug, Clone)]
enum Origin {
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
    /// Where the guest's console, its command's stdout and stderr, and what its init reports go.
    pub(super) ports: &'a [PathBuf; 4],
}

impl Qemu {
    /// Finds QEMU for guests of an architecture, or unpacks Debian's.
    pub(super) fn find_or_provision(arch: Arch) -> Result<Self> {
        if env::consts::ARCH != Arch::Amd64.machine() {
            bail!(
                "the guests run this machine's own binaries on x86_64, and this machine is {}",
                env::consts::ARCH
            );
        }
        if let Some(program) = process::on_path(&program(arch)) {
            let origin = Origin::Installed(program);
            return Ok(Self { arch, origin });
        }
        let (name, package) = match arch {
            Arch::Amd64 => ("qemu", "qemu-system-x86"),
            Arch::Arm64 => ("qemu-arm64", "qemu-system-arm"),
        };
        let unpacked = |folder: &Path| Self {
            arch,
            origin: Origin::Unpacked(folder.to_path_buf()),
        };
        let folder = provision::once(name, |aside| {
            debian::unpack_with_dependencies(&[package], aside)?;
            process::capture(unpacked(aside).program().arg("--version")).map(drop)
        })?;
        Ok(unpacked(&folder))
    }

    /// The command that boots the guest.
    pub(super) fn boot(&self, hardware: &Hardware<'_>) -> Command {
        let mut command = self.program();
        // Software emulation everywhere, so that every machine sees the same. One CPU: a second one
        // gains nothing.
        command.args(["-accel", "tcg,thread=single", "-smp", "1"]);
        let (machine, cpu) = match self.arch {
            // No cx16: with it some 6 % of the boots of a 6.12 kernel crash.
            Arch::Amd64 => ("pc", "qemu64,-cx16"),
            Arch::Arm64 => ("virt", "cortex-a57"),
        };
        command.args(["-machine", machine, "-cpu", cpu]);
        command.args(["-m", &hardware.memory_mb.to_string()]);
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
        self.add_ports(&mut command, hardware.ports);
        if hardware.fast_clock {
            // The guest's clock follows its instructions, and jumps ahead when it is idle.
            command.args(["-icount", "shift=1,sleep=off"]);
        }
        command
    }

    /// Gives the guest its serial ports, and tells it by the kernel's command line which is which: what the
    /// kernel does not know itself becomes an environment variable of init.
    fn add_ports(&self, command: &mut Command, files: &[PathBuf; 4]) {
        let names = match self.arch {
            Arch::Amd64 => ["ttyS0", "ttyS1", "ttyS2", "ttyS3"],
            // The board has one port of its own; the others are cards.
            Arch::Arm64 => ["ttyAMA0", "ttyS0", "ttyS1", "ttyS2"],
        };
        let [console, out, err, control] = names;
        // panic=-1: a panic ends QEMU at once (with -no-reboot) instead of waiting for our timeout.
        command.arg("-append").arg(format!(
            "console={console} quiet panic=-1 OUT_PORT={out} ERR_PORT={err} CONTROL_PORT={control}"
        ));
        for (name, file) in names.iter().zip(files) {
            let is_card = self.arch == Arch::Arm64 && name.starts_with("ttyS");
            if is_card {
                command
                    .arg("-chardev")
                    .arg(format!("file,id={name},path={}", file.display()))
                    .arg("-device")
                    .arg(format!("pci-serial,chardev={name}"));
            } else {
                command
                    .arg("-serial")
                    .arg(format!("file:{}", file.display()));
            }
        }
    }

    fn program(&self) -> Command {
        match &self.origin {
            Origin::Installed(program) => Command::new(program),
            Origin::Unpacked(folder) => {
                let mut command = Command::new(folder.join("usr/bin").join(program(self.arch)));
                let libraries = debian::library_folders(folder);
                let modules = libraries.iter().map(|library| library.join("qemu"));
                if let Some(modules) = modules.into_iter().find(|path| path.is_dir()) {
                    command.env("QEMU_MODULE_DIR", modules);
                }
                if let Ok(path) = env::join_paths(&libraries) {
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

fn program(arch: Arch) -> String {
    format!("qemu-system-{}", arch.machine())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(arch: Arch, fast_clock: bool) -> String {
        let hardware = Hardware {
            kernel: Path::new("/k/vmlinuz"),
            initramfs: Path::new("/v/initramfs"),
            memory_mb: 768,
            fast_clock,
            ports: &["console.log", "stdout", "stderr", "control"]
                .map(|name| Path::new("/v").join(name)),
        };
        let qemu = Qemu {
            arch,
            origin: Origin::Installed(program(arch).into()),
        };
        process::shown(&qemu.boot(&hardware))
    }

    #[test]
    fn the_command_line_has_what_is_known_to_matter() {
        let line = line(Arch::Amd64, false);
        for part in [
            "qemu-system-x86_64 ",
            "-cpu qemu64,-cx16",
            "-accel tcg,thread=single -smp 1",
            "-m 768",
            "-no-reboot",
            "'console=ttyS0 quiet panic=-1 OUT_PORT=ttyS1 ERR_PORT=ttyS2 CONTROL_PORT=ttyS3'",
            "-serial file:/v/console.log -serial file:/v/stdout -serial file:/v/stderr",
        ] {
            assert!(line.contains(part), "{part:?} is not in: {line}");
        }
        assert!(!line.contains("-icount"));
    }

    #[test]
    fn an_arm64_guest_has_one_port_and_three_cards() {
        let line = line(Arch::Arm64, false);
        for part in [
            "qemu-system-aarch64 ",
            "-machine virt -cpu cortex-a57",
            "'console=ttyAMA0 quiet panic=-1 OUT_PORT=ttyS0 ERR_PORT=ttyS1 CONTROL_PORT=ttyS2'",
            "-serial file:/v/console.log -chardev file,id=ttyS0,path=/v/stdout",
            "-device pci-serial,chardev=ttyS2",
        ] {
            assert!(line.contains(part), "{part:?} is not in: {line}");
        }
        assert_eq!(line.matches(" -serial ").count(), 1);
    }

    #[test]
    fn a_fast_clock_is_asked_for_by_icount() {
        assert!(line(Arch::Amd64, true).contains("-icount shift=1,sleep=off"));
    }
}
