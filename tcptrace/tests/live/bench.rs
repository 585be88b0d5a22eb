//! The bench itself: without the tracer, the workloads must do what their names say, or the
//! comparisons would compare nothing.

use anyhow::{Context, Result, ensure};

use crate::endings::ENDINGS;
use crate::event::{self, Life, Step};
use crate::kernel_trace::KernelTrace;
use crate::scenes::SCENES;
use crate::sockets::Family;
use crate::{Needs, Scenario, compare, kernel_text, netns, ports};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("bench: endings and scenes are what they say", workloads)
            .needing(Needs::KernelTrace),
        Scenario::new(
            "bench: the kernel's pages and its text say the same",
            two_views,
        )
        .needing(Needs::KernelTrace),
    ]
}

fn workloads() -> Result<()> {
    netns::with_new(|_| {
        for family in Family::ALL {
            let mut kernel = KernelTrace::start()?;
            play_endings(family, &mut kernel, &ports::several(ENDINGS.len()))?;
            play_scenes(family, &mut kernel, &ports::several(SCENES.len()))?;
        }
        Ok(())
    })
}

/// What we decode from the binary trace is what the kernel itself prints from it.
fn two_views() -> Result<()> {
    netns::with_new(|_| {
        let kernel = KernelTrace::start()?;
        for family in Family::ALL {
            let port = ports::next();
            let listener = family.listener(port)?;
            for ending in ENDINGS {
                (ending.run)(family.pair(&listener, port)?)?;
            }
        }
        let (text, events) = kernel.both_views()?;
        let mut decoded: Vec<Step> = events
            .into_iter()
            .map(|event| Step {
                skaddr: 0,
                ..event.step
            })
            .collect();
        let mut written = kernel_text::parse(&text)?;
        decoded.sort();
        written.sort();
        ensure!(
            decoded.len() > 300,
            "fifty connections made only {} events",
            decoded.len()
        );
        ensure!(
            decoded == written,
            "the kernel's text has {} events, its pages {}; they differ",
            written.len(),
            decoded.len()
        );
        Ok(())
    })
}

/// Plays each ending on its own port and returns the kernel's record of them all.
pub(crate) fn play_endings(
    family: Family,
    kernel: &mut KernelTrace,
    ports: &[u16],
) -> Result<Vec<Life>> {
    for (ending, port) in ENDINGS.iter().zip(ports) {
        let played = || -> Result<()> {
            let listener = family.listener(*port)?;
            (ending.run)(family.pair(&listener, *port)?)
        };
        played().with_context(|| format!("{family:?}, {}, port {port}", ending.name))?;
    }
    let lives = kernel.wait_until_over(ports)?;
    for (ending, port) in ENDINGS.iter().zip(ports) {
        compare::shows(ending.name, &on_port(&lives, *port), ending.shows)?;
    }
    Ok(lives)
}

/// Plays each scene on its own port and returns the kernel's record of them all.
pub(crate) fn play_scenes(
    family: Family,
    kernel: &mut KernelTrace,
    ports: &[u16],
) -> Result<Vec<Life>> {
    let mut used = Vec::new();
    for (scene, port) in SCENES.iter().zip(ports) {
        let played = (scene.run)(family, *port);
        used.push(played.with_context(|| format!("{family:?}, {}, port {port}", scene.name))?);
    }
    let lives = kernel.wait_until_over(&used)?;
    for (scene, port) in SCENES.iter().zip(&used) {
        compare::shows(scene.name, &on_port(&lives, *port), scene.shows)?;
    }
    Ok(lives)
}

fn on_port(lives: &[Life], port: u16) -> Vec<Life> {
    lives
        .iter()
        .filter(|life| event::touches(life, &[port]))
        .cloned()
        .collect()
}
