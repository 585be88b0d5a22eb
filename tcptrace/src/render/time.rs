//! Owns points in time and durations as text.

use std::sync::OnceLock;

use jiff::{Timestamp, tz::TimeZone};

/// Turns CLOCK_BOOTTIME into wall-clock time.
#[derive(Clone, Debug)]
pub struct WallClock {
    offset_ns: i64,
    /// Looked up when a local time is first asked for: that goes through all time zones of the machine.
    zone: OnceLock<TimeZone>,
}

impl WallClock {
    /// A clock of the machine's time zone. `offset_ns` is what to add to CLOCK_BOOTTIME ns to get ns
    /// since 1970 UTC.
    #[must_use]
    pub fn new(offset_ns: i64) -> Self {
        Self {
            offset_ns,
            zone: OnceLock::new(),
        }
    }

    /// RFC 3339 in UTC with nine digits: `2026-11-21T08:15:30.123456789Z`.
    #[must_use]
    pub fn rfc3339(&self, ts_ns: u64) -> String {
        format!("{:.9}", self.timestamp(ts_ns))
    }

    /// Local time of day with milliseconds: `08:15:30.123`.
    #[must_use]
    pub fn time_of_day(&self, ts_ns: u64) -> String {
        let zone = self.zone.get_or_init(TimeZone::system);
        let local = zone.to_datetime(self.timestamp(ts_ns));
        let milliseconds = local.subsec_nanosecond() / 1_000_000;
        let (hour, minute, second) = (local.hour(), local.minute(), local.second());
        format!("{hour:02}:{minute:02}:{second:02}.{milliseconds:03}")
    }

    fn timestamp(&self, ts_ns: u64) -> Timestamp {
        self.since_epoch_ns(ts_ns)
            .map_or(Timestamp::UNIX_EPOCH, |ns| {
                Timestamp::from_nanosecond(ns.into()).unwrap_or(Timestamp::UNIX_EPOCH)
            })
    }

    /// ns since 1970; `None` after the year 2262.
    fn since_epoch_ns(&self, ts_ns: u64) -> Option<i64> {
        i64::try_from(ts_ns).ok()?.checked_add(self.offset_ns)
    }
}

/// Writes one RFC 3339 time after the other; those within the same second cost next to nothing.
#[derive(Clone, Debug)]
pub struct Stamps {
    clock: WallClock,
    /// The second that `text` is of, since 1970.
    second: Option<i64>,
    text: String,
}

impl Stamps {
    /// Of `clock`.
    #[must_use]
    pub fn new(clock: WallClock) -> Self {
        Self {
            clock,
            second: None,
            text: String::new(),
        }
    }

    /// The same as [`WallClock::rfc3339`].
    pub fn rfc3339(&mut self, ts_ns: u64) -> &str {
        let since_epoch_ns = self.clock.since_epoch_ns(ts_ns);
        let second = since_epoch_ns.map(|ns| ns.div_euclid(1_000_000_000));
        match since_epoch_ns {
            Some(ns) if self.second == second => {
                let nanosecond = ns.rem_euclid(1_000_000_000);
                self.text.truncate(self.text.len() - "123456789Z".len());
                let mut digits = itoa::Buffer::new();
                // The leading digit keeps the zeros.
                self.text
                    .push_str(&digits.format(1_000_000_000 + nanosecond)[1..]);
                self.text.push('Z');
            }
            Some(_) | None => {
                self.text = self.clock.rfc3339(ts_ns);
                self.second = second;
            }
        }
        &self.text
    }
}

/// A duration in the largest unit that keeps it at least 1, with three digits after the point:
/// `950ns`, `12.345us`, `1.500ms`, `60.012s`, `1h02m03s`.
#[must_use]
pub fn duration(ns: u64) -> String {
    let thousandths = |unit, name| with_decimals(ns, unit, 3, name);
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => thousandths(1_000, "us"),
        1_000_000..1_000_000_000 => thousandths(1_000_000, "ms"),
        1_000_000_000..1_000_000_000_000 => thousandths(1_000_000_000, "s"),
        _ => {
            let seconds = ns / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            format!("{hours}h{minutes:02}m{:02}s", seconds % 60)
        }
    }
}

/// A duration in three digits, for prose: `950ns`, `12.3us`, `1.50ms`, `60.0s`, `1h02m03s`.
#[must_use]
pub fn brief(ns: u64) -> String {
    let digits = |unit, name| {
        let decimals = match ns / unit {
            0..10 => 2,
            10..100 => 1,
            _ => 0,
        };
        with_decimals(ns, unit, decimals, name)
    };
    match ns {
        1_000..1_000_000 => digits(1_000, "us"),
        1_000_000..1_000_000_000 => digits(1_000_000, "ms"),
        1_000_000_000..1_000_000_000_000 => digits(1_000_000_000, "s"),
        _ => duration(ns),
    }
}

/// So many units of `unit` ns, with that many decimals and the unit's name. By hand: nearly every line has one.
fn with_decimals(ns: u64, unit: u64, decimals: u32, name: &str) -> String {
    let power = 10u64.pow(decimals);
    let mut digits = itoa::Buffer::new();
    let mut text = String::with_capacity("999.999ms".len());
    text.push_str(digits.format(ns / unit));
    if decimals > 0 {
        text.push('.');
        // The leading digit keeps the zeros.
        text.push_str(&digits.format(power + ns % unit * power / unit)[1..]);
    }
    text.push_str(name);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_their_magnitude() {
        assert_eq!(duration(0), "0ns");
        assert_eq!(duration(999), "999ns");
        assert_eq!(duration(1_234), "1.234us");
        assert_eq!(duration(999_999_999), "999.999ms");
        assert_eq!(duration(60_012_345_678), "60.012s");
        assert_eq!(duration(999_999_999_999), "999.999s");
        assert_eq!(duration(3_723_000_000_000), "1h02m03s");
    }

    #[test]
    fn brief_durations_have_three_digits() {
        assert_eq!(brief(0), "0ns");
        assert_eq!(brief(999), "999ns");
        assert_eq!(brief(1_239), "1.23us");
        assert_eq!(brief(35_100_000), "35.1ms");
        assert_eq!(brief(999_999_999), "999ms");
        assert_eq!(brief(60_012_345_678), "60.0s");
        assert_eq!(brief(125_000_000_000), "125s");
        assert_eq!(brief(3_723_000_000_000), "1h02m03s");
    }

    #[test]
    fn stamps_are_those_of_the_clock_within_a_second_and_beyond() {
        let clock = WallClock {
            offset_ns: 1_000_000_000_000_000_000,
            zone: OnceLock::from(TimeZone::UTC),
        };
        let mut stamps = Stamps::new(clock.clone());
        for ts_ns in [
            0,
            5,
            999_999_999,
            1_000_000_000,
            2_000_000_001,
            1_500_000_000,
        ] {
            assert_eq!(stamps.rfc3339(ts_ns), clock.rfc3339(ts_ns));
        }
        let mut before_1970 = Stamps::new(WallClock {
            offset_ns: -10_500_000_000,
            zone: OnceLock::from(TimeZone::UTC),
        });
        for ts_ns in [0, 100, 400_000_000, 600_000_000] {
            let expected = before_1970.clock.rfc3339(ts_ns);
            assert_eq!(before_1970.rfc3339(ts_ns), expected);
        }
    }

    #[test]
    fn the_wall_clock_is_offset_and_in_utc_for_machines() {
        let clock = WallClock {
            offset_ns: 1_000_000_000_000_000_000,
            zone: OnceLock::from(TimeZone::UTC),
        };
        assert_eq!(clock.rfc3339(123_456_789), "2001-09-09T01:46:40.123456789Z");
        assert_eq!(clock.rfc3339(0), "2001-09-09T01:46:40.000000000Z");
        assert_eq!(clock.time_of_day(5_067_000_000), "01:46:45.067");
    }
}
