//! Both backends agree: the same workload, traced by fentry and by tracepoints at once, is told with the same
//! words, and differs only where the documentation says that it does.

mod both;
mod compare;
mod documented;

use anyhow::{Context, Result, ensure};

use self::both::{Both, Void};
use crate::endings::expect_fin;
use crate::scenes::SCENES;
use crate::sockets::{Family, Pair};
use crate::{
    Needs, Scenario, failures, kernel_table, netns, ports, stories, sys, thousand, time_waits,
};

/// Connections of each family, all families at once.
const EACH: usize = 60;
/// `tcp_max_tw_buckets` meanwhile: fewer than there are TIME_WAITs.
const BUCKETS: &str = "40";

pub(crate) fn scenarios() -> Vec<Scenario> {
    let both = |name: &str, play: fn() -> Result<()>| {
        Scenario::new(format!("agreement: {name}"), move || unless_void(play)).needing(Needs::Both)
    };
    vec![
        both("the whole time of a TIME_WAIT", whole),
        both("how connections close", || of_one(|_| closes())),
        both("connections that time out", || {
            of_one(|_| stories::play_timeouts().map(drop))
        }),
        both("what ends a TIME_WAIT", || of_one(|_| ends())),
        both("gone with the namespace", gone),
        both("calls that fail", || {
            of_one(|_| failures::play_situations())
        }),
        both("no port is left", || of_one(no_port_left)),
        both("many connections at once", || of_one(|_| many())),
        both("sockets that are destroyed", || of_one(|_| destroyed())).needing(Needs::BothDestroy),
    ]
}

/// Plays again, at most twice, where the kernel skipped a program, which it counts (docs/limitations.md): any
/// other loss, and any difference, is a failure at once.
fn unless_void(play: fn() -> Result<()>) -> Result<()> {
    for _ in 0..2 {
        match play() {
            Err(error) if error.is::<Void>() => {
                eprintln!("it is played again: {error:#}");
            }
            played => return played,
        }
    }
    play()
}

/// Traces a new network namespace twice while `play` plays in it, and compares. The threads of the workload do
/// not take the CPU from each other, nor from a tracer that asks the kernel for its counters: on 7.2, where they
/// did, records were lost for `recursion` (docs/limitations.md), and a loss makes the comparison void.
fn of_one(play: fn(&mut Both) -> Result<()>) -> Result<()> {
    netns::with_new(|here| {
        let mut both = Both::of(here)?;
        sys::keep_the_cpu()?;
        play(&mut both)?;
        compare::same(&both.stop()?)
    })
}

fn closes() -> Result<()> {
    stories::play_closes()?;
    for scene in SCENES {
        let port = (scene.run)(Family::V4, ports::next()).context(scene.name)?;
        kernel_table::wait_until_closed(&[port]).context(scene.name)?;
    }
    Ok(())
}

fn ends() -> Result<()> {
    time_waits::play_ends()?;
    lingers_for_a_second()?;
    time_waits::play_never_entered().map(drop)
}

/// TCP_LINGER2 instead of `tcp_fin_timeout`: the peer does not close, and the orphan is given up.
fn lingers_for_a_second() -> Result<()> {
    let port = ports::next();
    let listener = Family::V4.listener(port)?;
    let Pair { client, server } = Family::V4.pair(&listener, port)?;
    let local = client.local_port()?;
    client.set(libc::IPPROTO_TCP, libc::TCP_LINGER2, &1_i32)?;
    drop(client);
    expect_fin(&server)?;
    let given_up = |rows: &[kernel_table::Row]| rows.iter().all(|row| row.lport != local);
    kernel_table::wait_for(&[local], given_up, "the orphan to be given up").map(drop)
}

fn destroyed() -> Result<()> {
    stories::play_destroyed()?;
    time_waits::play_destroyed()
}

fn no_port_left(both: &mut Both) -> Result<()> {
    failures::play_none_left(|words| both.wait_for(words))?;
    failures::play_tuple().map(drop)
}

fn many() -> Result<()> {
    netns::set_sysctl("ipv4/tcp_max_tw_buckets", BUCKETS)?;
    let ports = ports::several(Family::ALL.len());
    let made = thousand::play(&ports, EACH)?;
    ensure!(
        made == EACH * ports.len(),
        "only {made} connections were made"
    );
    kernel_table::wait_until_closed(&ports)
}

/// Each part in a namespace of its own, so by its ports. It takes more than two minutes, which are cheap where
/// the guest's clock jumps ahead.
fn whole() -> Result<()> {
    netns::with_new(|_| {
        let ports = ports::several(time_waits::PARTS);
        let both = Both::of_ports(&ports::list(&ports))?;
        sys::keep_the_cpu()?;
        time_waits::play_whole(&ports)?;
        compare::same(&both.stop()?)
    })
}

fn gone() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut both = Both::of_ports(&port.to_string())?;
        sys::keep_the_cpu()?;
        time_waits::play_gone(port)?;
        let word = format!("\"rport\":{port}");
        for _ in 0..time_waits::GONE {
            both.wait_for(&["\"kind\":\"time_wait\"", &word])?;
        }
        compare::same(&both.stop()?)
    })
}
