//! Owns readings (what was measured, beside what a claim says and what this kernel is expected to do)
//! and the verdict that follows from them.

use std::fmt;

use serde::Serialize;

use super::value::{Expected, Value};

/// What a measured value was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// What a system call returned to an actor.
    Call,
    /// A finding of the trace.
    Finding,
    /// The kernel's list of sockets (sock_diag).
    SockDiag,
    /// A segment on the wire.
    Segment,
    /// A counter of the kernel's (/proc/net/netstat, /proc/net/snmp).
    Counter,
    /// A sysctl.
    Sysctl,
    /// Computed from several of these.
    Computed,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What was measured, in a few words.
    pub what: String,
    /// What the claim says it is; `None` where the claim has no say.
    pub claimed: Option<Expected>,
    /// Whether the claim stands or falls with it. Others show that the experiment can tell the
    /// difference, or what the claim is silent about.
    pub decisive: bool,
    /// What this kernel is expected to do.
    pub expected: Expected,
    /// What it did.
    pub measured: Value,
    /// How that is known.
    pub source: Source,
    /// Whether it did what was expected.
    pub met: bool,
}

/// What the readings make of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that the claim says was so.
    Holds,
    /// Some of it was: it holds on this condition.
    HoldsOnlyIf(String),
    /// Nothing that it stands or falls with was so.
    DoesNotHold,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds => f.write_str("holds"),
            Self::HoldsOnlyIf(condition) => write!(f, "holds only if {condition}"),
            Self::DoesNotHold => f.write_str("does not hold"),
        }
    }
}

/// The verdict of the decisive readings, by what was measured. `condition` is on what a claim holds that is
/// sometimes right. `None` without a decisive reading.
#[must_use]
pub fn verdict(readings: &[Reading], condition: Option<&str>) -> Option<Verdict> {
    of(readings, condition, |reading, claimed| {
        claimed.is_met_by(&reading.measured)
    })
}

/// The verdict that is expected of this kernel.
#[must_use]
pub fn expected_verdict(readings: &[Reading], condition: Option<&str>) -> Option<Verdict> {
    of(readings, condition, |reading, claimed| {
        claimed.agrees_with(&reading.expected)
    })
}

fn of(
    readings: &[Reading],
    condition: Option<&str>,
    is_so: impl Fn(&Reading, &Expected) -> bool,
) -> Option<Verdict> {
    let (mut right, mut wrong) = (false, false);
    for reading in readings.iter().filter(|reading| reading.decisive) {
        if let Some(claimed) = &reading.claimed {
            if is_so(reading, claimed) {
                right = true;
            } else {
                wrong = true;
            }
        }
    }
    match (right, wrong, condition) {
        (false, false, _) => None,
        (true, false, _) => Some(Verdict::Holds),
        (true, true, Some(condition)) => Some(Verdict::HoldsOnlyIf(condition.to_owned())),
        // A claim that is not always so, and no condition is known on which it is.
        (false, true, _) | (true, true, None) => Some(Verdict::DoesNotHold),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(claimed: Option<bool>, decisive: bool, expected: bool, measured: bool) -> Reading {
        Reading {
            what: String::new(),
            claimed: claimed.map(Into::into),
            decisive,
            expected: expected.into(),
            measured: measured.into(),
            source: Source::Call,
            met: expected == measured,
        }
    }

    #[test]
    fn a_claim_holds_when_all_it_says_is_so() {
        let readings = [
            reading(Some(true), true, true, true),
            reading(Some(true), false, false, false),
            reading(None, true, false, false),
        ];
        assert_eq!(verdict(&readings, Some("x")), Some(Verdict::Holds));
    }

    #[test]
    fn what_was_expected_and_what_was_measured_may_differ() {
        let readings = [
            reading(Some(true), true, true, true),
            reading(Some(true), true, false, true),
        ];
        assert_eq!(verdict(&readings, Some("x")), Some(Verdict::Holds));
        assert_eq!(
            expected_verdict(&readings, Some("x")),
            Some(Verdict::HoldsOnlyIf("x".to_owned()))
        );
        assert_eq!(
            expected_verdict(&readings, None),
            Some(Verdict::DoesNotHold)
        );
    }

    #[test]
    fn a_claim_of_which_nothing_is_so_does_not_hold() {
        let readings = [reading(Some(true), true, false, false)];
        assert_eq!(verdict(&readings, Some("x")), Some(Verdict::DoesNotHold));
        assert_eq!(verdict(&[reading(None, true, true, true)], None), None);
    }
}
