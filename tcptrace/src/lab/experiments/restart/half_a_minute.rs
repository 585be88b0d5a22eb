//! C6: when the server can start again.

use std::time::Duration;

use anyhow::{Context, Result};
use tcptrace_model::{Finding, TcpState, TimeWaitEnd, conflict::Call};

use super::{EADDRINUSE, SUCCEEDS};
use crate::lab::{
    actor::{Options, must},
    experiment::Experiment,
    reading::Source,
    stage::{Stage, known},
    tuple::Tuple,
    value::Expected,
};

/// Linux' TIME_WAIT: include/net/tcp.h `TCP_TIMEWAIT_LEN` (v6.18).
const TIME_WAIT: Duration = Duration::from_secs(60);
/// For timers that run late and a process that waits for its CPU on a busy machine.
const SLACK: Duration = Duration::from_secs(3);
/// The kernel counts what is left of a timer in whole ticks, of up to 10 ms.
const MARGIN: Duration = Duration::from_millis(100);

pub(super) const C6: Experiment = Experiment {
    id: "C6",
    name: "half-a-minute",
    claims: &["C6"],
    title: "How long a restarted server without SO_REUSEADDR has to wait on Linux",
    says: "On Linux the server can start again after about half a minute.",
    why: "TIME_WAIT lasts TCP_TIMEWAIT_LEN, 60 s in the source of Linux (include/net/tcp.h, v6.18), and no \
          setting changes it. The timer wheel rounds up: with a minute ahead it has buckets of 1.7 to 5.1 s, \
          by CONFIG_HZ (kernel/time/timer.c calc_wheel_index), so it is a minute and up to that much more. \
          RFC 9293 3.6.1 asks for 2 MSL, and 3.4.2 takes the MSL to be 2 minutes: 4 minutes.",
    condition: None,
    seconds: 65,
    play,
};

fn play(stage: &mut Stage) -> Result<()> {
    let server = stage.actor("server")?;
    let client = stage.actor("client")?;
    let listener = server.listening("127.0.0.1:8000", Options::NONE)?;
    let at_client = client.connected("127.0.0.1:8000", Options::NONE)?;
    let at_server = listener.accept()?;
    let again = stage.actor("restarted")?;
    // With its descriptor open it goes from FIN_WAIT2 to TIME_WAIT at once, so the trace can date it.
    must(at_server.shutdown()?, "shutdown()")?;
    stage.await_state(at_client.tuple()?, TcpState::CloseWait)?;
    at_client.close()?;
    let tuple = at_server.tuple()?;
    stage.await_state(tuple, TcpState::TimeWait)?;
    server.kill(libc::SIGTERM)?;

    for seconds in [35, 57] {
        await_age(stage, tuple, Duration::from_secs(seconds) + MARGIN)?;
        let (_, called) = again.try_bind("127.0.0.1:8000", Options::NONE)?;
        stage
            .reading(format!("bind() after {seconds} s"))
            .claim(SUCCEEDS)
            .expect(EADDRINUSE)
            .measured(called, Source::Call);
    }
    let failed = stage.nth_call_failed(Call::Bind, 8000, EADDRINUSE, 2)?;
    let entered = stage.time_wait_entered(tuple)?;
    let at_most = TIME_WAIT + stage.kernel().granularity(TIME_WAIT) + SLACK;
    stage
        .reading("TIME_WAIT was then as old as")
        .expect(Expected::between(Duration::from_secs(57), at_most))
        .measured(
            Duration::from_nanos(failed.call.ts_ns.saturating_sub(entered.ts_ns)),
            Source::Finding,
        );

    stage.await_state(tuple, TcpState::Close)?;
    let (_, called) = again.try_bind("127.0.0.1:8000", Options::NONE)?;
    stage
        .reading("bind() when TIME_WAIT is over")
        .control(SUCCEEDS)
        .measured(called, Source::Call);
    let ended = stage.time_wait(tuple)?;
    stage
        .reading("what ended TIME_WAIT")
        .expect(TimeWaitEnd::Expired.name())
        .measured(ended.end.name(), Source::Finding);
    let half_a_minute = Expected::between(Duration::from_secs(25), Duration::from_secs(35));
    stage
        .reading("TIME_WAIT lasted (60 s, wheel, 3 s slack)")
        .claim(half_a_minute.clone())
        .expect(Expected::between(TIME_WAIT, at_most))
        .measured(
            known(ended.time_wait_ns, "how long TIME_WAIT lasted")?,
            Source::Finding,
        );
    let bound_ns = bound_at_ns(stage)?;
    stage
        .reading("from TIME_WAIT to bind() (+ 3 s slack)")
        .claim(half_a_minute)
        .expect(Expected::between(TIME_WAIT, at_most + SLACK))
        .measured(
            Duration::from_nanos(bound_ns.saturating_sub(entered.ts_ns)),
            Source::Finding,
        );
    Ok(())
}

/// Waits until a TIME_WAIT is as old as that, by what is left of its timer.
fn await_age(stage: &Stage, tuple: Tuple, age: Duration) -> Result<()> {
    let left = TIME_WAIT.saturating_sub(age);
    loop {
        let now = stage.state(tuple)?.and_then(|now| now.minisocket_left);
        let now_left = now.with_context(|| format!("{tuple} has no minisocket"))?;
        let Some(ahead) = now_left.checked_sub(left).filter(|ahead| !ahead.is_zero()) else {
            return Ok(());
        };
        stage.let_pass(ahead)?;
    }
}

/// When the last bind() of the port succeeded, CLOCK_BOOTTIME ns.
fn bound_at_ns(stage: &Stage) -> Result<u64> {
    let what = "a bind() that succeeds";
    let all = stage
        .observed()
        // The server's own, and that of the restarted one.
        .wait_for(what, 2, stage.cancel(), |finding| match finding {
            Finding::CallSucceeded(found) if found.call.call == Call::Bind => {
                Some(found.call.ts_ns)
            }
            _ => None,
        })?;
    all.last().copied().context("nothing was bound")
}
