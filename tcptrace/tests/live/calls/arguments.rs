//! Who called, what was asked for, what came of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

use anyhow::{Context, Result, ensure};
use tcptrace::bpf::calls::Calls;
use tcptrace_model::conflict::{Call, Family};
use tcptrace_model::{Input, SocketCall, TcpState};

use crate::sockets::{Family as Ends, Socket};
use crate::watch::{Watch, named, with_each_backend};
use crate::{ports, sys};

/// The user "nobody", on every distribution.
const NOBODY: u32 = 65_534;

pub(super) fn all() -> Result<()> {
    with_each_backend(|calls| {
        for family in [Ends::V4, Ends::V6] {
            of_family(calls, family).with_context(|| family.name())?;
        }
        Ok(())
    })
}

fn any(family: Ends) -> IpAddr {
    match family {
        Ends::V6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

fn of_family(backend: Calls, family: Ends) -> Result<()> {
    let port = ports::next();
    let at = family.listens_on(port);
    let nothing = SocketAddr::new(any(family), 0);
    let mut watch = Watch::here(backend, |_| {})?;
    sys::name_this_thread(c"asks")?;

    let before_ns = sys::boottime_ns()?;
    let holder = Socket::new(at.is_ipv6())?;
    holder.bind(at)?;
    holder.listen(7)?;
    holder.listen(9)?;
    let second = Socket::new(at.is_ipv6())?;
    let cookie = second.cookie()?;
    ensure!(second.bind(at).is_err(), "the port is held");
    // It listens anywhere then.
    second.listen(3)?;
    let chosen = second.local_port()?;
    ensure!(second.bind(at).is_err(), "it is bound already");
    // Nobody listens there.
    let closed = SocketAddr::new(at.ip(), ports::next());
    let client = family.client()?;
    ensure!(client.connect(closed).is_err(), "nobody listens");
    let connected = family.connect(port)?;
    let after_ns = sys::boottime_ns()?;

    let calls = watch.calls(7)?;
    for call in &calls {
        check_task(call)?;
        ensure!(
            before_ns <= call.ts_ns && call.ts_ns <= after_ns,
            "{call:?}"
        );
        ensure!(
            call.began_ns
                .is_some_and(|began| before_ns <= began && began <= call.ts_ns),
            "{call:?}"
        );
        let is_v6 = call.asker.family == Family::V6;
        ensure!(is_v6 == at.is_ipv6(), "{call:?}");
    }
    let binds = named(&calls, Call::Bind);
    let listens = named(&calls, Call::Listen);
    let connects = named(&calls, Call::Connect);
    ensure!((binds.len(), listens.len(), connects.len()) == (3, 3, 1));

    // The holder.
    let asked = |call: &SocketCall| call.asked.map(|asked| (asked.family, asked.addr));
    let number: u16 = if at.is_ipv6() { 10 } else { 2 };
    let len = if at.is_ipv6() { 28 } else { 16 };
    for (call, error) in binds.iter().zip([0, libc::EADDRINUSE, libc::EINVAL]) {
        ensure!(i32::from(call.error) == error, "{call:?}");
        ensure!(asked(call) == Some((number, at)), "{call:?}");
        ensure!(call.asked.is_some_and(|asked| asked.len == len), "{call:?}");
    }
    ensure!(
        binds[0].local == at && binds[0].asker.local == nothing,
        "{:?}",
        binds[0]
    );
    ensure!(binds[0].sk == listens[0].sk && listens[0].sk == listens[1].sk);
    let states = listens.iter().map(|call| (call.asker.state, call.backlog));
    let expected = [
        (TcpState::Close, 7),
        (TcpState::Listen, 9),
        (TcpState::Close, 3),
    ];
    ensure!(states.eq(expected), "{listens:?}");
    ensure!(
        listens
            .iter()
            .all(|call| call.error == 0 && call.asked.is_none())
    );
    ensure!(
        listens[0].asker.local == at && listens[0].local == at,
        "{:?}",
        listens[0]
    );

    // The one that comes second.
    ensure!(binds[1].cookie == NonZeroU64::new(cookie), "{:?}", binds[1]);
    ensure!(
        binds[1].local == nothing && binds[1].asker.local == nothing,
        "{:?}",
        binds[1]
    );
    let anywhere = SocketAddr::new(any(family), chosen);
    ensure!(listens[2].sk == binds[1].sk, "one socket");
    ensure!(
        listens[2].asker.local == nothing && listens[2].local == anywhere,
        "{:?}",
        listens[2]
    );
    ensure!(binds[2].asker.state == TcpState::Listen, "{:?}", binds[2]);
    ensure!(binds[2].asker.local == anywhere, "{:?}", binds[2]);

    let refused = &connects[0];
    ensure!(
        i32::from(refused.error) == libc::ECONNREFUSED,
        "{refused:?}"
    );
    ensure!(asked(refused) == Some((number, closed)), "{refused:?}");
    ensure!(refused.asker.local == nothing, "{refused:?}");
    drop((holder, connected));
    Ok(())
}

fn check_task(call: &SocketCall) -> Result<()> {
    // SAFETY: gettid takes nothing.
    let tid = unsafe { libc::gettid() };
    ensure!(call.task.pid == std::process::id(), "{call:?}");
    ensure!(i64::from(call.task.tid) == i64::from(tid), "{call:?}");
    ensure!(call.task.comm.as_bytes() == b"asks", "{call:?}");
    ensure!(call.asker.uid == 0 && !call.refused_by_lsm, "{call:?}");
    let here = tcptrace::host::netns::Namespace::own().map_err(anyhow::Error::msg)?;
    ensure!(call.netns == Some(here.inode), "{call:?}");
    Ok(())
}

/// Datagrams, Unix sockets, files, nothing at all; and success, and patience.
pub(super) fn others() -> Result<()> {
    with_each_backend(|backend| {
        let port = ports::next();
        let listener = Ends::V4.listener(port)?;
        let mut watch = Watch::here(backend, |_| {})?;
        let datagram = UdpSocket::bind("127.0.0.1:0")?;
        datagram.connect("127.0.0.1:9")?;
        let folder = tempfile()?;
        drop(UnixListener::bind(folder.join("socket"))?);
        let file = std::fs::File::open("/proc/self/status")?;
        // SAFETY: listen takes integers only.
        unsafe {
            libc::listen(file.as_raw_fd(), 1);
            libc::listen(-1, 1);
            libc::listen(1 << 20, 1);
        }
        std::fs::remove_dir_all(folder)?;
        // One that succeeds, and one that goes on; transitions tell of both.
        let client = Ends::V4.connect(port)?;
        let patient = Socket::new(false)?;
        patient.set_nonblocking()?;
        let _ = patient.connect(Ends::V4.connects_to(port));
        watch.calls(0)?;

        // What cannot be read, and what is cut short.
        let socket = Socket::new(false)?;
        // SAFETY: the kernel refuses the address.
        unsafe { libc::bind(socket.as_raw_fd(), std::ptr::without_provenance(8), 16) };
        let short = [2_u8, 0, 0, 80];
        // SAFETY: the kernel reads as many bytes as it is told of.
        unsafe { libc::bind(socket.as_raw_fd(), short.as_ptr().cast(), 4) };
        let seen = if backend == Calls::Syscalls {
            let calls = watch.calls(2)?;
            ensure!(i32::from(calls[0].error) == libc::EFAULT, "{:?}", calls[0]);
            ensure!(calls[0].asked.is_none(), "{:?}", calls[0]);
            calls[1]
        } else {
            // The functions are not reached with an address that cannot be read.
            watch.calls(1)?[0]
        };
        ensure!(i32::from(seen.error) == libc::EINVAL, "{seen:?}");
        let asked = seen.asked.context("it could be read")?;
        ensure!(asked.len == 4 && asked.family == 2, "{asked:?}");
        ensure!(asked.addr == "0.0.0.0:80".parse()?, "{asked:?}");
        drop((listener, client));
        Ok(())
    })
}

fn tempfile() -> Result<std::path::PathBuf> {
    let folder =
        std::env::temp_dir().join(format!("tcptrace-{}-{}", std::process::id(), ports::next()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The task that accepts is told, not that which listens.
pub(super) fn accepted() -> Result<()> {
    with_each_backend(|backend| {
        let port = ports::next();
        let mut watch = Watch::here(backend, |_| {})?;
        let listener = Ends::V4.listener(port)?;
        let client = Ends::V4.connect(port)?;
        let child = std::thread::scope(|scope| {
            let acceptor = scope.spawn(|| -> Result<(i32, Socket)> {
                sys::name_this_thread(c"acceptor")?;
                // SAFETY: gettid takes nothing.
                Ok((unsafe { libc::gettid() }, listener.accept()?))
            });
            acceptor
                .join()
                .map_err(|_| anyhow::anyhow!("the acceptor panicked"))?
        })?;
        let is_accept = |input: &Input| matches!(input, Input::Accepted(_));
        let inputs = watch.until(|inputs| inputs.iter().any(is_accept))?;
        let accepts: Vec<_> = inputs
            .iter()
            .filter_map(|input| match input {
                Input::Accepted(accepted) => Some(*accepted),
                _ => None,
            })
            .collect();
        ensure!(accepts.len() == 1, "{accepts:?}");
        let (tid, socket) = child;
        ensure!(
            i64::from(accepts[0].task.tid) == i64::from(tid),
            "{accepts:?}"
        );
        ensure!(
            accepts[0].task.comm.as_bytes() == b"acceptor",
            "{accepts:?}"
        );
        let is_it = |input: &Input| {
            matches!(input, Input::Transition(transition)
                if transition.socket.sk == accepts[0].sk
                    && transition.newstate == TcpState::Established
                    && transition.socket.local.port() == port)
        };
        ensure!(inputs.iter().any(is_it), "the child was established");
        drop((socket, client));
        Ok(())
    })
}

/// Whether a task may bind to privileged ports.
pub(super) fn rights() -> Result<()> {
    with_each_backend(|backend| {
        let mut watch = Watch::here(backend, |_| {})?;
        let at = "127.0.0.1:81".parse()?;
        let holder = Socket::new(false)?;
        holder.bind(at)?;
        ensure!(Socket::new(false)?.bind(at).is_err());
        std::thread::scope(|scope| {
            let nobody = scope.spawn(|| -> Result<()> {
                sys::become_user_in_this_thread(NOBODY)?;
                ensure!(Socket::new(false)?.bind(at).is_err());
                Ok(())
            });
            nobody.join().map_err(|_| anyhow::anyhow!("a panic"))?
        })?;
        let calls = watch.calls(3)?;
        ensure!(
            i32::from(calls[1].error) == libc::EADDRINUSE,
            "{:?}",
            calls[1]
        );
        ensure!(
            calls[1].asker.may_bind_privileged == Some(true),
            "{:?}",
            calls[1]
        );
        ensure!(i32::from(calls[2].error) == libc::EACCES, "{:?}", calls[2]);
        ensure!(
            calls[2].asker.may_bind_privileged == Some(false),
            "{:?}",
            calls[2]
        );
        ensure!(calls[2].asker.uid == NOBODY, "{:?}", calls[2]);
        Ok(())
    })
}
