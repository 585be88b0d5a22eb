//! Owns what experiments measure and what they expect of it: values, expectations, and how an expectation
//! is turned into a wrong one.

use std::{fmt, time::Duration};

use serde::Serialize;
use tcptrace_model::TcpState;

use crate::render::{names, time};

/// The errno of a call that failed; positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u16);

/// What a system call returned: nothing, or its errno.
pub type Called = Result<(), Errno>;

/// Something that was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A system call's result.
    Call(Called),
    /// A state of the kernel's.
    State(TcpState),
    /// States in their order.
    States(Vec<TcpState>),
    /// A number of things.
    Count(u64),
    /// A time, in ns.
    Ns(u64),
    /// A fact that is so, or is not.
    Fact(bool),
    /// A word of the vocabulary (`expired`, `local_first`), an address, a name.
    Word(String),
}

/// What a value is expected to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Exactly this.
    Is(Value),
    /// One of these.
    OneOf(Vec<Value>),
    /// A time from the first to the second, in ns, both included.
    Between(u64, u64),
    /// A number of at least this.
    AtLeast(u64),
    /// A number of at most this.
    AtMost(u64),
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match names::error(self.0) {
            Some(name) => f.write_str(&name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(Ok(())) => f.write_str("succeeds"),
            Self::Call(Err(errno)) => fmt::Display::fmt(errno, f),
            Self::State(state) => f.write_str(state.name()),
            Self::States(states) => {
                let names: Vec<&str> = states.iter().map(|state| state.name()).collect();
                f.write_str(&names.join(" > "))
            }
            Self::Count(count) => write!(f, "{count}"),
            Self::Ns(ns) => f.write_str(&time::duration(*ns)),
            Self::Fact(true) => f.write_str("yes"),
            Self::Fact(false) => f.write_str("no"),
            Self::Word(word) => f.write_str(word),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(value) => fmt::Display::fmt(value, f),
            Self::OneOf(values) => {
                let all: Vec<String> = values.iter().map(Value::to_string).collect();
                f.write_str(&all.join(" or "))
            }
            Self::Between(from, to) => {
                write!(f, "{} to {}", time::duration(*from), time::duration(*to))
            }
            Self::AtLeast(count) => write!(f, "at least {count}"),
            Self::AtMost(count) => write!(f, "at most {count}"),
        }
    }
}

impl Expected {
    /// A time from `from` to `to`.
    #[must_use]
    pub fn between(from: Duration, to: Duration) -> Self {
        Self::Between(ns(from), ns(to))
    }

    /// Whether `value` is as expected.
    #[must_use]
    pub fn is_met_by(&self, value: &Value) -> bool {
        match self {
            Self::Is(expected) => expected == value,
            Self::OneOf(expected) => expected.contains(value),
            Self::Between(from, to) => matches!(value, Value::Ns(ns) if from <= ns && ns <= to),
            Self::AtLeast(least) => matches!(value, Value::Count(count) if count >= least),
            Self::AtMost(most) => matches!(value, Value::Count(count) if count <= most),
        }
    }

    /// Whether some value meets both.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Is(value), expected) | (expected, Self::Is(value)) => expected.is_met_by(value),
            (Self::OneOf(values), expected) | (expected, Self::OneOf(values)) => {
                values.iter().any(|value| expected.is_met_by(value))
            }
            (Self::Between(from, to), Self::Between(other_from, other_to)) => {
                from <= other_to && other_from <= to
            }
            (Self::AtLeast(least), Self::AtMost(most))
            | (Self::AtMost(most), Self::AtLeast(least)) => least <= most,
            (Self::AtLeast(_), Self::AtLeast(_)) | (Self::AtMost(_), Self::AtMost(_)) => true,
            (Self::Between(..), Self::AtLeast(_) | Self::AtMost(_))
            | (Self::AtLeast(_) | Self::AtMost(_), Self::Between(..)) => false,
        }
    }

    /// A wrong expectation: nothing that meets this one meets that one.
    #[must_use]
    pub fn contradicted(&self) -> Self {
        match self {
            Self::Is(value) => Self::Is(other_than(std::slice::from_ref(value))),
            Self::OneOf(values) => Self::Is(other_than(values)),
            Self::Between(from, to) => {
                Self::Between(to.saturating_add(1), to.saturating_add(1 + (to - from)))
            }
            Self::AtLeast(least) => match least.checked_sub(1) {
                Some(most) => Self::AtMost(most),
                // Every number meets the expectation.
                None => Self::Is(Value::Count(u64::MAX)),
            },
            Self::AtMost(most) => Self::AtLeast(most.saturating_add(1)),
        }
    }
}

impl From<Value> for Expected {
    fn from(value: Value) -> Self {
        Self::Is(value)
    }
}

macro_rules! values {
    ($($of:ty => |$name:ident| $value:expr;)+) => {
        $(
            impl From<$of> for Value {
                fn from($name: $of) -> Self {
                    $value
                }
            }

            impl From<$of> for Expected {
                fn from(value: $of) -> Self {
                    Self::Is(value.into())
                }
            }
        )+
    };
}

values! {
    Called => |called| Value::Call(called);
    Errno => |errno| Value::Call(Err(errno));
    TcpState => |state| Value::State(state);
    Vec<TcpState> => |states| Value::States(states);
    u64 => |count| Value::Count(count);
    Duration => |duration| Value::Ns(ns(duration));
    bool => |fact| Value::Fact(fact);
    &str => |word| Value::Word(word.to_owned());
    String => |word| Value::Word(word);
}

impl Serialize for Value {
    /// Calls, states and words as their names, numbers and facts as such, times as ns.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) | Self::Ns(count) => serializer.serialize_u64(*count),
            Self::Fact(fact) => serializer.serialize_bool(*fact),
            Self::States(states) => serializer.collect_seq(states.iter().map(|state| state.name())),
            Self::Call(_) | Self::State(_) | Self::Word(_) => serializer.collect_str(self),
        }
    }
}

impl Serialize for Expected {
    /// As text.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A value of the same kind as the first of `values` that is none of them.
fn other_than(values: &[Value]) -> Value {
    let candidates = values.first().map_or_else(Vec::new, |first| match first {
        Value::Call(_) => (0..=values.len())
            .map(|index| {
                // A success, then errnos that nothing here returns.
                let errno = u16::try_from(index).unwrap_or(u16::MAX);
                Value::Call(
                    errno
                        .checked_sub(1)
                        .map_or(Ok(()), |odd| Err(Errno(4000 + odd))),
                )
            })
            .collect(),
        Value::State(_) => TcpState::ALL.iter().copied().map(Value::State).collect(),
        Value::States(states) => {
            let mut longer = states.clone();
            longer.push(TcpState::NewSynRecv);
            vec![Value::States(longer)]
        }
        Value::Count(_) => (0..=values.len() as u64).map(Value::Count).collect(),
        Value::Ns(_) => (0..=values.len() as u64).map(Value::Ns).collect(),
        Value::Fact(fact) => vec![Value::Fact(!fact)],
        Value::Word(_) => vec![Value::Word("(a wrong expectation)".to_owned())],
    });
    candidates
        .into_iter()
        .find(|candidate| !values.contains(candidate))
        .unwrap_or(Value::Word("(a wrong expectation)".to_owned()))
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expectations of every kind, each with a value that meets it.
    fn met() -> Vec<(Expected, Value)> {
        vec![
            (Called::Ok(()).into(), Called::Ok(()).into()),
            (Errno(98).into(), Errno(98).into()),
            (TcpState::Close.into(), TcpState::Close.into()),
            (vec![TcpState::Close].into(), vec![TcpState::Close].into()),
            (0_u64.into(), 0_u64.into()),
            (true.into(), true.into()),
            (false.into(), false.into()),
            ("expired".into(), "expired".into()),
            (
                Duration::from_millis(5).into(),
                Duration::from_millis(5).into(),
            ),
            (
                Expected::between(Duration::from_secs(60), Duration::from_secs(62)),
                Duration::from_secs(62).into(),
            ),
            (
                Expected::OneOf(vec![TcpState::Close.into(), TcpState::TimeWait.into()]),
                TcpState::TimeWait.into(),
            ),
            (
                Expected::OneOf(vec![Called::Ok(()).into(), Errno(98).into()]),
                Errno(98).into(),
            ),
            (Expected::AtLeast(3), 3_u64.into()),
            (Expected::AtMost(3), 3_u64.into()),
        ]
    }

    #[test]
    fn a_wrong_expectation_is_not_met_by_what_meets_the_right_one() {
        for (expected, value) in met() {
            assert!(expected.is_met_by(&value), "{expected} by {value}");
            let wrong = expected.contradicted();
            assert!(!wrong.is_met_by(&value), "{wrong} by {value}");
            assert!(!wrong.agrees_with(&expected), "{wrong} and {expected}");
        }
    }

    #[test]
    fn expectations_agree_when_a_value_can_meet_both() {
        let seconds =
            |from, to| Expected::between(Duration::from_secs(from), Duration::from_secs(to));
        assert!(seconds(60, 62).agrees_with(&seconds(62, 70)));
        assert!(!seconds(60, 62).agrees_with(&seconds(240, 250)));
        assert!(seconds(60, 62).agrees_with(&Duration::from_secs(61).into()));
        assert!(Expected::AtLeast(3).agrees_with(&Expected::AtMost(3)));
        assert!(!Expected::AtLeast(4).agrees_with(&Expected::AtMost(3)));
        let either = Expected::OneOf(vec![true.into(), false.into()]);
        assert!(either.agrees_with(&Expected::from(true)));
    }

    #[test]
    fn values_are_told_in_the_words_of_their_field() {
        let told = |value: Value| value.to_string();
        assert_eq!(told(Called::Ok(()).into()), "succeeds");
        assert_eq!(told(Errno(98).into()), "EADDRINUSE");
        assert_eq!(told(Errno(4000).into()), "errno 4000");
        assert_eq!(
            told(vec![TcpState::FinWait2, TcpState::TimeWait].into()),
            "FIN_WAIT2 > TIME_WAIT"
        );
        assert_eq!(told(Duration::from_millis(1500).into()), "1.500s");
        assert_eq!(told(false.into()), "no");
    }
}
