//! Owns what is said of when a minisocket goes by itself: when its timer runs out, and how late the
//! kernel may notice.

use crate::render::time;

/// TCP_TIMEWAIT_LEN in s, include/net/tcp.h (v6.18): no minisocket's timer is set for longer.
const LONGEST_S: u64 = 60;
/// LVL_CLK_SHIFT, kernel/time/timer.c (v6.18): each level of the timer wheel is so much coarser.
const LEVEL_SHIFT: u32 = 3;
/// LVL_SIZE - 1, kernel/time/timer.c (v6.18): a level takes timers of less than so many of its ticks.
const LEVEL_SIZE: u64 = 63;
const NS_PER_S: u64 = 1_000_000_000;

/// How late the timer of a minisocket may fire, in ns, at most: kernel/time/timer.c `calc_wheel_index`
/// takes the finest level that reaches so far, `calc_index` rounds up to the next tick of it (v6.18).
/// `hz` is ticks per second; `None` for 0, or so many as no kernel has.
pub(super) fn slack_ns(hz: u32) -> Option<u64> {
    let ticks = LONGEST_S * u64::from(hz);
    let granularity = (0..8)
        .map(|level| level * LEVEL_SHIFT)
        .find(|shift| ticks < LEVEL_SIZE << shift)
        .map(|shift| 1_u64 << shift)?;
    (granularity * NS_PER_S).checked_div(hz.into())
}

/// At most so long: rounded up where [`time::brief`] rounds down.
fn at_most(ns: u64) -> String {
    time::brief(ns.saturating_add(NS_PER_S / 100 - 1))
}

/// Until something whose timer runs out at `at_ns` (CLOCK_BOOTTIME) has gone, seen from `now_ns`:
/// `in 41.0s, or up to 2.05s later`.
pub(super) fn until(at_ns: u64, now_ns: u64, hz: Option<u32>) -> String {
    let slack = hz.and_then(slack_ns).map(at_most);
    match (at_ns.saturating_sub(now_ns), slack) {
        (0, Some(slack)) => format!("within {slack}"),
        (0, None) => "within seconds".to_owned(),
        (ns, Some(slack)) => format!("in {}, or up to {slack} later", time::brief(ns)),
        (ns, None) => format!("in {}, or some seconds later", time::brief(ns)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_as_late_as_the_level_of_the_wheel_is_coarse() {
        for (hz, ms) in [(100, 5_120), (250, 2_048), (1000, 4_096)] {
            assert_eq!(slack_ns(hz), Some(ms * 1_000_000), "{hz}");
        }
        assert_eq!(slack_ns(300), Some(1_706_666_666));
        assert_eq!(slack_ns(0), None);
    }

    #[test]
    fn how_long_is_said_with_how_late_it_may_be() {
        let now_ns = 5_000_000_000;
        let at_ns = now_ns + 41_000_000_000;
        assert_eq!(
            until(at_ns, now_ns, Some(250)),
            "in 41.0s, or up to 2.05s later"
        );
        assert_eq!(
            until(at_ns, now_ns, None),
            "in 41.0s, or some seconds later"
        );
        assert_eq!(until(now_ns, at_ns, Some(1000)), "within 4.10s");
        assert_eq!(until(now_ns, at_ns, None), "within seconds");
    }
}
