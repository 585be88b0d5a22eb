//! K8: SO_REUSEADDR set or cleared after the fact.

use anyhow::{Context, Result};
use tcptrace_model::{HolderFound, TcpState, conflict::Call};

use super::{
    EADDRINUSE, REFUSED, SUCCEEDS,
    old_and_new::{Cast, Old, at},
};
use crate::lab::{
    actor::{Options, Sock},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
};

/// `SO_REUSEADDR` = 0
const CLEARED: Options = Options {
    reuseaddr: Some(false),
    ..Options::NONE
};

pub(super) const K8: Experiment = Experiment {
    id: "K8",
    name: "reuseaddr-late",
    claims: &["K8"],
    title: "SO_REUSEADDR set or cleared late",
    says: "SO_REUSEADDR set late on the old socket helps. Cleared on a listener, its earlier connections keep \
           it and later ones have it not; one TIME_WAIT without it is enough to block bind().",
    why: "bind() reads the option of each holder as it is at that moment: net/ipv4/inet_connection_sock.c \
          inet_bind_conflict (v6.18). A connection is a copy of its listener, made when the handshake is \
          completed (inet_csk_clone_lock of the same file), and a TIME_WAIT has what its connection had at the \
          end (net/ipv4/inet_timewait_sock.c inet_twsk_alloc). From then on each has its own: what is set on \
          the listener changes nothing for connections that are there.",
    condition: None,
    seconds: 4,
    play,
};

fn play(stage: &mut Stage) -> Result<()> {
    let cast = Cast::enter(stage)?;
    on_a_bound_socket(stage, &cast)?;
    on_a_connection(stage, &cast)?;
    on_a_listener(stage, &cast)?;
    cleared_on_a_listener(stage, &cast)
}

fn on_a_bound_socket(stage: &mut Stage, cast: &Cast) -> Result<()> {
    let old = cast.server.bound(at(8000), Options::NONE)?;
    let (_, called) = cast.restarted.try_bind(at(8000), Options::REUSEADDR)?;
    stage
        .reading("beside a bound socket without it")
        .control(REFUSED)
        .measured(called, Source::Call);
    old.set(Options::REUSEADDR)?;
    let (_, called) = cast.restarted.try_bind(at(8000), Options::REUSEADDR)?;
    stage
        .reading("set late on that socket")
        .claim(SUCCEEDS)
        .measured(called, Source::Call);
    Ok(())
}

fn on_a_connection(stage: &mut Stage, cast: &Cast) -> Result<()> {
    let pair = cast.pair(8001, Options::NONE)?;
    pair.at_server.set(Options::REUSEADDR)?;
    pair.bring(stage, Old::TimeWait)?;
    let (_, called) = cast.restarted.try_bind(at(8001), Options::REUSEADDR)?;
    stage
        .reading("set on a connection before it closes")
        .claim(SUCCEEDS)
        .measured(called, Source::Call);
    Ok(())
}

fn on_a_listener(stage: &mut Stage, cast: &Cast) -> Result<()> {
    let pair = cast.pair(8002, Options::NONE)?;
    pair.listener.set(Options::REUSEADDR)?;
    pair.bring(stage, Old::TimeWait)?;
    let (_, called) = cast.restarted.try_bind(at(8002), Options::REUSEADDR)?;
    stage
        .reading("set on a listener after the connection")
        .expect(REFUSED)
        .measured(called, Source::Call);
    Ok(())
}

fn cleared_on_a_listener(stage: &mut Stage, cast: &Cast) -> Result<()> {
    let only = cast.pair(8003, Options::REUSEADDR)?;
    only.listener.set(CLEARED)?;
    only.bring(stage, Old::TimeWait)?;
    let (_, called) = cast.restarted.try_bind(at(8003), Options::REUSEADDR)?;
    stage
        .reading("cleared on a listener after the connection")
        .claim(SUCCEEDS)
        .measured(called, Source::Call);

    let earlier = cast.pair(8004, Options::REUSEADDR)?;
    earlier.listener.set(CLEARED)?;
    let client_of_later = cast.client.connected(at(8004), Options::NONE)?;
    let later = earlier.listener.accept()?;
    later.close()?;
    stage.await_state(client_of_later.tuple()?, TcpState::CloseWait)?;
    client_of_later.close()?;
    stage.await_state(later.tuple()?, TcpState::TimeWait)?;
    earlier.bring(stage, Old::TimeWait)?;
    let (_, called) = cast.restarted.try_bind(at(8004), Options::REUSEADDR)?;
    stage
        .reading("and after that, one more connection")
        .claim(REFUSED)
        .measured(called, Source::Call);

    let failed = stage.call_failed(Call::Bind, 8004, EADDRINUSE)?;
    stage
        .reading("sockets that hold the port then")
        .expect(2)
        .measured(failed.holders_total as u64, Source::Finding);
    stage
        .reading("of these, in the way")
        .claim(1)
        .measured(failed.blocking_total as u64, Source::Finding);
    let holders = [
        ("option of the earlier TIME_WAIT", &earlier.at_server, true),
        ("option of the later TIME_WAIT", &later, false),
    ];
    for (what, socket, claimed) in holders {
        let holder = holder(&failed.holders, socket)?;
        let option = holder.holder.reuseaddr;
        stage.reading(what).claim(claimed).measured(
            option.context("the trace does not know the option")?,
            Source::Finding,
        );
    }
    Ok(())
}

/// The holder that is left of a connection.
fn holder<'a>(holders: &'a [HolderFound], socket: &Sock<'_>) -> Result<&'a HolderFound> {
    let tuple = socket.tuple()?;
    holders
        .iter()
        .find(|one| one.holder.local == tuple.local && one.holder.remote == tuple.remote)
        .with_context(|| format!("{tuple} is not among the holders"))
}
