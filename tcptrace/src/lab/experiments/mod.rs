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

use super::experiment::Experiment;

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
