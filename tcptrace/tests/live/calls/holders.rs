//! The sockets that hold the port of a call that failed, as the kernel's own table has them.

use anyhow::{Context, Result, ensure};
use tcptrace::bpf::calls::Calls;
use tcptrace_model::conflict::Call;
use tcptrace_model::{Input, ListedHolder, Listing, Phase, SocketCall, TcpState};

use crate::sockets::{Family, Socket};
use crate::watch::{Watch, calls, with_each_backend};
use crate::{ports, sys};

/// More sockets on one port than are listed.
const CROWD: usize = 400;

pub(super) fn all() -> Result<()> {
    with_each_backend(|backend| {
        mixed(backend).context("mixed")?;
        of_connect(backend).context("connect")?;
        crowd(backend).context("crowd")
    })
}

/// The holders before each call that failed.
fn listed(inputs: &[Input]) -> Result<Vec<(SocketCall, Vec<ListedHolder>)>> {
    let mut found = Vec::new();
    let mut holders: Vec<ListedHolder> = Vec::new();
    for input in inputs {
        match input {
            Input::Holder(holder) => holders.push(*holder),
            Input::Call(call) => {
                let own = std::mem::take(&mut holders);
                ensure!(own.iter().all(|holder| holder.asker == call.sk), "{own:?}");
                if call.error != 0 {
                    found.push((*call, own));
                }
            }
            _ => {}
        }
    }
    ensure!(holders.is_empty(), "of no call: {holders:?}");
    Ok(found)
}

/// A listener, its child, a minisocket, one only bound elsewhere, one of IPv6.
fn mixed(backend: Calls) -> Result<()> {
    let port = ports::next();
    let at = Family::V4.listens_on(port);
    let listener = Socket::new(false)?;
    listener.set_reuse_address(true)?;
    listener.bind(at)?;
    listener.listen(8)?;
    let open = Family::V4.pair(&listener, port)?;
    let first = Family::V4.pair(&listener, port)?;
    let gone = first.server.cookie()?;
    let closed_ns = sys::boottime_ns()?;
    drop(first.server);
    ensure!(first.client.receive()? == 0, "the FIN must arrive");
    drop(first.client);
    let bound = Socket::new(false)?;
    bound.set_reuse_port(true)?;
    bound.bind(format!("127.0.0.2:{port}").parse()?)?;
    let native = Socket::new(true)?;
    native.bind(Family::V6.listens_on(port))?;
    let cookies = [
        listener.cookie()?,
        open.server.cookie()?,
        bound.cookie()?,
        native.cookie()?,
    ];
    std::thread::sleep(std::time::Duration::from_millis(50));

    let mut watch = Watch::here(backend, |_| {})?;
    let asker = Socket::new(false)?;
    ensure!(asker.bind(at).is_err(), "somebody listens");
    let inputs = watch.until(|inputs| !calls(inputs).is_empty())?;
    let failed = listed(&inputs)?;
    ensure!(failed.len() == 1, "{failed:#?}");
    let (call, holders) = &failed[0];
    ensure!(call.listing == Listing::Whole, "{call:?}");
    ensure!(holders.len() == 5, "{holders:#?}");
    let with = |cookie: u64| {
        holders
            .iter()
            .find(|one| one.holder.cookie.is_some_and(|has| has.get() == cookie))
            .with_context(|| format!("{cookie} is not among {holders:#?}"))
    };
    let states = [
        TcpState::Listen,
        TcpState::Established,
        TcpState::Close,
        TcpState::Close,
    ];
    for (cookie, state) in cookies.into_iter().zip(states) {
        let one = with(cookie)?;
        ensure!(
            one.holder.state == state && one.holder.minisocket.is_none(),
            "{one:?}"
        );
        ensure!(
            one.holder.local.port() == port && one.expires_ns.is_none(),
            "{one:?}"
        );
        ensure!(
            one.netns == call.netns && one.holder.uid == Some(0),
            "{one:?}"
        );
    }
    let options = |cookie: u64| -> Result<_> {
        let holder = with(cookie)?.holder;
        Ok((holder.reuseaddr, holder.reuseport, holder.port_bound))
    };
    let (yes, no) = (Some(true), Some(false));
    ensure!(options(cookies[0])? == (yes, no, yes));
    ensure!(options(cookies[1])? == (yes, no, no));
    ensure!(options(cookies[2])? == (no, yes, yes));
    ensure!(with(cookies[3])?.holder.local == Family::V6.listens_on(port));
    let minisocket = with(gone)?;
    ensure!(
        minisocket.holder.minisocket == Some(Phase::TimeWait),
        "{minisocket:?}"
    );
    ensure!(minisocket.holder.timestamps == yes, "{minisocket:?}");
    ensure!(minisocket.holder.reuseaddr == yes, "{minisocket:?}");
    let lasts = minisocket
        .expires_ns
        .map(|at| at.saturating_sub(closed_ns) / 1_000_000_000);
    // The peer's FIN sets the timer, a moment later on a slow machine.
    ensure!(
        lasts.is_some_and(|lasts| (59..=65).contains(&lasts)),
        "{minisocket:?}"
    );

    // Where the kernel itself says which it was, it is one of those that are in the way.
    if let Some(guilty) = call.guilty {
        let named = holders.iter().find(|one| one.holder.sk == guilty);
        let named = named.with_context(|| format!("{guilty:x} is not listed"))?;
        ensure!(named.holder.local == at, "{named:?}");
        ensure!(backend == Calls::Fentry);
    }
    drop(open.client);
    Ok(())
}

/// A connection with the same two addresses and ports.
fn of_connect(backend: Calls) -> Result<()> {
    let port = ports::next();
    let from = format!("127.0.0.1:{}", ports::next()).parse()?;
    let listener = Family::V4.listener(port)?;
    let make = || -> Result<Socket> {
        let client = Socket::new(false)?;
        client.set_reuse_address(true)?;
        client.bind(from)?;
        Ok(client)
    };
    let (first, second) = (make()?, make()?);
    first.connect(Family::V4.connects_to(port))?;
    let mut watch = Watch::here(backend, |_| {})?;
    ensure!(second.connect(Family::V4.connects_to(port)).is_err());
    let inputs = watch.until(|inputs| !calls(inputs).is_empty())?;
    let failed = listed(&inputs)?;
    let (call, holders) = &failed[0];
    ensure!(
        call.call == Call::Connect && call.asker.local == from,
        "{call:?}"
    );
    ensure!(i32::from(call.error) == libc::EADDRNOTAVAIL, "{call:?}");
    ensure!(
        call.listing == Listing::Whole && holders.len() == 2,
        "{holders:#?}"
    );
    let other = holders.iter().find(|one| one.holder.sk != call.sk);
    let other = other.context("the other one is listed")?;
    ensure!(other.holder.state == TcpState::Established, "{other:?}");
    ensure!(
        other.holder.remote == Family::V4.connects_to(port),
        "{other:?}"
    );
    drop(listener);
    Ok(())
}

/// The list is cut, and says so; the listener is in it all the same.
fn crowd(backend: Calls) -> Result<()> {
    let port = ports::next();
    let listener = Family::V4.listener(port)?;
    let pairs = (0..CROWD)
        .map(|_| Family::V4.pair(&listener, port))
        .collect::<Result<Vec<_>, _>>()?;
    let mut watch = Watch::here(backend, |_| {})?;
    ensure!(
        Socket::new(false)?
            .bind(Family::V4.listens_on(port))
            .is_err()
    );
    let inputs = watch.until(|inputs| !calls(inputs).is_empty())?;
    let failed = listed(&inputs)?;
    let (call, holders) = &failed[0];
    ensure!(call.listing == Listing::Cut, "{call:?}");
    ensure!(holders.len() < CROWD, "{} of {CROWD}", holders.len());
    ensure!(
        holders
            .iter()
            .any(|one| one.holder.state == TcpState::Listen),
        "the listener is not listed"
    );
    drop(pairs);
    Ok(())
}
