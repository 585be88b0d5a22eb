//! Owns the flags that say what is shown, and how.

use clap::{Args, ValueEnum};
use tcptrace_model::TcpState;

use super::filters;
use crate::cli::words;

/// What is shown, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(in crate::cli) struct OutputArgs {
    /// Only changes into or out of this state (close_wait, fin-wait-1, …; repeatable)
    #[arg(short, long, value_name = "STATE", value_parser = words::state, value_delimiter = ',', help_heading = filters::HEADING)]
    pub(in crate::cli) state: Vec<TcpState>,

    /// Begin each line with the local time of day
    #[arg(short = 'T', long)]
    pub(in crate::cli) time: bool,

    /// Begin each line with the seconds since the start
    #[arg(short = 't', long)]
    pub(in crate::cli) timestamp: bool,

    /// Show all that is known of each socket, on long lines
    #[arg(short, long)]
    pub(in crate::cli) wide: bool,

    /// Draw how each connection closed, with the segments that its states prove
    #[arg(long)]
    pub(in crate::cli) ladder: bool,

    /// Format of the output
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) output: Format,

    /// The same as --output json
    #[arg(long)]
    pub(in crate::cli) json: bool,

    /// No header line
    #[arg(short = 'H', long)]
    pub(in crate::cli) no_header: bool,

    /// When to colour text
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    pub(in crate::cli) color: Colour,
}

/// A format of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Format {
    /// Columns for people
    Text,
    /// One JSON object a line (docs/events.md)
    Json,
}

/// When there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Colour {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also in a pipe
    Always,
    /// Not even on a terminal
    Never,
}
