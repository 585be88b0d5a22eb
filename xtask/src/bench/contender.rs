//! Owns the contenders: how each is started, timed by the kernel, and stopped.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    Sample, Work,
    churn::{self, Close},
    floor::Floor,
};
use crate::{debian, process::on_path, provision};

/// How long a tracer may take until its program is attached.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    Untraced,
    Floor,
    TcptraceJson,
    TcptraceText,
    TcptraceTimer,
    TcptraceOtherPort,
    Tcpstates,
}

/// The programs that contend.
pub(super) struct Programs {
    tcptrace: PathBuf,
    pub(super) tcpstates: Result<Peer>,
}

/// A program of somebody else's.
pub(super) struct Peer {
    program: PathBuf,
    /// Where its libraries are, when it was unpacked rather than installed.
    libraries: Vec<PathBuf>,
}

impl Programs {
    /// Finds tcpstates on PATH, or unpacks Debian's package of it.
    pub(super) fn find(tcptrace: PathBuf) -> Self {
        let unpacked = || {
            let folder = provision::once("libbpf-tools", |aside| {
                debian::unpack_with_dependencies(&["libbpf-tools"], aside)
            })?;
            let program = folder.join("usr/sbin/tcpstates");
            if !program.exists() {
                bail!("Debian's libbpf-tools has no tcpstates");
            }
            let libraries = debian::library_folders(&folder);
            Ok(Peer { program, libraries })
        };
        let installed = |program| Peer {
            program,
            libraries: Vec::new(),
        };
        Self {
            tcptrace,
            tcpstates: on_path("tcpstates")
                .map(installed)
                .map_or_else(unpacked, Ok),
        }
    }
}

/// Time and number of runs of eBPF programs, as the kernel counts them.
#[derive(Clone, Copy, Default)]
pub(super) struct Runs {
    pub(super) time_ns: u64,
    pub(super) count: u64,
}

impl Contender {
    /// All, in the order of the table; the first is what the others are compared with.
    pub(super) const ALL: [Self; 7] = [
        Self::Untraced,
        Self::Floor,
        Self::TcptraceJson,
        Self::TcptraceText,
        Self::TcptraceTimer,
        Self::TcptraceOtherPort,
        Self::Tcpstates,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Untraced => "untraced",
            Self::Floor => "empty program",
            Self::TcptraceJson => "tcptrace --json",
            Self::TcptraceText => "tcptrace",
            Self::TcptraceTimer => "tcptrace --backend timer",
            Self::TcptraceOtherPort => "tcptrace --port (other)",
            Self::Tcpstates => "tcpstates",
        }
    }

    /// One measurement, with nothing else attached.
    pub(super) fn measure(self, programs: &Programs, work: Work) -> Result<Sample> {
        let tcptrace = |flags: &[&str]| {
            let mut command = Command::new(&programs.tcptrace);
            command.args(flags);
            command
        };
        let mut command = match self {
            Self::Untraced => {
                return Ok(Sample {
                    kernel: None,
                    connections_per_second: churn::drive(work.connections, work.close)?,
                });
            }
            Self::Floor => {
                let floor = Floor::attach()?;
                let fdinfo = PathBuf::from(format!("/proc/self/fdinfo/{}", floor.fd()));
                return sample(work, || Runs::of_descriptor(&fdinfo).context("no times"));
            }
            Self::TcptraceJson => tcptrace(&["--json"]),
            Self::TcptraceText => tcptrace(&[]),
            Self::TcptraceTimer => tcptrace(&["--json", "--backend", "timer"]),
            // The workload uses a port of the ephemeral range.
            Self::TcptraceOtherPort => tcptrace(&["--port", "7"]),
            Self::Tcpstates => {
                let peer = programs
                    .tcpstates
                    .as_ref()
                    .map_err(|why| anyhow!("{why:#}"))?;
                let mut command = Command::new(&peer.program);
                if !peer.libraries.is_empty() {
                    command.env("LD_LIBRARY_PATH", env::join_paths(&peer.libraries)?);
                }
                command
            }
        };
        let tracer = Tracer::start(&mut command)?;
        let measured = sample(work, || tracer.runs());
        tracer.stop()?;
        measured
    }
}

fn sample(work: Work, runs: impl Fn() -> Result<Runs>) -> Result<Sample> {
    let before = runs()?;
    let connections_per_second = churn::drive(work.connections, work.close)?;
    let after = runs()?;
    let count = after.count - before.count;
    if count == 0 {
        bail!(
            "the program did not run during {} connections",
            work.connections
        );
    }
    Ok(Sample {
        kernel: Some(Runs {
            time_ns: after.time_ns - before.time_ns,
            count,
        }),
        connections_per_second,
    })
}

/// A tracer that runs, its output going to a file as a user's would.
struct Tracer {
    child: Child,
    output: PathBuf,
}

impl Tracer {
    fn start(command: &mut Command) -> Result<Self> {
        let output = env::temp_dir().join(format!("tcptrace-bench-{}", process::id()));
        let file = fs::File::create(&output)
            .with_context(|| format!("cannot write {}", output.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let tracer = Self { child, output };
        let deadline = Instant::now() + START_LIMIT;
        // A program that is attached runs at the first connection.
        while tracer.runs().is_ok_and(|runs| runs.count == 0) {
            if Instant::now() > deadline {
                bail!(
                    "{} attached nothing within {} s",
                    command.get_program().display(),
                    START_LIMIT.as_secs()
                );
            }
            churn::drive(1, Close::Reset)?;
            thread::sleep(Duration::from_millis(20));
        }
        // It may still be at what it does once.
        thread::sleep(Duration::from_millis(300));
        Ok(tracer)
    }

    /// The time of all its programs, each counted once however many descriptors it has, and the
    /// runs of the one that runs most often, which may be one on another hook.
    fn runs(&self) -> Result<Runs> {
        let folder = format!("/proc/{}/fdinfo", self.child.id());
        let mut programs: Vec<(String, Runs)> = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
            let path = entry?.path();
            let Some(runs) = Runs::of_descriptor(&path) else {
                continue;
            };
            let id = field(&path, "prog_id").unwrap_or_default();
            if programs.iter().all(|(known, _)| *known != id) {
                programs.push((id, runs));
            }
        }
        Ok(programs
            .iter()
            .fold(Runs::default(), |sum, (_, runs)| Runs {
                time_ns: sum.time_ns + runs.time_ns,
                count: sum.count.max(runs.count),
            }))
    }

    fn stop(mut self) -> Result<()> {
        let pid = libc::pid_t::try_from(self.child.id())?;
        // SAFETY: kill(2) takes two integers; the process is our child and has not been waited for.
        unsafe { libc::kill(pid, libc::SIGINT) };
        let deadline = Instant::now() + STOP_LIMIT;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                bail!(
                    "a tracer did not end at Ctrl-C within {} s",
                    STOP_LIMIT.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // After an error on the way: neither process nor file is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.output);
    }
}

impl Runs {
    /// What an fdinfo file tells, if it is that of a program: kernel/bpf/syscall.c
    /// `bpf_prog_show_fdinfo` (v6.18).
    fn of_descriptor(fdinfo: &Path) -> Option<Self> {
        let number = |name| field(fdinfo, name)?.parse().ok();
        Some(Self {
            time_ns: number("run_time_ns")?,
            count: number("run_cnt")?,
        })
    }
}

fn field(fdinfo: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(fdinfo).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim().to_owned())
    })
}
