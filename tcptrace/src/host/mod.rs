//! What user space can find out about this machine without eBPF.

pub mod bind_sysctls;
pub mod capabilities;
pub mod cgroup;
pub mod clock;
pub mod cpus;
pub(crate) mod ftrace;
pub mod interface;
pub mod kernel_version;
pub mod netns;
pub(crate) mod open_files;
pub mod port_sockets;
pub mod port_use;
pub(crate) mod priority;
pub mod process;
pub mod snapshot;
pub mod sock_destroy;
mod sock_diag;
pub mod symbols;
pub mod sysctl;
pub(crate) mod tracefs;
