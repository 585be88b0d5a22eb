//! Owns the stage of an experiment: a network namespace of its own, actors, waits for states of the kernel, and
//! the readings that are taken. What an experiment may do is what this offers.

mod findings;
mod kernel;
mod namespace;
mod reading;
mod wire;

use std::{
    cell::Cell,
    fmt, fs,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tcptrace_model::{Finding, conflict::KernelVersion};

pub(super) use self::namespace::{Setting, demand_namespaces};
pub use self::{
    findings::{comm, known},
    kernel::{Listed, SocketState},
    reading::Taking,
};
use super::{
    actor::Actor,
    limits::{Cancel, PATIENCE},
    log::{Log, Step},
    observed::Observed,
    reading::Reading,
    watch::Watch,
};
use crate::host::interface;

/// Between the first two looks at something that is waited for. Each further pause is twice as long as the one
/// before: most things happen at once, and dozens of experiments wait for a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// Between two looks, at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(128);

/// What the lab knows of the kernel it runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its version, as far as behaviour depends on it.
    pub version: KernelVersion,
    /// All of `uname -r`.
    pub release: String,
    /// Ticks per second (CONFIG_HZ).
    pub hz: u32,
}

/// The stage. It belongs to the thread of its experiment, which is in the namespace.
pub struct Stage {
    kernel: Kernel,
    watch: Arc<Watch>,
    observed: Arc<Observed>,
    cancel: Cancel,
    log: Arc<Log>,
    readings: Vec<Reading>,
    shown: Vec<Finding>,
    /// Every expectation is turned into a wrong one.
    contradict: bool,
    addresses: Cell<u8>,
    wires: Vec<wire::Wire>,
}

/// What is left of a stage when its experiment is over.
pub(super) struct Played {
    pub(super) readings: Vec<Reading>,
    pub(super) shown: Vec<Finding>,
    pub(super) steps: Vec<Step>,
}

impl Kernel {
    /// Whether it is `major.minor` or later.
    #[must_use]
    pub fn is_at_least(&self, major: u16, minor: u16) -> bool {
        self.version >= KernelVersion::of(major, minor)
    }

    /// How much later than asked for a timer of `timeout` may run, for the granularity of the timer wheel:
    /// kernel/time/timer.c `calc_wheel_index` (v6.18). A tick less than 63 × 8^n ahead is in level n, whose
    /// buckets are 8^n ticks wide.
    #[must_use]
    pub fn granularity(&self, timeout: Duration) -> Duration {
        let tick = Duration::from_secs(1) / self.hz.max(1);
        let mut ticks = timeout.as_nanos() / tick.as_nanos().max(1);
        let mut width = 1;
        while ticks >= 63 {
            ticks /= 8;
            width *= 8;
        }
        tick * width
    }
}

impl Stage {
    pub(super) fn played(self) -> Played {
        Played {
            readings: self.readings,
            shown: self.shown,
            steps: wire::with_segments(self.log.steps(), &self.wires),
        }
    }

    /// The running kernel.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Starts an actor: a process with this name, of up to 15 bytes.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn actor(&self, name: &str) -> Result<Actor> {
        Actor::start(name, Arc::clone(&self.log), self.cancel.clone())
    }

    /// Adds a step to the account of what happened, beside those that the actors add by themselves.
    pub fn note(&self, what: impl fmt::Display) {
        self.log.add(what);
    }

    /// Sets a sysctl of the namespace, such as `net.ipv4.tcp_tw_reuse`.
    ///
    /// # Errors
    /// When the kernel does not have it, or refuses the value.
    pub fn set_sysctl(&self, name: &str, value: impl fmt::Display) -> Result<()> {
        let path = sysctl_path(name);
        fs::write(&path, value.to_string())
            .with_context(|| format!("cannot set {name} to {value}"))?;
        self.note(format_args!("{name} = {value}"));
        Ok(())
    }

    /// The value of a sysctl of the namespace; `None` when this kernel does not have it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn sysctl(&self, name: &str) -> Result<Option<String>> {
        match fs::read_to_string(sysctl_path(name)) {
            Ok(value) => {
                let words: Vec<&str> = value.split_whitespace().collect();
                Ok(Some(words.join(" ")))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {name}")),
        }
    }

    /// Gives the namespace one more address, on loopback. (All of 127.0.0.0/8 is there already.)
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_address(&self, address: IpAddr) -> Result<()> {
        let label = self.addresses.get() + 1;
        self.addresses.set(label);
        match address {
            IpAddr::V4(address) => {
                interface::add_ipv4(&format!("lo:{label}"), address, Ipv4Addr::BROADCAST)
            }
            IpAddr::V6(address) => interface::add_ipv6("lo", address, 128),
        }
        .with_context(|| format!("cannot give loopback the address {address}"))?;
        self.note(format_args!("the address {address} is added to lo"));
        Ok(())
    }

    /// Lets time pass, where time itself is what the experiment is about. For anything that happens, wait for
    /// that.
    ///
    /// # Errors
    /// When the lab is to end.
    pub fn let_pass(&self, time: Duration) -> Result<()> {
        self.note(format_args!("{time:?} pass"));
        let end = Instant::now() + time;
        loop {
            self.cancel.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    /// Waits until `look` returns something, and returns that.
    ///
    /// # Errors
    /// When it does not in time, fails, or the lab is to end.
    pub fn until<T>(
        &self,
        what: impl fmt::Display,
        look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        self.until_within(PATIENCE, what, look)
    }

    /// The same with another limit.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub fn until_within<T>(
        &self,
        limit: Duration,
        what: impl fmt::Display,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            self.cancel.check()?;
            if Instant::now() >= deadline {
                bail!("waited {limit:?} for {what}");
            }
            thread::sleep(pause);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// What the trace has found in this namespace.
    #[must_use]
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Whether the lab is to end.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }
}

/// `net.ipv4.tcp_tw_reuse` as a file.
fn sysctl_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(hz: u32) -> Kernel {
        Kernel {
            version: KernelVersion::of(6, 18),
            release: "6.18.0".to_owned(),
            hz,
        }
    }

    #[test]
    fn the_granularity_of_a_timer_is_that_of_its_level_of_the_wheel() {
        let minute = Duration::from_secs(60);
        for (hz, ms) in [(100, 5120), (250, 2048), (1000, 4096)] {
            assert_eq!(
                kernel(hz).granularity(minute),
                Duration::from_millis(ms),
                "{hz}"
            );
        }
        assert_eq!(
            kernel(250).granularity(Duration::from_millis(200)),
            Duration::from_millis(4)
        );
    }
}
