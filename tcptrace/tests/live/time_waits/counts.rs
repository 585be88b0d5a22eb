//! Thousands of connections: what is told adds up to what the kernel has counted.

use std::collections::BTreeMap;
use std::ops::RangeFrom;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::observers::{Observed, Observers};
use crate::endings::expect_fin;
use crate::event::State;
use crate::kernel_trace::KernelTrace;
use crate::lines::Report;
use crate::sockets::{Family, Pair, Socket};
use crate::{hidden, kernel_table, netns, ports, sys};

/// `tcp_max_tw_buckets`.
const BUCKETS: u64 = 300;
const ROUNDS: usize = 3;
/// Connections in a round: from few ports, over and over, so that each takes the place of one before.
const FROM_FEW_PORTS: usize = 400;
const FEW: usize = 20;
/// Whose peer does not close, so that the orphan is given up.
const GIVEN_UP: usize = 100;
/// That just close.
const ORDINARY: usize = 500;
/// The first port of those clients, above what [`ports`] hands out. Each has one of its own: the kernel chooses
/// at random from 5.10 on, and a SYN from a port whose connection waits at the server's end ends that, which 5.10
/// counts nowhere (net/ipv4/tcp_ipv4.c `tcp_v4_rcv`, v5.10).
const FIRST_PORT: u16 = 33_000;
/// `tcp_fin_timeout`, and more than it takes with the wheel's granularity.
const FIN_TIMEOUT: &str = "1";
const FIN_TIMEOUT_OVER: Duration = Duration::from_millis(1_300);
/// Timers up to this long are counted apart: net/ipv4/inet_timewait_sock.c `__inet_twsk_schedule`
/// (v6.18).
const KILLED_UP_TO_MS: u64 = 4_000;

/// When the kernel counts a minisocket as TW or TWKilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CountedAt {
    /// When it is entered: net/ipv4/inet_timewait_sock.c `__inet_twsk_schedule` (v6.18).
    Entry,
    /// When its timer ends it, by the last timer that it had: `tw_timer_handler` there (v5.10).
    Expiry,
}

/// The kernel's counters.
#[derive(Debug)]
struct Counted {
    at: CountedAt,
    /// TW: with a timer beyond 4 s.
    waited: u64,
    /// TWKilled: with a shorter one.
    killed: u64,
    recycled: u64,
    overflowed: u64,
    /// Not ended yet.
    there: u64,
    /// CLOCK_BOOTTIME ns before and after those were counted: on a slow machine the first of them end while
    /// the others are counted.
    there_at_ns: [u64; 2],
}

pub(super) fn equal() -> Result<()> {
    netns::with_new(|_| {
        netns::set_sysctl("ipv4/tcp_max_tw_buckets", &BUCKETS.to_string())?;
        netns::set_sysctl("ipv4/tcp_fin_timeout", FIN_TIMEOUT)?;
        let mut kernel = KernelTrace::start()?;
        let observers = Observers::here()?;
        let port = ports::next();
        let few = ports::several(FEW);
        let listener = Family::V4.listener(port)?;
        let mut fresh = FIRST_PORT..;
        let at = counted_at(&listener, port, &mut fresh)?;
        for _ in 0..ROUNDS {
            from_few_ports(&listener, port, &few)?;
            given_up(&listener, port, &mut fresh)?;
            for _ in 0..ORDINARY {
                just_closes(&listener, port, &mut fresh)?;
            }
            // Takes what the kernel has recorded out of its buffer, which is not made for all of it.
            kernel.wait_for(|_| false, |_| true, "nothing")?;
        }
        drop(listener);
        kernel_table::wait_until_closed(&[port])?;
        let lives = kernel.wait_until_over(&[port])?;
        let events: usize = lives.iter().map(Vec::len).sum();
        let unseen = u64::try_from(events - hidden::visible(&lives).len())?;
        let counted = Counted::now(port, at)?;
        ensure!(
            counted.entered() >= BUCKETS
                && counted.killed > 0
                && counted.recycled > 500
                && counted.overflowed > 500,
            "this shows too little: {counted:?}"
        );
        observers.check(|observed| same(observed, &counted, unseen))
    })
}

impl Counted {
    fn now(port: u16, at: CountedAt) -> Result<Self> {
        let before_ns = sys::boottime_ns()?;
        let there = u64::try_from(kernel_table::rows(&[port])?.len())?;
        let there_at_ns = [before_ns, sys::boottime_ns()?];
        Ok(Self {
            at,
            waited: kernel_table::counter("TW")?,
            killed: kernel_table::counter("TWKilled")?,
            recycled: kernel_table::counter("TWRecycled")?,
            overflowed: kernel_table::counter("TCPTimeWaitOverflow")?,
            there,
            there_at_ns,
        })
    }

    /// How many minisockets there have been.
    fn entered(&self) -> u64 {
        match self.at {
            CountedAt::Entry => self.waited + self.killed,
            CountedAt::Expiry => self.waited + self.killed + self.recycled + self.there,
        }
    }
}

/// Lets one connection close, and looks whether it counts before its time is over.
fn counted_at(listener: &Socket, port: u16, fresh: &mut RangeFrom<u16>) -> Result<CountedAt> {
    just_closes(listener, port, fresh)?;
    let counted = kernel_table::counter("TW")? + kernel_table::counter("TWKilled")?;
    Ok(if counted > 0 {
        CountedAt::Entry
    } else {
        CountedAt::Expiry
    })
}

/// A connection from the next fresh port.
fn pair(listener: &Socket, port: u16, fresh: &mut RangeFrom<u16>) -> Result<Pair> {
    let client = Socket::new(false)?;
    let local = fresh.next().context("there is a next port")?;
    client.bind(Family::V4.connects_to(local))?;
    client.connect(Family::V4.connects_to(port))?;
    let server = listener.accept()?;
    Ok(Pair { client, server })
}

fn just_closes(listener: &Socket, port: u16, fresh: &mut RangeFrom<u16>) -> Result<()> {
    let Pair { client, server } = pair(listener, port, fresh)?;
    drop(server);
    expect_fin(&client)?;
    drop(client);
    Ok(())
}

fn from_few_ports(listener: &Socket, port: u16, few: &[u16]) -> Result<()> {
    for local in few.iter().cycle().take(FROM_FEW_PORTS) {
        let client = Socket::new(false)?;
        client.set_reuse_address(true)?;
        client.bind(Family::V4.connects_to(*local))?;
        client.connect(Family::V4.connects_to(port))?;
        let server = listener.accept()?;
        drop(client);
        expect_fin(&server)?;
        drop(server);
    }
    Ok(())
}

fn given_up(listener: &Socket, port: u16, fresh: &mut RangeFrom<u16>) -> Result<()> {
    let mut servers = Vec::new();
    for _ in 0..GIVEN_UP {
        let Pair { client, server } = pair(listener, port, fresh)?;
        drop(client);
        expect_fin(&server)?;
        servers.push(server);
    }
    std::thread::sleep(FIN_TIMEOUT_OVER);
    let no_orphan =
        |rows: &[kernel_table::Row]| rows.iter().all(|row| row.state != State::FIN_WAIT2);
    kernel_table::wait_for(&[port], no_orphan, "all orphans to be given up").map(drop)
}

/// How many ended in each way, as told.
fn ends_of(report: &Report) -> BTreeMap<&str, usize> {
    let mut ends = BTreeMap::new();
    for one in &report.time_waits {
        *ends.entry(one.end.as_str()).or_default() += 1;
    }
    ends
}

/// Fails unless the lines say what the kernel has counted, but for the events of which no eBPF program
/// could know.
fn same(observed: &Observed, counted: &Counted, unseen: u64) -> Result<()> {
    let report = &observed.report;
    ensure!(
        report.lost + report.lost_others == 0,
        "records were lost: {:?}",
        report.lost_lines
    );
    let count = |end: &str| {
        report
            .time_waits
            .iter()
            .filter(|one| one.end == end)
            .count()
    };
    let ended_by = |ts_ns: u64| {
        let ended = report.time_waits.iter().filter(|one| {
            one.end != "never_entered" && !one.sure.doubts("trace_ended") && one.ts_ns <= ts_ns
        });
        u64::try_from(ended.count())
    };
    let short = report
        .entered
        .iter()
        .filter(|one| one.timeout_ms <= KILLED_UP_TO_MS);
    let never = report.connections.iter().filter(|one| one.never_entered);
    let all = counted.entered();
    // Which timer was the first one is counted by kernels that count at entry only.
    let short = match counted.at {
        CountedAt::Entry => Some(("entered with a short timer", short.count(), counted.killed)),
        CountedAt::Expiry => None,
    };
    let counts = [
        ("entered", report.entered.len(), all),
        (
            "reused by connect()",
            count("reused_by_connect"),
            counted.recycled,
        ),
        ("never entered", count("never_entered"), counted.overflowed),
        (
            "connections that never entered",
            never.count(),
            counted.overflowed,
        ),
    ];
    for (what, told, kernel) in counts.into_iter().chain(short) {
        let told = u64::try_from(told)?;
        ensure!(
            told.abs_diff(kernel) <= unseen,
            "{what}: {told} are told, but the kernel counted {kernel} ({unseen} of its events are \
             kept from eBPF programs): {counted:?}, told are the ends {:?}",
            ends_of(report)
        );
    }
    let [before, after] = counted.there_at_ns;
    let (at_least, at_most) = (ended_by(before)?, ended_by(after)?);
    let kernel = all - counted.there;
    ensure!(
        (at_least.saturating_sub(unseen)..=at_most + unseen).contains(&kernel),
        "ended: {at_least} to {at_most} are told, but the kernel counted {kernel} ({unseen} of its events \
         are kept from eBPF programs): {counted:?}, told are the ends {:?}",
        ends_of(report)
    );
    Ok(())
}
