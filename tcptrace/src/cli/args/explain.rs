//! Owns the flags of `tcptrace explain`.

use clap::Args;

use super::{output::Colour, run::TypesArgs};
use crate::cli::words::{self, Place};

const EXAMPLES: &str = "\
Examples:
  sudo tcptrace explain 8000               0.0.0.0:8000 and [::]:8000
  sudo tcptrace explain 127.0.0.1:8000 --reuseaddr
                                           as a server that sets SO_REUSEADDR
  sudo tcptrace explain [::]:8000 --v6only -u 33
                                           as user 33 with IPV6_V6ONLY
  sudo tcptrace explain 8000 -N blue       in network namespace blue
  tcptrace explain 8000                    without privileges: the sockets, but not
                                           their options
  sudo tcptrace explain 0                  how many automatic ports are free

Nothing is bound to the port to find out: other processes do not notice.

Exit status: 0 it has an answer, whichever; 1 failed, 2 wrong usage, 3 not
allowed by kernel or privileges.";

/// `tcptrace explain`: why a bind() would fail now.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ExplainArgs {
    /// What to bind: a port, or an address and a port
    #[arg(value_name = "[ADDR:]PORT", value_parser = words::place)]
    pub(in crate::cli) place: Place,

    #[command(flatten)]
    pub(in crate::cli) socket: SocketArgs,

    /// In this network namespace: inode number, name (ip netns) or path
    #[arg(short = 'N', long, value_name = "NETNS")]
    pub(in crate::cli) netns: Option<String>,

    #[command(flatten)]
    pub(in crate::cli) types: TypesArgs,

    /// Show all that is known of each socket
    #[arg(short, long, help_heading = "Output")]
    pub(in crate::cli) wide: bool,

    /// One JSON object a line (docs/events.md)
    #[arg(long, help_heading = "Output")]
    pub(in crate::cli) json: bool,

    /// When to colour text
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto, help_heading = "Output")]
    pub(in crate::cli) color: Colour,
}

/// The socket that would be bound.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The socket that would be bound")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(in crate::cli) struct SocketArgs {
    /// With SO_REUSEADDR
    #[arg(long)]
    pub(in crate::cli) reuseaddr: bool,

    /// With SO_REUSEPORT
    #[arg(long)]
    pub(in crate::cli) reuseport: bool,

    /// With IPV6_V6ONLY
    #[arg(long)]
    pub(in crate::cli) v6only: bool,

    /// With IP_FREEBIND
    #[arg(long)]
    pub(in crate::cli) freebind: bool,

    /// With SO_BINDTODEVICE to this interface
    #[arg(long, value_name = "IFACE")]
    pub(in crate::cli) device: Option<String>,

    /// Of this user [default: who runs tcptrace]
    #[arg(short, long, value_name = "UID")]
    pub(in crate::cli) uid: Option<u32>,
}
