//! What the kernel's timer wheel makes of a time, and its own record of when such timers ran out.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const INSTANCES: &str = "/sys/kernel/tracing/instances";
const EVENT: &str = "events/timer/timer_expire_entry";

/// By how much a timer may run out too late: kernel/time/timer.c `calc_wheel_index` (v6.18) rounds up
/// to the granularity of the wheel's level, which is 8 times that of the level below it.
pub(super) fn granularity(hz: u64, timeout: Duration) -> Duration {
    let ticks = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) * hz / 1000;
    // LVL_START(n) is (LVL_SIZE - 1) << (LVL_CLK_SHIFT * (n - 1)), with 64 and 3.
    let level = (1..9)
        .take_while(|level| ticks >= 63 << (3 * (level - 1)))
        .count();
    Duration::from_secs(1 << (3 * level)) / u32::try_from(hz).unwrap_or(1)
}

/// The kernel's own trace of the timers of minisockets, in an instance of its own.
pub(super) struct Expiries {
    instance: PathBuf,
}

impl Expiries {
    pub(super) fn start() -> Result<Self> {
        let name = format!("tcptrace-test-{}-timers", std::process::id());
        let instance = PathBuf::from(INSTANCES).join(name);
        fs::create_dir(&instance).with_context(|| format!("cannot make {}", instance.display()))?;
        let expiries = Self { instance };
        expiries.write("trace_clock", "boot")?;
        let filter = format!("function == {:#x}", handler()?);
        expiries.write(&format!("{EVENT}/filter"), &filter)?;
        expiries.write(&format!("{EVENT}/enable"), "1")?;
        Ok(expiries)
    }

    /// CLOCK_BOOTTIME ns of each timer that has run out, to a microsecond.
    pub(super) fn dates(&self) -> Result<Vec<u64>> {
        let text = fs::read_to_string(self.instance.join("trace"))?;
        text.lines()
            .filter(|line| line.contains("timer_expire_entry:"))
            .map(|line| date(line).with_context(|| format!("in {line:?}")))
            .collect()
    }

    fn write(&self, name: &str, value: &str) -> Result<()> {
        let path = self.instance.join(name);
        fs::write(&path, value)
            .with_context(|| format!("cannot write {value} to {}", path.display()))
    }
}

impl Drop for Expiries {
    fn drop(&mut self) {
        // Nothing can be done about a failure here.
        let _ = self.write(&format!("{EVENT}/enable"), "0");
        let _ = fs::remove_dir(&self.instance);
    }
}

/// `  <idle>-0  [001] ..s1.   12345.678901: timer_expire_entry: timer=… function=tw_timer_handler …`
fn date(line: &str) -> Result<u64> {
    let (before, _) = line
        .split_once(": timer_expire_entry:")
        .context("another event")?;
    let written = before.split_whitespace().last().context("no time")?;
    let (seconds, micros) = written.split_once('.').context("no point in the time")?;
    ensure!(micros.len() == 6, "microseconds, not {micros}");
    Ok(seconds.parse::<u64>()? * 1_000_000_000 + micros.parse::<u64>()? * 1000)
}

/// Where the kernel's handler of these timers is.
fn handler() -> Result<u64> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let line = symbols
        .lines()
        .find(|line| line.split_whitespace().nth(2) == Some("tw_timer_handler"))
        .context("this kernel has no tw_timer_handler")?;
    let address = line.split_whitespace().next().context("an empty line")?;
    Ok(u64::from_str_radix(address, 16)?)
}
