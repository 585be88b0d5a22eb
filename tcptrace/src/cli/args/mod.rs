//! Owns the flags as they are typed. What can be judged from the word alone is judged here; what
//! needs a look at the machine (namespaces, cgroups, processes) later.

pub(super) mod explain;
pub(super) mod filters;
pub(super) mod lab;
pub(super) mod output;
pub(super) mod run;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use self::{
    explain::ExplainArgs,
    filters::FilterArgs,
    lab::LabArgs,
    output::OutputArgs,
    run::{LiveArgs, RunArgs, TypesArgs},
};

const EXAMPLES: &str = "\
Examples:
  sudo tcptrace                      every TCP connection on this machine
  sudo tcptrace --port 8000          connections from or to port 8000
  sudo tcptrace -P 8000 --ladder     with a drawing of each close
  sudo tcptrace -L 80,443 -T         servers here on 80 and 443, with the time
  sudo tcptrace -p 1234 -w           of process 1234, all that is known of each
  sudo tcptrace -s close_wait --stuck-after 10s
                                     who leaves sockets in CLOSE_WAIT
  sudo tcptrace -N blue -6 --json    in network namespace blue, IPv6, JSON lines
  sudo tcptrace -d 10 > trace.txt    for ten seconds
  sudo tcptrace record -o today.rec  into a file, to be shown later
  tcptrace replay today.rec --ladder what the same trace would have printed
  sudo tcptrace explain 8000         why a bind() to port 8000 would fail now
  sudo tcptrace lab run --all        what is true of TIME_WAIT on this kernel
  sudo tcptrace doctor               what this kernel supports, what is missing

Columns and marks:
  IN-STATE    how long the socket was in OLDSTATE; - when that is not known
  ~60.012s    a duration that is inferred, mostly because its beginning was
              not seen
  FIN_WAIT2*  the socket is gone; a minisocket in its place waits for the
              peer's FIN. It becomes TIME_WAIT when that comes
  * ? !       a story as it was; one that is not certain; something that
              wants attention (a connection that is stuck, a TIME_WAIT that
              was not allowed)
  C-PID       the process on the CPU at that moment (with -w); in an interrupt
              that is anybody, so it is not the owner of the socket

Exit status: 0 done, 1 failed, 2 wrong usage, 3 not allowed by kernel or
privileges.";

const RECORD_EXAMPLES: &str = "\
Examples:
  sudo tcptrace record -o today.rec --port 8000  until Ctrl-C
  sudo tcptrace record -o - -d 60 | zstd > x.zst compressed, for a minute
  ssh host sudo tcptrace record -o - | tcptrace replay -
                                                 seen here as it happens there

A file that is there is replaced. If the recorder is killed, all but the last
moments can be replayed.";

const REPLAY_EXAMPLES: &str = "\
Examples:
  tcptrace replay today.rec --ladder       as text, with drawings
  tcptrace replay today.rec --json -n 100  the first hundred changes, JSON lines
  tcptrace replay today.rec --stuck-after 5s
                                           more impatient than the recorder
  zstd -dc rec.zst | tcptrace replay -     from stdin

What the filters of the recorder left out is not in it. If it is cut off or
damaged, all that stands before that place is shown, and the exit status is 1.";

/// Shows what the Linux kernel really does when TCP connections close.
///
/// Without a command it traces until Ctrl-C, all processes: a line for each change of a TCP socket's
/// state and for each TIME_WAIT that ends, a story of each connection that has ended (who closed it,
/// how and why), and a summary.
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
    /// Trace into a file, to be shown later
    Record(RecordArgs),
    /// Show a recording as if it happened now
    Replay(ReplayArgs),
    /// Tell why a bind() to a port would fail now, without a trace
    Explain(ExplainArgs),
    /// Let the kernel show how connections close, claim by claim
    Lab(LabArgs),
    /// Tell what this kernel supports, what is missing and how to get it
    Doctor(DoctorArgs),
}

/// `tcptrace`
#[derive(Debug, Args)]
pub(super) struct TraceArgs {
    #[command(flatten)]
    pub(super) filters: FilterArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    pub(super) run: RunArgs,
    #[command(flatten)]
    pub(super) live: LiveArgs,

    /// Also record into this file, for tcptrace replay
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(super) record: Option<PathBuf>,
}

/// `tcptrace record`: traces without showing it.
#[derive(Debug, Args)]
#[command(after_help = RECORD_EXAMPLES)]
pub(super) struct RecordArgs {
    /// The file to write; - for stdout
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: PathBuf,

    #[command(flatten)]
    pub(super) filters: FilterArgs,
    #[command(flatten)]
    pub(super) run: RunArgs,
    #[command(flatten)]
    pub(super) live: LiveArgs,
}

/// `tcptrace replay`: shows without tracing.
#[derive(Debug, Args)]
#[command(after_help = REPLAY_EXAMPLES)]
pub(super) struct ReplayArgs {
    /// The recording; - for stdin
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,

    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

/// `tcptrace doctor`
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) types: TypesArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use tcptrace_model::TcpState;

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
        let TraceArgs {
            filters,
            output,
            run,
            live: _,
            record: _,
        } = cli.trace;
        let ports: Vec<u16> = filters
            .port
            .iter()
            .flat_map(|ports| ports.0.clone())
            .collect();
        assert_eq!(ports, [80, 443, 8000, 8001, 8002]);
        assert_eq!(output.state, [TcpState::FinWait1]);
        assert_eq!(
            (run.count, output.time, filters.ipv6),
            (Some(3), true, true)
        );
    }

    #[test]
    fn each_command_has_the_flags_that_mean_something_there() {
        let record = [
            "tcptrace", "record", "-o", "x", "-P", "80", "-n", "3", "-d", "1",
        ];
        let Some(Command::Record(args)) = Cli::try_parse_from(record).unwrap().command else {
            panic!("record is a command");
        };
        assert_eq!(args.output, PathBuf::from("x"));
        assert_eq!((args.filters.port.len(), args.run.count), (1, Some(3)));

        let replay = [
            "tcptrace",
            "replay",
            "-",
            "-s",
            "close",
            "-TtwHo",
            "json",
            "--ladder",
            "--color",
            "never",
            "--stuck-after",
            "never",
        ];
        let Some(Command::Replay(args)) = Cli::try_parse_from(replay).unwrap().command else {
            panic!("replay is a command");
        };
        assert_eq!(args.file, PathBuf::from("-"));
        assert_eq!(args.run.stuck_after.unwrap().0, None);
        assert!(args.output.ladder);
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
            &["--stuck-after", "-1"],
            &["--stuck-after", "long"],
            &["--backend", "kprobe"],
            &["serve"],
            &["record"],
            &["record", "-o"],
            &["record", "-o", "x", "--json"],
            &["record", "-o", "x", "-s", "close"],
            &["replay"],
            &["replay", "x", "y"],
            &["replay", "x", "--port", "80"],
            &["replay", "x", "-d", "1"],
        ] {
            let typed = ["tcptrace"].iter().chain(words);
            assert!(Cli::try_parse_from(typed).is_err(), "{words:?}");
        }
    }
}
