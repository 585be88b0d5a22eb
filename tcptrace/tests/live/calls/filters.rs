//! Filters let through what was asked for, also where it failed, and nothing else.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tcptrace::bpf::calls::Calls;
use tcptrace::bpf::filters::{Family as Wanted, Filters};
use tcptrace_common::PortSet;
use tcptrace_model::SocketCall;
use tcptrace_model::conflict::Call;

use crate::puppet::Puppet;
use crate::sockets::{Family, Socket};
use crate::watch::{Watch, with_each_backend};
use crate::{netns, ports, sys};

const NOBODY: u32 = 65_534;

pub(super) fn all() -> Result<()> {
    with_each_backend(|backend| {
        by_port(backend).context("ports")?;
        by_owner(backend).context("owners")?;
        by_family(backend).context("families")
    })
}

/// A holder, a bind() and a connect() that fail, all with this port; for another port, too.
fn fail_on(port: u16) -> Result<()> {
    for port in [port, ports::next()] {
        let at = Family::V4.listens_on(port);
        let holder = Socket::new(false)?;
        holder.bind(at)?;
        ensure!(Socket::new(false)?.bind(at).is_err(), "it is held");
        ensure!(Socket::new(false)?.connect(at).is_err(), "nobody listens");
        holder.listen(1)?;
    }
    Ok(())
}

fn names(calls: &[SocketCall]) -> Vec<(Call, bool)> {
    calls
        .iter()
        .map(|call| (call.call, call.error == 0))
        .collect()
}

fn by_port(backend: Calls) -> Result<()> {
    let local = [(Call::Bind, true), (Call::Bind, false)];
    let connect = [(Call::Connect, false)];
    let listen = [(Call::Listen, true)];
    for (set, expected) in [
        (PortSet::Either, [&local[..], &connect, &listen].concat()),
        (PortSet::Local, [&local[..], &listen].concat()),
        (PortSet::Remote, connect.to_vec()),
    ] {
        let port = ports::next();
        let mut watch = Watch::here(backend, |filters| filters.ports.push((set, port)))?;
        fail_on(port)?;
        let calls = watch.calls(expected.len())?;
        ensure!(names(&calls) == expected, "{set:?}: {calls:?}");
    }
    Ok(())
}

fn by_owner(backend: Calls) -> Result<()> {
    // Another process than the one that calls: nothing.
    let puppet = Puppet::start()?;
    let mut watch = Watch::here(backend, |filters| filters.pid = Some(puppet.pid()))?;
    fail_on(ports::next())?;
    watch.calls(0)?;
    let own = |filters: &mut Filters| filters.pid = Some(std::process::id());
    let mut watch = Watch::here(backend, own)?;
    fail_on(ports::next())?;
    watch.calls(8)?;

    let mut watch = Watch::here(backend, |filters| filters.uid = Some(NOBODY))?;
    fail_on(ports::next())?;
    let port = ports::next();
    std::thread::scope(|scope| {
        let nobody = scope.spawn(|| -> Result<()> {
            sys::become_user_in_this_thread(NOBODY)?;
            Ok(Socket::new(false)?.bind(Family::V4.listens_on(port))?)
        });
        nobody.join().map_err(|_| anyhow::anyhow!("a panic"))?
    })?;
    let calls = watch.calls(1)?;
    ensure!(
        calls[0]
            .asked
            .is_some_and(|asked| asked.addr.port() == port)
    );

    // In another namespace: nothing.
    let mut watch = Watch::here(backend, |_| {})?;
    netns::with_new(|_| fail_on(ports::next()))?;
    watch.calls(0)?;

    let mut watch = Watch::here(backend, |filters| filters.cgroup_id = Some(1 << 40))?;
    fail_on(ports::next())?;
    watch.calls(0).map(drop)
}

fn by_family(backend: Calls) -> Result<()> {
    for (wanted, at) in [(Wanted::Ipv4, "127.0.0.1"), (Wanted::Ipv6, "::1")] {
        let mut watch = Watch::here(backend, |filters| filters.family = Some(wanted))?;
        for ip in ["127.0.0.1", "::1"] {
            let at = SocketAddr::new(ip.parse()?, ports::next());
            Socket::new(at.is_ipv6())?.bind(at)?;
        }
        let calls = watch.calls(1)?;
        ensure!(calls[0].local.ip().to_string() == at, "{calls:?}");
    }
    Ok(())
}
