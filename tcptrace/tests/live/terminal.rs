//! A person's terminal that is slower than what happens: it is spared lines, nothing is lost, and that is said.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::endings::ENDINGS;
use crate::losses::Dam;
use crate::sockets::Family;
use crate::{Scenario, netns, ports, tracer};

/// Connections while the tracer is held up.
const BURST: usize = 60;
/// Longer than a terminal may be behind.
const PAUSE: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "terminal: one that is too slow is spared lines, and nothing is lost",
        too_slow,
    )]
}

fn too_slow() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let dam = Dam::new(port);
        let words = ["-N", "/proc/self/ns/net", "--port"];
        let command = tracer::command(&words, &[&port.to_string()]);
        let mut shown = Shown::start(dam.stops_reading(command))?;
        shown.wait_for("Ctrl-C ends it")?;
        let listener = Family::V4.listener(port)?;
        let connect = |ending: usize| -> Result<()> {
            (ENDINGS[ending % ENDINGS.len()].run)(Family::V4.pair(&listener, port)?)
        };
        connect(0)?;
        // Once it is shown, the tracer reads.
        shown.wait_for(&format!(":{port}"))?;
        dam.close()?;
        for ending in 0..BURST {
            connect(ending)?;
        }
        thread::sleep(PAUSE);
        dam.open()?;
        shown.wait_for("not shown, because the terminal is slower")?;
        // Whoever has caught up sees everything again.
        let before = shown.text().len();
        connect(0)?;
        let deadline = Instant::now() + PATIENCE;
        while !shown.text()[before..].contains(&format!(":{port}")) {
            ensure!(Instant::now() < deadline, "nothing more is shown");
            thread::sleep(Duration::from_millis(20));
        }
        let text = shown.stop()?;
        ensure!(text.contains("none lost"), "something was lost: {text}");
        let lines = text.lines().filter(|line| line.contains("ESTABLISHED"));
        ensure!(
            lines.count() < BURST,
            "nothing was left out for the terminal: {text}"
        );
        ensure!(
            text.contains(" of them shown"),
            "the summary does not say how many were shown: {text}"
        );
        Ok(())
    })
}

/// A tracer on a terminal, and what that shows.
struct Shown {
    tracer: Child,
    text: Arc<Mutex<Vec<u8>>>,
}

impl Shown {
    fn start(mut command: std::process::Command) -> Result<Self> {
        let (screen, terminal) = pseudoterminal()?;
        let tracer = command
            .stdin(Stdio::null())
            .stdout(terminal.try_clone()?)
            .stderr(terminal)
            .spawn()
            .context("cannot start the tracer")?;
        // The command has copies of the terminal's descriptor, which would keep it open.
        drop(command);
        let text = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&text);
        thread::spawn(move || {
            let mut screen = File::from(screen);
            let mut buffer = [0; 4096];
            // An error is the end: nobody has the terminal open any more.
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..length]);
            }
        });
        Ok(Self { tracer, text })
    }

    fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    fn wait_for(&mut self, words: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.text().contains(words) {
            if let Some(status) = self.tracer.try_wait()? {
                bail!("{status} before {words:?}: {}", self.text());
            }
            ensure!(
                Instant::now() < deadline,
                "{words:?} is not shown: {}",
                self.text()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn stop(mut self) -> Result<String> {
        // SAFETY: kill(2) takes numbers; the process is this one's child, and not yet waited for.
        unsafe { libc::kill(i32::try_from(self.tracer.id())?, libc::SIGINT) };
        let status = self.tracer.wait()?;
        // What it wrote last may still be on its way to the screen.
        thread::sleep(Duration::from_millis(100));
        ensure!(status.success(), "{status}: {}", self.text());
        Ok(self.text())
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // It has ended already where the test came to its end.
        let _ = self.tracer.kill();
        let _ = self.tracer.wait();
    }
}

/// What shows, and what is written to.
fn pseudoterminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let (mut screen, mut terminal) = (-1, -1);
    // SAFETY: openpty(3) writes two descriptors; the rest may be null.
    let result = unsafe {
        libc::openpty(
            &raw mut screen,
            &raw mut terminal,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are new and nobody else's.
    let (screen, terminal) =
        unsafe { (OwnedFd::from_raw_fd(screen), OwnedFd::from_raw_fd(terminal)) };
    for fd in [&screen, &terminal] {
        // SAFETY: fcntl(2) with numbers, on a descriptor that is open. The tracer gets copies of its own.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok((screen, terminal))
}
