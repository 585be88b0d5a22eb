//! Owns what goes to stderr beside the output: errors, warnings, notes.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Writes one line to stderr, with the program's name before it. When even that cannot be written
/// there is nobody to tell.
pub fn say(sentence: impl Display) {
    let _ = writeln!(io::stderr().lock(), "tcptrace: {sentence}");
}

/// Like [`say`], for what is no error.
pub fn warn(sentence: impl Display) {
    say(format_args!("warning: {sentence}"));
}
