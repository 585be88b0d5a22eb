//! Owns `Sample`: how many durations of which length, for quantiles and a histogram.

use alloc::{collections::BTreeMap, vec::Vec};

use crate::Durations;

const NS_PER_MS: u64 = 1_000_000;

/// Durations up to so many bits of ms (131 s) are kept to the ms, longer ones to as many leading bits:
/// to 1 in 65,536. So the kept ones are bounded, however many there are.
const EXACT_BITS: u32 = 17;

/// Ranges of a histogram, at most.
const MOST_RANGES: u64 = 20;

/// Durations, counted by ms.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    count: u64,
    min_ns: u64,
    max_ns: u64,
    by_ms: BTreeMap<u64, u64>,
}

impl Sample {
    /// Adds one.
    pub(crate) fn add(&mut self, ns: u64) {
        self.min_ns = if self.count == 0 {
            ns
        } else {
            self.min_ns.min(ns)
        };
        self.max_ns = self.max_ns.max(ns);
        self.count += 1;
        *self.by_ms.entry(kept(ns / NS_PER_MS)).or_default() += 1;
    }

    /// How they are distributed; `None` when there are none.
    pub(crate) fn durations(&self) -> Option<Durations> {
        if self.count == 0 {
            return None;
        }
        let width_ms = self.width_ms();
        Some(Durations {
            count: self.count,
            min_ns: self.min_ns,
            median_ns: self.quantile_ns(50),
            p90_ns: self.quantile_ns(90),
            p99_ns: self.quantile_ns(99),
            max_ns: self.max_ns,
            histogram: self.histogram(width_ms),
            width_ns: width_ms * NS_PER_MS,
        })
    }

    /// The smallest that at least `percent` % are not longer than.
    fn quantile_ns(&self, percent: u64) -> u64 {
        let rank = (u128::from(self.count) * u128::from(percent)).div_ceil(100);
        let mut below = 0;
        for (ms, count) in &self.by_ms {
            below += u128::from(*count);
            if below >= rank {
                return ms * NS_PER_MS;
            }
        }
        self.max_ns
    }

    /// The smallest of 1, 2, 5, 10, 20, ... ms with which few enough ranges cover all.
    fn width_ms(&self) -> u64 {
        let (first, last) = (kept(self.min_ns / NS_PER_MS), kept(self.max_ns / NS_PER_MS));
        (0..20)
            .flat_map(|power| {
                [1, 2, 5].map(|digit| 10_u64.saturating_pow(power).saturating_mul(digit))
            })
            .find(|width| last / width - first / width < MOST_RANGES)
            .unwrap_or(u64::MAX)
    }

    fn histogram(&self, width_ms: u64) -> Vec<(u64, u64)> {
        let (first, last) = (
            kept(self.min_ns / NS_PER_MS) / width_ms,
            kept(self.max_ns / NS_PER_MS) / width_ms,
        );
        (first..=last)
            .map(|range| {
                let begin = range * width_ms;
                let end = begin.saturating_add(width_ms);
                let count = self.by_ms.range(begin..end).map(|(_, count)| count).sum();
                (begin * NS_PER_MS, count)
            })
            .collect()
    }
}

/// The ms as they are kept: with at most [`EXACT_BITS`] leading bits.
const fn kept(ms: u64) -> u64 {
    let bits = u64::BITS - ms.leading_zeros();
    let cut = bits.saturating_sub(EXACT_BITS);
    ms >> cut << cut
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn sample(all_ns: impl IntoIterator<Item = u64>) -> Durations {
        let mut sample = Sample::default();
        for ns in all_ns {
            sample.add(ns);
        }
        sample.durations().unwrap()
    }

    #[test]
    fn of_none_there_is_nothing_to_say() {
        assert_eq!(Sample::default().durations(), None);
    }

    #[test]
    fn one_duration_is_all_of_them() {
        let durations = sample([60_012_345_678]);
        assert_eq!(durations.count, 1);
        assert_eq!(durations.min_ns, 60_012_345_678);
        assert_eq!(durations.max_ns, 60_012_345_678);
        assert_eq!(durations.median_ns, 60_012_000_000);
        assert_eq!(durations.p99_ns, 60_012_000_000);
        assert_eq!(durations.histogram, [(60_012_000_000, 1)]);
        assert_eq!(durations.width_ns, NS_PER_MS);
    }

    #[test]
    fn quantiles_are_the_nearest_ranks() {
        let durations = sample((1..=200).map(|ms| ms * NS_PER_MS));
        assert_eq!(durations.median_ns, 100 * NS_PER_MS);
        assert_eq!(durations.p90_ns, 180 * NS_PER_MS);
        assert_eq!(durations.p99_ns, 198 * NS_PER_MS);
    }

    #[test]
    fn a_histogram_has_few_ranges_of_a_round_width_that_cover_all() {
        let durations = sample((0..2000).map(|at| 60 * S + at * 1_024_000));
        assert_eq!(durations.width_ns, 200 * NS_PER_MS);
        assert_eq!(durations.histogram.first().unwrap().0, 60 * S);
        assert_eq!(durations.histogram.len(), 11);
        let counted: u64 = durations.histogram.iter().map(|(_, count)| count).sum();
        assert_eq!(counted, 2000);
        for pair in durations.histogram.windows(2) {
            assert_eq!(pair[1].0 - pair[0].0, durations.width_ns);
        }
    }

    #[test]
    fn any_durations_are_covered() {
        for all in [
            vec![0, u64::MAX],
            vec![0, 0],
            vec![1, S, 3600 * S],
            vec![u64::MAX],
        ] {
            let count = all.len() as u64;
            let durations = sample(all);
            assert!(durations.histogram.len() <= 20);
            let counted: u64 = durations.histogram.iter().map(|(_, count)| count).sum();
            assert_eq!(counted, count);
        }
    }

    #[test]
    fn long_durations_do_not_need_more_room() {
        let mut many = Sample::default();
        for at in 0..1000 {
            many.add(100_000 * S + at * NS_PER_MS);
        }
        assert!(many.by_ms.len() <= 2);
    }

    use alloc::vec;
}
