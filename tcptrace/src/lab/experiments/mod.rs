//! The lab's own experiments, by what they are about.

mod closing;
mod durations;
mod handshakes;
mod listeners;
mod reconnecting;
mod restart;
mod reuse_address;
mod scripted;
mod segments;
mod stuck;

use super::{
    experiment::Experiment,
    value::{Called, Errno},
};

/// A call that succeeds.
const SUCCEEDS: Called = Ok(());
/// Errnos of include/uapi/asm-generic/errno-base.h and errno.h (v6.18).
const EACCES: Errno = Errno(13);
const EINVAL: Errno = Errno(22);
const EPIPE: Errno = Errno(32);
const EOPNOTSUPP: Errno = Errno(95);
const EADDRINUSE: Errno = Errno(98);
const EADDRNOTAVAIL: Errno = Errno(99);

/// All of them, in the order of their ids: claims of operators first (A to D), then those of the kernel (K).
#[must_use]
pub fn all() -> Vec<&'static Experiment> {
    let mut all: Vec<&Experiment> = [
        restart::ALL,
        reuse_address::ALL,
        listeners::ALL,
        closing::ALL,
        handshakes::ALL,
        stuck::ALL,
        durations::ALL,
        reconnecting::ALL,
        segments::ALL,
    ]
    .into_iter()
    .flatten()
    .collect();
    all.sort_by_key(|experiment| {
        let (letter, number) = experiment.id.split_at(1);
        (letter, number.parse::<u32>().unwrap_or_default())
    });
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::lab::claims;

    #[test]
    fn every_claim_is_tried_and_no_other() {
        let tried: BTreeSet<&str> = all().iter().flat_map(|one| one.claims).copied().collect();
        let known: BTreeSet<&str> = claims::ALL.iter().map(|claim| claim.id).collect();
        assert_eq!(tried, known);
    }

    #[test]
    fn ids_and_names_are_their_own() {
        let all = all();
        let ids: BTreeSet<&str> = all.iter().map(|one| one.id).collect();
        let names: BTreeSet<&str> = all.iter().map(|one| one.name).collect();
        assert_eq!((ids.len(), names.len()), (all.len(), all.len()));
        for experiment in all {
            assert_eq!(experiment.claims.first(), Some(&experiment.id));
            assert!(experiment.seconds <= 75, "{} takes too long", experiment.id);
            for text in [experiment.says, experiment.why, experiment.title] {
                assert!(
                    !text.is_empty() && !text.contains("  "),
                    "{}: {text}",
                    experiment.id
                );
            }
        }
    }
}
