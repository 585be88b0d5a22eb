//! Filters by port, family and network namespace: all of what matches, and nothing else.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::endings::{close_in_order, connect_twice};
use crate::event::{self, Life, State};
use crate::kernel_trace::KernelTrace;
use crate::netns::Netns;
use crate::sockets::{Family, Pair, Socket};
use crate::tracer::{self, Tracer};
use crate::{Scenario, compare, netns, ports, sys};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "filters: --port shows the early event",
            port_shows_early_event,
        ),
        Scenario::new(
            "filters: --port with a bound client's port",
            port_of_bound_client,
        ),
        Scenario::new("filters: --lport of a listener", local_port_of_listener),
        Scenario::new(
            "filters: --lport that the kernel chooses later",
            local_port_chosen_later,
        ),
        Scenario::new(
            "filters: --port that the kernel chooses for a listener",
            listener_chosen_later,
        ),
        Scenario::new("filters: --rport", remote_port),
        Scenario::new("filters: repeated --port and comma lists", repeated_ports),
        Scenario::new("filters: --lport and --rport together", both_sides),
        Scenario::new("filters: -4 and -6 (ipv4, ipv6)", families),
        Scenario::new("filters: --state in both spellings", states),
        Scenario::new("filters: -N of another namespace", other_namespace),
        Scenario::new("filters: -N of several namespaces", several_namespaces),
        Scenario::new("filters: -N by inode, path and name", namespace_by_any_word),
    ]
}

/// Traces with the flags while ordinary connections to each port are made, and compares with the
/// lives that `wanted` picks from the kernel's record. Returns those.
///
/// The ports come forth and back: what matched must not be taken for its successor in the same
/// memory, nor the other way round.
fn compare_filtered(
    flags: &[&str],
    ports: &[u16],
    wanted: impl Fn(&Life) -> bool,
) -> Result<Vec<Life>> {
    let mut kernel = KernelTrace::start()?;
    let tracer = Tracer::json(flags)?;
    for port in ports.iter().chain(ports.iter().rev()) {
        connect_twice(Family::V4, *port)?;
    }
    let mut lives = kernel.wait_until_over(ports)?;
    let all = lives.len();
    lives.retain(wanted);
    ensure!(
        !lives.is_empty() && lives.len() < all,
        "the filter must pick some of the {all} sockets, not {}",
        lives.len()
    );
    compare::same(&lives, &tracer.stop()?).with_context(|| format!("with {flags:?}"))?;
    Ok(lives)
}

fn port_shows_early_event() -> Result<()> {
    netns::with_new(|_| {
        let [port, other] = [ports::next(), ports::next()];
        let flags = ["--port", &port.to_string()];
        let lives = compare_filtered(&flags, &[other, port], |life| event::touches(life, &[port]))?;
        let early = |life: &&Life| {
            let first = &life[0].step;
            first.old == State::CLOSE && first.new == State::SYN_SENT && first.lport == 0
        };
        let count = lives.iter().filter(early).count();
        ensure!(
            count == 4,
            "four clients must have begun with local port 0, but {count} did"
        );
        Ok(())
    })
}

/// The port of the filter is on the client's side, and known before the connection.
fn port_of_bound_client() -> Result<()> {
    netns::with_new(|_| {
        let [server_port, client_port] = [ports::next(), ports::next()];
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["-P", &client_port.to_string()])?;
        connect_from(server_port, client_port)?;
        connect_twice(Family::V4, server_port)?;
        let mut lives = kernel.wait_until_over(&[server_port])?;
        lives.retain(|life| event::touches(life, &[client_port]));
        ensure!(
            lives.len() == 2,
            "two ends have the client's port, not {}",
            lives.len()
        );
        compare::same(&lives, &tracer.stop()?)
    })
}

fn connect_from(server_port: u16, client_port: u16) -> Result<()> {
    let listener = Family::V4.listener(server_port)?;
    let client = Family::V4.client()?;
    client.bind(Family::V4.connects_to(client_port))?;
    client.connect(Family::V4.connects_to(server_port))?;
    let server = listener.accept()?;
    close_in_order(server, &client)
}

fn local_port_of_listener() -> Result<()> {
    netns::with_new(|_| {
        let [port, other] = [ports::next(), ports::next()];
        let flags = ["-L", &port.to_string()];
        compare_filtered(&flags, &[other, port], |life| {
            event::has_local(life, &[port])
        })
        .map(drop)
    })
}

/// The client's port is 0 in its first event, and the kernel then takes the only one there is.
fn local_port_chosen_later() -> Result<()> {
    netns::with_new(|_| {
        let [server_port, chosen] = [ports::next(), ports::next()];
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--lport", &chosen.to_string()])?;
        // Others whose port is unknown at first as well, and then is not the one.
        connect_twice(Family::V6, server_port)?;
        netns::set_sysctl("ipv4/ip_local_port_range", &format!("{chosen} {chosen}"))?;
        let listener = Family::V4.listener(server_port)?;
        let Pair { client, server } = Family::V4.pair(&listener, server_port)?;
        close_in_order(server, &client)?;
        drop((client, listener));
        let mut lives = kernel.wait_until_over(&[server_port])?;
        lives.retain(|life| event::has_local(life, &[chosen]));
        ensure!(
            lives.len() == 1 && lives[0][0].step.lport == 0,
            "one client must have begun without a port and then got {chosen}: {lives:#?}"
        );
        compare::same(&lives, &tracer.stop()?)
    })
}

/// A listener without bind() is in LISTEN before it has a port.
fn listener_chosen_later() -> Result<()> {
    netns::with_new(|_| {
        let chosen = ports::next();
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--port", &chosen.to_string()])?;
        netns::set_sysctl("ipv4/ip_local_port_range", &format!("{chosen} {chosen}"))?;
        let listener = Socket::new(false)?;
        listener.listen(1)?;
        ensure!(
            listener.local_port()? == chosen,
            "there is only one port to choose"
        );
        drop(listener);
        let lives = kernel.wait_until_over(&[chosen])?;
        ensure!(
            lives.len() == 1 && lives[0].len() == 2 && lives[0][0].step.lport == 0,
            "a listener must have begun without a port and then got {chosen}: {lives:#?}"
        );
        compare::same(&lives, &tracer.stop()?)
    })
}

fn remote_port() -> Result<()> {
    netns::with_new(|_| {
        let [port, other] = [ports::next(), ports::next()];
        let flags = ["-D", &port.to_string()];
        compare_filtered(&flags, &[other, port], |life| {
            event::has_remote(life, &[port])
        })
        .map(drop)
    })
}

fn repeated_ports() -> Result<()> {
    netns::with_new(|_| {
        let [one, two, three, none] = [ports::next(), ports::next(), ports::next(), ports::next()];
        let flags = ["--port", &one.to_string(), "-P", &format!("{two},{three}")];
        let all = [one, none, two, three];
        compare_filtered(&flags, &all, |life| {
            event::touches(life, &[one, two, three])
        })
        .map(drop)
    })
}

/// Two filters of different kinds must both hold.
fn both_sides() -> Result<()> {
    netns::with_new(|_| {
        let [server_port, client_port, other] = [ports::next(), ports::next(), ports::next()];
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&[
            "-L",
            &client_port.to_string(),
            "-D",
            &server_port.to_string(),
        ])?;
        connect_from(server_port, client_port)?;
        connect_from(server_port, other)?;
        connect_twice(Family::V4, server_port)?;
        let mut lives = kernel.wait_until_over(&[server_port])?;
        lives.retain(|life| event::has_local(life, &[client_port]));
        ensure!(
            lives.len() == 1,
            "one socket has both ports, not {}",
            lives.len()
        );
        compare::same(&lives, &tracer.stop()?)
    })
}

fn families() -> Result<()> {
    netns::with_new(|_| {
        let [v4_port, v6_port] = [ports::next(), ports::next()];
        let both = ports::list(&[v4_port, v6_port]);
        for (flag, ipv6) in [("-4", false), ("-6", true)] {
            let mut kernel = KernelTrace::start()?;
            let tracer = Tracer::json(&[flag, "--port", &both])?;
            connect_twice(Family::V4, v4_port)?;
            connect_twice(Family::V6, v6_port)?;
            let mut lives = kernel.wait_until_over(&[v4_port, v6_port])?;
            lives.retain(|life| life[0].step.ipv6 == ipv6);
            ensure!(
                lives.len() == 5,
                "a listener and four ends, not {}",
                lives.len()
            );
            compare::same(&lives, &tracer.stop()?).with_context(|| format!("with {flag}"))?;
        }
        Ok(())
    })
}

/// Only transitions of the states asked for are shown, yet the times are as if all were.
fn states() -> Result<()> {
    netns::with_new(|_| {
        let spelling = "fin_wait1,CLOSE-WAIT";
        let port = ports::next();
        let mut kernel = KernelTrace::start()?;
        let tracer = Tracer::json(&["--port", &port.to_string(), "--state", spelling])?;
        connect_twice(Family::V4, port)?;
        let lives = kernel.wait_until_over(&[port])?;
        let report = tracer.stop()?;
        let asked = [State::FIN_WAIT1, State::CLOSE_WAIT];
        let mut entered: Vec<_> = lives.iter().flatten().map(|event| &event.step).collect();
        entered.retain(|step| asked.contains(&step.new));
        let printed: Vec<_> = report
            .events()
            .into_iter()
            .map(|event| event.step)
            .collect();
        for step in &entered {
            ensure!(
                printed.contains(step),
                "with {spelling} the tracer must show {step}"
            );
        }
        for step in &printed {
            ensure!(
                asked.contains(&step.new) || asked.contains(&step.old),
                "with {spelling} the tracer must not show {step}"
            );
        }
        for transition in &report.transitions {
            ensure!(
                transition.in_state_ns.is_some(),
                "the tracer saw the state begin, shown or not: {transition:?}"
            );
        }
        Ok(())
    })
}

fn other_namespace() -> Result<()> {
    netns::with_new(|ours| {
        netns::with_new(|theirs| {
            let port = ports::next();
            ensure!(
                ours.inode != theirs.inode,
                "two namespaces must have two inodes"
            );
            let mut kernel = KernelTrace::start()?;
            let elsewhere = ours.path.to_str().context("a path that is not UTF-8")?;
            let tracer = Tracer::json_command(tracer::command(&["--json", "-N", elsewhere], &[]))?;
            connect_twice(Family::V4, port)?;
            kernel.wait_until_over(&[port])?;
            let report = tracer.stop()?;
            let seen = report.transitions.len();
            ensure!(
                seen == 0,
                "{seen} transitions came from a namespace not asked for"
            );
            Ok(())
        })
    })
}

/// Shown is what is in any of them, older than the trace or not; and nothing else.
fn several_namespaces() -> Result<()> {
    netns::with_new(|one| {
        let older = connected()?;
        netns::with_new(|two| {
            let also_older = connected()?;
            netns::with_new(|three| {
                let [one_path, two_path, three_path] =
                    [one, two, three].map(|netns| netns.path.display().to_string());
                let both = format!("{one_path},{two_path}");
                let flags = ["--json", "-N", &both, "--netns", &three_path];
                let tracer = Tracer::json_command(tracer::command(&flags, &[]))?;
                netns::with_new(|_| connect_twice(Family::V4, ports::next()))?;
                connect_twice(Family::V4, ports::next())?;
                for Pair { client, server } in [older, also_older] {
                    close_in_order(client, &server)?;
                }
                let report = tracer.stop_settled()?;
                let seen: BTreeSet<u32> =
                    report.transitions.iter().map(|line| line.netns).collect();
                ensure!(
                    seen == BTreeSet::from([one.inode, two.inode, three.inode]),
                    "seen were {seen:?}"
                );
                let older = report.connections.iter().filter(|told| !told.complete);
                ensure!(
                    older.clone().count() == 4 && older.clone().all(|told| told.owner.is_some()),
                    "four ends are older than the trace, and have an owner: {:#?}",
                    older.collect::<Vec<_>>()
                );
                Ok(())
            })
        })
    })
}

/// A connection whose listener is gone.
fn connected() -> Result<Pair> {
    let port = ports::next();
    let listener = Family::V4.listener(port)?;
    Ok(Family::V4.pair(&listener, port)?)
}

fn namespace_by_any_word() -> Result<()> {
    netns::with_new(|netns| {
        let name = named(netns)?;
        let inode = netns.inode.to_string();
        let path = netns.path.to_str().context("a path that is not UTF-8")?;
        for word in [&inode, path, name] {
            let port = ports::next();
            let mut kernel = KernelTrace::start()?;
            let tracer = Tracer::json_command(tracer::command(&["--json", "--netns", word], &[]))?;
            connect_twice(Family::V4, port)?;
            let lives = kernel.wait_until_over(&[port])?;
            compare::same(&lives, &tracer.stop()?).with_context(|| format!("with -N {word}"))?;
        }
        Ok(())
    })
}

/// Gives the namespace a name, where `ip netns` keeps names, on a /run that only this thread sees.
fn named(netns: &Netns) -> Result<&'static str> {
    let name = "tcptrace-test";
    sys::unshare(libc::CLONE_NEWNS).context("cannot make a mount namespace")?;
    sys::mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE)?;
    fs::create_dir_all("/run")?;
    sys::mount("tmpfs", "/run", "tmpfs", 0)?;
    fs::create_dir("/run/netns")?;
    let file = format!("/run/netns/{name}");
    fs::write(&file, "")?;
    let path = netns.path.to_str().context("a path that is not UTF-8")?;
    sys::mount(path, &file, "", libc::MS_BIND)?;
    Ok(name)
}
