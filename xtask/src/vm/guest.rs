//! Owns the life of one guest: boot it, follow what it writes, learn how it ended.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::qemu::{Hardware, Qemu};
use crate::{process, say::say, workspace};

/// A boot takes two or three seconds; a machine under load is given more.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// How long the guest may take to power off once it has reported.
const OFF_LIMIT: Duration = Duration::from_secs(10);
/// How often its ports are read.
const POLL: Duration = Duration::from_millis(20);
/// How much of the console an error shows.
const CONSOLE_LINES: usize = 40;

/// A guest that brought no exit status back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Neither of two boots came to the guest's first process.
    NeverReady(String),
    /// It ended before it reported: a kernel panic, most often.
    Crashed,
    /// It was still running at the end of its time.
    TimedOut(Duration),
}

/// The folder of one run: what the guest is given, and what it leaves.
pub(super) struct Place {
    folder: PathBuf,
}

/// One boot, as far as it came.
enum End {
    Reported(u8),
    NeverReady(String),
    Crashed,
    TimedOut,
}

/// What happened to a guest, from its first boot to its end.
pub(crate) struct Life {
    /// The exit status of its command.
    pub(crate) end: Result<u8, Lost>,
    /// 2 if the first boot never reached its first process.
    pub(crate) boots: u32,
    /// The last lines of its console.
    pub(crate) console: String,
    /// What QEMU itself complained of.
    pub(crate) emulator: String,
}

/// Where that goes which the guest writes while it runs.
pub(crate) struct Output<'a> {
    /// Its command's stdout.
    pub(crate) stdout: &'a mut dyn Write,
    /// Its command's stderr; with `verbose` also its console.
    pub(crate) stderr: &'a mut dyn Write,
    /// Whether to tell of the console and of times.
    pub(crate) verbose: bool,
}

/// Boots the guest and follows it to its end.
///
/// A boot that never reaches the guest's first process is repeated once, and said: that is the
/// emulator's failure. Nothing is repeated after that.
pub(super) fn run(
    qemu: &Qemu,
    hardware: &Hardware<'_>,
    place: &Place,
    timeout: Duration,
    output: &mut Output<'_>,
) -> Result<Life> {
    let mut boots = 1;
    let mut end = boot(qemu, hardware, place, timeout, output)?;
    if let End::NeverReady(how) = &end {
        say(format_args!(
            "boot 1 of 2 never reached the guest's init ({how}); boots again"
        ));
        boots = 2;
        end = boot(qemu, hardware, place, timeout, output)?;
    }
    let console = last_lines(&read(&place.console()), CONSOLE_LINES);
    let emulator = read(&place.emulator_log()).trim().to_owned();
    let end = match end {
        End::Reported(status) => Ok(status),
        End::NeverReady(how) => Err(Lost::NeverReady(how)),
        End::Crashed => Err(Lost::Crashed),
        End::TimedOut => Err(Lost::TimedOut(timeout)),
    };
    Ok(Life {
        end,
        boots,
        console,
        emulator,
    })
}

fn boot(
    qemu: &Qemu,
    hardware: &Hardware<'_>,
    place: &Place,
    timeout: Duration,
    output: &mut Output<'_>,
) -> Result<End> {
    let verbose = output.verbose;
    let [console, out, err, control] = place.ports();
    for port in [&console, &out, &err, &control] {
        File::create(port).with_context(|| format!("cannot write {}", port.display()))?;
    }
    let mut command = qemu.boot(hardware);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(place.emulator_log())?);
    let child = command
        .spawn()
        .with_context(|| format!("cannot run `{}`", process::shown(&command)))?;
    let mut child = Running(child);
    let start = Instant::now();
    let (mut out, mut err) = (Tail::of(&out)?, Tail::of(&err)?);
    let mut console = if verbose {
        Some(Tail::of(&console)?)
    } else {
        None
    };
    let mut reported_at = None;
    loop {
        let ended = child.0.try_wait()?;
        // In this order: what was written before the end is read after it.
        out.copy(output.stdout)?;
        err.copy(output.stderr)?;
        if let Some(console) = &mut console {
            console.copy(output.stderr)?;
        }
        let report = Report::parse(&read(&control));
        if let Some(status) = report.status {
            let reported_at = reported_at.get_or_insert_with(Instant::now);
            if ended.is_some() || reported_at.elapsed() > OFF_LIMIT {
                if verbose {
                    let seconds = start.elapsed().as_secs_f64();
                    say(format_args!(
                        "the guest took {seconds:.1} s and ended with {status}"
                    ));
                }
                return Ok(End::Reported(status));
            }
        } else if let Some(status) = ended {
            return Ok(if report.ready {
                End::Crashed
            } else {
                never_ready(status)
            });
        } else if start.elapsed() > timeout {
            return Ok(End::TimedOut);
        } else if !report.ready && start.elapsed() > BOOT_LIMIT {
            return Ok(End::NeverReady(format!(
                "not within {} s",
                BOOT_LIMIT.as_secs()
            )));
        }
        thread::sleep(POLL);
    }
}

impl Lost {
    /// The exit status that stands for it, as `timeout` and container tools have them.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::TimedOut(_) => 124,
            Self::NeverReady(_) | Self::Crashed => 125,
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverReady(how) => {
                write!(out, "the guest did not reach its init in 2 boots ({how})")
            }
            Self::Crashed => out.write_str("the guest crashed: it ended without an exit status"),
            Self::TimedOut(limit) => write!(
                out,
                "the guest timed out: still running after {} s",
                limit.as_secs()
            ),
        }
    }
}

impl std::error::Error for Lost {}

impl Place {
    /// A fresh folder below `target/vm`.
    pub(super) fn new(name: &str) -> Result<Self> {
        let name = format!("{name}-{}", std::process::id());
        let folder = workspace::root().join("target/vm").join(name);
        // A process id comes back sooner or later.
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Where all of it lies.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the archive for the guest goes.
    pub(super) fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs")
    }

    /// Where the guest's serial ports go, in their order: console, stdout, stderr, control.
    pub(super) fn ports(&self) -> [PathBuf; 4] {
        [
            self.console(),
            self.folder.join("stdout"),
            self.folder.join("stderr"),
            self.folder.join("control"),
        ]
    }

    /// Where the kernel's messages go.
    pub(super) fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    fn emulator_log(&self) -> PathBuf {
        self.folder.join("qemu.log")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The logs stay; this is the bulk, and a leftover is harmless.
        let _ = fs::remove_file(self.initramfs());
    }
}

/// An emulator that does not outlive the interest in it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A growing file, read from where the last reading ended.
struct Tail(File);

impl Tail {
    fn of(path: &Path) -> Result<Self> {
        Ok(Self(File::open(path).with_context(|| {
            format!("cannot read {}", path.display())
        })?))
    }

    fn copy(&mut self, to: &mut dyn Write) -> io::Result<()> {
        let mut new = Vec::new();
        if self.0.read_to_end(&mut new)? > 0 {
            to.write_all(&new)?;
            to.flush()?;
        }
        Ok(())
    }
}

/// What the guest's init has written to the control port so far.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    ready: bool,
    status: Option<u8>,
}

impl Report {
    fn parse(text: &str) -> Self {
        // Without its line end a number may not be complete.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = complete.lines().map(str::trim);
        Self {
            ready: complete.lines().any(|line| line.trim() == "ready"),
            status: lines.find_map(|line| line.strip_prefix("exit ")?.parse().ok()),
        }
    }
}

fn never_ready(status: ExitStatus) -> End {
    End::NeverReady(format!("QEMU ended before that, {status}"))
}

fn read(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn last_lines(text: &str, count: usize) -> String {
    let lines = text.lines().collect::<Vec<_>>();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_port_tells_how_far_the_guest_came() {
        assert_eq!(
            Report::parse(""),
            Report {
                ready: false,
                status: None
            }
        );
        assert_eq!(
            Report::parse("ready\n"),
            Report {
                ready: true,
                status: None
            }
        );
        assert_eq!(
            Report::parse("ready\r\nexit 3\r\n"),
            Report {
                ready: true,
                status: Some(3)
            }
        );
    }

    #[test]
    fn a_number_that_may_not_be_complete_is_waited_for() {
        assert_eq!(Report::parse("ready\nexit 1").status, None);
        assert_eq!(Report::parse("ready\nexit 137\n").status, Some(137));
    }

    #[test]
    fn a_crash_and_a_timeout_are_told_apart() {
        assert_eq!(Lost::TimedOut(Duration::from_secs(5)).exit_status(), 124);
        assert_eq!(Lost::Crashed.exit_status(), 125);
    }

    #[test]
    fn the_end_of_a_console_is_what_counts() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a\n", 20), "a");
    }
}
