//! A server that starts again on the port that it had.

use std::time::Duration;

use anyhow::Result;
use tcptrace_model::{TcpState, conflict::Call};

use crate::lab::{
    actor::Options,
    experiment::Experiment,
    reading::Source,
    stage::{Stage, comm},
    value::Errno,
};

pub(super) const ALL: &[Experiment] = &[A1];

const PORT: u16 = 8000;
const EADDRINUSE: Errno = Errno(98);

const A1: Experiment = Experiment {
    id: "A1",
    name: "restart-too-early",
    claims: &["A1"],
    title: "A server that closes first and starts again at once cannot bind",
    says: "If the server closes the connection first and is started again at once, bind() fails with \
           EADDRINUSE, and the reason is TIME_WAIT.",
    why: "The end that closes first keeps the pair of addresses and ports for 60 s in TIME_WAIT, so that \
          a late segment of the old connection cannot enter a new one (RFC 9293 3.4.1, 3.6.1). The server \
          is gone, but the kernel's table of bound ports still has the entry, and bind() without \
          SO_REUSEADDR on both sockets wants the port for itself: net/ipv4/inet_connection_sock.c \
          inet_bind_conflict (v6.18).",
    condition: None,
    seconds: 3,
    play: |stage: &mut Stage| -> Result<()> {
        let server = stage.actor("server")?;
        let client = stage.actor("client")?;
        let listener = server.listening("127.0.0.1:8000", Options::NONE)?;
        let at_client = client.connected("127.0.0.1:8000", Options::NONE)?;
        let at_server = listener.accept()?;
        at_server.close()?;
        stage.await_state(at_client.tuple()?, TcpState::CloseWait)?;
        at_client.close()?;
        stage.await_state(at_server.tuple()?, TcpState::TimeWait)?;
        server.kill(libc::SIGTERM)?;

        let again = stage.actor("restarted")?;
        let (_, called) = again.try_bind("127.0.0.1:8000", Options::NONE)?;
        stage
            .reading("bind() of the restarted server")
            .claim(EADDRINUSE)
            .measured(called, Source::Call);

        let failed = stage.call_failed(Call::Bind, PORT, EADDRINUSE)?;
        let in_the_way: Vec<_> = failed
            .holders
            .iter()
            .filter(|holder| holder.blocks)
            .collect();
        stage
            .reading("sockets in the way")
            .expect(1)
            .measured(in_the_way.len() as u64, Source::Finding);
        let Some(holder) = in_the_way.first() else {
            return Ok(());
        };
        stage
            .reading("state of the socket in the way")
            .claim(TcpState::TimeWait)
            .measured(holder.holder.state, Source::Finding);
        stage
            .reading("its owner, which is dead")
            .expect("server")
            .measured(comm(holder.owner.as_ref()), Source::Finding);
        let left = holder
            .frees_at_ns
            .map(|frees_ns| frees_ns.saturating_sub(failed.call.ts_ns));
        stage
            .reading("left of its TIME_WAIT")
            .expect(crate::lab::value::Expected::between(
                Duration::from_secs(30),
                Duration::from_secs(60),
            ))
            .measured(
                Duration::from_nanos(left.unwrap_or_default()),
                Source::Finding,
            );
        let (_, called) = again.try_bind("127.0.0.2:8000", Options::NONE)?;
        stage
            .reading("bind() to another address meanwhile")
            .expect(Ok::<(), Errno>(()))
            .measured(called, Source::Call);
        Ok(())
    },
};
