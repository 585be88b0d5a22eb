//! Owns `cargo xtask bench soak`: a long run at full churn on every core, and whether it was all told.

mod counters;
mod judge;
mod output;

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use self::{
    counters::Counters,
    judge::{CountedAt, Findings},
    output::{Progress, Told},
};
use super::{
    Drivers, procfs,
    scratch::Scratch,
    stage::{Over, Side, Stage},
    sys,
    work::{
        FIRST_PORT,
        churn::{self, Close},
    },
};
use crate::{build, say::say};

/// Server ports of one driver: together with the ephemeral ones there are more pairs than
/// `tcp_max_tw_buckets` allows minisockets, so some are reused, and some never entered.
const PORTS_EACH: u16 = 4;
/// Of so many connections one is reset, the others are closed in order.
const ONE_RESET_IN: usize = 4;
/// How often memory is looked at, and the progress told.
const SAMPLE: Duration = Duration::from_secs(1);
const TELL: Duration = Duration::from_secs(60);
/// Twice the minute that a TIME_WAIT lasts, and more than what the timer wheel adds to it.
const LONG: Duration = Duration::from_secs(150);
/// How long tcptrace may take to begin, to catch up when the churn is over, and to end.
const START_LIMIT: Duration = Duration::from_secs(30);
const CATCH_UP_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Let tcptrace run for long at full churn on every core, and compare its findings with the kernel's counters.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench soak               ten minutes
  cargo xtask bench soak --minutes 1   a first impression
  cargo xtask bench soak --rate 2000   not as fast as possible, on a machine that is busy

One driver for each core opens, accepts and closes connections over loopback in a network namespace of its own,
one in four by a RST, while tcptrace --json writes to a file. The file is read and counted while it grows, and
what has been read is given back to the file system (a hole is punched behind the reader), so that some 100 MB
of disk are enough. It fails if

  - a record was lost, a socket forgotten, or a line is missing,
  - memory grew: the most resident memory in the second half of the run is over that of the first half by more
    than a twentieth (judged from 2.5 minutes on, when as many TIME_WAITs end as begin),
  - what was told is not what the kernel counted in that namespace (/proc/net/snmp, /proc/net/netstat). Where
    the kernel itself keeps some events from every eBPF program, as tcptrace says at its start, one in 10,000
    may be missing.")]
pub(crate) struct Args {
    /// For how long
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// How many drivers: a number, or all for one for each CPU
    #[arg(long, default_value = "all")]
    drivers: Drivers,
    /// Connections a second of each driver [default: as many as it can make]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
}

/// Runs the verb.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    super::require_root("bench soak")?;
    ensure!(
        args.minutes > 0.0 && args.minutes <= 10_000.0,
        "--minutes must be more than 0 and at most 10000"
    );
    let tcptrace = build::tracer(true)?;
    let stage = Stage::new(Over::Loopback)?;
    let listeners = (0..args.drivers.0)
        .map(|driver| {
            let first = FIRST_PORT + driver * PORTS_EACH;
            churn::listen(&stage, first..first + PORTS_EACH)
        })
        .collect::<Result<Vec<_>>>()?;
    let at = counted_at(&stage, &listeners[0][0])?;
    let (file, out) = Scratch::file("soak.json")?;
    let (_errors, err) = Scratch::file("soak.errors")?;
    let mut command = Command::new(tcptrace);
    command
        .arg("--json")
        .args(["--netns", &stage.path()])
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err);
    let progress = Progress::default();
    let findings = thread::scope(|scope| {
        let child = command.spawn().context("cannot start tcptrace")?;
        let reader = scope.spawn(|| {
            // What the tracer writes must be read as fast, on CPUs that the drivers want, too.
            sys::before_others().context("cannot have the CPU before the drivers")?;
            output::read(file.path(), &progress)
        });
        let mut tracer = Soaked {
            child,
            progress: &progress,
        };
        let lived = tracer.live(args, &stage, &listeners);
        // The reader ends when there is nothing more to come.
        drop(tracer);
        let told = reader
            .join()
            .map_err(|_| anyhow!("the reader of the soak panicked"))?;
        let (kernel, memory) = lived?;
        anyhow::Ok(Findings {
            told: told?,
            kernel,
            at,
            memory,
            is_long: args.minutes * 60.0 >= LONG.as_secs_f64(),
        })
    })?;
    let (text, failures) = findings.judge()?;
    println!("{text}");
    for failure in &failures {
        say(format_args!("FAILED: {failure}"));
    }
    Ok(if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// tcptrace, which ends when this is dropped.
struct Soaked<'a> {
    child: Child,
    progress: &'a Progress,
}

impl Soaked<'_> {
    /// Its whole life: what the kernel counted meanwhile, and its resident memory, a sample a second.
    fn live(
        &mut self,
        args: &Args,
        stage: &Stage,
        listeners: &[Vec<TcpListener>],
    ) -> Result<(Counters, Vec<u64>)> {
        self.wait_for(START_LIMIT, "did not begin", |progress| {
            Ok(progress.has_begun.load(Ordering::SeqCst))
        })?;
        let before = stage.within(Side::Server, Counters::now)?;
        let memory = self.churn(args, stage, listeners)?;
        let kernel = stage.within(Side::Server, Counters::now)?.since(before);
        let (pid, mut known) = (self.child.id(), (0, Duration::ZERO));
        self.wait_for(CATCH_UP_LIMIT, "did not catch up", |progress| {
            thread::sleep(Duration::from_millis(500));
            let read = progress.read.load(Ordering::SeqCst);
            let cpu = sys::cpu_time(pid)?;
            let is_quiet =
                known.0 == read && cpu.saturating_sub(known.1) < Duration::from_millis(50);
            known = (read, cpu);
            Ok(is_quiet)
        })?;
        sys::signal(pid, libc::SIGINT)?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(
                begun.elapsed() < STOP_LIMIT,
                "tcptrace did not end at Ctrl-C within {} s",
                STOP_LIMIT.as_secs()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok((kernel, memory))
    }

    /// Keeps every driver busy, and looks at the memory meanwhile.
    fn churn(
        &mut self,
        args: &Args,
        stage: &Stage,
        listeners: &[Vec<TcpListener>],
    ) -> Result<Vec<u64>> {
        let is_over = AtomicBool::new(false);
        let made = AtomicU64::new(0);
        thread::scope(|scope| {
            let drivers: Vec<_> = listeners
                .iter()
                .map(|listeners| {
                    scope.spawn(|| drive(stage, listeners, args.rate, &is_over, &made))
                })
                .collect();
            let watched = self.watch(args, &made);
            is_over.store(true, Ordering::Relaxed);
            for driver in drivers {
                driver
                    .join()
                    .map_err(|_| anyhow!("a driver of the soak panicked"))??;
            }
            watched
        })
    }

    fn watch(&mut self, args: &Args, made: &AtomicU64) -> Result<Vec<u64>> {
        let begun = Instant::now();
        let end = begun + Duration::from_secs_f64(args.minutes * 60.0);
        let mut tell = begun + TELL;
        let mut memory = Vec::new();
        while Instant::now() < end {
            thread::sleep(SAMPLE.min(end.saturating_duration_since(Instant::now())));
            self.check()?;
            let now = procfs::memory_of(self.child.id())?.now;
            memory.push(now);
            if Instant::now() >= tell {
                tell += TELL;
                say(format_args!(
                    "after {} s: {} connections, {} MB written, tcptrace has {} MiB",
                    begun.elapsed().as_secs(),
                    made.load(Ordering::Relaxed),
                    self.progress.read.load(Ordering::SeqCst) / 1_000_000,
                    now >> 20
                ));
            }
        }
        Ok(memory)
    }

    fn wait_for(
        &mut self,
        limit: Duration,
        otherwise: &str,
        mut is_so: impl FnMut(&Progress) -> Result<bool>,
    ) -> Result<()> {
        let begun = Instant::now();
        while !is_so(self.progress)? {
            self.check()?;
            ensure!(
                begun.elapsed() < limit,
                "tcptrace {otherwise} within {} s",
                limit.as_secs()
            );
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// An error if it has ended by itself, or nobody reads any more.
    fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("tcptrace ended by itself: {status}");
        }
        let trouble = self.progress.trouble.lock();
        match trouble.ok().and_then(|trouble| trouble.clone()) {
            Some(trouble) => bail!("its output could not be read: {trouble}"),
            None => Ok(()),
        }
    }
}

impl Drop for Soaked<'_> {
    fn drop(&mut self) {
        // After an error on the way: the process is not left behind, nor the reader waiting.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.progress.is_over.store(true, Ordering::SeqCst);
    }
}

/// One driver: as many connections as it can make, or as it may.
fn drive(
    stage: &Stage,
    listeners: &[TcpListener],
    rate: Option<u32>,
    is_over: &AtomicBool,
    made: &AtomicU64,
) -> Result<()> {
    stage.enter(Side::Client)?;
    let mut number = 0;
    let mut due = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        let how = if number % ONE_RESET_IN == 0 {
            Close::Reset
        } else {
            Close::Orderly
        };
        let listener = &listeners[number / ONE_RESET_IN % listeners.len()];
        let client = TcpStream::connect(listener.local_addr()?).context("cannot connect")?;
        let (server, _) = listener.accept().context("cannot accept")?;
        churn::close(client, server, how)?;
        made.fetch_add(1, Ordering::Relaxed);
        number += 1;
        if let Some(rate) = rate {
            due += Duration::from_secs(1) / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    Ok(())
}

/// Lets one connection close, and looks whether its minisocket counts before its time is over.
fn counted_at(stage: &Stage, listener: &TcpListener) -> Result<CountedAt> {
    stage.within(Side::Client, || {
        let before = Counters::now()?;
        let client = TcpStream::connect(listener.local_addr()?).context("cannot connect")?;
        let (server, _) = listener.accept().context("cannot accept")?;
        churn::close(client, server, Close::Orderly)?;
        Ok(if Counters::now()?.since(before).time_waits > 0 {
            CountedAt::Entry
        } else {
            CountedAt::Expiry
        })
    })
}
