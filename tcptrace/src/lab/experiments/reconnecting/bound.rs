//! K12: a client that binds its port and connects again through its own TIME_WAIT.

use anyhow::Result;
use tcptrace_model::conflict::Call;

use super::{EADDRNOTAVAIL, client_in_time_wait};
use crate::lab::{
    actor::Options,
    experiment::Experiment,
    reading::Source,
    stage::{Stage, comm},
    value::Called,
};

const SERVER: &str = "127.0.0.1:8000";

pub(super) const K12: Experiment = Experiment {
    id: "K12",
    name: "bound-client",
    claims: &["K12"],
    title: "A bound client connects through its own TIME_WAIT, if timestamps are on",
    says: "A bound client may reconnect through its TIME_WAIT at once if timestamps are on, whatever tcp_tw_reuse says; \
           without them connect() fails with EADDRNOTAVAIL.",
    why: "bind() is not the obstacle: both sockets have SO_REUSEADDR. connect() of a socket with a port needs a pair of \
          addresses and ports that no connection has: __inet_check_established() (net/ipv4/inet_hashtables.c, \
          v6.18). One in TIME_WAIT gives way if tcp_twsk_unique() (net/ipv4/tcp_ipv4.c) says so, and for a bound \
          socket that only asks whether the old connection used timestamps: a late segment of it would carry an \
          older timestamp than those of the new one and be dropped (PAWS, RFC 7323 5; RFC 6191). \
          tcp_tw_reuse is for sockets whose port the kernel chooses.",
    condition: None,
    seconds: 3,
    play: |stage| {
        stage.set_sysctl("net.ipv4.tcp_tw_reuse", 0)?;
        let server = stage.actor("server")?;
        let listener = server.listening(SERVER, Options::NONE)?;
        let client = stage.actor("client")?;

        stage.set_sysctl("net.ipv4.tcp_timestamps", 1)?;
        let first = client.bound("127.0.0.1:40000", Options::REUSEADDR)?;
        let waiting = client_in_time_wait(stage, &first, &listener, SERVER)?;
        let recycled_before = recycled(stage)?;
        let again = stage.actor("reconnecting")?;
        let (socket, called) = again.try_bind("127.0.0.1:40000", Options::REUSEADDR)?;
        stage
            .reading("with timestamps: bind()")
            .control(Called::Ok(()))
            .measured(called, Source::Call);
        let called = socket.connect(SERVER)?;
        stage
            .reading("with timestamps: connect()")
            .claim(Called::Ok(()))
            .measured(called, Source::Call);
        let ended = stage.time_wait(waiting)?;
        stage
            .reading("with timestamps: TIME_WAIT ended because")
            .expect("reused_by_connect")
            .measured(ended.end.name(), Source::Finding);
        stage
            .reading("with timestamps: whose connect()")
            .expect("reconnecting")
            .measured(
                ended.by.map_or_else(String::new, |by| {
                    String::from_utf8_lossy(by.comm.as_bytes()).into_owned()
                }),
                Source::Finding,
            );
        let recycled = recycled(stage)? - recycled_before;
        stage
            .reading("TWRecycled")
            .expect(1_u64)
            .measured(recycled, Source::Counter);

        stage.set_sysctl("net.ipv4.tcp_timestamps", 0)?;
        let other = server.listening("127.0.0.1:8001", Options::NONE)?;
        let first = client.bound("127.0.0.1:40001", Options::REUSEADDR)?;
        client_in_time_wait(stage, &first, &other, "127.0.0.1:8001")?;
        let (socket, called) = again.try_bind("127.0.0.1:40001", Options::REUSEADDR)?;
        stage
            .reading("without timestamps: bind()")
            .control(Called::Ok(()))
            .measured(called, Source::Call);
        let called = socket.connect("127.0.0.1:8001")?;
        stage
            .reading("without timestamps: connect()")
            .claim(EADDRNOTAVAIL)
            .measured(called, Source::Call);
        let failed = stage.call_failed(Call::Connect, 8001, EADDRNOTAVAIL)?;
        stage
            .reading("without timestamps: why")
            .expect("tuple_in_time_wait")
            .measured(failed.rule.name(), Source::Finding);
        let owner = failed
            .holders
            .iter()
            .find(|holder| holder.blocks)
            .map_or_else(String::new, |holder| comm(holder.owner.as_ref()));
        stage
            .reading("without timestamps: whose TIME_WAIT")
            .expect("client")
            .measured(owner, Source::Finding);
        Ok(())
    },
};

fn recycled(stage: &Stage) -> Result<u64> {
    stage.counter("TcpExt", "TWRecycled")
}
