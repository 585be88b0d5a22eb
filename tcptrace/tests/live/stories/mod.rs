//! The story of each connection: how it ended, who ended it and why, held against what the test did
//! and against the kernel's own record of its states.

mod closes;
mod destroyed;
mod processes;
mod scripted;
mod timeouts;
mod verdict;

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::verdict::End;
use crate::event::{self, Life, State};
use crate::kernel_trace::KernelTrace;
use crate::lines::Report;
use crate::peer::Wire;
use crate::sockets::Family;
use crate::told::Connection;
use crate::tracer::Tracer;
use crate::{Needs, Scenario, compare, hidden, kernel_table, netns, ports};

/// How long a connection is held half closed.
const HELD: Duration = Duration::from_millis(150);

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("stories: connections that time out", timeouts::all).needing(Needs::Peer),
        Scenario::new("stories: how connections close", closes::all),
        Scenario::new("stories: with a scripted peer", scripted::all).needing(Needs::Peer),
        Scenario::new("stories: processes that end", processes::all),
        Scenario::new(
            "stories: accepted by a child of the listener",
            processes::accepted_by_a_child,
        ),
        Scenario::new("stories: sockets that are destroyed", destroyed::all)
            .needing(Needs::SockDestroy),
    ]
}

/// One connection, and what is to be told of its ends.
struct Scene {
    name: &'static str,
    play: fn(&Stage) -> Result<()>,
    client: Option<End>,
    server: Option<End>,
    /// Transitions that the kernel must record, or the scene is not what its name says.
    shows: &'static [(State, State)],
}

/// Where a scene is played.
struct Stage {
    family: Family,
    /// The server's port.
    port: u16,
    /// To a scripted peer.
    wire: Wire,
    /// From when until when a connection was half closed, by the test's own clock.
    half_closed: Cell<Option<(Duration, Duration)>>,
}

/// A scene that has been played.
struct Played {
    scene: &'static Scene,
    stage: Stage,
}

impl Stage {
    fn new(family: Family, wire: &Wire) -> Self {
        Self {
            family,
            port: ports::next(),
            wire: wire.clone(),
            half_closed: Cell::new(None),
        }
    }

    /// Holds the connection half closed for a while, and closes the other direction by `close`.
    /// `began` is a moment before the first direction was closed.
    fn half_closed<T>(&self, began: Instant, close: impl FnOnce() -> T) -> T {
        let half = Instant::now();
        std::thread::sleep(HELD);
        let least = half.elapsed();
        let result = close();
        self.half_closed.set(Some((least, began.elapsed())));
        result
    }
}

/// Plays all that this host does by itself, what a scripted peer makes of it, and processes that end, in the
/// network namespace of this thread; returns the ports when only TIME_WAIT is left of them.
pub(crate) fn play_closes() -> Result<Vec<u16>> {
    let wire = Wire::default();
    let closes = played_in_turn(closes::SCENES, &closes::FAMILIES, &wire)?;
    let scripted = played_in_turn(scripted::SCENES, &[Family::V4], &wire)?;
    let mut ports = ports_of(&closes);
    ports.extend(ports_of(&scripted));
    ports.extend(processes::play_all()?);
    kernel_table::wait_until_closed(&ports)?;
    Ok(ports)
}

/// Likewise sockets that are destroyed.
pub(crate) fn play_destroyed() -> Result<Vec<u16>> {
    let played = played_in_turn(
        destroyed::SCENES,
        &[Family::V4, Family::V6],
        &Wire::default(),
    )?;
    let ports = ports_of(&played);
    kernel_table::wait_until_closed(&ports)?;
    Ok(ports)
}

/// Likewise connections whose peer is silent, all at the same time.
pub(crate) fn play_timeouts() -> Result<Vec<u16>> {
    let ports = ports_of(&played_at_once(timeouts::SCENES)?);
    kernel_table::wait_until_closed(&ports)?;
    Ok(ports)
}

fn ports_of(played: &[Played]) -> Vec<u16> {
    played.iter().map(|one| one.stage.port).collect()
}

/// Traces the scenes, played one after the other, in each of these families.
fn in_turn(scenes: &'static [Scene], families: &[Family]) -> Result<()> {
    let families = families.to_vec();
    traced(move || played_in_turn(scenes, &families, &Wire::default()))
}

fn played_in_turn(
    scenes: &'static [Scene],
    families: &[Family],
    wire: &Wire,
) -> Result<Vec<Played>> {
    let mut played = Vec::new();
    for family in families {
        for scene in scenes {
            let stage = Stage::new(*family, wire);
            (scene.play)(&stage).with_context(|| format!("{}, {}", scene.name, family.name()))?;
            played.push(Played { scene, stage });
        }
    }
    Ok(played)
}

/// Traces all scenes, played at the same time, with IPv4.
fn at_once(scenes: &'static [Scene]) -> Result<()> {
    traced(move || played_at_once(scenes))
}

fn played_at_once(scenes: &'static [Scene]) -> Result<Vec<Played>> {
    let wire = &Wire::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = scenes
            .iter()
            .map(|scene| {
                scope.spawn(move || {
                    let stage = Stage::new(Family::V4, wire);
                    (scene.play)(&stage).with_context(|| scene.name)?;
                    Ok(Played { scene, stage })
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread of the scene panicked"))?
            })
            .collect()
    })
}

/// Traces what `play` plays, in a namespace of its own.
fn traced(play: impl FnOnce() -> Result<Vec<Played>> + Send) -> Result<()> {
    netns::with_new(|netns| {
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&[])?;
        let played = play()?;
        let ports = ports_of(&played);
        kernel_table::wait_until_closed(&ports)?;
        let lives = kernel.wait_until_over(&ports)?;
        let report = tracer.stop_settled()?;
        let mut wrong = Vec::new();
        for one in &played {
            if let Err(error) = check(one, &lives, &report, netns.inode) {
                wrong.push(format!(
                    "{}, {}, port {}: {error:#}",
                    one.scene.name,
                    one.stage.family.name(),
                    one.stage.port
                ));
            }
        }
        ensure!(
            wrong.is_empty(),
            "{} of {} scenes are told wrong:\n{}",
            wrong.len(),
            played.len(),
            wrong.join("\n")
        );
        report.check_counts()
    })
}

fn check(played: &Played, lives: &[Life], report: &Report, netns: u32) -> Result<()> {
    let Played { scene, stage } = played;
    let lives: Vec<Life> = lives
        .iter()
        .filter(|life| event::touches(life, &[stage.port]))
        .cloned()
        .collect();
    compare::shows(scene.name, &lives, scene.shows)?;
    let events: usize = lives.iter().map(Vec::len).sum();
    if hidden::visible(&lives).len() < events {
        // Said there; nobody could tell the whole of this one.
        return Ok(());
    }
    let told: Vec<_> = report
        .connections
        .iter()
        .filter(|line| line.ends.lport == stage.port || line.ends.rport == stage.port)
        .collect();
    let wanted = [(&scene.client, false), (&scene.server, true)];
    let count = wanted.iter().filter(|(end, _)| end.is_some()).count();
    ensure!(
        told.len() == count,
        "{count} ends are to be told, but {} are: {told:#?}",
        told.len()
    );
    let mut wrong = Vec::new();
    for (end, is_server) in wanted {
        let Some(end) = end else { continue };
        let side = if is_server { "server" } else { "client" };
        let mine = |line: &&&Connection| (line.ends.lport == stage.port) == is_server;
        let Some(line) = told.iter().find(mine) else {
            bail!("nothing is told of the {side}");
        };
        let mut problems = end.problems(line, stage, report, count == 2, netns);
        problems.extend(verdict::wrong_states(line, &lives));
        if !problems.is_empty() {
            wrong.push(format!(
                "{side}:\n    {}\n    in {line:?}",
                problems.join("\n    ")
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n  "));
    Ok(())
}
