//! Which local addresses collide on one port, IPv4 and IPv6.

use anyhow::Result;
use tcptrace_model::conflict::Call;

use super::{EADDRINUSE, SUCCEEDS, need_ipv6};
use crate::lab::{
    actor::{Actor, Options},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
    value::Called,
};

/// What already listens, what is bound beside it, and what comes of that.
struct Pair {
    name: &'static str,
    old: (&'static str, Options),
    new: (&'static str, Options),
    claimed: Called,
}

const DUAL: (&str, Options) = ("[::]:8000", Options::NONE);
const ONLY_V6: (&str, Options) = ("[::]:8000", Options::V6ONLY);
const ANY: (&str, Options) = ("0.0.0.0:8000", Options::NONE);
const ONE: (&str, Options) = ("127.0.0.1:8000", Options::NONE);
const TWO: (&str, Options) = ("127.0.0.2:8000", Options::NONE);

const PAIRS: &[Pair] = &[
    Pair {
        name: "0.0.0.0 listens, then 127.0.0.1",
        old: ANY,
        new: ONE,
        claimed: Err(EADDRINUSE),
    },
    Pair {
        name: "127.0.0.1 listens, then 0.0.0.0",
        old: ONE,
        new: ANY,
        claimed: Err(EADDRINUSE),
    },
    Pair {
        name: "127.0.0.1 listens, then 127.0.0.2",
        old: ONE,
        new: TWO,
        claimed: SUCCEEDS,
    },
    Pair {
        name: "[::] IPV6_V6ONLY=1 listens, then 0.0.0.0",
        old: ONLY_V6,
        new: ANY,
        claimed: SUCCEEDS,
    },
    Pair {
        name: "0.0.0.0 listens, then [::] IPV6_V6ONLY=1",
        old: ANY,
        new: ONLY_V6,
        claimed: SUCCEEDS,
    },
    Pair {
        name: "[::] listens, then 0.0.0.0",
        old: DUAL,
        new: ANY,
        claimed: Err(EADDRINUSE),
    },
    Pair {
        name: "0.0.0.0 listens, then [::]",
        old: ANY,
        new: DUAL,
        claimed: Err(EADDRINUSE),
    },
    Pair {
        name: "[::] listens, then 127.0.0.1",
        old: DUAL,
        new: ONE,
        claimed: Err(EADDRINUSE),
    },
];

/// A listener for both families, which leaves a connection.
const LEFT_BY_DUAL: u16 = 8001;

pub(super) const K11: Experiment = Experiment {
    id: "K11",
    name: "overlapping-addresses",
    claims: &["K11"],
    title: "Which local addresses collide on one port",
    says: "On one port, 0.0.0.0 and 127.0.0.1 collide in either order, and 127.0.0.1 and 127.0.0.2 do not. \
           [::] and 0.0.0.0 do not collide if [::] has IPV6_V6ONLY, and do if it has not.",
    why: "Two sockets can get in each other's way only where their local addresses overlap: equal ones do, \
          and the wildcard does with each of its family. [::] without IPV6_V6ONLY takes IPv4 connections, \
          too, so it overlaps with IPv4 addresses: net/ipv4/inet_connection_sock.c inet_rcv_saddr_equal \
          (v6.18). An IPv6 connection of such a listener that outlives it still blocks 0.0.0.0, although it \
          has nothing to do with IPv4: in its IPv4 address field is a stand-in, 127.0.0.6 \
          (net/ipv6/tcp_ipv6.c, LOOPBACK4_IPV6), which a wildcard matches.",
    condition: None,
    seconds: 2,
    play: |stage: &mut Stage| -> Result<()> {
        need_ipv6(stage)?;
        let (server, late) = (stage.actor("listens")?, stage.actor("binds_later")?);
        for pair in PAIRS {
            let first = server.listening(pair.old.0, pair.old.1)?;
            let (second, called) = late.try_bind(pair.new.0, pair.new.1)?;
            first.close()?;
            second.close()?;
            stage
                .reading(pair.name)
                .claim(pair.claimed)
                .measured(called, Source::Call);
        }
        let client = stage.actor("client")?;
        outlive(&server, &client, "[::]:8001", "[::1]:8001", Options::NONE)?;
        for (name, address, expected) in [
            (
                "connection of [::] outlives it, 0.0.0.0",
                "0.0.0.0:8001",
                Err(EADDRINUSE),
            ),
            (
                "connection of [::] outlives it, 127.0.0.1",
                "127.0.0.1:8001",
                SUCCEEDS,
            ),
        ] {
            let (_, called) = late.try_bind(address, Options::NONE)?;
            stage
                .reading(name)
                .expect(expected)
                .measured(called, Source::Call);
        }
        outlive(&server, &client, "[::]:8002", "[::1]:8002", Options::V6ONLY)?;
        let (_, called) = late.try_bind("0.0.0.0:8002", Options::NONE)?;
        stage
            .reading("the same with IPV6_V6ONLY=1, 0.0.0.0")
            .expect(SUCCEEDS)
            .measured(called, Source::Call);
        stage.call_failed(Call::Bind, LEFT_BY_DUAL, EADDRINUSE)?;
        Ok(())
    },
};

/// Opens a connection and closes its listener.
fn outlive(
    server: &Actor,
    client: &Actor,
    listens: &'static str,
    connects: &'static str,
    options: Options,
) -> Result<()> {
    let listener = server.listening(listens, options)?;
    client.connected(connects, Options::NONE)?;
    listener.accept()?;
    listener.close()
}
