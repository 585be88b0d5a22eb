//! What user space can find out about this machine without eBPF.

pub mod capabilities;
pub mod cgroup;
pub mod clock;
pub mod kernel_version;
pub mod netns;
pub mod process;
pub mod sysctl;
