//! Owns stdout: which renderer writes there, and whether anybody reads it.

use std::{
    env,
    io::{self, BufWriter, IsTerminal},
    os::fd::{AsFd, AsRawFd},
};

use tcptrace_model::TcpState;

use super::args::output::{Colour, Format, OutputArgs};
use crate::render::{
    Render,
    json::Json,
    notice,
    text::{Layout, Text},
};

/// The renderer that the flags ask for. `clock_offset_ns` is what to add to CLOCK_BOOTTIME ns to get
/// ns since 1970 UTC.
pub(super) fn renderer(args: &OutputArgs, clock_offset_ns: i64) -> Box<dyn Render> {
    let out = BufWriter::with_capacity(1 << 16, io::stdout());
    if args.json || args.output == Format::Json {
        return Box::new(Json::new(out, clock_offset_ns));
    }
    let layout = Layout {
        no_header: args.no_header,
        time: args.time,
        timestamp: args.timestamp,
        ladder: args.ladder,
        ..layout(args.color, args.wide)
    };
    Box::new(Text::new(out, io::stderr(), layout, clock_offset_ns))
}

/// How text looks on this stdout.
pub(super) fn layout(colour: Colour, wide: bool) -> Layout {
    let on_terminal = io::stdout().is_terminal();
    Layout {
        width: on_terminal.then(terminal_width).flatten(),
        colour: match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => {
                on_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        },
        no_header: true,
        time: false,
        timestamp: false,
        wide,
        ladder: false,
    }
}

/// Whether a person sees stdout and stderr on a terminal, and no JSON.
pub(super) fn is_for_people(args: &OutputArgs) -> bool {
    let json = args.json || args.output == Format::Json;
    !json && io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// Says what cannot come of these flags.
pub(super) fn warn_about(args: &OutputArgs) {
    for state in &args.state {
        if matches!(
            state,
            TcpState::TimeWait | TcpState::NewSynRecv | TcpState::BoundInactive
        ) {
            notice::warn(format_args!(
                "the kernel never reports a change into or out of {}: the event inet_sock_set_state does not have that state",
                state.name()
            ));
        }
    }
}

/// Whether stdout is a pipe that nobody reads any more: without this a trace whose reader has gone
/// would go on until the next event.
pub(super) fn reader_has_gone() -> bool {
    let mut stdout = libc::pollfd {
        fd: io::stdout().as_fd().as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: poll(2) reads and writes the one struct that it is given, and does not wait.
    let result = unsafe { libc::poll(&raw mut stdout, 1, 0) };
    result == 1 && stdout.revents & (libc::POLLERR | libc::POLLHUP) != 0
}

/// Whether it failed because whoever read the output has seen enough.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0.into())
}
