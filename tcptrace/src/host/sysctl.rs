//! Owns the sysctls that decide how connections close, read in a network namespace.

use std::{collections::BTreeMap, fs};

use super::netns::Namespace;

/// The sysctls of interest, all under net.ipv4 (they rule IPv6 sockets too).
const NAMES: [&str; 14] = [
    "ip_autobind_reuse",
    "ip_local_port_range",
    "ip_local_reserved_ports",
    "ip_nonlocal_bind",
    "ip_unprivileged_port_start",
    "tcp_abort_on_overflow",
    "tcp_fin_timeout",
    "tcp_max_orphans",
    "tcp_max_tw_buckets",
    "tcp_orphan_retries",
    "tcp_rfc1337",
    "tcp_timestamps",
    "tcp_tw_reuse",
    "tcp_tw_reuse_delay",
];

/// Reads them in `namespace`, or in this process's own. One that this kernel or namespace does not
/// have is left out. Values are the kernel's own text.
#[must_use]
pub fn read_all(namespace: Option<&Namespace>) -> BTreeMap<String, String> {
    match namespace {
        None => read_here(),
        Some(namespace) => namespace.inside(read_here).unwrap_or_default(),
    }
}

fn read_here() -> BTreeMap<String, String> {
    NAMES
        .into_iter()
        .filter_map(|name| {
            let value = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
            let words: Vec<&str> = value.split_whitespace().collect();
            Some((format!("net.ipv4.{name}"), words.join(" ")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_a_fin_timeout_and_a_port_range() {
        let sysctls = read_all(None);
        assert!(sysctls["net.ipv4.tcp_fin_timeout"].parse::<u32>().is_ok());
        assert_eq!(
            sysctls["net.ipv4.ip_local_port_range"].split(' ').count(),
            2
        );
    }
}
