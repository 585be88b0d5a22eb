//! K20: many TIME_WAITs, and how the timer wheel ends them together.

use std::time::Duration;

use anyhow::{Context, Result};
use tcptrace_model::{Finding, TimeWait, TimeWaitEnd};

use super::{BUSY, HalfClosed, PORT, SERVER, TIME_WAIT, a_minute, half_closed, told};
use crate::lab::{
    actor::Options,
    experiment::Experiment,
    reading::Source,
    stage::{Stage, known},
    value::Expected,
};

const COUNT: u32 = 40;
/// One is entered each so many ms: all of them within about 4 s, about two buckets of the wheel.
const EVERY_MS: u32 = 100;
/// Events of so many may be kept from the trace; the point is made without them.
const MISSED: u32 = 10;
/// Ends that are no farther apart are of one burst. The narrowest bucket for 60 s is that of 300 ticks per second,
/// 1.7 s wide.
const APART: Duration = Duration::from_millis(500);

pub(super) const K20: Experiment = Experiment {
    id: "K20",
    name: "timer-wheel",
    claims: &["K20"],
    title: "TIME_WAITs that begin one after the other end in bursts",
    says: "TIME_WAIT lasts 60 s and what the timer wheel adds, and many end together.",
    why: "The kernel's timer wheel is exact only for what is near: a timer less than 63 * 8^n ticks ahead is kept in \
          level n, whose buckets are 8^n ticks wide, and all of a bucket run at its end (kernel/time/timer.c \
          calc_wheel_index(), v6.18). For 60 s that is 2.048 s at 250 ticks per second, 5.12 s at 100, 1.707 s \
          at 300, 4.096 s at 1000. So each lasts up to that much longer than 60 s, and those that began within \
          one bucket end at the same moment. Nothing is lost by it: TIME_WAIT has to last at least so long.",
    condition: None,
    seconds: 70,
    play: |stage| {
        let server = stage.actor("server")?;
        let client = stage.actor("client")?;
        let listener = server.listening(SERVER, Options::NONE)?;
        let HalfClosed {
            at_client,
            at_server,
        } = half_closed(stage, &listener, &client, SERVER, COUNT)?;
        client.close_slowly(at_client, EVERY_MS)?;
        server.close_many(at_server)?;
        let ended = ended(stage)?;
        let shown = ended.first().copied().context("no TIME_WAIT")?;
        stage.show(Finding::TimeWait(Box::new(shown)));
        read(stage, &ended)
    },
};

/// Those that have ended when all must have, in the order of their ends.
fn ended(stage: &Stage) -> Result<Vec<TimeWait>> {
    let limit = TIME_WAIT + stage.kernel().granularity(TIME_WAIT) + BUSY;
    let mut ended = told(stage, COUNT, limit, |finding| match finding {
        Finding::TimeWait(found)
            if found.minisocket.local.port() == PORT && found.end == TimeWaitEnd::Expired =>
        {
            Some(**found)
        }
        _ => None,
    })?;
    ended.sort_by_key(|one| one.ts_ns);
    Ok(ended)
}

fn read(stage: &mut Stage, ended: &[TimeWait]) -> Result<()> {
    let lasted = ended
        .iter()
        .map(|one| known(one.time_wait_ns, "how long TIME_WAIT lasted"))
        .collect::<Result<Vec<Duration>>>()?;
    let began = ended
        .iter()
        .map(|one| known(one.entered_ns, "when TIME_WAIT began"))
        .collect::<Result<Vec<Duration>>>()?;
    let extremes = |of: &[Duration]| -> Result<(Duration, Duration)> {
        let (min, max) = (of.iter().min(), of.iter().max());
        Ok((*min.context("none")?, *max.context("none")?))
    };
    let (shortest, longest) = extremes(&lasted)?;
    let (first, last) = extremes(&began)?;
    let spread = last.saturating_sub(first);
    let granularity = stage.kernel().granularity(TIME_WAIT);
    let (minute, later) = (a_minute(stage), Duration::from_millis(EVERY_MS.into()));
    stage
        .reading(format!("told of, of {COUNT}"))
        .expect(Expected::AtLeast((COUNT - MISSED).into()))
        .measured(ended.len() as u64, Source::Finding);
    stage
        .reading("from the first that began to the last")
        .expect(Expected::between(
            later * (COUNT - MISSED),
            Duration::from_secs(20),
        ))
        .measured(spread, Source::Finding);
    stage
        .reading("the shortest lasted")
        .claim(minute.clone())
        .measured(shortest, Source::Finding);
    stage
        .reading("the longest lasted")
        .claim(minute)
        .measured(longest, Source::Finding);
    // They begin in so many buckets at most: the first and the last may be cut.
    let buckets = spread.as_millis() / granularity.as_millis().max(1) + 2;
    let bursts = bursts(ended);
    stage
        .reading("bursts in which all of them ended")
        .claim(Expected::AtMost(u64::try_from(buckets)?))
        .measured(bursts, Source::Finding);
    Ok(())
}

/// Groups of ends that are close together.
fn bursts(ended: &[TimeWait]) -> u64 {
    let far = |pair: &&[TimeWait]| {
        Duration::from_nanos(pair[1].ts_ns.saturating_sub(pair[0].ts_ns)) > APART
    };
    1 + ended.windows(2).filter(far).count() as u64
}
