//! Owns the flags as they are typed. What can be judged from the word alone is judged here; what
//! needs a look at the machine (namespaces, cgroups, processes) later.

use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use tcptrace_model::TcpState;

use super::words::{self, Ports};

/// The heading of the flags that choose sockets.
const FILTERS: &str = "Filters (all that are given must match)";

const EXAMPLES: &str = "\
Examples:
  sudo tcptrace                      every TCP state change on this machine
  sudo tcptrace --port 8000          connections from or to port 8000
  sudo tcptrace -L 80,443 -T         of servers here on 80 and 443, with the time
  sudo tcptrace -p 1234 -w           of process 1234, all that is known of each socket
  sudo tcptrace -s close_wait        only changes into or out of CLOSE_WAIT
  sudo tcptrace -N blue -6 --json    in network namespace blue, IPv6, as JSON lines
  sudo tcptrace -d 10 > trace.txt    for ten seconds
  sudo tcptrace doctor               what this kernel supports, and what is missing

Columns:
  IN-STATE  how long the socket was in OLDSTATE; - when that is not known
  C-PID     the process on the CPU at that moment (with -w); in an interrupt
            that is anybody, so it is not the owner of the socket

Exit status: 0 done, 1 failed, 2 wrong usage, 3 not allowed by kernel or privileges.";

/// Shows what the Linux kernel really does when TCP connections close.
///
/// Without a command it traces: one line for each change of a TCP socket's state, from any process,
/// until Ctrl-C.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) trace: TraceArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Tell what this kernel supports, what is missing and how to get it
    Doctor(DoctorArgs),
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct TraceArgs {
    /// Connections with this port on either side (also 80,443 and 8000-8010; repeatable)
    #[arg(short = 'P', long, value_name = "PORT", value_parser = words::ports, value_delimiter = ',', help_heading = FILTERS)]
    pub(super) port: Vec<Ports>,

    /// Connections with this local port
    #[arg(short = 'L', long, value_name = "PORT", value_parser = words::ports, value_delimiter = ',', help_heading = FILTERS)]
    pub(super) lport: Vec<Ports>,

    /// Connections with this remote port
    #[arg(short = 'D', long, value_name = "PORT", value_parser = words::ports, value_delimiter = ',', help_heading = FILTERS)]
    pub(super) rport: Vec<Ports>,

    /// Sockets that this process connects, listens on, accepts or closes
    #[arg(
        short,
        long,
        value_name = "PID",
        help_heading = FILTERS
    )]
    pub(super) pid: Option<u32>,

    /// Sockets that this user owns
    #[arg(
        short,
        long,
        value_name = "UID",
        help_heading = FILTERS
    )]
    pub(super) uid: Option<u32>,

    /// IPv4 sockets only
    #[arg(
        short = '4',
        long,
        conflicts_with = "ipv6",
        help_heading = FILTERS
    )]
    pub(super) ipv4: bool,

    /// IPv6 sockets only (v4-mapped addresses included)
    #[arg(
        short = '6',
        long,
        help_heading = FILTERS
    )]
    pub(super) ipv6: bool,

    /// A network namespace: inode number, name (ip netns) or path
    #[arg(
        short = 'N',
        long,
        value_name = "NETNS",
        help_heading = FILTERS
    )]
    pub(super) netns: Option<String>,

    /// A cgroup (v2) and all below it: path or id
    #[arg(
        long,
        value_name = "CGROUP",
        help_heading = FILTERS
    )]
    pub(super) cgroup: Option<String>,

    /// Only changes into or out of this state (close_wait, fin-wait-1, …; repeatable)
    #[arg(short, long, value_name = "STATE", value_parser = words::state, value_delimiter = ',', help_heading = FILTERS)]
    pub(super) state: Vec<TcpState>,

    /// Begin each line with the local time of day
    #[arg(short = 'T', long, help_heading = "Output")]
    pub(super) time: bool,

    /// Begin each line with the seconds since the start
    #[arg(short = 't', long, help_heading = "Output")]
    pub(super) timestamp: bool,

    /// Show all that is known of each socket, on long lines
    #[arg(short, long, help_heading = "Output")]
    pub(super) wide: bool,

    /// Format of the output
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Text, help_heading = "Output")]
    pub(super) output: Format,

    /// The same as --output json
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,

    /// No header line
    #[arg(short = 'H', long, help_heading = "Output")]
    pub(super) no_header: bool,

    /// When to colour text
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto, help_heading = "Output")]
    pub(super) color: Colour,

    /// End after so many state changes were shown
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Run")]
    pub(super) count: Option<u64>,

    /// End after this time: seconds (10, 0.5) or 500ms, 2m, 1h
    #[arg(short, long, value_name = "TIME", value_parser = words::duration, help_heading = "Run")]
    pub(super) duration: Option<Duration>,

    /// Size of the buffer between kernel and tracer: a power of two, from 4K to 1G
    #[arg(long, value_name = "SIZE", value_parser = words::buffer_size, default_value = "8M", help_heading = "Run")]
    pub(super) buffer_size: u32,

    /// Say more on stderr: -v how it traces, -vv what the eBPF program says
    #[arg(short, long, action = ArgAction::Count, help_heading = "Run")]
    pub(super) verbose: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people
    Text,
    /// One JSON object a line (docs/events.md)
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Colour {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also in a pipe
    Always,
    /// Not even on a terminal
    Never,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_the_trace_go_together() {
        let cli = Cli::try_parse_from([
            "tcptrace",
            "-P",
            "80,443",
            "--port",
            "8000-8002",
            "-s",
            "fin-wait-1",
            "-6",
            "-Tn",
            "3",
        ])
        .unwrap();
        let ports: Vec<u16> = cli
            .trace
            .port
            .iter()
            .flat_map(|ports| ports.0.clone())
            .collect();
        assert_eq!(ports, [80, 443, 8000, 8001, 8002]);
        assert_eq!(cli.trace.state, [TcpState::FinWait1]);
        assert_eq!(
            (cli.trace.count, cli.trace.time, cli.trace.ipv6),
            (Some(3), true, true)
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for words in [
            &["-P", "0"][..],
            &["-P", "99999"],
            &["-P", "80,"],
            &["-P", "x"],
            &["-n", "0"],
            &["-4", "-6"],
            &["-d", "-1"],
            &["-s", "waiting"],
            &["--buffer-size", "5000"],
            &["--no-such-flag"],
            &["serve"],
        ] {
            let typed = ["tcptrace"].iter().chain(words);
            assert!(Cli::try_parse_from(typed).is_err(), "{words:?}");
        }
    }
}
