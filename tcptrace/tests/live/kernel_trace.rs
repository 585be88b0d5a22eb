//! What the kernel itself recorded: a tracefs instance with `sock/inet_sock_set_state` enabled.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::PATIENCE;
use crate::event::{self, Event, Life};
use crate::kernel_pages::Layout;
use crate::tracefs::{Instance, TRACEFS, TRANSITIONS};

/// Enough for 40,000 events on each CPU, ten times what the largest test makes.
const BUFFER_KB: &str = "4096";

/// A trace buffer of its own that records every change of TCP state on the machine.
pub(crate) struct KernelTrace {
    // Closed before the instance is removed.
    pipes: Vec<File>,
    instance: Instance,
    layout: Layout,
    events: Vec<Event>,
}

impl KernelTrace {
    /// Starts recording.
    pub(crate) fn start() -> Result<Self> {
        let format = fs::read_to_string(Path::new(TRACEFS).join(TRANSITIONS).join("format"))?;
        let mut trace = Self {
            instance: Instance::new()?,
            layout: Layout::parse(&format)?,
            pipes: Vec::new(),
            events: Vec::new(),
        };
        trace.instance.write("buffer_size_kb", BUFFER_KB)?;
        // The tracer's clock, so that times compare.
        trace.instance.write("trace_clock", "boot")?;
        trace.pipes = trace.open_pipes()?;
        trace.instance.write("tracing_on", "1")?;
        trace
            .instance
            .write(&format!("{TRANSITIONS}/enable"), "1")?;
        Ok(trace)
    }

    /// Waits until every socket with one of these ports has ended, and returns their lives.
    ///
    /// The last transitions come from delayed acknowledgements, some tens of milliseconds after the
    /// test has closed its last descriptor.
    pub(crate) fn wait_until_over(&mut self, ports: &[u16]) -> Result<Vec<Life>> {
        self.wait_for(
            |life| event::touches(life, ports),
            |lives| !lives.is_empty() && lives.iter().all(event::is_over),
            &format!("all sockets with ports {ports:?} to reach CLOSE"),
        )
    }

    /// Waits until the lives that `wanted` picks satisfy `done`, and returns them.
    pub(crate) fn wait_for(
        &mut self,
        wanted: impl Fn(&Life) -> bool,
        done: impl Fn(&[Life]) -> bool,
        what: &str,
    ) -> Result<Vec<Life>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.poll()?;
            let lives: Vec<Life> = event::lives(&self.events)
                .into_iter()
                .filter(&wanted)
                .collect();
            if done(&lives) {
                self.check_complete()?;
                return Ok(lives);
            }
            if Instant::now() > deadline {
                bail!("waited {PATIENCE:?} for {what}; the kernel recorded {lives:#?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops recording and returns everything twice: as the kernel's text, and as we decode it.
    pub(crate) fn both_views(mut self) -> Result<(String, Vec<Event>)> {
        self.instance.write("tracing_on", "0")?;
        // The text first: reading the pages takes them out of the buffer.
        let text = fs::read_to_string(self.instance.path().join("trace"))?;
        self.poll()?;
        self.check_complete()?;
        Ok((text, std::mem::take(&mut self.events)))
    }

    fn poll(&mut self) -> Result<()> {
        // Larger than any sub-buffer: a read returns one whole page.
        let mut page = vec![0; 64 * 1024];
        for pipe in &mut self.pipes {
            loop {
                match pipe.read(&mut page) {
                    Ok(0) => break,
                    Ok(length) => self.layout.decode(&page[..length], &mut self.events)?,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("cannot read the kernel's trace"),
                }
            }
        }
        Ok(())
    }

    /// Fails if the buffer of any CPU has dropped an event: a comparison would then mean nothing.
    fn check_complete(&self) -> Result<()> {
        for cpu in self.cpus()? {
            let path = cpu.join("stats");
            let stats = fs::read_to_string(&path)?;
            for line in stats.lines() {
                let Some((name, count)) = line.split_once(':') else {
                    continue;
                };
                if ["overrun", "commit overrun", "dropped events"].contains(&name) {
                    ensure!(
                        count.trim() == "0",
                        "{}: {line}: enlarge the buffer",
                        path.display()
                    );
                }
            }
        }
        Ok(())
    }

    fn open_pipes(&self) -> Result<Vec<File>> {
        let mut pipes = Vec::new();
        for cpu in self.cpus()? {
            let path = cpu.join("trace_pipe_raw");
            let pipe = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            pipes.push(pipe);
        }
        ensure!(
            !pipes.is_empty(),
            "{} has no CPU",
            self.instance.path().display()
        );
        Ok(pipes)
    }

    fn cpus(&self) -> Result<Vec<PathBuf>> {
        let mut cpus = Vec::new();
        for entry in fs::read_dir(self.instance.path().join("per_cpu"))? {
            cpus.push(entry?.path());
        }
        Ok(cpus)
    }
}
