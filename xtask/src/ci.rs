//! Owns `cargo xtask ci`: what the checks on the server do, for people to run beforehand.

use std::process::ExitCode;

use anyhow::Result;

use crate::{lint, test};

/// Runs the verb: the lints, then the tests, which have the last word.
pub(crate) fn main(args: &test::Args) -> Result<ExitCode> {
    let linted = lint::main(&lint::Args {})?;
    let tested = test::main(args)?;
    Ok(if linted == ExitCode::SUCCESS {
        tested
    } else {
        linted
    })
}
