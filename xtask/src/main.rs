//! Owns the command line of `cargo xtask`: the verbs, and nothing of what they do.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a build tool talks to the terminal: results on stdout, progress on stderr"
)]

mod arch;
mod artifacts;
mod bench;
mod build;
mod build_ebpf;
mod ci;
mod cross;
mod debian;
mod fingerprint;
mod kernel_support;
mod lab_table;
mod lint;
mod process;
mod provision;
mod run;
mod say;
mod statics;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs and tests tcptrace, and provides what that needs.
///
/// What the eBPF program needs is looked for, and set up if it is not there: a nightly Rust with
/// rust-src from rustup, or else Debian's rustc-web; and bpf-linker, built once. All of it goes to
/// .toolchain in this workspace, except what rustup adds to its own home, which is said beforehand.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", after_help = ENVIRONMENT)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const ENVIRONMENT: &str = "\
Environment:
  TCPTRACE_BPF_TOOLCHAIN=nightly|debian  use only this way to compile the eBPF program
  TCPTRACE_BPF_RUSTC=PATH                use this rustc; it must ship core for bpfel-unknown-none

Examples:
  cargo xtask run -- --port 8000 -d 10   build, then trace port 8000 for ten seconds
  cargo xtask test                       every test that this machine can run
  cargo xtask vm -- tcptrace doctor      the same program under Debian's 6.1 kernel";

#[derive(Subcommand)]
enum Verb {
    Build(build::Args),
    Run(run::Args),
    Test(test::Args),
    Lint(lint::Args),
    /// Lint, then test: what the checks on the server do.
    #[command(long_about = None, after_help = None::<&str>)]
    Ci(test::Args),
    Vm(vm::Args),
    Bench(bench::Args),
    LabTable(lab_table::Args),
    KernelSupport(kernel_support::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Build(args) => build::main(&args),
        Verb::Run(args) => run::main(&args),
        Verb::Test(args) => test::main(&args),
        Verb::Lint(args) => lint::main(&args),
        Verb::Ci(args) => ci::main(&args),
        Verb::Vm(args) => return vm::main(&args),
        Verb::Bench(args) => bench::main(&args),
        Verb::LabTable(args) => lab_table::main(&args),
        Verb::KernelSupport(args) => kernel_support::main(&args),
    };
    result.unwrap_or_else(|error| {
        say::error(&error);
        ExitCode::FAILURE
    })
}
