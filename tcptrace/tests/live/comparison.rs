//! Every kind of connection and socket life, tracer and kernel one for one.

use std::net::IpAddr;

use anyhow::{Result, ensure};

use crate::bench::{play_endings, play_scenes};
use crate::endings::ENDINGS;
use crate::event::{self, Life};
use crate::kernel_trace::KernelTrace;
use crate::scenes::SCENES;
use crate::sockets::Family;
use crate::tracer::Tracer;
use crate::{Scenario, compare, netns, ports};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for family in Family::ALL {
        scenarios.push(Scenario::new(
            format!("comparison: {} connections", family.name()),
            move || connections(family),
        ));
    }
    scenarios.push(Scenario::new(
        "comparison: scenes (ipv4, ipv6, v4-mapped)",
        scenes,
    ));
    scenarios.push(Scenario::new(
        "comparison: scenes through a port filter",
        filtered_scenes,
    ));
    scenarios
}

/// Every ending, with a port filter that names all the server ports.
fn connections(family: Family) -> Result<()> {
    netns::with_new(|_| {
        let ports = ports::several(ENDINGS.len());
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--port", &ports::list(&ports)])?;
        let lives = play_endings(family, &mut kernel, &ports)?;
        let report = tracer.stop()?;
        addresses(family, &lives)?;
        compare::same(&lives, &report)
    })
}

/// Every scene of every family, without a filter but the namespace: nothing else may come from it.
fn scenes() -> Result<()> {
    netns::with_new(|_| {
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&[])?;
        let mut lives = Vec::new();
        for family in Family::ALL {
            let ports = ports::several(SCENES.len());
            lives.extend(play_scenes(family, &mut kernel, &ports)?);
        }
        compare::same(&lives, &tracer.stop()?)
    })
}

/// The scenes whose ports are known before, with a filter that names them.
fn filtered_scenes() -> Result<()> {
    netns::with_new(|_| {
        let ports = ports::several(SCENES.len());
        let named: Vec<u16> = SCENES
            .iter()
            .zip(&ports)
            .filter(|(scene, _)| scene.port_is_known)
            .map(|(_, port)| *port)
            .collect();
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--port", &ports::list(&named)])?;
        let mut lives = play_scenes(Family::V4, &mut kernel, &ports)?;
        lives.retain(|life| event::touches(life, &named));
        compare::same(&lives, &tracer.stop()?)
    })
}

/// The kernel's own record has the addresses that the family's name promises.
fn addresses(family: Family, lives: &[Life]) -> Result<()> {
    let (v4, v6): (IpAddr, IpAddr) = ("127.0.0.1".parse()?, "::1".parse()?);
    let mapped: IpAddr = "::ffff:127.0.0.1".parse()?;
    let wanted: &[IpAddr] = match family {
        Family::V4 => &[v4],
        Family::V6 => &[v6],
        Family::MappedServer | Family::MappedClient => &[v4, mapped],
        Family::MappedBoth => &[mapped],
    };
    let seen = |address| {
        lives
            .iter()
            .flatten()
            .any(|event| event.step.laddr == address)
    };
    for address in [v4, v6, mapped] {
        ensure!(
            seen(address) == wanted.contains(&address),
            "{family:?} connections must have exactly the local addresses {wanted:?}; {address} is \
             wrong"
        );
    }
    Ok(())
}
