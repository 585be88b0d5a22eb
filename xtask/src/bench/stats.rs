//! Owns what is said of several measurements of the same thing.

use std::fmt;

use serde_json::{Value, json};

/// Median, smallest and largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// The spread of `values`; none of no values.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} ({:.0} to {:.0})", self.median, self.min, self.max)
    }
}

impl From<Spread> for Value {
    fn from(spread: Spread) -> Self {
        json!({ "median": spread.median, "min": spread.min, "max": spread.max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let odd = Spread::of([3.0, 1.0, 2.0].into_iter()).unwrap();
        assert_eq!(
            odd,
            Spread {
                median: 2.0,
                min: 1.0,
                max: 3.0
            }
        );
        let even = Spread::of([4.0, 1.0, 2.0, 3.0].into_iter()).unwrap();
        assert!((even.median - 2.5).abs() < f64::EPSILON);
        assert_eq!(Spread::of(std::iter::empty()), None);
        assert_eq!(odd.to_string(), "2 (1 to 3)");
    }
}
