//! Owns what a person's terminal is spared when it is slower than what happens: writing to it would let the buffer
//! between kernel and tracer run over, and records would be lost to the findings as well.
//!
//! Files and pipes are never spared anything: whoever reads them counts on every line.

use std::fmt::{self, Display, Formatter};

use tcptrace_model::Finding;

/// An event that is told so many ns after it happened shows that the output does not keep up: the buffer is
/// looked at every 40 ms.
const BEHIND_NS: u64 = 150_000_000;
/// And this, that it does again.
const CAUGHT_UP_NS: u64 = 60_000_000;

/// Whether the output keeps up, and what it was spared since it does not.
#[derive(Debug, Default)]
pub(super) struct Pace {
    spared: Option<Spared>,
}

/// What was not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spared {
    transitions: u64,
    stories: u64,
    time_waits: u64,
    calls: u64,
}

impl Pace {
    /// Takes how long ago what is told now has happened, in ns. Once the output has caught up, returns what it was
    /// spared.
    pub(super) fn tells(&mut self, age_ns: u64) -> Option<Spared> {
        match self.spared {
            None if age_ns > BEHIND_NS => {
                self.spared = Some(Spared::default());
                None
            }
            Some(_) if age_ns < CAUGHT_UP_NS => self.ends(),
            None | Some(_) => None,
        }
    }

    /// What the output was spared until the end.
    pub(super) fn ends(&mut self) -> Option<Spared> {
        self.spared
            .take()
            .filter(|spared| *spared != Spared::default())
    }

    /// Whether the output is spared this finding; it is counted then. What has failed, is stuck or was lost is
    /// always shown.
    pub(super) fn spares(&mut self, finding: &Finding) -> bool {
        let Some(spared) = &mut self.spared else {
            return false;
        };
        let count = match finding {
            Finding::Transition(_) => &mut spared.transitions,
            Finding::Story(_) => &mut spared.stories,
            Finding::TimeWait(_) => &mut spared.time_waits,
            Finding::CallSucceeded(_) => &mut spared.calls,
            // Part of a story, or of the end to come.
            Finding::Connection(_) | Finding::TimeWaitEntered(_) => return true,
            Finding::CallFailed(_) | Finding::Stuck(_) | Finding::Lost(_) => return false,
        };
        *count += 1;
        true
    }
}

impl Display for Spared {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            transitions,
            stories,
            time_waits,
            calls,
        } = *self;
        let counts = [
            (transitions, "transitions"),
            (stories, "connections"),
            (time_waits, "ends of TIME_WAIT"),
            (calls, "calls that succeeded"),
        ];
        let mut words = counts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"));
        f.write_str("not shown, because the terminal is slower than they come: ")?;
        f.write_str(&words.next().unwrap_or_default())?;
        for word in words {
            write!(f, ", {word}")?;
        }
        f.write_str("; the summary has them all, and so would a file: tcptrace --record FILE")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::text::samples;

    #[test]
    fn an_output_that_keeps_up_is_spared_nothing() {
        let mut pace = Pace::default();
        let transition = samples::transition("127.0.0.1:8000", "127.0.0.1:40000", None);
        for age_ns in [0, CAUGHT_UP_NS, BEHIND_NS] {
            assert_eq!(pace.tells(age_ns), None);
            assert!(!pace.spares(&transition));
        }
    }

    #[test]
    fn one_that_is_behind_is_spared_all_but_failures_until_it_has_caught_up() {
        let mut pace = Pace::default();
        let transition = samples::transition("127.0.0.1:8000", "127.0.0.1:40000", None);
        assert_eq!(pace.tells(BEHIND_NS + 1), None);
        assert!(pace.spares(&transition) && pace.spares(&transition));
        assert!(!pace.spares(&samples::lost(7)));
        assert_eq!(pace.tells(CAUGHT_UP_NS), None, "still behind");
        assert!(pace.spares(&transition));
        let spared = pace.tells(CAUGHT_UP_NS - 1).unwrap();
        assert_eq!(
            spared.to_string(),
            "not shown, because the terminal is slower than they come: 3 transitions; the summary has them all, and so would a file: tcptrace --record FILE"
        );
        assert!(!pace.spares(&transition));
    }

    #[test]
    fn where_nothing_happened_meanwhile_there_is_nothing_to_say() {
        let mut pace = Pace::default();
        assert_eq!(pace.tells(u64::MAX), None);
        assert_eq!(pace.tells(0), None);
        assert_eq!(pace.ends(), None);
    }
}
