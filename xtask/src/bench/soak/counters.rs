//! Owns what the kernel counts itself in a network namespace: /proc/net/snmp, netstat and sockstat.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

/// The counters that findings can be compared with: include/uapi/linux/snmp.h (v6.18).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) active_opens: u64,
    pub(super) passive_opens: u64,
    pub(super) attempt_fails: u64,
    pub(super) estab_resets: u64,
    pub(super) out_rsts: u64,
    /// TW and TWKilled: minisockets, by how long their timers are.
    pub(super) time_waits: u64,
    /// TWRecycled: reused by connect().
    pub(super) recycled: u64,
    /// TCPTimeWaitOverflow: never entered.
    pub(super) overflowed: u64,
    /// Minisockets that there are now.
    pub(super) waiting: u64,
}

impl Counters {
    /// Those of the calling thread's network namespace.
    pub(super) fn now() -> Result<Self> {
        let all = all()?;
        let of = |protocol: &str, name: &str| {
            all.get(&(protocol.to_owned(), name.to_owned()))
                .copied()
                .with_context(|| format!("this kernel does not count {name}"))
        };
        let path = "/proc/thread-self/net/sockstat";
        let sockstat = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        Ok(Self {
            active_opens: of("Tcp", "ActiveOpens")?,
            passive_opens: of("Tcp", "PassiveOpens")?,
            attempt_fails: of("Tcp", "AttemptFails")?,
            estab_resets: of("Tcp", "EstabResets")?,
            out_rsts: of("Tcp", "OutRsts")?,
            time_waits: of("TcpExt", "TW")? + of("TcpExt", "TWKilled")?,
            recycled: of("TcpExt", "TWRecycled")?,
            overflowed: of("TcpExt", "TCPTimeWaitOverflow")?,
            waiting: waiting(&sockstat).with_context(|| format!("{path} does not say tw"))?,
        })
    }

    /// What has come on top of `before`; of `waiting` what there is.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            active_opens: self.active_opens - before.active_opens,
            passive_opens: self.passive_opens - before.passive_opens,
            attempt_fails: self.attempt_fails - before.attempt_fails,
            estab_resets: self.estab_resets - before.estab_resets,
            out_rsts: self.out_rsts - before.out_rsts,
            time_waits: self.time_waits - before.time_waits,
            recycled: self.recycled - before.recycled,
            overflowed: self.overflowed - before.overflowed,
            waiting: self.waiting,
        }
    }
}

/// All that the kernel counts in the calling thread's network namespace, by protocol and name, such as `Tcp` and
/// `ActiveOpens`.
fn all() -> Result<BTreeMap<(String, String), u64>> {
    let mut counters = BTreeMap::new();
    for name in ["snmp", "netstat"] {
        let path = format!("/proc/thread-self/net/{name}");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        counters.extend(counters_in(&text));
    }
    Ok(counters)
}

/// Two lines for each protocol: names, then values. `Tcp: MaxConn` may be -1, which is none.
fn counters_in(text: &str) -> Vec<((String, String), u64)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut counters = Vec::new();
    for pair in lines.chunks_exact(2) {
        let (Some((protocol, names)), Some((same, values))) =
            (pair[0].split_once(':'), pair[1].split_once(':'))
        else {
            continue;
        };
        if protocol != same {
            continue;
        }
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            if let Ok(value) = value.parse() {
                counters.push(((protocol.to_owned(), name.to_owned()), value));
            }
        }
    }
    counters
}

/// `TCP: inuse 3 orphan 0 tw 12 alloc 5 mem 1`
fn waiting(sockstat: &str) -> Option<u64> {
    let line = sockstat
        .lines()
        .find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_whitespace();
    words.find(|word| *word == "tw")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_protocol_and_name() {
        let text =
            "Ip: Forwarding\nIp: 1\nTcp: MaxConn ActiveOpens\nTcp: -1 27\nTcpExt: TW\nTcpExt: 5\n";
        let counters: BTreeMap<_, _> = counters_in(text).into_iter().collect();
        let of = |protocol: &str, name: &str| counters.get(&(protocol.to_owned(), name.to_owned()));
        assert_eq!(of("Tcp", "ActiveOpens"), Some(&27));
        assert_eq!(of("TcpExt", "TW"), Some(&5));
        assert_eq!(of("Tcp", "MaxConn"), None);
    }

    #[test]
    fn minisockets_are_counted_by_sockstat() {
        let text =
            "sockets: used 9\nTCP: inuse 3 orphan 0 tw 12 alloc 5 mem 1\nUDP: inuse 0 mem 0\n";
        assert_eq!(waiting(text), Some(12));
        assert_eq!(waiting("UDP: inuse 0\n"), None);
    }
}
