//! `tcptrace explain`: what it says of a bind() and the listen() after it, against what the kernel then
//! does.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::puppet::Puppet;
use crate::sockets::Socket;
use crate::{Scenario, netns, ports, sys, tracer};

/// The user "nobody", on every distribution.
const NOBODY: u32 = 65_534;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("explain: what it says is what bind() does", agrees),
        Scenario::new("explain: other addresses", other_addresses),
        Scenario::new("explain: two bound, one listens", second_listener),
        Scenario::new("explain: other users", other_users),
        Scenario::new("explain: owner and namespace", owner_and_namespace),
        Scenario::new(
            "explain: addresses and ports that nobody may have",
            not_for_all,
        ),
        Scenario::new("explain: a thousand in TIME_WAIT", thousand),
        Scenario::new("explain: without privileges", without_privileges),
        Scenario::new("explain: automatic ports", automatic),
    ]
}

/// What holds a port.
#[derive(Clone, Copy, Debug)]
enum Held {
    Nothing,
    Bound(Options),
    Listening(Options),
    /// A connection whose listener is gone.
    Accepted(Options),
    TimeWait(Options),
}

/// `SO_REUSEADDR` and `SO_REUSEPORT`.
#[derive(Clone, Copy, Debug)]
struct Options {
    addr: bool,
    port: bool,
}

const NEITHER: Options = Options {
    addr: false,
    port: false,
};
const ADDR: Options = Options {
    addr: true,
    port: false,
};
const PORT: Options = Options {
    addr: false,
    port: true,
};

impl Options {
    fn flags(self) -> Vec<&'static str> {
        [(self.addr, "--reuseaddr"), (self.port, "--reuseport")]
            .into_iter()
            .filter_map(|(on, flag)| on.then_some(flag))
            .collect()
    }

    fn socket(self, ipv6: bool) -> io::Result<Socket> {
        let socket = Socket::new(ipv6)?;
        socket.set_reuse_address(self.addr)?;
        socket.set_reuse_port(self.port)?;
        Ok(socket)
    }

    fn bound(self, address: SocketAddr) -> io::Result<Socket> {
        let socket = self.socket(address.is_ipv6())?;
        socket.bind(address)?;
        Ok(socket)
    }
}

impl Held {
    /// Makes it. What is returned keeps it.
    fn make(self, address: SocketAddr) -> Result<Vec<Socket>> {
        let listening = |options: Options| -> io::Result<Socket> {
            let socket = options.bound(address)?;
            socket.listen(8)?;
            Ok(socket)
        };
        let accepted = |options| -> io::Result<(Socket, Socket)> {
            let listener = listening(options)?;
            let client = Socket::new(address.is_ipv6())?;
            client.connect(address)?;
            Ok((client, listener.accept()?))
        };
        Ok(match self {
            Self::Nothing => Vec::new(),
            Self::Bound(options) => vec![options.bound(address)?],
            Self::Listening(options) => vec![listening(options)?],
            Self::Accepted(options) => {
                let (client, server) = accepted(options)?;
                vec![client, server]
            }
            Self::TimeWait(options) => {
                let (client, server) = accepted(options)?;
                drop(server);
                drop(client);
                // The minisocket is there when the last FIN has been handled, on loopback at once; the
                // close of the client above is what sends it.
                std::thread::sleep(Duration::from_millis(20));
                Vec::new()
            }
        })
    }
}

/// The outcome of a bind() and of the listen() after it: names of errors.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    bind: Option<String>,
    listen: Option<String>,
}

/// What tcptrace says would come of it.
fn said(lines: &[Value]) -> Result<Outcome> {
    let mut outcome = Outcome {
        bind: None,
        listen: None,
    };
    for line in lines {
        let errno = line["errno"].as_str().map(str::to_owned);
        match line["call"].as_str() {
            Some("bind") => outcome.bind = errno,
            Some("listen") => outcome.listen = errno,
            _ => bail!("neither bind nor listen: {line}"),
        }
        let kind = if line["errno"].is_null() {
            "would_succeed"
        } else {
            "would_fail"
        };
        ensure!(line["kind"] == kind, "{line}");
    }
    Ok(outcome)
}

/// What comes of it.
fn done(address: SocketAddr, options: Options) -> Result<Outcome> {
    let socket = options.socket(address.is_ipv6())?;
    let bind = named(socket.bind(address))?;
    let listen = match bind {
        None => named(socket.listen(8))?,
        Some(_) => None,
    };
    Ok(Outcome { bind, listen })
}

fn named(result: io::Result<()>) -> Result<Option<String>> {
    match result.map_err(|error| error.raw_os_error()) {
        Ok(()) => Ok(None),
        Err(Some(libc::EADDRINUSE)) => Ok(Some("EADDRINUSE".to_owned())),
        Err(Some(libc::EADDRNOTAVAIL)) => Ok(Some("EADDRNOTAVAIL".to_owned())),
        Err(Some(libc::EACCES)) => Ok(Some("EACCES".to_owned())),
        Err(other) => bail!("an errno that was not expected: {other:?}"),
    }
}

/// Runs `tcptrace explain --json` in the calling thread's namespace.
fn explain(arguments: &[&str]) -> Result<Vec<Value>> {
    parsed(
        Command::new(tracer::program())
            .args(["explain", "--json"])
            .args(arguments),
    )
}

fn parsed(command: &mut Command) -> Result<Vec<Value>> {
    let output = command.output().context("cannot start tcptrace")?;
    let stdout = String::from_utf8(output.stdout)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {stderr}");
    stdout
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect()
}

fn ask(address: SocketAddr, options: Options) -> Result<Vec<Value>> {
    let place = address.to_string();
    let mut arguments = vec![place.as_str()];
    arguments.extend(options.flags());
    explain(&arguments)
}

fn at(address: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address.parse::<IpAddr>()?, port))
}

fn agrees() -> Result<()> {
    netns::with_new(|_| {
        for held in [
            Held::Nothing,
            Held::Bound(NEITHER),
            Held::Bound(ADDR),
            Held::Listening(ADDR),
            Held::Listening(PORT),
            Held::Accepted(ADDR),
            Held::TimeWait(NEITHER),
            Held::TimeWait(ADDR),
        ] {
            let address = at("127.0.0.1", ports::next())?;
            let kept = held.make(address)?;
            for options in [NEITHER, ADDR, PORT] {
                let lines = ask(address, options)?;
                ensure!(
                    said(&lines)? == done(address, options)?,
                    "{held:?}, asked with {options:?}: {lines:?}"
                );
                let first = &lines[0];
                let expected = usize::from(!matches!(held, Held::Nothing));
                ensure!(first["holders_total"] == expected, "{held:?}: {first}");
                let is_exact = first["errno"].is_null() || first["certainty"] == "exact";
                ensure!(is_exact, "{held:?}: {first}");
            }
            drop(kept);
        }
        Ok(())
    })
}

fn other_addresses() -> Result<()> {
    netns::with_new(|_| {
        for (holds, asks) in [
            ("127.0.0.1", "127.0.0.2"),
            ("127.0.0.1", "0.0.0.0"),
            ("127.0.0.1", "::"),
            ("127.0.0.1", "::1"),
            ("::1", "0.0.0.0"),
            ("::", "127.0.0.1"),
            ("::", "0.0.0.0"),
        ] {
            let port = ports::next();
            let kept = Held::Listening(NEITHER).make(at(holds, port)?)?;
            let lines = ask(at(asks, port)?, NEITHER)?;
            ensure!(
                said(&lines)? == done(at(asks, port)?, NEITHER)?,
                "{holds} holds, {asks} asks: {lines:?}"
            );
            drop(kept);
        }
        // Any address of both families.
        let port = ports::next();
        let _kept = Held::Listening(NEITHER).make(at("::1", port)?)?;
        let lines = explain(&[&port.to_string()])?;
        ensure!(lines.len() == 2, "{lines:?}");
        ensure!(lines[0]["kind"] == "would_succeed" && lines[0]["addr"] == "0.0.0.0");
        ensure!(lines[1]["kind"] == "would_fail" && lines[1]["addr"] == "::");
        Ok(())
    })
}

/// Both may be bound, but only one can listen.
fn second_listener() -> Result<()> {
    netns::with_new(|_| {
        let address = at("127.0.0.1", ports::next())?;
        let first = ADDR.bound(address)?;
        let second = ADDR.bound(address)?;
        let lines = ask(address, ADDR)?;
        ensure!(
            lines.len() == 1 && lines[0]["kind"] == "would_succeed",
            "{lines:?}"
        );
        ensure!(lines[0]["holders_total"] == 2, "{lines:?}");
        first.listen(8)?;
        let lines = ask(address, ADDR)?;
        ensure!(lines[0]["errno"] == "EADDRINUSE", "{lines:?}");
        ensure!(lines[0]["rule"] == "port_listening", "{lines:?}");
        ensure!(lines[0]["blocking_total"] == 1, "{lines:?}");
        ensure!(holders(&lines[0])[0]["state"] == "LISTEN", "{lines:?}");
        drop(second);
        Ok(())
    })
}

fn holders(line: &Value) -> &[Value] {
    line["holders"].as_array().map_or(&[], Vec::as_slice)
}

/// Runs `body` on a thread of the user "nobody".
fn as_nobody<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                sys::become_user_in_this_thread(NOBODY)?;
                body()
            })
            .join()
            .map_err(|_| anyhow!("the thread of the other user panicked"))?
    })
}

fn other_users() -> Result<()> {
    netns::with_new(|_| {
        let address = at("127.0.0.1", ports::next())?;
        let _kept = PORT.bound(address)?;
        let place = address.to_string();
        let same = explain(&[&place, "--reuseport"])?;
        ensure!(same[0]["kind"] == "would_succeed", "{same:?}");
        let other = explain(&[&place, "--reuseport", "--uid", &NOBODY.to_string()])?;
        ensure!(other[0]["rule"] == "reuseport_other_user", "{other:?}");
        // And the kernel says so, too.
        let refused = as_nobody(|| done(address, PORT))?;
        ensure!(refused.bind.as_deref() == Some("EADDRINUSE"), "{refused:?}");
        Ok(())
    })
}

fn owner_and_namespace() -> Result<()> {
    netns::with_new(|there| {
        let port = ports::next();
        let _kept = NEITHER.bound(at("127.0.0.1", port)?)?;
        let (port, path) = (port.to_string(), there.path.display().to_string());
        netns::with_new(|_| {
            let here = explain(&[&port])?;
            let succeed = here.iter().all(|line| line["kind"] == "would_succeed");
            ensure!(succeed, "{here:?}");
            let there = explain(&[&port, "--netns", &path])?;
            ensure!(there[0]["errno"] == "EADDRINUSE", "{there:?}");
            let [holder] = holders(&there[0]) else {
                bail!("not one holder: {there:?}");
            };
            let is_bound = holder["state"] == "CLOSE" && holder["blocks"] == true;
            ensure!(is_bound && holder["options"] == "kernel", "{holder}");
            Ok(())
        })
    })?;
    // Its owner is known by a file in /proc, which shows those of a process, not of a single thread.
    netns::with_new(|_| {
        let mut puppet = Puppet::start()?;
        let address = at("127.0.0.1", ports::next())?;
        puppet.listen(address)?;
        let lines = ask(address, NEITHER)?;
        let [holder] = holders(&lines[0]) else {
            bail!("not one holder: {lines:?}");
        };
        ensure!(holder["owner"]["pid"] == puppet.pid(), "{holder}");
        ensure!(holder["owner"]["source"] == "proc", "{holder}");
        Ok(())
    })
}

fn not_for_all() -> Result<()> {
    netns::with_new(|_| {
        let foreign = explain(&["192.0.2.7:80"])?;
        ensure!(foreign[0]["rule"] == "address_not_local", "{foreign:?}");
        ensure!(foreign[0]["errno"] == "EADDRNOTAVAIL", "{foreign:?}");
        let freebind = explain(&["192.0.2.7:80", "--freebind"])?;
        ensure!(freebind[0]["kind"] == "would_succeed", "{freebind:?}");
        let privileged = explain(&["127.0.0.1:80", "--uid", "1234"])?;
        ensure!(privileged[0]["rule"] == "privileged_port", "{privileged:?}");
        netns::set_sysctl("ipv4/ip_unprivileged_port_start", "80")?;
        let allowed = explain(&["127.0.0.1:80", "--uid", "1234"])?;
        ensure!(allowed[0]["kind"] == "would_succeed", "{allowed:?}");
        Ok(())
    })
}

/// More than are listed, with a listener behind them all.
fn thousand() -> Result<()> {
    const CONNECTIONS: usize = 1000;
    netns::with_new(|_| {
        let address = at("127.0.0.1", ports::next())?;
        let listener = ADDR.bound(address)?;
        listener.listen(8)?;
        for _ in 0..CONNECTIONS {
            let client = Socket::new(false)?;
            client.connect(address)?;
            drop(listener.accept()?);
            drop(client);
        }
        let lines = ask(address, ADDR)?;
        let first = &lines[0];
        ensure!(first["rule"] == "port_listening", "{first}");
        ensure!(holders(first)[0]["state"] == "LISTEN", "{first}");
        ensure!(first["certainty"] != "exact", "{first}");
        let total = first["holders_total"].as_u64().unwrap_or(0);
        ensure!((100..CONNECTIONS as u64).contains(&total), "{first}");
        Ok(())
    })
}

fn without_privileges() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("tcptrace-explain-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let copy = directory.join("tcptrace");
    fs::copy(tracer::program(), &copy)?;
    for path in [&directory, &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let result = netns::with_new(|_| {
        let ask = |arguments: &[&str]| {
            parsed(
                Command::new(&copy)
                    .args(["explain", "--json"])
                    .args(arguments)
                    .uid(NOBODY)
                    .gid(NOBODY)
                    .current_dir("/"),
            )
        };
        let address = at("127.0.0.1", ports::next())?;
        let place = address.to_string();
        let free = ask(&[&place])?;
        ensure!(free[0]["kind"] == "would_succeed", "{free:?}");
        let _kept = as_nobody(|| Held::Listening(ADDR).make(address))?;
        // Whatever options the listener has, it is in the way of one without any.
        let certain = ask(&[&place])?;
        ensure!(certain[0]["errno"] == "EADDRINUSE", "{certain:?}");
        let [holder] = holders(&certain[0]) else {
            bail!("not one holder: {certain:?}");
        };
        ensure!(
            holder["state"] == "LISTEN" && holder["reuseaddr"].is_null(),
            "{holder}"
        );
        ensure!(holder["options"] == "unknown", "{holder}");
        // Whether it has SO_REUSEPORT decides here, and is not known.
        let depends = ask(&[&place, "--reuseport"])?;
        ensure!(depends[0]["errno"] == "EADDRINUSE", "{depends:?}");
        ensure!(depends[0]["certainty"] == "unknown", "{depends:?}");
        let privileged = ask(&["127.0.0.1:80"])?;
        ensure!(privileged[0]["rule"] == "privileged_port", "{privileged:?}");
        Ok(())
    });
    fs::remove_dir_all(&directory)?;
    result
}

fn automatic() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next() & !1;
        netns::set_sysctl("ipv4/ip_local_port_range", &format!("{port} {}", port + 1))?;
        let free = explain(&["0.0.0.0:0"])?;
        ensure!(free[0]["kind"] == "would_succeed", "{free:?}");
        let _kept = [
            NEITHER.bound(at("0.0.0.0", port)?)?,
            NEITHER.bound(at("0.0.0.0", port + 1)?)?,
        ];
        let used_up = explain(&["0.0.0.0:0"])?;
        let shows_bound = used_up[0]["ports"]["held"] == 2;
        // Before 6.8 nothing but the table shows sockets that are only bound, and it is asked port by port.
        if shows_bound {
            ensure!(used_up[0]["rule"] == "no_free_port", "{used_up:?}");
        } else {
            ensure!(used_up[0]["kind"] == "would_succeed", "{used_up:?}");
        }
        Ok(())
    })
}
