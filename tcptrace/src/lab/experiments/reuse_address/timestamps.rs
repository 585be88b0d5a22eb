//! D5: SO_REUSEADDR with and without TCP timestamps.

use anyhow::{Context, Result};
use tcptrace_model::conflict::Call;

use super::{
    EADDRINUSE, REFUSED, SUCCEEDS,
    old_and_new::{Cast, Old, On},
};
use crate::lab::{experiment::Experiment, reading::Source, stage::Stage, value::Called};

pub(super) const D5: Experiment = Experiment {
    id: "D5",
    name: "reuseaddr-timestamps",
    claims: &["D5", "K2"],
    title: "SO_REUSEADDR with tcp_timestamps 1 and 0",
    says: "SO_REUSEADDR lets a server start again only with tcp_timestamps = 1.",
    why: "bind() compares options, addresses and devices, and never looks at timestamps: \
          net/ipv4/inet_connection_sock.c inet_bind_conflict (v6.18). What needs them is another thing with a \
          similar name: whether connect() may take over a TIME_WAIT with the same two ends \
          (net/ipv4/tcp_ipv4.c tcp_twsk_unique, and tcp_tw_reuse), for which RFC 6191 wants newer timestamps.",
    condition: None,
    seconds: 4,
    play,
};

fn play(stage: &mut Stage) -> Result<()> {
    let cast = Cast::enter(stage)?;
    let with = with_timestamps(stage, &cast, true, 8000)?;
    let without = with_timestamps(stage, &cast, false, 8010)?;
    stage
        .reading("both settings give the same")
        .expect(true)
        .measured(with == without, Source::Computed);
    Ok(())
}

/// What bind() returned in each case.
fn with_timestamps(
    stage: &mut Stage,
    cast: &Cast,
    on: bool,
    first_port: u16,
) -> Result<Vec<Called>> {
    let setting = u8::from(on);
    stage.set_sysctl("net.ipv4.tcp_timestamps", setting)?;
    let all = cast.try_all(stage, Old::TimeWait, first_port)?;
    for tried in &all {
        let reading = stage.reading(format!("timestamps {setting}: bind(), {}", tried.on.name()));
        let reading = match (tried.on, on) {
            (On::Both, true) => reading.control(SUCCEEDS),
            (On::Both, false) => reading.claim(REFUSED),
            (On::Neither | On::New | On::Old, _) => reading.control(REFUSED),
        };
        reading
            .expect(tried.on.bind())
            .measured(tried.bind, Source::Call);
        if let Some(listen) = tried.listen {
            stage
                .reading(format!("timestamps {setting}: listen() then"))
                .expect(SUCCEEDS)
                .measured(listen, Source::Call);
        }
    }
    let failed = stage.call_failed(Call::Bind, first_port, EADDRINUSE)?;
    let holder = failed.holders.iter().find(|holder| holder.blocks);
    let used = holder.and_then(|holder| holder.holder.timestamps);
    stage
        .reading(format!("timestamps {setting}: the TIME_WAIT had them"))
        .expect(on)
        .measured(
            used.context("the trace does not know whether the connection had timestamps")?,
            Source::Finding,
        );
    Ok(all.iter().map(|tried| tried.bind).collect())
}
