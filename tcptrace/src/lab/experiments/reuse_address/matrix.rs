//! A5, K3, K4: the same four cases for an old connection in each state.

use anyhow::{Context, Result};
use tcptrace_model::conflict::{Call, Remedy};

use super::{
    EADDRINUSE, REFUSED, SUCCEEDS,
    old_and_new::{Cast, Old, On, Tried},
};
use crate::lab::{experiment::Experiment, reading::Source, stage::Stage};

pub(super) const A5: Experiment = Experiment {
    id: "A5",
    name: "reuseaddr-before-bind",
    claims: &["A5", "K1"],
    title: "SO_REUSEADDR on neither, on one, and on both sockets",
    says: "SO_REUSEADDR, set before bind(), lets a server start again while a TIME_WAIT holds its port; so \
           every TCP server should set it.",
    why: "Linux asks both sockets: the new one, and each that holds the port. A TIME_WAIT has what its \
          connection had, and that has what the listener had when the handshake was completed \
          (net/ipv4/inet_timewait_sock.c inet_twsk_alloc, net/ipv4/inet_connection_sock.c \
          inet_csk_clone_lock, v6.18). So the server that runs now has to set it for the one that will be \
          started next: it is right that every server should, and the first start with it still fails. The \
          rule is in inet_bind_conflict of the latter file.",
    condition: Some("both the old listener and the new socket have it"),
    seconds: 3,
    play: play_a5,
};

pub(super) const K3: Experiment = Experiment {
    id: "K3",
    name: "reuseaddr-fin-wait2",
    claims: &["K3"],
    title: "SO_REUSEADDR and an old connection in FIN_WAIT2",
    says: "A server's connection in FIN_WAIT2, with the client in CLOSE_WAIT, holds the port by the same rule: \
           bind() fails unless both the old and the new socket have SO_REUSEADDR.",
    why: "inet_bind_conflict (net/ipv4/inet_connection_sock.c, v6.18) asks for the state of the old socket \
          once, whether it is LISTEN. FIN_WAIT2 is as good as TIME_WAIT, both as a minisocket after \
          close() and as a full socket that a program still holds after shutdown().",
    condition: None,
    seconds: 4,
    play: play_k3,
};

pub(super) const K4: Experiment = Experiment {
    id: "K4",
    name: "reuseaddr-open-connection",
    claims: &["K4"],
    title: "SO_REUSEADDR and an old connection that is open",
    says: "A connection in ESTABLISHED or CLOSE_WAIT whose listener is closed holds the port by the same rule: \
           SO_REUSEADDR is not about TIME_WAIT.",
    why: "An accepted connection is on the listener's port, and holds it after the listener has gone: \
          net/ipv4/inet_hashtables.c __inet_inherit_port (v6.18). inet_bind_conflict \
          (net/ipv4/inet_connection_sock.c) asks for the state of the old socket once, whether it is \
          LISTEN; nothing there looks at TIME_WAIT. The connections are told apart by both their ends, so \
          the old one lives on beside the new server.",
    condition: None,
    seconds: 4,
    play: play_k4,
};

fn play_a5(stage: &mut Stage) -> Result<()> {
    let cast = Cast::enter(stage)?;
    let all = cast.try_all(stage, Old::TimeWait, 8000)?;
    for tried in &all {
        let reading = stage.reading(format!("bind(), SO_REUSEADDR {}", tried.on.name()));
        let reading = match tried.on {
            On::Neither | On::Old => reading.control(REFUSED),
            On::New | On::Both => reading.claim(SUCCEEDS),
        };
        reading
            .expect(tried.on.bind())
            .measured(tried.bind, Source::Call);
        if let Some(listen) = tried.listen {
            stage
                .reading("listen() then")
                .claim(SUCCEEDS)
                .measured(listen, Source::Call);
        }
    }
    still_there(stage, "old ones", &all, Old::TimeWait);

    let on_new = all.iter().find(|tried| tried.on == On::New);
    let port = on_new.context("it was not tried")?.port;
    let failed = stage.call_failed(Call::Bind, port, EADDRINUSE)?;
    let holder = failed.holders.iter().find(|holder| holder.blocks);
    let option = match holder.and_then(|holder| holder.holder.reuseaddr) {
        Some(true) => "1",
        Some(false) => "0",
        None => "unknown",
    };
    stage
        .reading("on the new socket: the TIME_WAIT's option")
        .expect("0")
        .measured(option, Source::Finding);
    stage
        .reading("on the new socket: it would help on both")
        .expect(true)
        .measured(
            failed.remedies.contains(&Remedy::ReuseaddrOnBoth),
            Source::Finding,
        );
    Ok(())
}

fn play_k3(stage: &mut Stage) -> Result<()> {
    let cast = Cast::enter(stage)?;
    let closed = cast.try_all(stage, Old::FinWait2Closed, 8000)?;
    follows(stage, "closed", &closed);
    still_there(stage, "closed", &closed, Old::FinWait2Closed);
    minisockets(stage, "closed", &closed, 4);
    let open = cast.try_all(stage, Old::FinWait2Open, 8010)?;
    follows(stage, "open", &open);
    still_there(stage, "open", &open, Old::FinWait2Open);
    minisockets(stage, "open", &open, 0);
    stage.call_failed(Call::Bind, 8001, EADDRINUSE)?;
    Ok(())
}

fn play_k4(stage: &mut Stage) -> Result<()> {
    let cast = Cast::enter(stage)?;
    let established = cast.try_all(stage, Old::Established, 8000)?;
    follows(stage, "ESTABLISHED", &established);
    still_there(stage, "ESTABLISHED", &established, Old::Established);
    let close_wait = cast.try_all(stage, Old::CloseWait, 8010)?;
    follows(stage, "CLOSE_WAIT", &close_wait);
    still_there(stage, "CLOSE_WAIT", &close_wait, Old::CloseWait);
    stage.call_failed(Call::Bind, 8001, EADDRINUSE)?;
    Ok(())
}

/// Whether the rule of [`On::bind`] was followed, as a claim.
fn follows(stage: &mut Stage, old: &str, all: &[Tried]) {
    for tried in all {
        stage
            .reading(format!("{old}: bind(), {}", tried.on.name()))
            .claim(tried.on.bind())
            .measured(tried.bind, Source::Call);
        if let Some(listen) = tried.listen {
            stage
                .reading(format!("{old}: listen() then"))
                .claim(SUCCEEDS)
                .measured(listen, Source::Call);
        }
    }
}

/// That the old connections were in their state when the new server came: they are afterwards.
fn still_there(stage: &mut Stage, which: &str, all: &[Tried], old: Old) {
    let there = all.iter().filter(|tried| tried.state == old.state());
    stage
        .reading(format!(
            "{which}: still in {} after that",
            old.state().name()
        ))
        .expect(all.len() as u64)
        .measured(there.count() as u64, Source::SockDiag);
}

fn minisockets(stage: &mut Stage, old: &str, all: &[Tried], expected: u64) {
    let minisockets = all.iter().filter(|tried| tried.was_minisocket);
    stage
        .reading(format!("{old}: minisockets among them"))
        .expect(expected)
        .measured(minisockets.count() as u64, Source::SockDiag);
}
