//! K22: what the kernel counts ephemeral ports by.

use anyhow::Result;

use super::{EADDRINUSE, EADDRNOTAVAIL};
use crate::lab::{
    actor::{Actor, Options},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
    value::Called,
};

/// Ephemeral ports that there are. An even number: the kernel searches them by parity.
const PORTS: u32 = 20;
/// Where the server listens, and the client connects to.
const DESTINATIONS: [(&str, &str); 3] = [
    ("127.0.0.1:8000", "the first destination"),
    ("127.0.0.1:8001", "another port"),
    ("127.0.0.2:8000", "another address"),
];

pub(super) const K22: Experiment = Experiment {
    id: "K22",
    name: "per-destination",
    claims: &["K22"],
    title: "Ephemeral ports are counted for each destination",
    says: "Ephemeral ports run out for each destination: another one gives as many more; then bind() to port 0 fails, \
           too.",
    why: "What must be new is the four of addresses and ports, so connect() shares a port among destinations: \
          __inet_hash_connect() and __inet_check_established() (net/ipv4/inet_hashtables.c, v6.18). bind() to port 0 does \
          not know the destination yet and wants a port that nobody has on an overlapping address: \
          inet_csk_find_open_port() (net/ipv4/inet_connection_sock.c). The other way round it is as strict: \
          connect() passes over every port that came from a bind(), on whatever address.",
    condition: None,
    seconds: 3,
    play: |stage| {
        stage.set_sysctl("net.ipv4.ip_local_port_range", "40000 40019")?;
        let server = stage.actor("server")?;
        let client = stage.actor("client")?;
        for (destination, what) in DESTINATIONS {
            let _listener = server.listening(destination, Options::NONE)?;
            connect_all(stage, &client, destination, what)?;
        }
        let (_, called) = client.try_bind("127.0.0.1:0", Options::NONE)?;
        stage
            .reading("bind() to port 0 then")
            .claim(EADDRINUSE)
            .measured(called, Source::Call);

        // Ports of which nobody has any yet.
        stage.set_sysctl("net.ipv4.ip_local_port_range", "40020 40021")?;
        let (_, called) = client.try_bind("127.0.0.1:0", Options::NONE)?;
        stage
            .reading("bind() to port 0 with two ports more")
            .control(Called::Ok(()))
            .measured(called, Source::Call);
        stage.set_sysctl("net.ipv4.ip_local_port_range", "40030 40031")?;
        for port in [40030, 40031] {
            client.bound(([127, 0, 0, 9], port), Options::NONE)?;
        }
        let (_, called) = client.try_connect("127.0.0.1:8000", Options::NONE)?;
        stage
            .reading("connect(), ports bound on another address")
            .expect(EADDRNOTAVAIL)
            .measured(called, Source::Call);
        let (_, called) = client.try_bind("127.0.0.1:40030", Options::NONE)?;
        stage
            .reading("bind() to such a port")
            .expect(Called::Ok(()))
            .measured(called, Source::Call);
        Ok(())
    },
};

/// Connects until it fails.
fn connect_all(
    stage: &mut Stage,
    client: &Actor,
    destination: &'static str,
    what: &str,
) -> Result<()> {
    let many = client.connect_many(destination, Options::NONE, PORTS + 1)?;
    stage
        .reading(format!("connections to {what}"))
        .claim(u64::from(PORTS))
        .measured(u64::from(many.count), Source::Call);
    let called = many.refused.map_or(Ok(()), Err);
    stage
        .reading(format!("one more to {what}"))
        .claim(EADDRNOTAVAIL)
        .measured(called, Source::Call);
    Ok(())
}
