//! The command line: what was typed (`args`), what it means (`words`), one file per
//! command, and what commands share: the trace of the running kernel (`session`), its output (`output`,
//! `telling`) and its recording (`recording`).

mod args;
mod doctor;
mod explain;
mod lab;
mod output;
mod pace;
mod record;
mod recording;
mod replay;
mod session;
mod signals;
mod telling;
mod trace;
mod words;

use std::process::ExitCode;

use clap::Parser;

use crate::render::notice;
use args::{Cli, Command};

/// Runs the command that was typed and returns the exit status: 0 done, 1 failed, 2 wrong usage,
/// 3 the kernel or the privileges do not allow it.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Record(args)) => record::run(&args),
        Some(Command::Replay(args)) => replay::run(&args),
        Some(Command::Explain(args)) => explain::run(&args),
        Some(Command::Lab(args)) => lab::run(&args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        None => trace::run(&cli.trace),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            notice::say(&failure);
            ExitCode::from(failure.exit_status())
        }
    }
}
