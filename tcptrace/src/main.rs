//! The program: parses the command line, runs the command, and turns its outcome into an exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptrace::cli::main()
}
