//! Owns where a workload plays: network namespaces of its own, joined by loopback or by a veth pair.

use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
    process::{self, Command},
    thread,
};

use anyhow::{Context as _, Result, anyhow};

use super::sys;
use crate::process::{capture, require};

/// What lies between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Over {
    /// Both in one network namespace
    Loopback,
    /// Each in a network namespace of its own, a veth pair between them
    Veth,
}

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Server,
    Client,
}

/// The namespaces of one measurement. They go when the last process and socket in them has gone.
pub(super) struct Stage {
    server: File,
    /// None when both ends are in one.
    client: Option<File>,
}

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 2);

impl Over {
    /// As it is typed.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Veth => "veth",
        }
    }
}

impl Stage {
    /// Makes the namespaces and what joins them.
    pub(super) fn new(over: Over) -> Result<Self> {
        let server = new_namespace()?;
        let client = match over {
            Over::Loopback => None,
            Over::Veth => Some(new_namespace()?),
        };
        let stage = Self { server, client };
        if over == Over::Veth {
            stage.join().context("cannot make a veth pair")?;
        }
        Ok(stage)
    }

    /// Where the server listens.
    pub(super) fn address(&self) -> Ipv4Addr {
        if self.client.is_some() {
            SERVER
        } else {
            Ipv4Addr::LOCALHOST
        }
    }

    /// The server's namespace as a path, for as long as this process has it open.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.server.as_raw_fd())
    }

    /// Moves the calling thread there. Processes that it starts are there, too.
    pub(super) fn enter(&self, side: Side) -> Result<()> {
        let namespace = match side {
            Side::Server => &self.server,
            Side::Client => self.client.as_ref().unwrap_or(&self.server),
        };
        // SAFETY: setns(2) takes two integers; the descriptor is open.
        if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error()).context("cannot enter a network namespace");
        }
        Ok(())
    }

    /// Runs `act` there, in a thread of its own.
    pub(super) fn within<T: Send>(
        &self,
        side: Side,
        act: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        in_thread(|| {
            self.enter(side)?;
            act()
        })
    }

    fn join(&self) -> Result<()> {
        let ip = require("ip", "iproute2")?;
        let ip = |side, line: &str| {
            self.within(side, || {
                capture(Command::new(&ip).args(line.split(' '))).map(drop)
            })
        };
        let namespace = self.path();
        ip(
            Side::Client,
            &format!("link add bench-c type veth peer name bench-s netns {namespace}"),
        )?;
        for (side, device, address) in [
            (Side::Client, "bench-c", CLIENT),
            (Side::Server, "bench-s", SERVER),
        ] {
            ip(side, &format!("address add {address}/24 dev {device}"))?;
            ip(side, &format!("link set {device} up"))?;
        }
        Ok(())
    }
}

/// A network namespace with loopback up.
fn new_namespace() -> Result<File> {
    in_thread(|| {
        // SAFETY: unshare(2) takes one integer.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error()).context("cannot make a network namespace");
        }
        bring_loopback_up()?;
        File::open("/proc/thread-self/ns/net").context("cannot open a network namespace")
    })
}

/// A thread is in a namespace for good: what runs elsewhere runs in a thread that ends.
fn in_thread<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(act).join())
        .map_err(|_| anyhow!("a thread of the benchmark panicked"))?
}

fn bring_loopback_up() -> Result<()> {
    let socket = sys::socket(libc::SOCK_DGRAM)?;
    // SAFETY: made of integers and arrays of them, for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP)?;
    // SAFETY: the kernel reads the name and the flags of `request`.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot bring loopback up");
    }
    Ok(())
}
