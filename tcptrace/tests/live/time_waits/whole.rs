//! Minisockets that last as long as the kernel lets them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::expected::{Expected, Phases, check_all};
use super::observers::{Observed, Observers};
use super::timers::{Expiries, granularity};
use crate::endings::expect_fin;
use crate::event::State;
use crate::peer::{Flags, Odd, Wire};
use crate::sockets::{Family, Pair};
use crate::{kernel_table, lines, netns, ports};

/// TCP_TIMEWAIT_LEN (include/net/tcp.h, v6.18).
const TIME_WAIT: Duration = Duration::from_secs(60);
/// More than any granularity of the wheel for 60 s: a timer that is set anew after that moves to
/// another bucket, which its tracepoints show.
const ANOTHER_BUCKET: Duration = Duration::from_millis(5_500);
/// How late an interrupt may come on an emulated machine.
const LATE: Duration = Duration::from_millis(700);
/// Two hooks on the same path see a moment this close to each other.
const SAME_MOMENT_NS: u64 = 1_000_000;
/// As far apart two hooks of one moment can lie when the emulated CPU is taken away in between.
const INTERRUPTED_NS: u64 = 20_000_000;
/// What is played at once, each with a port.
pub(crate) const PARTS: usize = 8;
/// Connections that just wait, of each kind and family.
const ORDINARY: usize = 4;

/// A minisocket that is left alone.
struct Left {
    expected: Expected,
    /// How long the last phase lasted before its timer was set for the last time.
    before: (Duration, Duration),
    /// How long it was a full socket in FIN_WAIT2, for an orphan that has to wait long.
    full: Option<Duration>,
}

/// All parts at the same time, each in a namespace of its own, under one trace.
pub(super) fn all() -> Result<()> {
    let ports = ports::several(PARTS);
    let observers = Observers::everywhere(&ports::list(&ports))?;
    let expiries = Expiries::start()?;
    let left = played(&ports)?;
    let dates = expiries.dates()?;
    observers.check(|observed| check(&left, &dates, observed))
}

/// Plays all parts, each in a network namespace of its own, on these [`PARTS`] ports; ends with the last
/// minisocket.
pub(crate) fn play_whole(ports: &[u16]) -> Result<()> {
    played(ports).map(drop)
}

fn played(ports: &[u16]) -> Result<Vec<Left>> {
    type Part = Box<dyn FnOnce() -> Result<Vec<Left>> + Send>;
    let [v4, v6, mapped, again, one, three, above, far] =
        ports.try_into().context("a port for each part")?;
    let pieces: Vec<(&str, Part)> = vec![
        ("IPv4", Box::new(move || ordinary(Family::V4, v4))),
        ("IPv6", Box::new(move || ordinary(Family::V6, v6))),
        (
            "v4-mapped",
            Box::new(move || ordinary(Family::MappedServer, mapped)),
        ),
        ("FIN again", Box::new(move || fin_again(again))),
        ("tcp_fin_timeout 1", Box::new(move || orphan(1, one))),
        ("tcp_fin_timeout 3", Box::new(move || orphan(3, three))),
        ("tcp_fin_timeout 62", Box::new(move || orphan(62, above))),
        ("tcp_fin_timeout 70", Box::new(move || orphan(70, far))),
    ];
    std::thread::scope(|scope| {
        let threads: Vec<_> = pieces
            .into_iter()
            .map(|(name, play)| {
                scope.spawn(move || {
                    // A namespace is inherited, so each part is to have one of its own.
                    netns::with_new(|_| play()).context(name)
                })
            })
            .collect();
        let mut left = Vec::new();
        for thread in threads {
            let part = thread.join().ok().context("a part panicked")??;
            left.extend(part);
        }
        Ok(left)
    })
}

/// Some that the client closes first, and some the server; the FIN_WAIT2 of each has another length.
fn ordinary(family: Family, port: u16) -> Result<Vec<Left>> {
    let listener = family.listener(port)?;
    let mut left = Vec::new();
    for index in 0..2 * ORDINARY {
        let Pair { client, server } = family.pair(&listener, port)?;
        let client_first = index % 2 == 0;
        let (first, second) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        let (local, remote) = (first.local_port()?, second.local_port()?);
        let began = Instant::now();
        drop(first);
        expect_fin(&second)?;
        kernel_table::wait_for_state(local, remote, State::FIN_WAIT2)?;
        let mut phases = Phases::made_since(began);
        std::thread::sleep(Duration::from_millis(70) * u32::try_from(index)?);
        let began = Instant::now();
        drop(second);
        kernel_table::wait_for_state(local, remote, State::TIME_WAIT)?;
        phases.waits_since(began);
        let name = format!(
            "{}, {index}, {}",
            family.name(),
            if client_first { "client" } else { "server" }
        );
        left.push(Left {
            expected: phases.ended(&name, (local, remote), "expired", began),
            before: (Duration::ZERO, Duration::ZERO),
            full: None,
        });
    }
    drop(listener);
    kernel_table::wait_until_gone(&[port])?;
    Ok(left)
}

/// The peer sends its FIN again, as it does when our ACK is lost: the 60 s begin anew.
fn fin_again(port: u16) -> Result<Vec<Left>> {
    let wire = Wire::default();
    let listener = wire.listener(port)?;
    let peer_port = ports::next();
    let mut peer = wire.client(port, peer_port)?;
    peer.connect()?;
    let socket = listener.accept()?;
    drop(listener);
    let began = Instant::now();
    drop(socket);
    peer.expect(Flags::FIN | Flags::ACK)?;
    peer.send(Flags::ACK)?;
    kernel_table::wait_for_state(port, peer_port, State::FIN_WAIT2)?;
    let mut phases = Phases::made_since(began);
    // Into another bucket here, too.
    std::thread::sleep(ANOTHER_BUCKET / 2);
    let began = Instant::now();
    peer.send(Flags::FIN | Flags::ACK)?;
    kernel_table::wait_for_state(port, peer_port, State::TIME_WAIT)?;
    peer.expect(Flags::ACK)?;
    phases.waits_since(began);
    let waiting = Instant::now();
    std::thread::sleep(ANOTHER_BUCKET);
    let least = waiting.elapsed();
    let again = Odd {
        sequence: -1,
        ..Odd::default()
    };
    peer.send_odd(Flags::FIN | Flags::ACK, again, b"")?;
    peer.expect(Flags::ACK)?;
    let most = began.elapsed();
    kernel_table::wait_until_gone(&[port])?;
    let expected = phases.ended("FIN again", (port, peer_port), "expired", began);
    Ok(vec![Left {
        expected: Expected {
            rearmed: 1,
            ..expected
        },
        before: (least, most),
        full: None,
    }])
}

/// The peer never closes. Up to 60 s the orphan becomes a minisocket at once; beyond, it stays a socket
/// for what is over, and the minisocket gets as much again: net/ipv4/tcp.c `__tcp_close` and
/// net/ipv4/tcp_timer.c `tcp_keepalive_timer` (v6.18).
fn orphan(seconds: u64, port: u16) -> Result<Vec<Left>> {
    netns::set_sysctl("ipv4/tcp_fin_timeout", &seconds.to_string())?;
    let listener = Family::V4.listener(port)?;
    let Pair { client, server } = Family::V4.pair(&listener, port)?;
    drop(listener);
    let local = client.local_port()?;
    let began = Instant::now();
    drop(client);
    expect_fin(&server)?;
    kernel_table::wait_for_state(local, port, State::FIN_WAIT2)?;
    let phases = Phases::made_since(began);
    let gone = |rows: &[kernel_table::Row]| rows.iter().all(|row| row.lport != local);
    kernel_table::wait_for(&[local], gone, "the orphan to be given up")?;
    let full = seconds.checked_sub(60).map(Duration::from_secs);
    let expected = phases.ended(
        &format!("orphan, {seconds} s"),
        (local, port),
        "expired",
        began,
    );
    // Closed without a peer, it is reset.
    drop(server);
    Ok(vec![Left {
        expected: Expected {
            timeout: full.unwrap_or(Duration::from_secs(seconds)),
            ..expected
        },
        before: (Duration::ZERO, Duration::ZERO),
        full,
    }])
}

impl Left {
    /// What is to be told where timers run out as late as the kernel lets them.
    fn expected(&self, hz: u64) -> Expected {
        let mut expected = self.expected.clone();
        let whole = |timeout: Duration| {
            let (least, most) = self.before;
            (
                least + timeout,
                most + timeout + granularity(hz, timeout) + LATE,
            )
        };
        if expected.last_phase == "time_wait" {
            expected.time_wait = whole(TIME_WAIT);
        } else {
            expected.fin_wait2 = whole(expected.timeout);
        }
        expected
    }
}

fn check(left: &[Left], dates: &[u64], observed: &Observed) -> Result<()> {
    let report = &observed.report;
    let hz = lines::number(&report.start, "hz")?;
    let expected: Vec<Expected> = left.iter().map(|one| one.expected(hz)).collect();
    check_all(&expected, observed)?;
    for one in left {
        let Some(full) = one.full else { continue };
        let ports = (one.expected.lport, one.expected.rport);
        let mine = |line: &&crate::told::Connection| (line.ends.lport, line.ends.rport) == ports;
        let line = report.connections.iter().find(mine);
        let line = line.with_context(|| format!("nothing is told of {}", one.expected.name))?;
        let last = line.states.last().context("a connection without states")?;
        let told = Duration::from_nanos(last.ns.context("all of it was seen")?);
        ensure!(
            last.state == "FIN_WAIT2"
                && full <= told
                && told <= full + granularity(hz, full) + LATE,
            "it was a full socket in FIN_WAIT2 for {full:?}: {line:?}"
        );
    }
    // Beside the kernel's own record of when such timers ran out.
    let mut gaps = Vec::new();
    for line in report
        .time_waits
        .iter()
        .filter(|line| line.end == "expired")
    {
        let gap = dates.iter().map(|date| date.abs_diff(line.ts_ns)).min();
        let gap = gap.context("the kernel has recorded no timer")?;
        ensure!(
            gap < INTERRUPTED_NS,
            "the kernel's nearest timer is {gap} ns from {line:?}"
        );
        gaps.push(gap);
    }
    gaps.sort_unstable();
    let median = gaps.get(gaps.len() / 2).context("nothing has expired")?;
    ensure!(
        *median < SAME_MOMENT_NS,
        "the kernel's timers are {median} ns off in the median: {gaps:?}"
    );
    Ok(())
}
