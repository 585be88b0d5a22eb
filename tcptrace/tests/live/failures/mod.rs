//! Calls that fail, in the tracer's words: the clause, the holder, and what helps; and `explain` beside
//! them.

mod exhausted;
mod explained;
mod remedies;
mod situations;
mod told;

pub(crate) use exhausted::{play_none_left, play_tuple};
pub(crate) use told::play_situations;

use crate::Scenario;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "failures: each by its clause, and what helps helps",
            told::each,
        ),
        Scenario::new("failures: explain says the same", explained::the_same),
        Scenario::new("failures: no port is left", exhausted::none_left),
        Scenario::new("failures: a privileged port", exhausted::privileged),
        Scenario::new(
            "failures: the same two addresses in TIME_WAIT",
            exhausted::tuple,
        ),
        Scenario::new(
            "failures: listen() after a bind() that failed",
            told::listens_elsewhere,
        ),
        Scenario::new("failures: nobody listens there", told::refused),
    ]
}
