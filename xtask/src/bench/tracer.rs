//! Owns a tracer that runs: how it is started, what it takes, and how it is stopped.

use std::{
    fmt, fs,
    io::{Read as _, Seek as _, SeekFrom},
    os::fd::AsRawFd as _,
    path::Path,
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    contender::{self, Entrant},
    procfs::{self, Memory, Runs},
    scratch::Scratch,
    stage::{Side, Stage},
    sys,
    work::{FIRST_PORT, churn},
};

/// How long a tracer may take until its program is attached.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// A tracer without eBPF programs shows in nothing that it has begun.
const START_UNSEEN: Duration = Duration::from_millis(300);
/// A tracer that takes no more than this much CPU time in such an interval has nothing more to do.
const QUIET: Duration = Duration::from_millis(1);
const QUIET_INTERVAL: Duration = Duration::from_millis(100);
/// How long one is waited for that has fallen behind.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
/// Where a connection is made to see whether a tracer has begun.
const KNOCK_PORT: u16 = FIRST_PORT + 9_500;
/// The end of an output that its summary is in.
const TAIL: u64 = 64 * 1024;

/// Why a contender cannot be measured here, which is no fault of the benchmark.
#[derive(Debug)]
pub(super) struct Refused(pub(super) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// A tracer that runs at the server, its output going to a file as a user's would.
pub(super) struct Tracer<'a> {
    entrant: &'a Entrant,
    child: Child,
    stdout: Scratch,
    stderr: Scratch,
    _recording: Scratch,
}

impl<'a> Tracer<'a> {
    /// Starts it and waits until it is attached; none if there is nothing to start.
    pub(super) fn start(
        entrant: &'a Entrant,
        tcptrace: &Path,
        stage: &Stage,
    ) -> Result<Option<Self>> {
        let recording = Scratch::new("recording");
        let Some(mut command) = entrant.command(tcptrace, recording.path())? else {
            return Ok(None);
        };
        let (stdout, out) = Scratch::file("stdout")?;
        let (stderr, err) = Scratch::file("stderr")?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = stage.within(Side::Server, || {
            command
                .spawn()
                .with_context(|| format!("cannot start {}", command.get_program().display()))
        })?;
        let mut tracer = Self {
            entrant,
            child,
            stdout,
            stderr,
            _recording: recording,
        };
        tracer.wait_until_attached(stage)?;
        Ok(Some(tracer))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The time of all its programs, and the runs of the one that runs most often; none without programs.
    pub(super) fn runs(&self) -> Result<Option<Runs>> {
        let runs = procfs::programs_of(self.child.id())?;
        Ok((runs.count > 0).then_some(runs))
    }

    /// CPU time so far, in user space and in the kernel.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        sys::cpu_time(self.child.id())
    }

    /// The same in ticks, in user space and in the kernel.
    pub(super) fn ticks(&self) -> Result<[u64; 2]> {
        procfs::ticks_of(self.child.id())
    }

    /// Its memory. A peer may have ended by itself, as `ss -E` does when it cannot keep up.
    pub(super) fn memory(&mut self) -> Result<Memory> {
        if let Some(status) = self.child.try_wait()? {
            return Err(self.ended(status.code()));
        }
        procfs::memory_of(self.child.id())
    }

    /// Waits until it has nothing more to do.
    pub(super) fn settle(&self) -> Result<()> {
        let begun = Instant::now();
        let mut before = self.cpu_time()?;
        while begun.elapsed() < QUIET_LIMIT {
            thread::sleep(QUIET_INTERVAL);
            let now = self.cpu_time()?;
            if now.saturating_sub(before) <= QUIET {
                break;
            }
            before = now;
        }
        Ok(())
    }

    /// Ends it as Ctrl-C does. Returns how many records it lost, if it says so.
    pub(super) fn stop(mut self) -> Result<Option<u64>> {
        stop(&mut self.child, || thread::sleep(Duration::from_millis(10)))?;
        let stdout = tail(self.stdout.path())?;
        let stderr = tail(self.stderr.path())?;
        let lost = self.entrant.lost(&stdout, &stderr);
        if lost.is_none() && self.entrant.is_tcptrace() {
            bail!(
                "{} did not say how many records it lost: {}",
                self.entrant.contender.shown,
                contender::reason(&stderr)?
            );
        }
        Ok(lost)
    }

    fn wait_until_attached(&mut self, stage: &Stage) -> Result<()> {
        let listeners = churn::listen(stage, KNOCK_PORT..KNOCK_PORT + 1)?;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.ended(status.code()));
            }
            // A program that is attached runs at the first connection.
            let is_attached = if self.entrant.contender.has_programs() {
                self.runs()?.is_some()
            } else {
                begun.elapsed() > START_UNSEEN
            };
            if is_attached {
                break;
            }
            if begun.elapsed() > START_LIMIT {
                return Err(Refused(format!(
                    "it attached nothing within {} s",
                    START_LIMIT.as_secs()
                ))
                .into());
            }
            churn::knock(stage, &listeners[0])?;
            thread::sleep(Duration::from_millis(20));
        }
        // It may still be at what it does once.
        self.settle()
    }

    /// Exit status 3 of tcptrace: this kernel does not allow it. Whatever keeps a peer from running is no fault
    /// of ours.
    fn ended(&self, status: Option<i32>) -> anyhow::Error {
        let stderr = tail(self.stderr.path()).unwrap_or_default();
        let why = contender::reason(&stderr).unwrap_or_else(|error| error.to_string());
        if self.entrant.is_tcptrace() && status != Some(3) {
            return anyhow::anyhow!("{} ended by itself: {why}", self.entrant.contender.shown);
        }
        Refused(why).into()
    }
}

impl Drop for Tracer<'_> {
    fn drop(&mut self) {
        // After an error on the way: the process is not left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long it takes from the command to the first line about a connection, on a terminal, while a connection
/// comes every millisecond.
pub(super) fn first_event(entrant: &Entrant, tcptrace: &Path, stage: &Stage) -> Result<Duration> {
    let listener = &churn::listen(stage, KNOCK_PORT..KNOCK_PORT + 1)?[0];
    let recording = Scratch::new("recording");
    let mut command = entrant
        .command(tcptrace, recording.path())?
        .context("there is nothing to start")?;
    let (ours, theirs) = sys::terminal()?;
    command
        .stdin(Stdio::null())
        .stdout(theirs.try_clone()?)
        .stderr(theirs);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let knocker = scope.spawn(|| {
            stage.enter(Side::Client)?;
            while !is_over.load(Ordering::Relaxed) {
                churn::knock_here(listener)?;
                thread::sleep(Duration::from_millis(1));
            }
            anyhow::Ok(())
        });
        let begun = Instant::now();
        let child = stage.within(Side::Server, || Ok(command.spawn()?));
        // Its copies of the descriptors keep the terminal open.
        drop(command);
        let took = child.and_then(|mut child| {
            let mut screen = Screen {
                terminal: fs::File::from(ours),
                line: String::new(),
            };
            let took = screen.wait_for_event(begun);
            stop(&mut child, || screen.skip()).and(took)
        });
        is_over.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow::anyhow!("a thread of the benchmark panicked");
        let ended = knocker.join().map_err(panicked);
        let took = took?;
        ended??;
        Ok(took)
    })
}

/// What a tracer writes to a terminal.
struct Screen {
    terminal: fs::File,
    /// What there is of the line that it is at.
    line: String,
}

impl Screen {
    fn wait_for_event(&mut self, begun: Instant) -> Result<Duration> {
        loop {
            let Some(text) = self.read(Duration::from_millis(100)) else {
                return Err(Refused(
                    contender::reason(&self.line).unwrap_or_else(|error| error.to_string()),
                )
                .into());
            };
            self.line.push_str(&text);
            let is_told = self.line.lines().any(is_event);
            if is_told {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > START_LIMIT {
                return Err(Refused(format!(
                    "it showed no connection within {} s",
                    START_LIMIT.as_secs()
                ))
                .into());
            }
        }
    }

    fn skip(&mut self) {
        self.read(Duration::from_millis(10));
    }

    /// What comes within this time, possibly nothing; none when nobody has the terminal any more.
    fn read(&mut self, within: Duration) -> Option<String> {
        let mut poll = libc::pollfd {
            fd: self.terminal.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the kernel reads and writes one pollfd.
        if unsafe { libc::poll(&raw mut poll, 1, timeout) } <= 0 {
            return Some(String::new());
        }
        let mut bytes = [0; 4096];
        let length = self.terminal.read(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }
}

/// Whether a line is about a connection to [`KNOCK_PORT`]: the port is one of its words.
fn is_event(line: &str) -> bool {
    let port = KNOCK_PORT.to_string();
    line.split(|letter: char| !letter.is_ascii_alphanumeric())
        .any(|word| word == port)
}

/// Sends Ctrl-C and waits for the end, `meanwhile` over and over.
fn stop(child: &mut Child, mut meanwhile: impl FnMut()) -> Result<()> {
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    sys::signal(child.id(), libc::SIGINT)?;
    let deadline = Instant::now() + STOP_LIMIT;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!(
                "a tracer did not end at Ctrl-C within {} s",
                STOP_LIMIT.as_secs()
            );
        }
        meanwhile();
    }
    Ok(())
}

/// The last lines of a file.
fn tail(path: &Path) -> Result<String> {
    let read = || {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_about_the_port_is_an_event() {
        assert!(is_event(
            " 49.283us SYN_SENT -> ESTABLISHED 127.0.0.1:45360 127.0.0.1:29500"
        ));
        assert!(is_event(r#"{"kind":"transition","lport":29500}"#));
        assert!(is_event("ffff8881 1234 curl 127.0.0.1 29500 127.0.0.1 4"));
        assert!(!is_event("SKADDR C-PID LPORT RPORT"));
        assert!(!is_event(r#"{"kind":"start","ts_ns":295001234}"#));
    }
}
