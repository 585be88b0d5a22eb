//! Owns the flags that say how it runs, and until when.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, ValueEnum};

use crate::{
    bpf::{calls::Calls, hooks::Backend},
    cli::words::{self, StuckAfter},
};

/// How any trace runs, a recorded one too.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub(in crate::cli) struct RunArgs {
    /// End after so many state changes
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(in crate::cli) count: Option<u64>,

    /// Tell of connections that stay in a passing state (CLOSE_WAIT, FIN_WAIT2, …) for so long; 0 or
    /// never for none
    /// [default: 60s; in a replay as recorded]
    #[arg(long, value_name = "TIME", value_parser = words::stuck_after)]
    pub(in crate::cli) stuck_after: Option<StuckAfter>,

    /// Say more on stderr: -v how it works, -vv what the eBPF program says
    #[arg(short, long, action = ArgAction::Count)]
    pub(in crate::cli) verbose: u8,
}

/// How a trace of the running kernel runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub(in crate::cli) struct LiveArgs {
    /// End after this time: seconds (10, 0.5) or 500ms, 2m, 1h
    #[arg(short, long, value_name = "TIME", value_parser = words::duration)]
    pub(in crate::cli) duration: Option<Duration>,

    /// Size of the buffer between kernel and tracer: a power of two, from 4K to 1G [default: 16M for each
    /// CPU, from 32M to 128M]
    #[arg(long, value_name = "SIZE", value_parser = words::buffer_size)]
    pub(in crate::cli) buffer_size: Option<u32>,

    /// How to see TIME_WAIT (what each cannot see: docs/limitations.md)
    #[arg(long, value_name = "BACKEND", value_enum, default_value_t = BackendChoice::Auto)]
    pub(in crate::cli) backend: BackendChoice,

    /// How to see bind(), listen() and connect() (what each costs: docs/performance.md)
    #[arg(long, value_name = "BACKEND", value_enum, default_value_t = CallsChoice::Auto)]
    pub(in crate::cli) calls: CallsChoice,

    #[command(flatten)]
    pub(in crate::cli) types: TypesArgs,
}

/// Where the kernel's types are read from.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct TypesArgs {
    /// Read the kernel's types from this file of raw BTF, where it was built without
    /// [default: /sys/kernel/btf/vmlinux]
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) btf: Option<PathBuf>,
}

/// What to see TIME_WAIT by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum BackendChoice {
    /// The best that this kernel allows
    Auto,
    /// The kernel's own functions (fentry, fexit)
    Fentry,
    /// The tracepoints of the kernel's timers
    Timer,
}

impl From<BackendChoice> for Backend {
    fn from(choice: BackendChoice) -> Self {
        match choice {
            BackendChoice::Auto => Self::Auto,
            BackendChoice::Fentry => Self::Fentry,
            BackendChoice::Timer => Self::Timer,
        }
    }
}

/// What to see calls by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum CallsChoice {
    /// The best that this kernel allows
    Auto,
    /// The functions behind the system calls (fentry, fexit)
    Fentry,
    /// The tracepoints of these system calls, which slow every system call of the machine
    Syscalls,
    /// Not at all: calls that fail are not explained
    Off,
}

impl From<CallsChoice> for Calls {
    fn from(choice: CallsChoice) -> Self {
        match choice {
            CallsChoice::Auto => Self::Auto,
            CallsChoice::Fentry => Self::Fentry,
            CallsChoice::Syscalls => Self::Syscalls,
            CallsChoice::Off => Self::Off,
        }
    }
}
