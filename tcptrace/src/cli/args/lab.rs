//! Owns the flags of `tcptrace lab`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    output::Colour,
    run::{BackendChoice, CallsChoice, TypesArgs},
};

const EXAMPLES: &str = "\
Examples:
  tcptrace lab list                     what there is to try
  sudo tcptrace lab run restart-too-early
                                        one experiment, by name
  sudo tcptrace lab run A1 A5 D2 --ladder
                                        three, by id, with drawings
  sudo tcptrace lab run --all           all of them, side by side: about 100 s
  sudo tcptrace lab run my.toml         one of your own (docs/lab.md)

Each experiment has network namespaces of its own and ends its processes;
nothing outside them is touched, and nothing stays behind.

Exit status: 0 the kernel did what was expected of it in all that were played,
whatever that means for the claims; 1 it did not, or something could not be
played; 2 wrong usage, 3 not allowed by kernel or privileges.";

/// `tcptrace lab`: lets the kernel show how connections close.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct LabArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: LabCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum LabCommand {
    /// List the experiments and the claims that they try
    List(ListArgs),
    /// Play experiments, and say for each claim whether it holds
    Run(RunArgs),
    /// A process that opens and closes sockets for an experiment
    #[command(hide = true)]
    Actor {
        /// Its name
        name: String,
    },
}

/// `tcptrace lab list`
#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// One JSON object a line
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// `tcptrace lab run`
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(in crate::cli) struct RunArgs {
    /// Experiments: by id (A1), by name, or a file of your own
    #[arg(
        value_name = "ID|NAME|FILE",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub(in crate::cli) wanted: Vec<String>,

    /// All that the lab has
    #[arg(long)]
    pub(in crate::cli) all: bool,

    /// So many short ones at once [default: four for each CPU]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(in crate::cli) jobs: Option<u16>,

    /// Keep a recording of each in this folder, for tcptrace replay
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) keep_recording: Option<PathBuf>,

    /// Turn every expectation into a wrong one: each must then be reported as not met. Exit status 0 if
    /// all are, so that no expectation is one that cannot fail
    #[arg(long)]
    pub(in crate::cli) contradict: bool,

    /// How minisockets are watched
    #[arg(long, value_name = "BACKEND", value_enum, default_value_t = BackendChoice::Auto)]
    pub(in crate::cli) backend: BackendChoice,

    /// How bind(), listen() and connect() are watched
    #[arg(long, value_name = "BACKEND", value_enum, default_value_t = CallsChoice::Auto)]
    pub(in crate::cli) calls: CallsChoice,

    #[command(flatten)]
    pub(in crate::cli) types: TypesArgs,

    /// One JSON object a line (docs/lab.md)
    #[arg(long, help_heading = "Output")]
    pub(in crate::cli) json: bool,

    /// Draw the close sequences
    #[arg(long, help_heading = "Output")]
    pub(in crate::cli) ladder: bool,

    /// When to colour text
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto, help_heading = "Output")]
    pub(in crate::cli) color: Colour,
}
