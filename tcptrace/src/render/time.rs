//! Owns points in time and durations as text.

use jiff::{Timestamp, tz::TimeZone};

/// Turns CLOCK_BOOTTIME into wall-clock time.
#[derive(Clone, Debug)]
pub struct WallClock {
    offset_ns: i64,
    zone: TimeZone,
}

impl WallClock {
    /// A clock of the machine's time zone. `offset_ns` is what to add to CLOCK_BOOTTIME ns to get ns
    /// since 1970 UTC.
    #[must_use]
    pub fn new(offset_ns: i64) -> Self {
        Self {
            offset_ns,
            zone: TimeZone::system(),
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
        let local = self.zone.to_datetime(self.timestamp(ts_ns));
        let milliseconds = local.subsec_nanosecond() / 1_000_000;
        let (hour, minute, second) = (local.hour(), local.minute(), local.second());
        format!("{hour:02}:{minute:02}:{second:02}.{milliseconds:03}")
    }

    fn timestamp(&self, ts_ns: u64) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(ts_ns) + i128::from(self.offset_ns))
            .unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// A duration in the largest unit that keeps it at least 1, with three digits after the point:
/// `950ns`, `12.345us`, `1.500ms`, `60.012s`, `1h02m03s`.
#[must_use]
pub fn duration(ns: u64) -> String {
    let thousandths = |unit: u64, name: &str| {
        let whole = ns / unit;
        let rest = ns % unit * 1000 / unit;
        format!("{whole}.{rest:03}{name}")
    };
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
    fn the_wall_clock_is_offset_and_in_utc_for_machines() {
        let clock = WallClock {
            offset_ns: 1_000_000_000_000_000_000,
            zone: TimeZone::UTC,
        };
        assert_eq!(clock.rfc3339(123_456_789), "2001-09-09T01:46:40.123456789Z");
        assert_eq!(clock.rfc3339(0), "2001-09-09T01:46:40.000000000Z");
        assert_eq!(clock.time_of_day(5_067_000_000), "01:46:45.067");
    }
}
