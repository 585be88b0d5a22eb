//! Owns the settings of a network namespace that decide about ports, as the rules take them.

use std::{fs, str::FromStr};

use tcptrace_model::conflict::BindSysctls;

use super::{netns::Namespace, port_use::Reserved};

/// The settings of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Those that the rules know.
    pub sysctls: BindSysctls,
    /// `net.ipv4.ip_local_reserved_ports`
    pub reserved: Reserved,
}

/// Reads them in `namespace`; `None` when it cannot be entered. One that this kernel does not have is as
/// if it were off.
#[must_use]
pub fn read(namespace: &Namespace) -> Option<Settings> {
    namespace.inside(read_here).ok()
}

/// Reads those of the calling thread's namespace.
#[must_use]
pub fn read_here() -> Settings {
    settings(|name| fs::read_to_string(format!("/proc/sys/net/{name}")).ok())
}

fn settings(text: impl Fn(&str) -> Option<String>) -> Settings {
    let is_on = |name: &str| number::<i64>(text(name)).is_some_and(|value| value != 0);
    let default = BindSysctls::default();
    let port_range = text("ipv4/ip_local_port_range")
        .and_then(|words| {
            let mut numbers = words.split_whitespace().map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        })
        .unwrap_or(default.port_range);
    let reserved = Reserved::parse(&text("ipv4/ip_local_reserved_ports").unwrap_or_default());
    Settings {
        sysctls: BindSysctls {
            unprivileged_port_start: number(text("ipv4/ip_unprivileged_port_start"))
                .unwrap_or(default.unprivileged_port_start),
            nonlocal_bind: is_on("ipv4/ip_nonlocal_bind"),
            nonlocal_bind_v6: is_on("ipv6/ip_nonlocal_bind"),
            port_range,
            reserved_in_range: reserved.within(port_range),
            autobind_reuse: is_on("ipv4/ip_autobind_reuse"),
            tcp_tw_reuse: number(text("ipv4/tcp_tw_reuse")).unwrap_or(default.tcp_tw_reuse),
            tcp_timestamps: is_on("ipv4/tcp_timestamps"),
        },
        reserved,
    }
}

fn number<T: FromStr>(text: Option<String>) -> Option<T> {
    text?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_the_kernel_writes_them() {
        let read = settings(|name| {
            let text = match name {
                "ipv4/ip_unprivileged_port_start" => "80\n",
                "ipv4/ip_nonlocal_bind" => "1\n",
                "ipv4/ip_local_port_range" => "40000\t40010\n",
                "ipv4/ip_local_reserved_ports" => "80,40009-40020\n",
                "ipv4/tcp_tw_reuse" => "0\n",
                "ipv4/tcp_timestamps" => "2\n",
                _ => return None,
            };
            Some(text.to_owned())
        });
        assert_eq!(
            read.sysctls,
            BindSysctls {
                unprivileged_port_start: 80,
                nonlocal_bind: true,
                nonlocal_bind_v6: false,
                port_range: (40_000, 40_010),
                reserved_in_range: 2,
                autobind_reuse: false,
                tcp_tw_reuse: 0,
                tcp_timestamps: true,
            }
        );
    }

    #[test]
    fn this_namespace_has_settings() {
        // Without privileges no namespace can be entered, not even one's own.
        if let Some(settings) = read(&Namespace::own().unwrap()) {
            let (low, high) = settings.sysctls.port_range;
            assert!(0 < low && low < high, "{low} {high}");
        }
    }
}
