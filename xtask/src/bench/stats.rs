//! Owns what is said of several measurements of the same thing.

use serde_json::{Value, json};

/// Median, smallest and largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
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

    /// The median, and smallest and largest in brackets, with so many decimals.
    pub(super) fn shown(self, decimals: usize) -> String {
        let number = |value: f64| grouped(&format!("{value:.decimals$}"));
        format!(
            "{} ({} to {})",
            number(self.median),
            number(self.min),
            number(self.max)
        )
    }
}

impl From<Spread> for Value {
    fn from(spread: Spread) -> Self {
        json!({ "median": spread.median, "min": spread.min, "max": spread.max })
    }
}

/// A count as a number that can be divided.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn as_f64(number: u64) -> f64 {
    number as f64
}

/// A number with a comma between the thousands.
pub(super) fn grouped(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let follow = whole.len() - index;
        if index > 0 && follow.is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text + rest
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
        assert_eq!(odd.shown(0), "2 (1 to 3)");
        assert_eq!(odd.shown(2), "2.00 (1.00 to 3.00)");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped("1234567.25"), "1,234,567.25");
        assert_eq!(grouped("-123"), "-123");
        assert_eq!(grouped("999"), "999");
    }
}
