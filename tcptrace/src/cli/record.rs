//! Owns `tcptrace record`: trace until told to stop, into a file.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use super::{
    args::RecordArgs,
    recording::Destination,
    session::{self, Session},
};
use crate::{failure::Failure, render::notice};

/// Traces into a recording, and says at the end what is in it.
pub(super) fn run(args: &RecordArgs) -> Result<ExitCode, Failure> {
    let RecordArgs {
        output,
        filters,
        run,
        live,
    } = args;
    let destination = Destination::open(output)?;
    let is_read = destination.is_stdout();
    let begun = session::begin(filters, run, live)?;
    let recording = destination.begin(&begun.opening)?;
    if io::stderr().is_terminal() {
        notice::say(format_args!(
            "recording to {}; Ctrl-C ends it",
            recording.name()
        ));
    }
    let mut session = Session {
        telling: None,
        recording: Some(recording),
        count: run.count,
        verbose: run.verbose,
        is_read,
        may_be_spared: false,
    };
    let code = session.run(begun)?;
    if let Some(recording) = &session.recording {
        notice::say(recording);
    }
    Ok(code)
}
