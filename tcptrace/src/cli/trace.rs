//! Owns the default command: trace until told to stop.

use std::{
    env,
    io::{self, BufWriter, IsTerminal, Write},
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use aya_log::Level;
use tcptrace_common::PortSet;
use tcptrace_model::{Finding, Input, TcpState, Tracker};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::args::{Colour, Format, TraceArgs};
use crate::{
    bpf::filters::{Family, Filters},
    failure::Failure,
    host::{cgroup, clock, kernel_version::KernelVersion, netns::Namespace, process, sysctl},
    render::{
        End, Render, Start,
        json::Json,
        notice,
        text::{Layout, Text},
        time,
    },
    source::live::{Live, Request},
};

/// How often the buffer is looked at, and with it the loss counters. The kernel wakes the reader
/// earlier when much has come.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// Records handled before signals and the clock get their turn.
const BATCH: usize = 16_384;
/// With this variable set to a file name, the buffer is not read while there is such a file: how the
/// tests make it overflow.
const STOP_READING: &str = "TCPTRACE_TEST_STOP_READING";

/// Traces until Ctrl-C, SIGTERM, `--count`, `--duration`, or a reader that has gone.
pub(super) fn run(args: &TraceArgs) -> Result<ExitCode, Failure> {
    let filters = resolve(args)?;
    let netns = filters.netns.clone();
    if args.verbose > 1 {
        log::set_logger(&ProgramLog).map_err(anyhow::Error::from)?;
        log::set_max_level(log::LevelFilter::Debug);
    }
    warn_about(args);
    let start_ns = clock::boottime_ns();
    let live = Live::open(&Request {
        filters,
        buffer_bytes: args.buffer_size,
        log_level: (args.verbose > 1).then_some(Level::Debug),
    })?;
    let start = Start {
        ts_ns: clock::boottime_ns(),
        kernel: KernelVersion::running()
            .map_err(anyhow::Error::from)?
            .release,
        hz: clock::hz().ok(),
        backends: Live::backends(),
        degraded: live.degraded().to_vec(),
        sysctls: sysctl::read_all(netns.as_ref()),
        netns: netns
            .or_else(|| Namespace::own().ok())
            .map(|namespace| namespace.inode),
        clock_offset_ns: clock::wall_offset_ns(),
    };
    for sentence in live.degraded() {
        notice::warn(sentence);
    }
    if args.verbose > 0 {
        notice::say(format_args!(
            "tracing {} by a raw tracepoint, buffer {} KiB, checked itself, ready after {}",
            start.kernel,
            args.buffer_size / 1024,
            time::duration(start.ts_ns.saturating_sub(start_ns)),
        ));
    }
    let session = Session {
        tracker: Tracker::new(),
        renderer: renderer(args, start.clock_offset_ns),
        states: args.state.clone(),
        count: args.count,
        shown: 0,
    };
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?
        .block_on(session.trace(live, &start, args.duration));
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::Other(error)),
    }
}

/// One trace: the model and the output, and what ends it.
struct Session {
    tracker: Tracker,
    renderer: Box<dyn Render>,
    states: Vec<TcpState>,
    count: Option<u64>,
    shown: u64,
}

impl Session {
    async fn trace(
        mut self,
        live: Live,
        start: &Start,
        duration: Option<Duration>,
    ) -> anyhow::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut live = live
            .into_async()
            .context("cannot wait for the ring buffer")?;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begun = Instant::now();
        let end = duration.map(|duration| begun + duration);
        let stop_reading = env::var_os(STOP_READING).map(PathBuf::from);

        self.renderer.start(start)?;
        self.renderer.flush()?;
        loop {
            tokio::select! {
                biased;
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                () = sleep_until(end.unwrap_or(begun)), if end.is_some() => break,
                ready = live.readable() => ready?.clear_ready(),
                _ = look.tick() => {
                    self.tell_losses(live.get_mut())?;
                    live.get_mut().flush_log();
                    if reader_has_gone() {
                        return Ok(());
                    }
                }
            }
            if stop_reading.as_ref().is_some_and(|file| file.exists()) {
                continue;
            }
            // More than a batch at once: signals and the clock get their turn in between.
            while self.read(live.get_mut(), BATCH)? == BATCH && !self.is_done() {
                self.renderer.flush()?;
                tokio::task::yield_now().await;
                if end.is_some_and(|end| Instant::now() >= end) {
                    break;
                }
            }
            self.renderer.flush()?;
            if self.is_done() {
                break;
            }
        }
        // Nothing new comes after this: what is in the buffer and what was lost is all there was.
        live.get_mut().detach()?;
        while !self.is_done() && self.read(live.get_mut(), BATCH)? > 0 {}
        self.tell_losses(live.get_mut())?;
        live.get_mut().flush_log();
        let now = clock::boottime_ns();
        self.renderer.end(&End {
            ts_ns: now,
            duration_ns: now.saturating_sub(start.ts_ns),
            shown: self.shown,
            summary: self.tracker.summary(),
        })?;
        self.renderer.flush()?;
        Ok(())
    }

    /// Handles up to `limit` inputs and returns how many there were.
    fn read(&mut self, live: &mut Live, limit: usize) -> anyhow::Result<usize> {
        for handled in 0..limit {
            let Some(input) = live.next_input()? else {
                return Ok(handled);
            };
            self.handle(input)?;
            if self.is_done() {
                return Ok(handled + 1);
            }
        }
        Ok(limit)
    }

    fn tell_losses(&mut self, live: &mut Live) -> anyhow::Result<()> {
        let mut losses = Vec::new();
        live.losses(clock::boottime_ns(), |input| losses.push(input))?;
        for input in losses {
            self.handle(input)?;
        }
        Ok(())
    }

    fn handle(&mut self, input: Input) -> io::Result<()> {
        self.tracker.handle(input);
        while let Some(finding) = self.tracker.poll() {
            match &finding {
                Finding::Transition { transition, .. } => {
                    let wanted = |state| self.states.contains(state);
                    if !self.states.is_empty()
                        && !wanted(&transition.oldstate)
                        && !wanted(&transition.newstate)
                    {
                        continue;
                    }
                    self.shown += 1;
                }
                Finding::Lost(_) => {}
            }
            self.renderer.finding(&finding)?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.count.is_some_and(|count| self.shown >= count)
    }
}

/// Looks up on this machine what the flags name.
fn resolve(args: &TraceArgs) -> Result<Filters, Failure> {
    let mut ports = Vec::new();
    for (set, given) in [
        (PortSet::Either, &args.port),
        (PortSet::Local, &args.lport),
        (PortSet::Remote, &args.rport),
    ] {
        ports.extend(
            given
                .iter()
                .flat_map(|range| range.0.clone())
                .map(|port| (set, port)),
        );
    }
    if let Some(pid) = args.pid {
        if !process::exists(pid) {
            return Err(Failure::Usage(format!(
                "there is no process {pid}; list processes with: ps -e"
            )));
        }
        if !process::in_initial_pid_namespace() {
            return Err(Failure::Unsupported(format!(
                "--pid {pid} cannot be followed from within a PID namespace, because the kernel reports the ids of the initial one; run it on the host, or in a container with: --pid=host"
            )));
        }
    }
    Ok(Filters {
        ports,
        pid: args.pid,
        uid: args.uid,
        netns: args
            .netns
            .as_deref()
            .map(Namespace::find)
            .transpose()
            .map_err(Failure::Usage)?,
        cgroup_id: args
            .cgroup
            .as_deref()
            .map(cgroup::find)
            .transpose()
            .map_err(Failure::Usage)?,
        family: match (args.ipv4, args.ipv6) {
            (true, _) => Some(Family::Ipv4),
            (_, true) => Some(Family::Ipv6),
            (false, false) => None,
        },
    })
}

/// Says what cannot come of these flags.
fn warn_about(args: &TraceArgs) {
    for state in &args.state {
        if matches!(
            state,
            TcpState::TimeWait | TcpState::NewSynRecv | TcpState::BoundInactive
        ) {
            notice::warn(format_args!(
                "the kernel never reports a change into or out of {}: the event inet_sock_set_state does not have that state",
                state.name()
            ));
        }
    }
}

fn renderer(args: &TraceArgs, clock_offset_ns: i64) -> Box<dyn Render> {
    let out = BufWriter::with_capacity(1 << 16, io::stdout());
    if args.json || args.output == Format::Json {
        return Box::new(Json::new(out, clock_offset_ns));
    }
    let on_terminal = io::stdout().is_terminal();
    if on_terminal && io::stderr().is_terminal() {
        notice::say("tracing TCP state changes; Ctrl-C ends it");
    }
    let layout = Layout {
        width: on_terminal.then(terminal_width).flatten(),
        colour: match args.color {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => {
                on_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        },
        no_header: args.no_header,
        time: args.time,
        timestamp: args.timestamp,
        wide: args.wide,
    };
    Box::new(Text::new(out, io::stderr(), layout, clock_offset_ns))
}

fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0.into())
}

/// Whether stdout is a pipe that nobody reads any more: without this a trace whose reader has gone
/// would go on until the next event.
fn reader_has_gone() -> bool {
    let mut stdout = libc::pollfd {
        fd: io::stdout().as_fd().as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: poll(2) reads and writes the one struct that it is given, and does not wait.
    let result = unsafe { libc::poll(&raw mut stdout, 1, 0) };
    result == 1 && stdout.revents & (libc::POLLERR | libc::POLLHUP) != 0
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Where the eBPF program's own words go.
struct ProgramLog;

impl log::Log for ProgramLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // The library that loads the program logs as well.
        !metadata.target().starts_with("aya")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        notice::say(format_args!(
            "eBPF {}: {}",
            record.level().as_str().to_lowercase(),
            record.args()
        ));
    }

    fn flush(&self) {
        let _ = io::stderr().flush();
    }
}
