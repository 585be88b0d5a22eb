//! Owns the workloads: what each does for one measurement, and how fast it went.

pub(super) mod churn;
mod failing_binds;
mod nginx;
mod unrelated;

use std::{
    sync::{Barrier, OnceLock},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

use self::{churn::Churn, nginx::Nginx};
use super::{
    floor::Hook,
    stage::{Over, Stage},
    stats::as_f64,
};

/// The first port that servers listen on: below the ephemeral ones, so that no client takes it.
pub(super) const FIRST_PORT: u16 = 20_000;
/// The last one.
pub(super) const LAST_PORT: u16 = 29_999;
/// How often a workload is done for one measurement: once to see how fast it goes, once while the kernel times
/// programs.
const PASSES: u32 = 2;
/// All ports that servers listen on, as `tcptrace --port` takes them.
pub(super) const ALL_PORTS: &str = "20000-29999";

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Work {
    /// Connections that are closed by a RST: no TIME_WAIT
    Reset,
    /// Connections that are closed by two FINs, the client's first: each leaves a TIME_WAIT
    Orderly,
    /// The same, each connection to another one of a thousand server ports
    Ports,
    /// bind() that fails for a port, because another socket listens on it
    FailingBinds,
    /// Requests to Debian's nginx, without keepalive, by ab (apache2-utils)
    Nginx,
    /// System calls that have nothing to do with TCP: getppid(), read(), UDP
    Unrelated,
}

/// A workload, how much of it, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) work: Work,
    pub(super) over: Over,
    /// How many do it at the same time.
    pub(super) drivers: u16,
    /// How often each does it in one pass of a measurement.
    pub(super) times: u32,
}

/// How one measurement went.
pub(super) struct Done {
    /// How often it was done, by all drivers.
    pub(super) times: u64,
    /// Wall time in seconds.
    pub(super) seconds: f64,
    /// Of [`Work::Unrelated`]: ns of each of [`unrelated_calls`].
    pub(super) calls_ns: Vec<f64>,
}

impl Done {
    /// Times a second.
    pub(super) fn rate(&self) -> f64 {
        as_f64(self.times) / self.seconds
    }
}

/// A workload whose servers listen.
pub(super) enum Prepared<'a> {
    Churn(Churn<'a>),
    FailingBinds(failing_binds::FailingBinds<'a>),
    Nginx(Nginx<'a>),
    Unrelated,
}

impl Work {
    /// As it is typed.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Orderly => "orderly",
            Self::Ports => "ports",
            Self::FailingBinds => "failing-binds",
            Self::Nginx => "nginx",
            Self::Unrelated => "unrelated",
        }
    }

    /// What is counted, in the plural.
    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Reset | Self::Orderly | Self::Ports => "connections",
            Self::FailingBinds => "calls",
            Self::Nginx => "requests",
            Self::Unrelated => "batches",
        }
    }

    /// What a tracer's cost is divided by, in the singular; none if there is nothing to trace.
    pub(super) const fn event(self) -> Option<&'static str> {
        match self {
            Self::Reset | Self::Orderly | Self::Ports | Self::Nginx => Some("transition"),
            Self::FailingBinds => Some("call"),
            Self::Unrelated => None,
        }
    }

    /// Where the empty program is attached, so that it runs once for each event.
    pub(super) const fn hook(self) -> Hook {
        match self {
            Self::Reset | Self::Orderly | Self::Ports | Self::Nginx => Hook::SetState,
            Self::FailingBinds | Self::Unrelated => Hook::BindReturns,
        }
    }

    /// Whether calls are what it is about, not connections.
    pub(super) const fn is_of_calls(self) -> bool {
        match self {
            Self::Reset | Self::Orderly | Self::Ports | Self::Nginx => false,
            Self::FailingBinds | Self::Unrelated => true,
        }
    }

    /// In a sentence, what it does.
    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Self::Reset => "connections (connect, accept, reset)",
            Self::Orderly => "connections (connect, accept, close, TIME_WAIT)",
            Self::Ports => {
                "connections (connect, accept, close, TIME_WAIT), a thousand server ports"
            }
            Self::FailingBinds => "bind() that fail because another socket listens on the port",
            Self::Nginx => "HTTP requests to nginx by ab, a connection each",
            Self::Unrelated => {
                "batches of system calls that no tracer of TCP has to do with; the fastest counts"
            }
        }
    }
}

/// The names of the calls of [`Work::Unrelated`], in the order of [`Done::calls_ns`].
pub(super) fn unrelated_calls() -> impl Iterator<Item = &'static str> {
    unrelated::CALLS.iter().map(|(name, _)| *name)
}

impl<'a> Prepared<'a> {
    /// Starts what has to be there before anything is measured.
    pub(super) fn new(load: Load, stage: &'a Stage) -> Result<Self> {
        // The first packet over a new veth pair may have to be sent again, a second later.
        let first = churn::listen(stage, LAST_PORT..LAST_PORT + 1)?;
        churn::knock(stage, &first[0])?;
        Ok(match load.work {
            Work::Reset | Work::Orderly | Work::Ports => Self::Churn(Churn::prepare(load, stage)?),
            Work::FailingBinds => Self::FailingBinds(failing_binds::FailingBinds::prepare(stage)?),
            Work::Nginx => Self::Nginx(Nginx::start(load, stage)?),
            Work::Unrelated => Self::Unrelated,
        })
    }

    /// Does it, for one pass of a measurement.
    pub(super) fn drive(&self, load: Load) -> Result<Done> {
        if matches!(self, Self::Unrelated) {
            let begun = Instant::now();
            let calls_ns = unrelated::measure(load.times)?;
            return Ok(Done {
                times: u64::from(load.times),
                seconds: begun.elapsed().as_secs_f64(),
                calls_ns,
            });
        }
        let time = at_once(load.drivers, |driver, ready| match self {
            Self::Churn(churn) => churn.drive(driver, load.times, ready),
            Self::FailingBinds(binds) => binds.drive(load.times, ready),
            Self::Nginx(nginx) => nginx.drive(driver, load.times, ready),
            Self::Unrelated => Ok(()),
        })?;
        Ok(Done {
            times: u64::from(load.times) * u64::from(load.drivers),
            seconds: time.as_secs_f64(),
            calls_ns: Vec::new(),
        })
    }
}

/// Waits until all drivers are ready. Each has to call it once, also one that fails: the others wait.
pub(super) type Ready<'a> = &'a (dyn Fn() + Sync);

/// Runs `drive` in so many threads at once, and returns how long it took from when all were ready.
fn at_once(drivers: u16, drive: impl Fn(u16, Ready<'_>) -> Result<()> + Sync) -> Result<Duration> {
    let barrier = Barrier::new(usize::from(drivers));
    let begun = OnceLock::new();
    let ready = || {
        barrier.wait();
        begun.get_or_init(Instant::now);
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..drivers)
            .map(|driver| {
                let (drive, ready) = (&drive, &ready);
                scope.spawn(move || drive(driver, ready).map(|()| Instant::now()))
            })
            .collect();
        let mut ended = Vec::new();
        for thread in threads {
            let end = thread.join();
            ended.push(end.map_err(|_| anyhow!("a driver of the benchmark panicked"))??);
        }
        let (begun, ended) = begun
            .get()
            .zip(ended.iter().max())
            .context("there is no driver")?;
        Ok(ended.duration_since(*begun))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn drivers_begin_when_all_are_ready() {
        let arrived = AtomicU32::new(0);
        let time = at_once(3, |_, ready| {
            arrived.fetch_add(1, Ordering::SeqCst);
            ready();
            anyhow::ensure!(arrived.load(Ordering::SeqCst) == 3, "one began too early");
            thread::sleep(Duration::from_millis(2));
            Ok(())
        });
        assert!(time.is_ok_and(|time| time >= Duration::from_millis(2)));
    }

    #[test]
    fn servers_listen_within_the_range_that_filters_name() {
        let (from, to) = ALL_PORTS.split_once('-').unwrap();
        let (from, to): (u16, u16) = (from.parse().unwrap(), to.parse().unwrap());
        assert!(from == FIRST_PORT && to == LAST_PORT && to < 32_768);
    }
}
