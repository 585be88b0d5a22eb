//! B2: what a setting changes of TIME_WAIT.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use tcptrace_model::TcpState;

use super::{SERVER, server_in_time_wait, set_to};
use crate::lab::{
    actor::{Options, must},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
    value::Expected,
};

/// A setting that is not the default of 60 s.
const FIN_TIMEOUT_SECONDS: u64 = 5;

pub(super) const B2: Experiment = Experiment {
    id: "B2",
    name: "no-such-setting",
    claims: &["B2"],
    title: "No setting changes how long TIME_WAIT lasts",
    says: "The default TIME_WAIT is 240 s, and a setting changes it. (On Windows that was the registry's \
           TcpTimedWaitDelay; on Linux net.ipv4.tcp_fin_timeout is often named.)",
    why: "TIME_WAIT is 60 s, a constant: TCP_TIMEWAIT_LEN of include/net/tcp.h. tcp_fin_timeout, and TCP_LINGER2 for one \
          socket, is for an orphan in FIN_WAIT2: one that nobody has open any more and whose peer has not \
          closed (tcp_fin_time(), include/net/tcp.h). When the peer's FIN comes, \
          tcp_timewait_state_process() (net/ipv4/tcp_minisocks.c, v6.18) sets the same timer to 60 s. What there \
          is to set is whether a TIME_WAIT may be taken over by a new connection (tcp_tw_reuse), and how many \
          there may be (tcp_max_tw_buckets).",
    condition: None,
    seconds: 3,
    play: |stage| {
        let (minute, set) = (set_to(stage, 60), set_to(stage, FIN_TIMEOUT_SECONDS));
        let default = timer_of_time_wait(stage)?;
        stage
            .reading("TIME_WAIT's timer by default")
            .claim(Duration::from_secs(240))
            .expect(minute.clone())
            .measured(default, Source::Finding);
        stage.set_sysctl("net.ipv4.tcp_fin_timeout", FIN_TIMEOUT_SECONDS)?;
        let then = timer_of_time_wait(stage)?;
        stage
            .reading("TIME_WAIT's, with tcp_fin_timeout = 5")
            .claim(Duration::from_secs(FIN_TIMEOUT_SECONDS))
            .expect(minute.clone())
            .measured(then, Source::Finding);
        let orphan = timer_of_orphan(stage)?;
        stage
            .reading("FIN_WAIT2's, with tcp_fin_timeout = 5")
            .expect(set)
            .measured(orphan, Source::Finding);
        let ((changed, then), _) = stage.elsewhere(|stage| {
            let changed = change_all(stage)?;
            Ok((changed, timer_of_time_wait(stage)?))
        })?;
        stage
            .reading("sysctls net.ipv4.tcp_* changed at once")
            .expect(Expected::AtLeast(40))
            .measured(changed, Source::Sysctl);
        stage
            .reading("TIME_WAIT's, with all of them changed")
            .expect(minute)
            .measured(then, Source::Finding);
        Ok(())
    },
};

/// What the timer of a TIME_WAIT is set to.
fn timer_of_time_wait(stage: &Stage) -> Result<Duration> {
    let server = stage.actor("server")?;
    let client = stage.actor("client")?;
    let listener = server.listening(SERVER, Options::REUSEADDR)?;
    let tuple = server_in_time_wait(stage, &listener, &client)?;
    let entered = stage.time_wait_entered(tuple)?;
    Ok(Duration::from_nanos(entered.timeout_ns))
}

/// What the timer of an orphan in FIN_WAIT2 is set to.
fn timer_of_orphan(stage: &Stage) -> Result<Duration> {
    let server = stage.actor("server")?;
    let client = stage.actor("client")?;
    let listener = server.listening(SERVER, Options::REUSEADDR)?;
    let _at_client = client.connected(SERVER, Options::NONE)?;
    let at_server = listener.accept()?;
    must(at_server.shutdown()?, "shutdown()")?;
    stage.await_state(at_server.tuple()?, TcpState::FinWait2)?;
    at_server.close()?;
    let entered = stage.time_wait_entered(at_server.tuple()?)?;
    Ok(Duration::from_nanos(entered.timeout_ns))
}

/// Gives every sysctl of TCP that is a number of this namespace another value, as far as the kernel takes it.
/// Returns how many.
fn change_all(stage: &Stage) -> Result<u64> {
    const FOLDER: &str = "/proc/sys/net/ipv4";
    let mut changed = 0;
    for entry in fs::read_dir(FOLDER).with_context(|| format!("cannot read {FOLDER}"))? {
        let path = entry?.path();
        let is_of_tcp = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("tcp_"));
        let old = fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse::<i64>().ok());
        let (true, Some(old)) = (is_of_tcp, old) else {
            continue;
        };
        let new = if old <= 1 { 1 - old } else { old / 2 };
        let is_set = fs::write(&path, new.to_string()).is_ok()
            && fs::read_to_string(&path).is_ok_and(|text| text.trim() == new.to_string());
        changed += u64::from(is_set);
    }
    stage.note(format_args!(
        "{changed} sysctls net.ipv4.tcp_* are halved, or turned from 0 to 1 or from 1 to 0"
    ));
    Ok(changed)
}
