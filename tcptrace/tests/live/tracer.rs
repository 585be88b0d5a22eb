//! The real tracer as a process: started, listened to, and always ended in bounded time.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lines::Report;
use crate::{PATIENCE, skipped, sys};

/// The variable that makes the tests trace by this backend, `fentry` or `timer`, where they leave it to the
/// tracer; calls are seen by fentry or by the tracepoints of system calls accordingly.
const BACKEND: &str = "TCPTRACE_LIVE_BACKEND";
/// Exit status of a tracer that the kernel or the privileges do not allow.
pub(crate) const NOT_ALLOWED: i32 = 3;

/// For longer than this no end of a connection waits for a RST that may follow: 50 ms in the model, and
/// the tracer's looks at its buffer.
pub(crate) const RESET_MAY_FOLLOW: Duration = Duration::from_millis(150);

/// The binary under test.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("TCPTRACE_BIN").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_tcptrace")),
        PathBuf::from,
    )
}

/// A running tracer whose lines are collected from the moment it starts.
pub(crate) struct Tracer {
    process: Process,
    stdout: Receiver<Vec<u8>>,
    lines: Vec<Vec<u8>>,
}

/// How a tracer ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Lines without their newline.
    pub(crate) lines: Vec<Vec<u8>>,
    pub(crate) stderr: String,
}

impl Tracer {
    /// Starts a trace of this network namespace in JSON and waits until its probes are attached.
    pub(crate) fn json(flags: &[&str]) -> Result<Self> {
        Self::json_command(command(&["--json", "-N", "/proc/self/ns/net"], flags))
    }

    /// As [`Self::json`], with the command already made.
    pub(crate) fn json_command(command: Command) -> Result<Self> {
        let mut tracer = Self::spawn(command)?;
        tracer.wait_for_line("its start line")?;
        let first = &tracer.lines[0];
        ensure!(
            first.starts_with(br#"{"kind":"start""#),
            "the first line must be the start line, but it is {}",
            String::from_utf8_lossy(first)
        );
        Ok(tracer)
    }

    /// Starts a trace whose output is text; it does not say when it is ready.
    pub(crate) fn text(flags: &[&str]) -> Result<Self> {
        Self::spawn(command(&["-N", "/proc/self/ns/net"], flags))
    }

    fn spawn(command: Command) -> Result<Self> {
        let (process, stdout) = Process::start(command)?;
        let (to_us, lines) = channel();
        // Ends by itself when the tracer closes its end of the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if to_us.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            process,
            stdout: lines,
            lines: Vec::new(),
        })
    }

    /// The process id, for signals.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for one more line; `what` says which one, for the error.
    pub(crate) fn wait_for_line(&mut self, what: &str) -> Result<()> {
        match self.stdout.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.keep(line);
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("the tracer printed nothing for {PATIENCE:?}, while we wait for {what}")
            }
            Err(RecvTimeoutError::Disconnected) => {
                let ended = self.process.wait(PATIENCE)?;
                bail!(
                    "the tracer ended before {what}, with {ended}, and said: {}",
                    self.process.stderr()
                )
            }
        }
    }

    /// Waits for one more line with all of these words.
    pub(crate) fn wait_for_line_with(&mut self, words: &[&str]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.wait_for_line(&format!("a line with {words:?}"))?;
            let last = self.lines.last().map(|line| String::from_utf8_lossy(line));
            if last.is_some_and(|line| words.iter().all(|word| line.contains(word))) {
                return Ok(());
            }
        }
        bail!("no line with {words:?} came within {PATIENCE:?}")
    }

    /// The first line, which [`Self::json_command`] has waited for.
    pub(crate) fn start_line(&self) -> Result<serde_json::Value> {
        let line = self.lines.first().context("no line has come yet")?;
        Ok(serde_json::from_slice(line)?)
    }

    /// Takes the lines that have come until now, so that the next one to wait for is a new one.
    pub(crate) fn take_lines(&mut self) {
        while let Ok(line) = self.stdout.try_recv() {
            self.keep(line);
        }
    }

    fn keep(&mut self, line: Vec<u8>) {
        skipped::note(&line);
        self.lines.push(line);
    }

    /// Interrupts the trace as Ctrl-C does and reads the whole of its output.
    pub(crate) fn stop(self) -> Result<Report> {
        self.interrupt()?;
        self.report()
    }

    /// The same when nothing is undecided any more: a trace that stops before is in doubt.
    pub(crate) fn stop_settled(self) -> Result<Report> {
        std::thread::sleep(RESET_MAY_FOLLOW);
        self.stop()
    }

    /// Interrupts the trace as Ctrl-C does.
    pub(crate) fn interrupt(&self) -> Result<()> {
        sys::signal(self.pid(), libc::SIGINT)
    }

    /// Waits for the end of a trace that must end well, and reads the whole of its output.
    pub(crate) fn report(self) -> Result<Report> {
        let ended = self.wait()?;
        ensure!(
            ended.status.success(),
            "the tracer must end with status 0, but: {}; it said: {}",
            ended.status,
            ended.stderr
        );
        let lines = ended
            .lines
            .into_iter()
            .map(|line| String::from_utf8(line).context("a JSON line that is not UTF-8"))
            .collect::<Result<Vec<_>>>()?;
        Report::parse(&lines)
    }

    /// Waits for the end, however it comes.
    pub(crate) fn wait(mut self) -> Result<Ended> {
        let status = self.process.wait(PATIENCE)?;
        // The pipe is closed now; what remains in it comes at once.
        while let Ok(line) = self.stdout.recv_timeout(PATIENCE) {
            self.keep(line);
        }
        let stderr = self.process.stderr();
        Ok(Ended {
            status,
            lines: std::mem::take(&mut self.lines),
            stderr,
        })
    }
}

/// A child whose stdout is ours and whose stderr is collected; it is killed if a test gives up.
pub(crate) struct Process {
    child: Child,
    stderr: Option<JoinHandle<String>>,
}

impl Process {
    /// Starts the command and returns its stdout beside it.
    pub(crate) fn start(mut command: Command) -> Result<(Self, ChildStdout)> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdout = child
            .stdout
            .take()
            .context("no pipe from the tracer's stdout")?;
        let mut stderr = child
            .stderr
            .take()
            .context("no pipe from the tracer's stderr")?;
        let stderr = std::thread::spawn(move || {
            let mut said = Vec::new();
            // What came before a read error is still worth showing.
            let _ = stderr.read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        });
        Ok((
            Self {
                child,
                stderr: Some(stderr),
            },
            stdout,
        ))
    }

    /// The process id, for signals.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits at most `patience` for the end.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.kill();
                bail!(
                    "the tracer did not end within {patience:?}; it said: {}",
                    self.stderr()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that it wrote to stderr, once it has ended.
    pub(crate) fn stderr(&mut self) -> String {
        self.stderr
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }

    fn kill(&mut self) {
        // Fails only if it has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command line for the tracer: `first`, then `more`. What traces does so by [`BACKEND`], unless the test
/// chooses.
pub(crate) fn command(first: &[&str], more: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(first).args(more);
    let traces = match first.first() {
        Some(word) => word.starts_with('-') || *word == "record",
        None => true,
    };
    let chooses = |option: &str| first.iter().chain(more).any(|word| *word == option);
    if let (true, Ok(backend)) = (traces, std::env::var(BACKEND)) {
        let calls = if backend == "timer" {
            "syscalls"
        } else {
            &backend
        };
        for (option, value) in [("--backend", backend.as_str()), ("--calls", calls)] {
            if !chooses(option) {
                command.args([option, value]);
            }
        }
    }
    command
}

/// The tracer's own sentence if this kernel or these privileges do not let it trace.
pub(crate) fn refusal() -> Result<Option<String>> {
    let first = ["--json", "-N", "/proc/self/ns/net", "-d", "0.1"];
    let (mut process, stdout) = Process::start(command(&first, &[]))?;
    // Drained, so that the tracer is never held up by a full pipe; what it says is not the question.
    let drained = std::thread::spawn(move || BufReader::new(stdout).lines().count());
    let status = process.wait(PATIENCE)?;
    drained
        .join()
        .ok()
        .context("the reader of the tracer's output panicked")?;
    let said = process.stderr();
    if status.code() == Some(NOT_ALLOWED) {
        return Ok(Some(said.trim().to_owned()));
    }
    ensure!(
        status.success(),
        "a trace of a tenth of a second ended with {status} and said: {said}"
    );
    Ok(None)
}

/// What the doctor says where fentry cannot be used for TIME_WAIT, or not for calls; `None` where it can.
pub(crate) fn no_fentry() -> Result<Option<String>> {
    let output = Command::new(program())
        .args(["doctor", "--json"])
        .stdin(Stdio::null())
        .output()
        .context("cannot ask the doctor")?;
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("the doctor's JSON cannot be read")?;
    let backends = &report["backends"];
    if backends["time_wait"] == "fentry" && backends["calls"] == "fentry" {
        return Ok(None);
    }
    let checks = report["checks"].as_array().into_iter().flatten();
    let of_hooks = |check: &&serde_json::Value| {
        check["status"] != "ok" && (check["name"] == "TIME_WAIT" || check["name"] == "calls")
    };
    let found = checks
        .filter(of_hooks)
        .filter_map(|check| check["found"].as_str());
    Ok(Some(found.collect::<Vec<_>>().join("; ")))
}
