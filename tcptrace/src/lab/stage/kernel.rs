//! What the kernel itself says of the sockets of the namespace: its list (sock_diag) and its counters.

use std::{fs, time::Duration};

use anyhow::{Context, Result, anyhow};
use tcptrace_model::TcpState;

use super::Stage;
pub use crate::host::port_sockets::Listed;
use crate::{
    host::{clock, port_sockets, sock_destroy},
    lab::{
        tuple::Tuple,
        value::{Called, Errno},
    },
};

/// A socket as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketState {
    /// Its state; a minisocket is in FIN_WAIT2 or TIME_WAIT.
    pub state: TcpState,
    /// For a minisocket: how long until its timer runs out, in whole ms. `None` for a full socket.
    pub minisocket_left: Option<Duration>,
    /// Whether a timer of the kernel's runs for it.
    pub has_timer: bool,
    /// Bytes that have come and that nobody has read.
    pub unread: u32,
}

impl Stage {
    /// All sockets with this local port, those that are only bound from 6.8 on.
    ///
    /// # Errors
    /// When the kernel does not list sockets.
    pub fn sockets(&self, port: u16) -> Result<Vec<Listed>> {
        port_sockets::list_here(port, &clock::boottime_ns).map_err(|sentence| anyhow!(sentence))
    }

    /// The state of one end of a connection; `None` when there is no such socket (any more).
    ///
    /// # Errors
    /// When the kernel does not list sockets.
    pub fn state(&self, tuple: Tuple) -> Result<Option<SocketState>> {
        let sockets = self.sockets(tuple.local.port())?;
        Ok(sockets
            .iter()
            .find(|one| one.local == tuple.local && one.remote == tuple.remote)
            .map(|one| SocketState {
                state: one.state,
                minisocket_left: one
                    .minisocket_expires_in_ms
                    .map(|ms| Duration::from_millis(ms.into())),
                has_timer: one.has_timer,
                unread: one.unread,
            }))
    }

    /// Waits until this end of a connection is in this state; CLOSE is when it is gone.
    ///
    /// # Errors
    /// When it does not come to that in time.
    pub fn await_state(&self, tuple: Tuple, state: TcpState) -> Result<()> {
        self.until(format_args!("{tuple} to be in {}", state.name()), || {
            let now = self.state(tuple)?;
            let is_there = match now {
                Some(now) => now.state == state,
                None => state == TcpState::Close,
            };
            Ok(is_there.then_some(()))
        })?;
        self.note(format_args!("{tuple} is in {}", state.name()));
        Ok(())
    }

    /// Waits until so many bytes have come for this end of a connection that nobody has read.
    ///
    /// # Errors
    /// When they do not come in time.
    pub fn await_unread(&self, tuple: Tuple, bytes: u32) -> Result<()> {
        self.until(format_args!("{bytes} bytes to come for {tuple}"), || {
            let now = self.state(tuple)?;
            Ok(now.filter(|now| now.unread == bytes).map(|_| ()))
        })?;
        self.note(format_args!("{bytes} bytes have come for {tuple}"));
        Ok(())
    }

    /// How many sockets with this local port are in `state`.
    ///
    /// # Errors
    /// When the kernel does not list sockets.
    pub fn count(&self, port: u16, state: TcpState) -> Result<u64> {
        let sockets = self.sockets(port)?;
        let matching = sockets.iter().filter(|one| one.state == state);
        Ok(matching.count() as u64)
    }

    /// A counter of the namespace, such as `TcpExt`, `TCPTimeWaitOverflow` or `Tcp`, `ActiveOpens`; 0 where
    /// this kernel does not have it.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn counter(&self, group: &str, name: &str) -> Result<u64> {
        for file in ["netstat", "snmp"] {
            let path = format!("/proc/thread-self/net/{file}");
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            if let Some(value) = counter(&text, group, name) {
                return Ok(value);
            }
        }
        Ok(0)
    }

    /// What the kernel counts of the TCP sockets of the namespace (IPv6 sockets apart): `inuse` are full sockets
    /// with a port, `tw` minisockets of either phase.
    ///
    /// # Errors
    /// When the counts cannot be read.
    pub fn socket_count(&self, name: &str) -> Result<u64> {
        let path = "/proc/thread-self/net/sockstat";
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        socket_count(&text, name).with_context(|| format!("{path} has no number of TCP {name}"))
    }

    /// Destroys one end of a connection, as `ss -K` does: SOCK_DESTROY.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn destroy(&self, tuple: Tuple) -> Result<Called> {
        let called = match sock_destroy::destroy_here(tuple.local, tuple.remote) {
            Ok(()) => Ok(()),
            Err(error) => match error.raw_os_error().and_then(|one| u16::try_from(one).ok()) {
                Some(errno) => Err(Errno(errno)),
                None => return Err(error.into()),
            },
        };
        match called {
            Ok(()) => self.note(format_args!("destroy {tuple}")),
            Err(errno) => self.note(format_args!("destroy {tuple}: {errno}")),
        }
        Ok(called)
    }
}

/// The counter in a file in which each group has two lines: names, and numbers below them.
fn counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(head, _)| *head == group)
        .map(|(_, rest)| rest.split_whitespace());
    let (mut names, mut numbers) = (lines.next()?, lines.next()?);
    let index = names.position(|one| one == name)?;
    numbers.nth(index)?.parse().ok()
}

/// A number of the line in which names and numbers take turns: `TCP: inuse 1 orphan 0 tw 3`.
fn socket_count(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_counted_by_name() {
        let text =
            "sockets: used 9\nTCP: inuse 1 orphan 0 tw 12 alloc 5 mem 0\nUDP: inuse 7 mem 0\n";
        assert_eq!(socket_count(text, "inuse"), Some(1));
        assert_eq!(socket_count(text, "tw"), Some(12));
        assert_eq!(socket_count(text, "used"), None);
    }

    #[test]
    fn counters_are_found_by_group_and_name() {
        let text = "Tcp: RtoMin ActiveOpens\nTcp: 200 7\nTcpExt: TW ActiveOpens\nTcpExt: 3 4\n";
        assert_eq!(counter(text, "Tcp", "ActiveOpens"), Some(7));
        assert_eq!(counter(text, "TcpExt", "TW"), Some(3));
        assert_eq!(counter(text, "TcpExt", "TWKilled"), None);
        assert_eq!(counter(text, "Ip", "TW"), None);
    }
}
