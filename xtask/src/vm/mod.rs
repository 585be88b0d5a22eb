//! Owns `cargo xtask vm`: a command under a stock Debian kernel, in an emulated machine.

mod guest;
mod initramfs;
mod kernel;
mod kernels;
pub(crate) mod matrix;
mod qemu;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, bail};

use self::{
    guest::{Life, Lost, Output, Place},
    kernel::Kernel,
    qemu::{Hardware, Qemu},
};
use crate::{
    arch::Arch,
    build_ebpf, say,
    statics::Linkage,
    test::suites::{self, Speed},
    workspace,
};

/// The suite whose kernel is used when none is named: Debian 12, Linux 6.1.
pub(crate) const DEFAULT_SUITE: &str = "bookworm";
/// The memory of a guest, if nothing else is asked for.
const MEMORY_MB: u32 = 512;
/// The exit status for a machine that could not be set up, as of a guest that crashed.
const NO_MACHINE: u8 = 125;

/// Run a command under a stock Debian kernel in QEMU, and bring back its output and exit status.
///
/// The guest has tcptrace, the live test suite (as `live`) and busybox in its PATH, and nothing else;
/// of the kernel's modules only those of sock_diag, and dummy and TUN interfaces.
/// QEMU, the kernel and busybox are fetched once from Debian's archive into .toolchain. The console
/// of each run is kept below target/vm.
///
/// Exit status: the command's; 124 if it ran out of time; 125 if the guest crashed or there is no
/// machine to run it.
///
/// With --matrix: every check under every kernel of a table (xtask/src/vm/kernels.txt), and a table of
/// what passed, failed, or was skipped and why. A kernel that hangs or panics is stopped and the others
/// go on. Exit status: 0 if nothing failed, skipped checks being counted and shown; 1 if something did.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask vm -- tcptrace doctor
  cargo xtask vm -- live                               the live tests, on Linux 6.1
  cargo xtask vm --kernel trixie -- sh -c 'uname -r'
  cargo xtask vm --fast-clock -- sleep 60              takes a few seconds
  cargo xtask vm --matrix                              every check on Linux 5.10, 6.1, 6.12 and 7.2
  cargo xtask vm --matrix --full --json matrix.json    all kernels
  cargo xtask vm --matrix --only 6.1 --every-test      every live test under one
  cargo xtask vm --matrix --only 6.1,7.2 --check lab   the lab on two of them")]
pub(crate) struct Args {
    /// The Debian suite whose kernel to boot: bookworm is 6.1, trixie 6.12, sid the newest
    #[arg(long, value_name = "SUITE", default_value = DEFAULT_SUITE, conflicts_with = "matrix")]
    kernel: String,
    /// Let the guest's clock jump ahead whenever the guest is idle
    #[arg(long, conflicts_with = "matrix")]
    fast_clock: bool,
    /// The guest's memory
    #[arg(long, value_name = "MB", default_value_t = MEMORY_MB)]
    memory: u32,
    /// How long the guest may run
    #[arg(
        long,
        value_name = "S",
        default_value_t = 300,
        conflicts_with = "matrix"
    )]
    timeout: u64,
    /// Show the guest's console, on stderr
    #[arg(long, conflicts_with = "matrix")]
    verbose: bool,
    #[command(flatten)]
    matrix: matrix::Options,
    /// The command, after `--`
    #[arg(
        last = true,
        required_unless_present = "matrix",
        conflicts_with = "matrix"
    )]
    command: Vec<String>,
}

/// What it takes to boot a guest, all of it on this machine.
pub(crate) struct Machine {
    /// What its runs are called by.
    name: String,
    qemu: Qemu,
    kernel: Kernel,
    busybox: PathBuf,
}

/// One run.
pub(crate) struct Guest {
    /// What to put into /bin.
    pub(crate) programs: Programs,
    /// What to run.
    pub(crate) command: Vec<String>,
    /// Its memory.
    pub(crate) memory_mb: u32,
    /// Whether idle time costs nothing.
    pub(crate) fast_clock: bool,
    /// The longest it may take, boot included.
    pub(crate) timeout: Duration,
    /// Whether to show the console.
    pub(crate) verbose: bool,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            programs: Vec::new(),
            command: Vec::new(),
            memory_mb: MEMORY_MB,
            fast_clock: false,
            timeout: Duration::from_secs(300),
            verbose: false,
        }
    }
}

/// Runs the verb.
pub(crate) fn main(args: &Args) -> ExitCode {
    if args.matrix.wanted() {
        return matrix::main(&args.matrix, args.memory);
    }
    match run(args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            say::error(&error);
            ExitCode::from(error.downcast_ref().map_or(NO_MACHINE, Lost::exit_status))
        }
    }
}

fn run(args: &Args) -> Result<u8> {
    let machine = Machine::provision(&args.kernel)?;
    let guest = Guest {
        programs: programs(&Linkage::for_guests(Arch::Amd64)?, Speed::AsBuilt)?,
        command: args.command.clone(),
        memory_mb: args.memory,
        fast_clock: args.fast_clock,
        timeout: Duration::from_secs(args.timeout),
        verbose: args.verbose,
    };
    machine.run(&guest, &mut io::stdout())
}

/// What a guest has in its PATH: name in /bin, and file.
type Programs = Vec<(&'static str, PathBuf)>;

/// The programs of every guest: the tracer first, then the live tests.
fn programs(linkage: &Linkage, speed: Speed) -> Result<Programs> {
    build_ebpf::ensure()?;
    let (tracer, live) = suites::build_for_guest(linkage, speed)?;
    let mut programs = vec![("tcptrace", tracer)];
    programs.extend(live.map(|live| ("live", live)));
    Ok(programs)
}

impl Machine {
    /// Finds, or fetches, everything that a guest with the kernel of this suite needs.
    pub(crate) fn provision(suite: &str) -> Result<Self> {
        // It becomes part of a path and of a package list.
        if suite.is_empty() || !suite.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
            bail!("{suite:?} is no Debian suite; try bookworm, trixie or sid");
        }
        Ok(Self {
            name: suite.to_owned(),
            qemu: Qemu::find_or_provision(Arch::Amd64)?,
            kernel: kernel::of_suite(suite)?,
            busybox: kernel::busybox(Arch::Amd64)?,
        })
    }

    /// Runs a guest to its end and returns the exit status of its command. What it writes to stderr goes
    /// to ours, as does the end of the console of a guest that is lost.
    pub(crate) fn run(&self, guest: &Guest, stdout: &mut dyn Write) -> Result<u8> {
        let place = Place::new(&self.name)?;
        let mut output = Output {
            stdout,
            stderr: &mut io::stderr(),
            verbose: guest.verbose,
        };
        let life = self.follow(guest, &place, &mut output)?;
        let lost = match life.end {
            Ok(status) => return Ok(status),
            Err(lost) => lost,
        };
        say::say(format_args!(
            "the end of the guest's console ({}):",
            workspace::shown(&place.console())
        ));
        eprintln!("{}", life.console);
        if !life.emulator.is_empty() {
            say::say(format_args!("QEMU says: {}", life.emulator));
        }
        if let Lost::TimedOut(_) = lost {
            say::say("--timeout gives it longer");
        }
        Err(lost.into())
    }

    /// Runs a guest to its end, whatever that is.
    fn follow(&self, guest: &Guest, place: &Place, output: &mut Output<'_>) -> Result<Life> {
        let mut programs = Vec::new();
        for (name, path) in &guest.programs {
            programs.push((*name, path.as_path()));
        }
        let archive = place.initramfs();
        initramfs::write(
            &archive,
            &self.busybox,
            &programs,
            &self.kernel.modules,
            &guest.command,
        )?;
        let hardware = Hardware {
            kernel: &self.kernel.image,
            initramfs: &archive,
            memory_mb: guest.memory_mb,
            fast_clock: guest.fast_clock,
            ports: &place.ports(),
        };
        guest::run(&self.qemu, &hardware, place, guest.timeout, output)
    }
}

/// Shows what is written on stdout and keeps a copy.
pub(crate) struct Tee<'a> {
    /// The copy.
    pub(crate) copy: &'a mut Vec<u8>,
}

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = io::stdout().write(bytes)?;
        self.copy.extend_from_slice(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}
