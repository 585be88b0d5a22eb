//! Owns what is wrong with a file: faults with their place in it, and how they are told.

use std::{fmt::Write as _, ops::Range};

use crate::render::notice;

/// So many are told; the rest are counted.
const MOST_TOLD: usize = 20;
/// From this similarity on (1 is the same), one word may be meant by another.
const SIMILAR: f64 = 0.65;

/// Something in a file that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Where, in bytes of the file; `0..0` for what is nowhere in it.
    at: Range<usize>,
    /// What is wrong, without a full stop.
    what: String,
    /// What would be right.
    right: Option<String>,
}

impl Fault {
    pub(super) fn new(at: Range<usize>, what: impl Into<String>) -> Self {
        Self {
            at,
            what: what.into(),
            right: None,
        }
    }

    /// The same, with what would be right.
    pub(super) fn rather(self, right: impl Into<String>) -> Self {
        Self {
            right: Some(right.into()),
            ..self
        }
    }

    /// The same; what would be right is the word that is most like `word`, or any of them if there are few.
    pub(super) fn meant<'w>(self, word: &str, known: impl IntoIterator<Item = &'w str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        match similar(word, &known) {
            Some(meant) => self.rather(format!("did you mean {meant}?")),
            None if known.is_empty() => self,
            None => self.rather(format!("one of: {}", known.join(", "))),
        }
    }
}

/// The faults of a file, with its lines. `name` is the file's, as it was typed.
pub(super) fn tell(name: &str, source: &str, mut faults: Vec<Fault>) -> String {
    faults.sort_by_key(|fault| fault.at.start);
    let count = match faults.len() {
        1 => "an error".to_owned(),
        count => format!("{count} errors"),
    };
    let mut out = format!("{count} in {name}, so nothing is played\n");
    for fault in faults.iter().take(MOST_TOLD) {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n{name}:");
        if fault.at == (0..0) {
            let right = fault.right.as_deref().unwrap_or_default();
            let _ = writeln!(out, "1: {}: {right}", fault.what);
            continue;
        }
        let line = line_of(source, fault.at.start);
        let begin = source[..fault.at.start]
            .rfind('\n')
            .map_or(0, |newline| newline + 1);
        let text = source[begin..].lines().next().unwrap_or_default();
        let before = source[begin..fault.at.start].chars().count();
        let end = fault.at.end.clamp(fault.at.start, begin + text.len());
        let marked = source[fault.at.start..end].chars().count().max(1);
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        let _ = write!(
            out,
            "{line}: {}\n  {number} | {}\n  {margin} | {}{}",
            fault.what,
            notice::harmless(&text.replace('\t', " ")),
            " ".repeat(before),
            "^".repeat(marked),
        );
        if let Some(right) = &fault.right {
            let _ = write!(out, " {right}");
        }
        out.push('\n');
    }
    if let Some(more) = faults.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        let _ = write!(out, "\nand {more} more\n");
    }
    out.push_str("\ndocs/lab/own.md describes such files");
    out
}

/// The number of the line that this byte is in, from 1.
pub(super) fn line_of(source: &str, byte: usize) -> usize {
    source[..byte].matches('\n').count() + 1
}

/// The one of `known` that is most like `word`, if it is like it at all.
fn similar<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    let word = word.to_ascii_lowercase();
    let likeness =
        |one: &str| strsim::normalized_damerau_levenshtein(&word, &one.to_ascii_lowercase());
    known
        .iter()
        .map(|one| (*one, likeness(one)))
        .filter(|(_, likeness)| *likeness >= SIMILAR)
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(one, _)| one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_with_its_line_and_what_would_be_right() {
        let source = "one\n  two thre\n";
        let fault =
            Fault::new(10..14, "no number is called thre").meant("thre", ["one", "two", "three"]);
        assert_eq!(
            tell("my.toml", source, vec![fault]),
            "an error in my.toml, so nothing is played\n\n\
             my.toml:2: no number is called thre\n  \
             2 |   two thre\n    \
             |       ^^^^ did you mean three?\n\n\
             docs/lab/own.md describes such files"
        );
    }

    #[test]
    fn twenty_faults_are_told_and_the_rest_are_counted() {
        let faults = (0..23).map(|_| Fault::new(0..1, "wrong")).collect();
        let told = tell("my.toml", "x", faults);
        assert!(told.starts_with("23 errors in my.toml"), "{told}");
        assert_eq!(told.matches("my.toml:1: wrong").count(), 20);
        assert!(told.contains("\nand 3 more\n"), "{told}");
    }

    #[test]
    fn what_is_nowhere_in_the_file_is_told_without_a_line() {
        let told = tell(
            "my.toml",
            "x",
            vec![Fault::new(0..0, "empty").rather("fill it")],
        );
        assert!(
            told.contains("\nmy.toml:1: empty: fill it\n\ndocs"),
            "{told}"
        );
    }

    #[test]
    fn a_fault_at_the_end_of_the_file_has_a_place_too() {
        let told = tell("my.toml", "one\n", vec![Fault::new(4..4, "more")]);
        assert!(
            told.contains("my.toml:2: more\n  2 | \n    | ^\n"),
            "{told}"
        );
    }

    #[test]
    fn only_what_is_like_it_may_be_meant() {
        let known = ["TIME_WAIT", "CLOSE_WAIT", "CLOSE"];
        assert_eq!(similar("timewait", &known), Some("TIME_WAIT"));
        assert_eq!(similar("CLOSED", &known), Some("CLOSE"));
        assert_eq!(similar("nothing", &known), None);
    }
}
