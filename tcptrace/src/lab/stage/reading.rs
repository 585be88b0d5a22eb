//! How a reading is taken.

use super::Stage;
use crate::lab::{
    reading::{Reading, Source},
    value::{Expected, Value},
};

/// A reading that is being taken: it is one when [`Taking::measured`] is called.
#[must_use = "nothing has been measured yet"]
pub struct Taking<'a> {
    stage: &'a mut Stage,
    what: String,
    claimed: Option<Expected>,
    decisive: bool,
    expected: Option<Expected>,
}

impl Stage {
    /// Begins a reading; `what` says of what, in a few words.
    pub fn reading(&mut self, what: impl Into<String>) -> Taking<'_> {
        Taking {
            stage: self,
            what: what.into(),
            claimed: None,
            decisive: false,
            expected: None,
        }
    }
}

impl Taking<'_> {
    /// What the claim says, and stands or falls with.
    pub fn claim(mut self, claimed: impl Into<Expected>) -> Self {
        self.claimed = Some(claimed.into());
        self.decisive = true;
        self
    }

    /// What the claim says as well, without standing or falling with it: it shows that the experiment can
    /// tell the difference.
    pub fn control(mut self, claimed: impl Into<Expected>) -> Self {
        self.claimed = Some(claimed.into());
        self.decisive = false;
        self
    }

    /// What this kernel is expected to do. Without it, what the claim says.
    pub fn expect(mut self, expected: impl Into<Expected>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// What the kernel did, and how that is known. Returns whether it was what was expected of it.
    ///
    /// # Panics
    /// When neither a claim nor an expectation has been given: a reading that cannot fail is a mistake in the
    /// experiment.
    pub fn measured(self, value: impl Into<Value>, source: Source) -> bool {
        let Self {
            stage,
            what,
            claimed,
            decisive,
            expected,
        } = self;
        let Some(expected) = expected.or_else(|| claimed.clone()) else {
            panic!("nothing is expected of {what:?}");
        };
        let expected = if stage.contradict {
            expected.contradicted()
        } else {
            expected
        };
        let measured = value.into();
        let met = expected.is_met_by(&measured);
        stage.readings.push(Reading {
            what,
            claimed,
            decisive,
            expected,
            measured,
            source,
            met,
        });
        met
    }
}
