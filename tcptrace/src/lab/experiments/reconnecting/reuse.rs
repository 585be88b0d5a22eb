//! K13: tcp_tw_reuse, and when it lets connect() have the port of a TIME_WAIT.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tcptrace_model::conflict::Call;

use super::{EADDRNOTAVAIL, client_in_time_wait, unbound};
use crate::{
    host::clock,
    lab::{
        actor::{Actor, Address, Options},
        experiment::Experiment,
        reading::Source,
        stage::Stage,
        value::Called,
    },
};

const DELAY: &str = "net.ipv4.tcp_tw_reuse_delay";
const REUSE: &str = "net.ipv4.tcp_tw_reuse";
/// An address of this host that is not in 127.0.0.0/8.
const ADDRESS: [u8; 4] = [10, 7, 0, 1];
/// How often a connection is made anew that was to be tried within one second of the clock.
const TRIES: u16 = 10;
/// The kernel's second begins with a tick, up to 10 ms late.
const TICKS: Duration = Duration::from_millis(50);
const NS_PER_S: u64 = 1_000_000_000;

pub(super) const K13: Experiment = Experiment {
    id: "K13",
    name: "tw-reuse",
    claims: &["K13"],
    title: "What tcp_tw_reuse gives a client whose only port is in TIME_WAIT",
    says: "With one ephemeral port, tcp_tw_reuse 0 refuses, 1 allows, 2 allows on loopback only, after a second; never \
           without timestamps.",
    why: "connect() of a socket without a port may take that of a TIME_WAIT to the same destination if \
          tcp_twsk_unique() (net/ipv4/tcp_ipv4.c, v6.18) says so: tcp_tw_reuse is 1, or 2 (the default) and the \
          addresses are loopback's; the old connection used timestamps; and it is older than \
          tcp_tw_reuse_delay, 1000 ms (before 6.14: the clock's second is another one). Then no timestamp of the \
          new connection can be one of the old, and PAWS drops what is late (RFC 7323 5, RFC 6191). \
          The kernel counts TWRecycled.",
    condition: None,
    seconds: 5,
    play: |stage| {
        stage.set_sysctl("net.ipv4.ip_local_port_range", "40000 40000")?;
        stage.add_address(ADDRESS.into())?;
        let default = stage.sysctl(REUSE)?.context("no tcp_tw_reuse")?;
        stage
            .reading("tcp_tw_reuse by default")
            .expect("2")
            .measured(default, Source::Sysctl);
        let server = stage.actor("server")?;
        let client = stage.actor("client")?;
        too_early(stage, &server, &client)?;

        // One TIME_WAIT for each destination: all of them have port 40000.
        let listener = server.listening("0.0.0.0:8000", Options::NONE)?;
        client_in_time_wait(stage, &unbound(&client)?, &listener, (ADDRESS, 8000))?;
        client_in_time_wait(stage, &unbound(&client)?, &listener, "127.0.0.2:8000")?;
        let taken = client_in_time_wait(stage, &unbound(&client)?, &listener, "127.0.0.1:8000")?;
        stage.set_sysctl("net.ipv4.tcp_timestamps", 0)?;
        client_in_time_wait(stage, &unbound(&client)?, &listener, "127.0.0.3:8000")?;
        stage.set_sysctl("net.ipv4.tcp_timestamps", 1)?;
        stage.let_pass(Duration::from_millis(1200))?;

        let recycled_before = stage.counter("TcpExt", "TWRecycled")?;
        let to = "127.0.0.1:8000";
        connect(stage, &client, to, 0, "0: connect()", Err(EADDRNOTAVAIL))?;
        let failed = stage.call_failed(Call::Connect, 8000, EADDRNOTAVAIL)?;
        stage
            .reading("0: why")
            .expect("ports_exhausted")
            .measured(failed.rule.name(), Source::Finding);
        connect(stage, &client, to, 2, "2, loopback: connect()", Ok(()))?;
        let ended = stage.time_wait(taken)?;
        stage
            .reading("2, loopback: TIME_WAIT ended because")
            .expect("reused_by_connect")
            .measured(ended.end.name(), Source::Finding);
        let what = "2, not loopback: connect()";
        connect(stage, &client, (ADDRESS, 8000), 2, what, Err(EADDRNOTAVAIL))?;
        let what = "1, not loopback: connect()";
        connect(stage, &client, (ADDRESS, 8000), 1, what, Ok(()))?;
        connect(
            stage,
            &client,
            "127.0.0.2:8000",
            1,
            "1, loopback: connect()",
            Ok(()),
        )?;
        let what = "1, old one without timestamps: connect()";
        connect(
            stage,
            &client,
            "127.0.0.3:8000",
            1,
            what,
            Err(EADDRNOTAVAIL),
        )?;
        let recycled = stage.counter("TcpExt", "TWRecycled")? - recycled_before;
        stage
            .reading("TWRecycled, for the three that succeeded")
            .expect(3_u64)
            .measured(recycled, Source::Counter);
        Ok(())
    },
};

/// Sets tcp_tw_reuse, and connects without a port.
fn connect(
    stage: &mut Stage,
    client: &Actor,
    to: impl Into<Address>,
    reuse: u8,
    what: &str,
    claimed: Called,
) -> Result<()> {
    stage.set_sysctl(REUSE, reuse)?;
    let (_, called) = client.try_connect(to, Options::NONE)?;
    stage
        .reading(what)
        .claim(claimed)
        .measured(called, Source::Call);
    Ok(())
}

/// A TIME_WAIT that has just begun is not given away, with tcp_tw_reuse = 1.
fn too_early(stage: &mut Stage, server: &Actor, client: &Actor) -> Result<()> {
    stage.set_sysctl(REUSE, 1)?;
    let called = match stage.sysctl(DELAY)? {
        Some(default) => {
            stage
                .reading("tcp_tw_reuse_delay by default, in ms")
                .expect("1000")
                .measured(default.as_str(), Source::Sysctl);
            let listener = server.listening("127.0.0.1:7999", Options::NONE)?;
            client_in_time_wait(stage, &unbound(client)?, &listener, "127.0.0.1:7999")?;
            // However slow this machine is, it has not waited as long as that.
            stage.set_sysctl(DELAY, 60_000)?;
            let (_, called) = client.try_connect("127.0.0.1:7999", Options::NONE)?;
            stage.set_sysctl(DELAY, default)?;
            called
        }
        None => within_a_second(stage, server, client)?,
    };
    stage
        .reading("1, too early: connect()")
        .claim(EADDRNOTAVAIL)
        .measured(called, Source::Call);
    Ok(())
}

/// What connect() says in the same second of the kernel's clock in which TIME_WAIT began. It begins with the second,
/// as what it does takes a while.
fn within_a_second(stage: &Stage, server: &Actor, client: &Actor) -> Result<Called> {
    for port in 7000..7000 + TRIES {
        let to = ([127, 0, 0, 1], port);
        let listener = server.listening(to, Options::NONE)?;
        let second = Duration::from_secs(1);
        let into_second = Duration::from_nanos(monotonic_ns() % NS_PER_S);
        stage.let_pass(second.saturating_sub(into_second) + TICKS)?;
        let began = monotonic_ns() / NS_PER_S;
        client_in_time_wait(stage, &unbound(client)?, &listener, to)?;
        let (_, called) = client.try_connect(to, Options::NONE)?;
        if monotonic_ns() / NS_PER_S == began {
            return Ok(called);
        }
        stage.note("that took until the next second: again, with another destination");
    }
    bail!("{TRIES} times, closing and connecting did not fit into one second")
}

/// The clock of tcp_tw_reuse: include/net/tcp.h and kernel/time/timekeeping.c `ktime_get_seconds` (v6.12).
fn monotonic_ns() -> u64 {
    clock::boottime_ns().saturating_sub(clock::suspended_ns())
}
