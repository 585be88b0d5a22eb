//! Owns the flags that choose sockets.

use clap::Args;

use crate::cli::words::{self, Ports};

/// The heading of the flags that choose what is shown.
pub(in crate::cli) const HEADING: &str = "Filters (all that are given must match)";

/// Which sockets.
#[derive(Debug, Args)]
#[command(next_help_heading = HEADING)]
pub(in crate::cli) struct FilterArgs {
    /// Connections with this port on either side (also 80,443 and 8000-8010; repeatable)
    #[arg(short = 'P', long, value_name = "PORT", value_parser = words::ports, value_delimiter = ',')]
    pub(in crate::cli) port: Vec<Ports>,

    /// Connections with this local port
    #[arg(short = 'L', long, value_name = "PORT", value_parser = words::ports, value_delimiter = ',')]
    pub(in crate::cli) lport: Vec<Ports>,

    /// Connections with this remote port
    #[arg(short = 'D', long, value_name = "PORT", value_parser = words::ports, value_delimiter = ',')]
    pub(in crate::cli) rport: Vec<Ports>,

    /// Sockets that this process connects, listens on (and what comes from there) or closes
    #[arg(short, long, value_name = "PID")]
    pub(in crate::cli) pid: Option<u32>,

    /// Sockets that this user owns
    #[arg(short, long, value_name = "UID")]
    pub(in crate::cli) uid: Option<u32>,

    /// IPv4 sockets only
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub(in crate::cli) ipv4: bool,

    /// IPv6 sockets only (v4-mapped addresses included)
    #[arg(short = '6', long)]
    pub(in crate::cli) ipv6: bool,

    /// A network namespace: inode number, name (ip netns) or path (also blue,green; repeatable)
    #[arg(short = 'N', long, value_name = "NETNS", value_delimiter = ',')]
    pub(in crate::cli) netns: Vec<String>,

    /// A cgroup (v2) and all below it: path or id
    #[arg(long, value_name = "CGROUP")]
    pub(in crate::cli) cgroup: Option<String>,
}
