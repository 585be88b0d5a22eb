//! A4, C5: the server has closed, and the client has not.

use anyhow::{Context, Result};
use tcptrace_model::{CallFailed, TcpState, conflict::Call};

use super::{EADDRINUSE, in_the_way, left, most_of_a_minute, read_holder_of_dead};
use crate::lab::{
    actor::Options,
    experiment::Experiment,
    reading::Source,
    stage::{Stage, comm},
    tuple::Tuple,
};

const PORT: u16 = 8000;

pub(super) const A4: Experiment = Experiment {
    id: "A4",
    name: "client-still-open",
    claims: &["A4"],
    title: "While the client has not closed, a restarted server cannot bind either",
    says: "As long as the client does not close, the server's end stays in FIN_WAIT2 and the client's in \
           CLOSE_WAIT, and a restarted server cannot bind: EADDRINUSE.",
    why: "The server's FIN is acknowledged, the client's has not come: half of the connection is open \
          (RFC 9293 3.6, case 1). close() has left nobody to read from it, so the kernel keeps it as a \
          minisocket in FIN_WAIT2 for tcp_fin_timeout at most (net/ipv4/tcp.c __tcp_close, v6.18), and \
          that holds the port as one in TIME_WAIT does. The client's end waits for its program, for as long \
          as that takes.",
    condition: None,
    seconds: 4,
    play: play_a4,
};

pub(super) const C5: Experiment = Experiment {
    id: "C5",
    name: "kill-server-then-client",
    claims: &["C5"],
    title: "Kill the server, then the client: bind() fails for two reasons",
    says: "Kill the server while the client lives: its end is in FIN_WAIT2, and bind() fails. Then kill the \
           client: now it is in TIME_WAIT, and bind() still fails.",
    why: "The kernel closes what the killed server had open. Its end waits for the client's FIN in \
          FIN_WAIT2, as a minisocket for tcp_fin_timeout (60 s) at most: net/ipv4/tcp.c __tcp_close (v6.18). \
          The death of the client sends that FIN, and the same minisocket goes on to TIME_WAIT, for 60 s \
          from then on: net/ipv4/tcp_minisocks.c tcp_timewait_state_process. It holds the port in both.",
    condition: None,
    seconds: 4,
    play: play_c5,
};

fn play_a4(stage: &mut Stage) -> Result<()> {
    let server = stage.actor("server")?;
    let client = stage.actor("client")?;
    let listener = server.listening("127.0.0.1:8000", Options::NONE)?;
    let at_client = client.connected("127.0.0.1:8000", Options::NONE)?;
    let at_server = listener.accept()?;
    at_server.close()?;
    stage.await_state(at_client.tuple()?, TcpState::CloseWait)?;
    stage.await_state(at_server.tuple()?, TcpState::FinWait2)?;
    server.kill(libc::SIGTERM)?;

    let again = stage.actor("restarted")?;
    let (_, called) = again.try_bind("127.0.0.1:8000", Options::NONE)?;
    stage
        .reading("bind() of the restarted server")
        .claim(EADDRINUSE)
        .measured(called, Source::Call);
    let failed = stage.call_failed(Call::Bind, PORT, EADDRINUSE)?;
    read_holder_of_dead(stage, &failed, TcpState::FinWait2);
    // Told when the client has not closed a second after the server did.
    let story = stage.story(at_server.tuple()?)?;
    let (peer, peers) = story.open_peer.context("the client's end is not joined")?;
    stage
        .reading("state of the other end")
        .claim(TcpState::CloseWait)
        .measured(peers, Source::Finding);
    stage
        .reading("owner of the other end")
        .expect("client")
        .measured(comm(peer.owner.as_ref()), Source::Finding);

    stage.note("then the client closes");
    at_client.close()?;
    stage.await_state(at_server.tuple()?, TcpState::TimeWait)?;
    Ok(())
}

fn play_c5(stage: &mut Stage) -> Result<()> {
    let server = stage.actor("server")?;
    let client = stage.actor("client")?;
    let listener = server.listening("127.0.0.1:8000", Options::NONE)?;
    let at_client = client.connected("127.0.0.1:8000", Options::NONE)?;
    let at_server = listener.accept()?;
    let again = stage.actor("restarted")?;

    server.kill(libc::SIGKILL)?;
    stage.await_state(at_client.tuple()?, TcpState::CloseWait)?;
    stage.await_state(at_server.tuple()?, TcpState::FinWait2)?;
    let (_, called) = again.try_bind("127.0.0.1:8000", Options::NONE)?;
    stage
        .reading("bind() while the client lives")
        .claim(EADDRINUSE)
        .measured(called, Source::Call);
    let first = stage.nth_call_failed(Call::Bind, PORT, EADDRINUSE, 1)?;
    let first = blocked_by(stage, &first, "while it lives", TcpState::FinWait2)?;

    client.kill(libc::SIGKILL)?;
    stage.await_state(at_server.tuple()?, TcpState::TimeWait)?;
    let (_, called) = again.try_bind("127.0.0.1:8000", Options::NONE)?;
    stage
        .reading("bind() after the client's death")
        .claim(EADDRINUSE)
        .measured(called, Source::Call);
    let second = stage.nth_call_failed(Call::Bind, PORT, EADDRINUSE, 2)?;
    let second = blocked_by(stage, &second, "after it", TcpState::TimeWait)?;

    stage
        .reading("both times the same connection")
        .expect(true)
        .measured(first == second, Source::Computed);
    Ok(())
}

/// What is in the way of a failed bind(), which is to be in the state that is claimed.
fn blocked_by(
    stage: &mut Stage,
    failed: &CallFailed,
    when: &str,
    claimed: TcpState,
) -> Result<Tuple> {
    let holder = in_the_way(stage, failed, &format!("{when}: sockets in the way"))
        .context("nothing is in the way")?;
    stage
        .reading(format!("{when}: state of that socket"))
        .claim(claimed)
        .measured(holder.holder.state, Source::Finding);
    stage
        .reading(format!("{when}: left of its {}", claimed.name()))
        .expect(most_of_a_minute())
        .measured(left(failed, &holder), Source::Finding);
    Ok(Tuple {
        local: holder.holder.local,
        remote: holder.holder.remote,
    })
}
