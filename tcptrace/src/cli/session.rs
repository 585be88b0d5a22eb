//! Owns the trace of the running kernel: from the flags to a source, and from the source to whatever
//! becomes of its inputs, until told to stop.

use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use aya_log::Level;
use tcptrace_common::PortSet;
use tcptrace_model::{Input, Settings};
use tokio::{
    runtime::{self, Runtime},
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    args::{
        filters::FilterArgs,
        run::{LiveArgs, RunArgs},
    },
    output::{is_broken_pipe, reader_has_gone},
    recording::Recording,
    signals::Signals,
    telling::Telling,
    words::StuckAfter,
};
use crate::{
    bpf::filters::{Family, Filters, NetnsFilter},
    failure::Failure,
    host::{cgroup, clock, cpus, netns::Namespace, priority, process},
    record::{Ending, Opening, Step},
    render::{Start, notice, time},
    source::{
        describe,
        live::{Live, Request},
        trouble::Trouble,
    },
};

/// How often the buffer is looked at, and with it the loss counters. The kernel wakes the reader
/// earlier when much has come.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// How often the model is told the time.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of the buffer for each CPU, from 2 to 8 of them. A quarter of that ran over where a guest lost its CPU for a
/// moment at full churn (docs/performance.md).
const BUFFER_BYTES_PER_CPU: u32 = 16 << 20;
/// Records handled before signals and the clock get their turn.
const BATCH: usize = 16_384;
/// Records after which it is looked how long ago they were made.
const LOOK_BACK_EVERY: usize = 64;
/// With this variable set to a file name, the buffer is not read while there is such a file: how the
/// tests make it overflow.
const STOP_READING: &str = "TCPTRACE_TEST_STOP_READING";

/// A trace that has begun: the kernel records, and Ctrl-C ends it in good order, before anything says that
/// it does.
pub(super) struct Begun {
    live: Live,
    runtime: Runtime,
    signals: Signals,
    /// What it begins with.
    pub(super) opening: Opening,
    duration: Option<Duration>,
    /// Every system call of the machine is slower meanwhile.
    pub(super) slows_system_calls: bool,
}

/// Looks up what the flags name, and begins to trace.
pub(super) fn begin(
    filters: &FilterArgs,
    run: &RunArgs,
    live: &LiveArgs,
) -> Result<Begun, Failure> {
    let filters = resolve(filters)?;
    let netns = filters
        .netns
        .these()
        .and_then(|these| these.first().cloned());
    if run.verbose > 1 {
        log::set_logger(&ProgramLog).map_err(anyhow::Error::from)?;
        log::set_max_level(log::LevelFilter::Debug);
    }
    let begun_ns = clock::boottime_ns();
    let LiveArgs {
        duration,
        buffer_size,
        backend,
        calls,
        ref types,
    } = *live;
    let buffer_bytes = buffer_size.unwrap_or_else(default_buffer_bytes);
    let mut live = Live::open(&Request {
        filters,
        buffer_bytes,
        log_level: (run.verbose > 1).then_some(Level::Debug),
        backend: backend.into(),
        calls: calls.into(),
        btf: types.btf.clone(),
    })?;
    let settings = live.settings();
    let start = describe::start(&live, netns)?;
    for sentence in &start.degraded {
        notice::warn(sentence);
    }
    for trouble in live.unseen() {
        tell_trouble(&trouble, run.verbose);
    }
    if run.verbose > 0 {
        for sentence in live.unchecked() {
            notice::say(sentence);
        }
        notice::say(format_args!(
            "tracing {} ({}), buffer {} KiB, checked itself, ready after {}",
            start.kernel,
            backends(&start),
            buffer_bytes / 1024,
            time::duration(start.ts_ns.saturating_sub(begun_ns)),
        ));
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let signals = {
        let _inside = runtime.enter();
        Signals::catch()?
    };
    Ok(Begun {
        slows_system_calls: live.slows_system_calls(),
        live,
        runtime,
        signals,
        opening: Opening {
            start,
            settings: with_stuck_after(settings, run),
            arguments: env::args_os()
                .skip(1)
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
        },
        duration,
    })
}

/// What becomes of the inputs, and when it is enough.
pub(super) struct Session {
    /// The output, if there is one.
    pub(super) telling: Option<Telling>,
    /// The recording, if there is one.
    pub(super) recording: Option<Recording>,
    /// End after so many transitions: shown ones, or else recorded ones.
    pub(super) count: Option<u64>,
    /// How much to say on stderr.
    pub(super) verbose: u8,
    /// Stdout is for whoever reads this: when they go, it is over.
    pub(super) is_read: bool,
    /// Stdout is a terminal, which is spared what it is too slow for.
    pub(super) may_be_spared: bool,
}

impl Session {
    /// Traces until Ctrl-C, SIGTERM, `--count`, `--duration`, or a reader that has gone.
    pub(super) fn run(&mut self, begun: Begun) -> Result<ExitCode, Failure> {
        let Begun {
            live,
            runtime,
            signals,
            opening,
            duration,
            slows_system_calls: _,
        } = begun;
        let start_ns = opening.start.ts_ns;
        priority::prefer();
        match runtime.block_on(self.trace(live, signals, &opening.start, duration)) {
            Ok(()) => {}
            // Whoever read the output has seen enough.
            Err(error) if is_broken_pipe(&error) => {}
            Err(error) => return Err(Failure::Other(error)),
        }
        // The recording ends well, even if nobody wanted to see the rest.
        if let Some(recording) = &mut self.recording {
            match recording.end(ending(start_ns)) {
                Err(error) if !is_broken_pipe(&error) => return Err(Failure::Other(error)),
                _ => {}
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn trace(
        &mut self,
        live: Live,
        mut signals: Signals,
        start: &Start,
        duration: Option<Duration>,
    ) -> anyhow::Result<()> {
        let mut live = live
            .into_async()
            .context("cannot wait for the ring buffer")?;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begun = Instant::now();
        let end = duration.map(|duration| begun + duration);
        let stop_reading = env::var_os(STOP_READING).map(PathBuf::from);

        if let Some(telling) = &mut self.telling {
            telling.start(start)?;
        }
        // There may be more in the buffer than was read.
        let mut more = false;
        // The time, to be told when all that happened before it has been.
        let mut tick: Option<u64> = None;
        let mut next_tick = begun + TICK_EVERY;
        loop {
            tokio::select! {
                biased;
                () = signals.any() => break,
                () = sleep_until(end.unwrap_or(begun)), if end.is_some() => break,
                _ = look.tick() => {
                    self.take_losses(live.get_mut())?;
                    live.get_mut().flush_log();
                    if self.is_read && reader_has_gone() {
                        return Ok(());
                    }
                    if tick.is_none() && Instant::now() >= next_tick {
                        tick = Some(clock::boottime_ns());
                        next_tick = Instant::now() + TICK_EVERY;
                    }
                }
                // Signals and the clock get their turn.
                () = yield_now(), if more => {}
                ready = live.readable(), if !more => ready?.clear_ready(),
            }
            if stop_reading.as_ref().is_some_and(|file| file.exists()) {
                more = false;
                continue;
            }
            more = self.read(live.get_mut(), BATCH)? == BATCH;
            if !more && let Some(now_ns) = tick.take() {
                self.step(&Step::Tick { now_ns })?;
            }
            self.flush()?;
            if self.is_done() {
                break;
            }
        }
        // Nothing new comes after this: what is in the buffer and what was lost is all there was.
        live.get_mut().detach()?;
        while !self.is_done() && self.read(live.get_mut(), BATCH)? > 0 {}
        self.take_losses(live.get_mut())?;
        live.get_mut().flush_log();
        let ending = ending(start.ts_ns);
        self.step(&Step::Tick {
            now_ns: ending.ts_ns,
        })?;
        self.step(&Step::End(ending))?;
        self.flush()
    }

    /// Takes up to `limit` inputs and returns how many there were.
    fn read(&mut self, live: &mut Live, limit: usize) -> anyhow::Result<usize> {
        for taken in 0..limit {
            let input = live.next_input()?;
            let telling = self.telling.as_mut().filter(|_| self.may_be_spared);
            match (telling, &input) {
                (Some(telling), Some(Input::Transition(transition)))
                    if taken % LOOK_BACK_EVERY == 0 =>
                {
                    telling.keep_up(clock::boottime_ns().saturating_sub(transition.ts_ns))?;
                }
                // Nothing waits.
                (Some(telling), None) => telling.keep_up(0)?,
                _ => {}
            }
            let Some(input) = input else {
                return Ok(taken);
            };
            self.step(&Step::Input(input))?;
            if self.is_done() {
                return Ok(taken + 1);
            }
        }
        Ok(limit)
    }

    fn take_losses(&mut self, live: &mut Live) -> anyhow::Result<()> {
        let mut losses: Vec<Input> = Vec::new();
        live.losses(clock::boottime_ns(), |input| losses.push(input))?;
        for trouble in live.unseen() {
            tell_trouble(&trouble, self.verbose);
        }
        for input in losses {
            self.step(&Step::Input(input))?;
        }
        Ok(())
    }

    /// First into the recording, then into the output: what was shown can be replayed.
    fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        if let Some(recording) = &mut self.recording {
            recording.step(step)?;
        }
        if let Some(telling) = &mut self.telling {
            telling.step(step)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if let Some(recording) = &mut self.recording {
            recording.flush()?;
        }
        if let Some(telling) = &mut self.telling {
            telling.flush()?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let transitions = match (&self.telling, &self.recording) {
            (Some(telling), _) => telling.shown(),
            (None, Some(recording)) => recording.transitions(),
            (None, None) => 0,
        };
        self.count.is_some_and(|count| transitions >= count)
    }
}

/// The settings, with the patience that was asked for, if one was.
pub(super) fn with_stuck_after(settings: Settings, run: &RunArgs) -> Settings {
    let Some(StuckAfter(patience)) = run.stuck_after else {
        return settings;
    };
    Settings {
        stuck_after_ns: patience
            .map(|patience| u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX)),
        ..settings
    }
}

/// Bytes of the buffer where none were asked for.
pub(super) fn default_buffer_bytes() -> u32 {
    buffer_bytes_for(cpus::online())
}

fn buffer_bytes_for(cpus: u32) -> u32 {
    cpus.clamp(2, 8).next_power_of_two() * BUFFER_BYTES_PER_CPU
}

/// Which backend serves which need, in words.
fn backends(start: &Start) -> String {
    let each = start.backends.iter();
    each.map(|(need, backend)| format!("{need} by {backend}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Says what a source could not find out. Few see every process; whose owners are missing shows in the findings.
fn tell_trouble(trouble: &Trouble, verbose: u8) {
    match trouble {
        Trouble::Sockets(sentence) | Trouble::Ends(sentence) | Trouble::Functions(sentence) => {
            notice::warn(sentence);
        }
        Trouble::Owners(sentence) if verbose > 0 => notice::say(sentence),
        Trouble::Owners(_) => {}
    }
}

/// Now.
fn ending(start_ns: u64) -> Ending {
    let ts_ns = clock::boottime_ns();
    Ending {
        ts_ns,
        duration_ns: ts_ns.saturating_sub(start_ns),
    }
}

/// Looks up on this machine what the flags name.
fn resolve(args: &FilterArgs) -> Result<Filters, Failure> {
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
        netns: namespaces(&args.netns).map_err(Failure::Usage)?,
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

/// The namespaces that these words name; all when there are none.
fn namespaces(words: &[String]) -> Result<NetnsFilter, String> {
    if words.is_empty() {
        return Ok(NetnsFilter::Any);
    }
    let mut these: Vec<Namespace> = Vec::new();
    for word in words {
        let namespace = Namespace::find(word)?;
        if these.iter().all(|other| other.inode != namespace.inode) {
            these.push(namespace);
        }
    }
    Ok(NetnsFilter::These(these))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_grows_with_the_number_of_cpus_to_a_limit() {
        for (cpus, mebibytes) in [(0, 32), (1, 32), (2, 32), (3, 64), (8, 128), (511, 128)] {
            assert_eq!(buffer_bytes_for(cpus), mebibytes << 20, "{cpus}");
        }
    }
}
