//! Owns how xtask speaks: short lines on stderr, so that stdout belongs to what was asked for.

use std::fmt::Display;

/// Says what is being used or done, in one line.
pub(crate) fn say(line: impl Display) {
    eprintln!("xtask: {line}");
}

/// Says why the verb failed, with the whole chain of causes.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("xtask: error: {error:#}");
}
