//! K25: SOCK_DESTROY of a TIME_WAIT.

use anyhow::Result;
use tcptrace_model::TcpState;

use super::super::EOPNOTSUPP;
use super::{PORT, SERVER, server_in_time_wait};
use crate::lab::{
    actor::Options,
    experiment::Experiment,
    limits::Skip,
    reading::Source,
    stage::Stage,
    value::{Called, Expected},
};

pub(super) const K25: Experiment = Experiment {
    id: "K25",
    name: "destroyed",
    claims: &["K25"],
    title: "ss -K ends a TIME_WAIT",
    says: "SOCK_DESTROY (ss -K) removes a TIME_WAIT.",
    why: "SOCK_DESTROY is a request to sock_diag that needs CAP_NET_ADMIN and a kernel with CONFIG_INET_DIAG_DESTROY: \
          tcp_diag_destroy() (net/ipv4/tcp_diag.c, v6.18) finds the socket, tcp_abort() (net/ipv4/tcp.c) ends \
          it. For a minisocket that is inet_twsk_deschedule_put(): it goes without a segment, as its peer has \
          closed anyway. Kernels up to 5.15 answer EOPNOTSUPP for minisockets. The addresses and ports are free \
          at once, and so is the protection against late segments gone.",
    condition: None,
    seconds: 3,
    play: |stage| {
        let server = stage.actor("server")?;
        let client = stage.actor("client")?;
        let listener = server.listening(SERVER, Options::NONE)?;
        let tuple = server_in_time_wait(stage, &listener, &client)?;
        check_that_sockets_can_be_destroyed(stage)?;
        let before = stage.count(PORT, TcpState::TimeWait)?;
        stage
            .reading("TIME_WAITs before")
            .expect(1_u64)
            .measured(before, Source::SockDiag);

        let (called, left) = expected(stage);
        let destroyed = stage.destroy(tuple)?;
        stage
            .reading("SOCK_DESTROY of the TIME_WAIT")
            .claim(Called::Ok(()))
            .expect(called)
            .measured(destroyed, Source::Call);
        let after = stage.count(PORT, TcpState::TimeWait)?;
        stage
            .reading("TIME_WAITs after")
            .claim(0_u64)
            .expect(left)
            .measured(after, Source::SockDiag);
        if destroyed.is_ok() {
            let ended = stage.time_wait(tuple)?;
            stage
                .reading("it ended because")
                .expect("socket_destroyed")
                .measured(ended.end.name(), Source::Finding);
        }
        Ok(())
    },
};

/// Skips the experiment where the kernel destroys no socket of any kind: with a socket that every kernel which
/// destroys any does.
fn check_that_sockets_can_be_destroyed(stage: &Stage) -> Result<()> {
    let server = stage.actor("other server")?;
    let client = stage.actor("other client")?;
    let _listener = server.listening("127.0.0.1:8001", Options::NONE)?;
    let at_client = client.connected("127.0.0.1:8001", Options::NONE)?;
    match stage.destroy(at_client.tuple()?)? {
        Ok(()) => Ok(()),
        Err(errno) => Err(Skip(format!(
            "this kernel destroys no sockets, it needs CONFIG_INET_DIAG_DESTROY: {errno}"
        ))
        .into()),
    }
}

/// What this kernel answers, and how many TIME_WAITs are left then.
fn expected(stage: &Stage) -> (Expected, Expected) {
    let refused = (EOPNOTSUPP.into(), 1_u64.into());
    let done = (Called::Ok(()).into(), 0_u64.into());
    if stage.kernel().is_at_least(6, 1) {
        done
    } else if stage.kernel().is_at_least(5, 16) {
        // Between the two kernels that are known.
        let called = vec![Called::Ok(()).into(), EOPNOTSUPP.into()];
        let left = vec![0_u64.into(), 1_u64.into()];
        (Expected::OneOf(called), Expected::OneOf(left))
    } else {
        refused
    }
}
