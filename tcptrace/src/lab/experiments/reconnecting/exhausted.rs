//! C4: a client whose TIME_WAITs have all of its ports.

use std::time::Duration;

use anyhow::{Result, ensure};
use tcptrace_model::{
    CallFailed, TcpState,
    conflict::{Call, Remedy},
};

use super::EADDRNOTAVAIL;
use crate::lab::{
    actor::{Actor, Options, Sock},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
    value::Called,
};

/// Ephemeral ports that there are. An even number: the kernel searches them by parity.
const PORTS: u16 = 20;
const FIRST: u16 = 40000;
/// Not one of 127.0.0.0/8, for which tcp_tw_reuse = 2, the default, is more lenient.
const ADDRESS: [u8; 4] = [10, 7, 0, 1];

pub(super) const C4: Experiment = Experiment {
    id: "C4",
    name: "ports-run-out",
    claims: &["C4"],
    title: "A client's ports are ephemeral, but they run out",
    says: "A client is not hurt by its TIME_WAIT: its ports are ephemeral.",
    why: "connect() takes any port of net.ipv4.ip_local_port_range that has no connection to the same destination: \
          __inet_hash_connect() (net/ipv4/inet_hashtables.c, v6.18). One in TIME_WAIT counts as one. So nothing \
          happens until all of them are in TIME_WAIT for one destination, which by default takes 28,232 closes \
          in 60 s, 470 a second. Then connect() fails with EADDRNOTAVAIL. Another destination, a wider range, \
          tcp_tw_reuse = 1 and time help; best is to keep connections, or to let the server close first.",
    condition: Some(
        "not all of its ephemeral ports are in TIME_WAIT for one destination (address and port)",
    ),
    seconds: 6,
    play: |stage| {
        let first_range = range(PORTS);
        stage.set_sysctl("net.ipv4.ip_local_port_range", &first_range)?;
        stage.add_address(ADDRESS.into())?;
        let server = stage.actor("server")?;
        let client = stage.actor("client")?;
        let listener = server.listening((ADDRESS, 8000), Options::NONE)?;
        let _other = server.listening((ADDRESS, 8001), Options::NONE)?;

        leave_time_waits(stage, &listener, &client, PORTS / 2, PORTS / 2)?;
        let called = try_connect(&client, 8000)?;
        stage
            .reading(format!("with {} of {PORTS} ports in TIME_WAIT", PORTS / 2))
            .claim(Called::Ok(()))
            .measured(called, Source::Call);
        let _at_server = listener.accept()?;
        // The connection just made stays open: it has a port, too.
        leave_time_waits(stage, &listener, &client, PORTS / 2 - 1, PORTS - 1)?;
        let called = try_connect(&client, 8000)?;
        stage
            .reading("with no port left")
            .claim(Called::Ok(()))
            .expect(EADDRNOTAVAIL)
            .measured(called, Source::Call);
        let failed = stage.call_failed(Call::Connect, 8000, EADDRNOTAVAIL)?;
        read_finding(stage, &failed);

        let called = try_connect(&client, 8001)?;
        remedy(stage, "another port of the server", called);
        stage.set_sysctl("net.ipv4.ip_local_port_range", range(PORTS + 2))?;
        let called = try_connect(&client, 8000)?;
        remedy(stage, "a wider range", called);
        stage.set_sysctl("net.ipv4.ip_local_port_range", &first_range)?;
        let called = try_connect(&client, 8000)?;
        stage
            .reading("with the first range again")
            .expect(EADDRNOTAVAIL)
            .measured(called, Source::Call);
        stage.let_pass(Duration::from_millis(1200))?;
        stage.set_sysctl("net.ipv4.tcp_tw_reuse", 1)?;
        let called = try_connect(&client, 8000)?;
        remedy(stage, "tcp_tw_reuse = 1, after a second", called);
        Ok(())
    },
};

fn range(ports: u16) -> String {
    format!("{FIRST} {}", FIRST + ports - 1)
}

fn try_connect(client: &Actor, port: u16) -> Result<Called> {
    let (_, called) = client.try_connect((ADDRESS, port), Options::NONE)?;
    Ok(called)
}

/// Lets the client connect and close first, `count` times, until there are `in_all` ports in TIME_WAIT.
fn leave_time_waits(
    stage: &Stage,
    listener: &Sock<'_>,
    client: &Actor,
    count: u16,
    in_all: u16,
) -> Result<()> {
    let at_client = client.connect_many((ADDRESS, 8000), Options::NONE, count.into())?;
    ensure!(
        at_client.refused.is_none(),
        "only {} of {count} connections",
        at_client.count
    );
    let at_server = listener.accept_many(count.into())?;
    client.shutdown_many(at_client)?;
    listener.actor().close_many(at_server)?;
    client.close_many(at_client)?;
    stage.until(format_args!("{in_all} ports in TIME_WAIT"), || {
        let mut waiting = 0;
        for port in FIRST..FIRST + PORTS {
            waiting += stage.count(port, TcpState::TimeWait)?;
        }
        Ok((waiting == u64::from(in_all)).then_some(()))
    })?;
    stage.note(format_args!("{in_all} ports are in TIME_WAIT"));
    Ok(())
}

fn read_finding(stage: &mut Stage, failed: &CallFailed) {
    stage
        .reading("why")
        .expect("ports_exhausted")
        .measured(failed.rule.name(), Source::Finding);
    let waiting = failed.ports.map_or(0, |ports| {
        ports.to_destination[usize::from(TcpState::TimeWait.number())]
    });
    stage
        .reading("ports in TIME_WAIT for this destination")
        .expect(u64::from(PORTS - 1))
        .measured(u64::from(waiting), Source::Finding);
    for named in [
        Remedy::OtherDestination,
        Remedy::WiderPortRange,
        Remedy::TcpTwReuse,
    ] {
        stage
            .reading(format!("the trace names {}", named.name()))
            .expect(true)
            .measured(failed.remedies.contains(&named), Source::Finding);
    }
}

fn remedy(stage: &mut Stage, what: &str, called: Called) {
    stage
        .reading(what)
        .expect(Called::Ok(()))
        .measured(called, Source::Call);
}
