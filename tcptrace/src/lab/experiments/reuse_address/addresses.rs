//! A6: servers on the same port of several local addresses.

use anyhow::Result;
use tcptrace_model::conflict::{Call, Remedy, Rule};

use super::{EADDRINUSE, REFUSED, SUCCEEDS};
use crate::lab::{
    actor::{Actor, Address, Options},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
    value::Called,
};

pub(super) const A6: Experiment = Experiment {
    id: "A6",
    name: "reuseaddr-addresses",
    claims: &["A6"],
    title: "Several servers on one port: by local address, SO_REUSEADDR and SO_REUSEPORT",
    says: "SO_REUSEADDR lets the same server run several times on different local addresses, 0.0.0.0 being \
           one of them; never on the same address and port.",
    why: "Two addresses that have nothing in common never compete for a port, with or without SO_REUSEADDR: \
          net/ipv4/inet_connection_sock.c inet_rcv_saddr_equal (v6.18). 0.0.0.0 has every address in common. \
          Beside a socket that listens, SO_REUSEADDR is no help on Linux, unlike BSD: a second server could \
          take connections from the first (inet_bind_conflict). SO_REUSEPORT, since Linux 3.9, is the explicit \
          consent: all have to set it, and belong to the same user, and the kernel spreads connections \
          over them.",
    condition: Some("none of the addresses is 0.0.0.0, and none of the servers has SO_REUSEPORT"),
    seconds: 3,
    play,
};

fn play(stage: &mut Stage) -> Result<()> {
    let first = stage.actor("first")?;
    let second = stage.actor("second")?;
    first.listening("127.0.0.1:8000", Options::REUSEADDR)?;

    let called = serve(&second, "127.0.0.2:8000", Options::REUSEADDR)?;
    stage
        .reading("127.0.0.2 beside 127.0.0.1")
        .claim(SUCCEEDS)
        .measured(called, Source::Call);
    let called = serve(&second, "127.0.0.3:8000", Options::NONE)?;
    stage
        .reading("127.0.0.3 too, without SO_REUSEADDR")
        .expect(SUCCEEDS)
        .measured(called, Source::Call);

    let called = serve(&second, "127.0.0.1:8000", Options::REUSEADDR)?;
    stage
        .reading("127.0.0.1 beside 127.0.0.1")
        .claim(REFUSED)
        .measured(called, Source::Call);
    let failed = stage.nth_call_failed(Call::Bind, 8000, EADDRINUSE, 1)?;
    stage
        .reading("its rule")
        .expect(Rule::PortListening.name())
        .measured(failed.rule.name(), Source::Finding);
    stage
        .reading("SO_REUSEPORT on both would help")
        .expect(true)
        .measured(
            failed.remedies.contains(&Remedy::ReuseportOnBoth),
            Source::Finding,
        );

    let called = serve(&second, "0.0.0.0:8000", Options::REUSEADDR)?;
    stage
        .reading("0.0.0.0 beside 127.0.0.1")
        .claim(SUCCEEDS)
        .expect(REFUSED)
        .measured(called, Source::Call);
    stage.nth_call_failed(Call::Bind, 8000, EADDRINUSE, 2)?;
    first.listening("0.0.0.0:8001", Options::REUSEADDR)?;
    let called = serve(&second, "127.0.0.1:8001", Options::REUSEADDR)?;
    stage
        .reading("127.0.0.1 beside 0.0.0.0")
        .claim(SUCCEEDS)
        .expect(REFUSED)
        .measured(called, Source::Call);

    first.listening("127.0.0.1:8002", Options::REUSEPORT)?;
    let called = serve(&second, "127.0.0.1:8002", Options::REUSEPORT)?;
    stage
        .reading("127.0.0.1 twice, SO_REUSEPORT on both")
        .claim(REFUSED)
        .expect(SUCCEEDS)
        .measured(called, Source::Call);
    first.listening("0.0.0.0:8003", Options::REUSEPORT)?;
    let called = serve(&second, "127.0.0.1:8003", Options::REUSEPORT)?;
    stage
        .reading("127.0.0.1 by 0.0.0.0, SO_REUSEPORT on both")
        .expect(SUCCEEDS)
        .measured(called, Source::Call);
    Ok(())
}

/// bind() and listen(): what the first of them returns that fails.
fn serve(actor: &Actor, address: impl Into<Address>, options: Options) -> Result<Called> {
    let (socket, called) = actor.try_bind(address, options)?;
    match called {
        Ok(()) => socket.listen(),
        Err(errno) => Ok(Err(errno)),
    }
}
