//! Two sockets with SO_REUSEADDR on one port: both may be bound, only one may listen.

use tcptrace_model::{TcpState, conflict::Call};

use super::{EADDRINUSE, SUCCEEDS};
use crate::lab::{
    actor::Options,
    experiment::Experiment,
    reading::Source,
    stage::{Stage, comm},
};

const PORT: u16 = 8000;

pub(super) const K9: Experiment = Experiment {
    id: "K9",
    name: "listen-twice",
    claims: &["K9"],
    title: "SO_REUSEADDR lets two sockets bind one port, but only one of them listen",
    says: "Two sockets with SO_REUSEADDR can both be bound to the same address and port, but the second \
           listen() fails with EADDRINUSE.",
    why: "SO_REUSEADDR on both makes bind() pass over every socket that does not listen. listen() asks \
          again: it sets the state LISTEN first, so that nobody else can bind from then on, and then looks \
          for conflicts as bind() did: net/ipv4/inet_connection_sock.c inet_csk_listen_start (v6.18). For \
          the second one there is a listener now, and it goes back to CLOSE: in the trace CLOSE > LISTEN > \
          CLOSE within microseconds is a listen() that failed. It keeps its port, and can listen once the \
          first has closed.",
    condition: None,
    seconds: 2,
    play: |stage: &mut Stage| -> anyhow::Result<()> {
        let (one, other) = (stage.actor("first")?, stage.actor("second")?);
        let first = one.bound("127.0.0.1:8000", Options::REUSEADDR)?;
        let (_, called) = other.try_bind("127.0.0.1:8000", Options::NONE)?;
        stage
            .reading("bind() of another without SO_REUSEADDR")
            .expect(EADDRINUSE)
            .measured(called, Source::Call);
        let (second, called) = other.try_bind("127.0.0.1:8000", Options::REUSEADDR)?;
        stage
            .reading("bind() of another with SO_REUSEADDR")
            .claim(SUCCEEDS)
            .measured(called, Source::Call);
        let called = first.listen()?;
        stage
            .reading("listen() of the first")
            .claim(SUCCEEDS)
            .measured(called, Source::Call);
        let called = second.listen()?;
        stage
            .reading("listen() of the second")
            .claim(EADDRINUSE)
            .measured(called, Source::Call);

        let failed = stage.call_failed(Call::Listen, PORT, EADDRINUSE)?;
        let holder = failed.holders.iter().find(|holder| holder.blocks);
        stage
            .reading("state of the socket in the way")
            .expect(TcpState::Listen)
            .measured(
                holder.map_or(TcpState::Close, |found| found.holder.state),
                Source::Finding,
            );
        stage.reading("its owner").expect("first").measured(
            comm(holder.and_then(|found| found.owner.as_ref())),
            Source::Finding,
        );
        let states = stage.states_of(failed.call.sk);
        stage
            .reading("states of the second during its listen()")
            .expect(vec![TcpState::Close, TcpState::Listen, TcpState::Close])
            .measured(states, Source::Finding);
        second.look()?;
        stage
            .reading("where the second is bound after it")
            .expect("127.0.0.1:8000")
            .measured(second.local().to_string(), Source::Call);
        first.close()?;
        let called = second.listen()?;
        stage
            .reading("its listen() once the first has closed")
            .expect(SUCCEEDS)
            .measured(called, Source::Call);
        Ok(())
    },
};
