//! What the kernel itself says of its sockets and of what it has counted, in /proc/net.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::PATIENCE;
use crate::event::State;

/// How often one looks for what comes at once, and for what takes a minute.
const FIRST_LOOKS: Duration = Duration::from_millis(1);
const LATER_LOOKS: Duration = Duration::from_millis(100);

/// A socket, or a minisocket, of the calling thread's network namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) lport: u16,
    pub(crate) rport: u16,
    /// A minisocket has FIN_WAIT2 or TIME_WAIT.
    pub(crate) state: State,
}

/// Everything that has one of these ports on either side, IPv4 and IPv6.
pub(crate) fn rows(ports: &[u16]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for table in ["tcp", "tcp6"] {
        // A namespace without IPv6 has no tcp6.
        let Ok(text) = read(table) else { continue };
        for line in text.lines().skip(1) {
            let row = parse(line).with_context(|| format!("in {table}: {line}"))?;
            if ports.contains(&row.lport) || ports.contains(&row.rport) {
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

/// Waits until the rows with these ports are as `done` wants them, and returns them.
pub(crate) fn wait_for(
    ports: &[u16],
    done: impl Fn(&[Row]) -> bool,
    what: &str,
) -> Result<Vec<Row>> {
    let began = Instant::now();
    loop {
        let rows = rows(ports)?;
        if done(&rows) {
            return Ok(rows);
        }
        let waited = began.elapsed();
        if waited > PATIENCE {
            bail!("waited {PATIENCE:?} for {what}; the kernel has {rows:?}");
        }
        // The kernel walks its whole table for each look.
        std::thread::sleep((waited / 20).clamp(FIRST_LOOKS, LATER_LOOKS));
    }
}

/// Waits until the socket with these ports is in the state.
pub(crate) fn wait_for_state(lport: u16, rport: u16, state: State) -> Result<()> {
    let is = |row: &Row| row.lport == lport && row.rport == rport && row.state == state;
    let what = format!("{lport} -> {rport} to be in {state}");
    wait_for(&[lport], |rows| rows.iter().any(is), &what).map(drop)
}

/// Waits until nothing but TIME_WAIT is left of connections with these ports.
pub(crate) fn wait_until_closed(ports: &[u16]) -> Result<()> {
    let closed = |rows: &[Row]| rows.iter().all(|row| row.state == State::TIME_WAIT);
    wait_for(ports, closed, "all connections to end").map(drop)
}

/// Waits until not even TIME_WAIT is left.
pub(crate) fn wait_until_gone(ports: &[u16]) -> Result<()> {
    wait_for(ports, <[Row]>::is_empty, "every TIME_WAIT to end").map(drop)
}

/// A counter of this network namespace, such as `TCPTimeWaitOverflow` of `TcpExt`.
pub(crate) fn counter(name: &str) -> Result<u64> {
    let text = read("netstat")?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next(), lines.next());
    let (names, values) = names
        .zip(values)
        .context("no TcpExt in /proc/net/netstat")?;
    let position = names.split_whitespace().position(|one| one == name);
    let position = position.with_context(|| format!("the kernel does not count {name}"))?;
    let value = values.split_whitespace().nth(position);
    Ok(value.context("a short line of values")?.parse()?)
}

fn read(table: &str) -> Result<String> {
    let path = format!("/proc/thread-self/net/{table}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

/// `   0: 0100007F:2710 00000000:0000 0A 00000000:00000000 …`
fn parse(line: &str) -> Result<Row> {
    let words: Vec<&str> = line.split_whitespace().take(4).collect();
    ensure!(words.len() == 4, "four words at least");
    let port = |word: &str| -> Result<u16> {
        let (_, port) = word.rsplit_once(':').context("no port")?;
        Ok(u16::from_str_radix(port, 16)?)
    };
    Ok(Row {
        lport: port(words[1])?,
        rport: port(words[2])?,
        state: State::from_number(u32::from_str_radix(words[3], 16)?).context("no such state")?,
    })
}
