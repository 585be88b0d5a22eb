//! Owns the default command: trace until told to stop, and show it.

use std::process::ExitCode;

use super::{
    args::TraceArgs,
    output,
    recording::Destination,
    session::{self, Session},
    telling::Telling,
};
use crate::{failure::Failure, render::notice};

/// Traces, shows it, and records it if that is wanted too.
pub(super) fn run(args: &TraceArgs) -> Result<ExitCode, Failure> {
    let TraceArgs {
        filters,
        output: shown,
        run,
        live,
        record,
    } = args;
    if record.as_ref().is_some_and(|file| file.as_os_str() == "-") {
        return Err(Failure::Usage(
            "stdout cannot have both the trace and its recording; record alone with: tcptrace record -o -".to_owned(),
        ));
    }
    let destination = record.as_deref().map(Destination::open).transpose()?;
    output::warn_about(shown);
    let begun = session::begin(filters, run, live)?;
    let recording = destination
        .map(|destination| destination.begin(&begun.opening))
        .transpose()?;
    if output::is_for_people(shown) {
        notice::say("tracing TCP state changes; Ctrl-C ends it");
        if begun.slows_system_calls {
            notice::say(
                "meanwhile every system call of this machine is a little slower, because bind(), listen() and connect() are seen by the tracepoints of system calls; to trace without them: --calls off",
            );
        }
    }
    Session {
        telling: Some(Telling::new(
            begun.opening.settings,
            output::renderer(shown, begun.opening.start.clock_offset_ns),
            shown.state.clone(),
            run.verbose > 0,
        )),
        recording,
        count: run.count,
        verbose: run.verbose,
        is_read: true,
        may_be_spared: output::is_for_people(shown),
    }
    .run(begun)
}
