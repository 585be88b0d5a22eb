//! A7: TIME_WAIT measured against 2 MSL of RFC 793.

use std::time::Duration;

use tcptrace_model::TcpState;

use super::{BUSY, PORT, SERVER, TIME_WAIT, a_minute, server_in_time_wait, set_to};
use crate::lab::{
    actor::Options, experiment::Experiment, reading::Source, stage::known, value::Expected,
};

/// 2 MSL, with the MSL of RFC 793.
const TWO_MSL: Duration = Duration::from_secs(240);

pub(super) const A7: Experiment = Experiment {
    id: "A7",
    name: "two-msl",
    claims: &["A7"],
    title: "TIME_WAIT lasts 60 s and a little more, not 4 minutes",
    says: "TIME_WAIT lasts 2 MSL, and RFC 793 (3.3) takes the MSL to be 2 minutes: 4 minutes.",
    why: "2 MSL is how long a segment and the answer to it can be under way, so that none of an old \
          connection is left when its addresses and ports are used again. RFC 793 itself calls its 2 minutes an \
          engineering choice. Linux has a constant of its own, TCP_TIMEWAIT_LEN of include/net/tcp.h: 60 s, \
          whatever the round trip is. tcp_time_wait() (net/ipv4/tcp_minisocks.c, v6.18) sets a timer to it. The \
          timer wheel keeps timers that far ahead in buckets and runs them when the bucket is over, never \
          early: kernel/time/timer.c calc_wheel_index(). A bucket is 2.048 s wide at 250 ticks per second, 5.12 s \
          at 100, 4.096 s at 1000: hence the rest.",
    condition: None,
    seconds: 64,
    play: |stage| {
        let granularity = stage.kernel().granularity(TIME_WAIT);
        let server = stage.actor("server")?;
        let client = stage.actor("client")?;
        let listener = server.listening(SERVER, Options::NONE)?;
        let tuple = server_in_time_wait(stage, &listener, &client)?;
        let entered = stage.time_wait_entered(tuple)?;
        let minute = set_to(stage, 60);
        stage
            .reading("its timer is set to")
            .expect(minute)
            .measured(Duration::from_nanos(entered.timeout_ns), Source::Finding);
        let ended = stage.time_wait(tuple)?;
        let lasted = known(ended.time_wait_ns, "how long TIME_WAIT lasted")?;
        let minute = a_minute(stage);
        let four_minutes = Expected::between(
            TWO_MSL,
            TWO_MSL + stage.kernel().granularity(TWO_MSL) + BUSY,
        );
        stage
            .reading("TIME_WAIT lasted")
            .claim(four_minutes)
            .expect(minute)
            .measured(lasted, Source::Finding);
        stage
            .reading("of that, added by the timer wheel")
            .expect(Expected::between(Duration::ZERO, granularity + BUSY))
            .measured(lasted.saturating_sub(TIME_WAIT), Source::Computed);
        stage
            .reading("it ended because")
            .expect("expired")
            .measured(ended.end.name(), Source::Finding);
        let left = stage.count(PORT, TcpState::TimeWait)?;
        stage
            .reading("TIME_WAITs left on the port")
            .expect(0_u64)
            .measured(left, Source::SockDiag);
        Ok(())
    },
};
