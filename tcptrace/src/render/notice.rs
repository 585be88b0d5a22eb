//! Owns what goes to stderr beside the output: errors, warnings, notes.

use std::{
    fmt::Display,
    io::{self, Write},
};

use super::escape::Escaped;

/// Writes one line to stderr, with the program's name before it. When even that cannot be written
/// there is nobody to tell.
pub fn say(sentence: impl Display) {
    let _ = writeln!(io::stderr().lock(), "tcptrace: {sentence}");
}

/// Like [`say`], for what is no error.
pub fn warn(sentence: impl Display) {
    say(format_args!("warning: {sentence}"));
}

/// `words` that come from outside, such as from a recording, so that they cannot write to the
/// terminal.
#[must_use]
pub fn harmless(words: &str) -> String {
    Escaped(words.as_bytes()).to_string()
}
