//! What the kernel's timer wheel makes of a time, and its own record of when such timers ran out.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::tracefs::Instance;

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
    instance: Instance,
}

impl Expiries {
    pub(super) fn start() -> Result<Self> {
        let instance = Instance::new()?;
        instance.write("trace_clock", "boot")?;
        let filter = format!("function == {:#x}", handler()?);
        instance.write(&format!("{EVENT}/filter"), &filter)?;
        instance.write(&format!("{EVENT}/enable"), "1")?;
        Ok(Self { instance })
    }

    /// CLOCK_BOOTTIME ns of each timer that has run out, to a microsecond.
    pub(super) fn dates(&self) -> Result<Vec<u64>> {
        self.instance.dates("timer_expire_entry")
    }
}

/// Where the kernel's handler of these timers is.
pub(crate) fn handler() -> Result<u64> {
    static HANDLER: OnceLock<u64> = OnceLock::new();
    if let Some(known) = HANDLER.get() {
        return Ok(*known);
    }
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let line = symbols
        .lines()
        .find(|line| line.split_whitespace().nth(2) == Some("tw_timer_handler"))
        .context("this kernel has no tw_timer_handler")?;
    let address = line.split_whitespace().next().context("an empty line")?;
    let address = u64::from_str_radix(address, 16)?;
    Ok(*HANDLER.get_or_init(|| address))
}
