//! Owns the comparison: a call, what the kernel does with it, and what the rules say of it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use tcptrace_model::TcpState;
use tcptrace_model::conflict::{
    self, Address, Asked, Asker, Call, Family, Holder, PortUse, Request, Verdict, World,
};

use super::case::Traits;
use super::stage::{Stage, user};
use crate::sockets::Socket;

/// How many differences are told in full.
const TOLD: usize = 40;

/// A bind() or a listen().
pub(super) struct Act {
    pub(super) request: Request,
    /// The kernel is to choose the port, and this is the only one.
    pub(super) only: Option<u16>,
}

impl Act {
    /// bind() to the address of `traits` and the port.
    pub(super) fn bind(stage: &Stage, traits: Traits, socket: &Socket, port: u16) -> Result<Self> {
        let addr = SocketAddr::new(traits.place.ip(), port);
        let (family, len) = match addr {
            SocketAddr::V4(_) => (libc::AF_INET, size_of::<libc::sockaddr_in>()),
            SocketAddr::V6(_) => (libc::AF_INET6, size_of::<libc::sockaddr_in6>()),
        };
        let asked = Asked {
            family: u16::try_from(family)?,
            len: u32::try_from(len)?,
            addr,
            scope: 0,
        };
        Ok(Self {
            request: Request {
                call: Call::Bind,
                asker: asker(stage, traits, socket)?,
                asked: Some(asked),
                address: Some(Address::Local),
            },
            only: None,
        })
    }

    /// listen() of a socket that was bound by these traits, or not at all.
    pub(super) fn listen(stage: &Stage, traits: Traits, socket: &Socket) -> Result<Self> {
        Ok(Self {
            request: Request {
                call: Call::Listen,
                asker: asker(stage, traits, socket)?,
                asked: None,
                address: None,
            },
            only: None,
        })
    }

    pub(super) fn choosing_only(self, port: u16) -> Self {
        Self {
            only: Some(port),
            ..self
        }
    }
}

/// The socket as it is now.
fn asker(stage: &Stage, traits: Traits, socket: &Socket) -> Result<Asker> {
    let local = socket.local_address()?;
    // bind() to a specific IPv6 address is IPv6-only (net/ipv6/af_inet6.c `__inet6_bind`, v6.18).
    let is_specific = match local.ip() {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => !v6.is_unspecified() && v6.to_ipv4_mapped().is_none(),
    };
    let ipv6 = traits.place.is_ipv6_socket();
    Ok(Asker {
        family: if ipv6 { Family::V6 } else { Family::V4 },
        state: TcpState::Close,
        local,
        reuseaddr: traits.reuseaddr,
        force_reuse: false,
        reuseport: traits.reuseport,
        reuseport_group: false,
        v6only: ipv6 && (traits.v6only || is_specific),
        freebind: false,
        transparent: false,
        bind_address_no_port: false,
        device: stage.device(traits.device)?,
        uid: user(traits),
        port_range: None,
        may_bind_privileged: Some(true),
    })
}

/// What a call came to, and what was said of it.
pub(super) struct Outcome {
    pub(super) errno: u16,
    pub(super) verdict: Verdict,
    /// The kernel lets it in without a look at the holders.
    pub(super) by_cache: bool,
}

/// Compares, and counts.
#[derive(Default)]
pub(super) struct Judge {
    /// The case at hand, for what differs.
    pub(super) case: String,
    pub(super) tally: Tally,
}

/// What has been compared.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) cases: u64,
    /// Cases whose holders the kernel did not let hold the port together: that was compared.
    pub(super) not_together: u64,
    /// Cases that need an interface that there is no driver for.
    pub(super) no_device: u64,
    /// Cases by what held the port.
    pub(super) by_kind: BTreeMap<String, u64>,
    /// Calls that were compared.
    compared: u64,
    failed: u64,
    /// Calls that were let in by what the port remembers, against the rules, and one case.
    by_cache: (u64, String),
    /// What the rules say to depend on something: how often, and one case.
    undecided: BTreeMap<String, (u64, String)>,
    pub(super) guilty_sets: u64,
    differing: u64,
    told: Vec<String>,
}

impl Judge {
    /// Performs the call on the socket and compares; returns the errno, 0 for success.
    pub(super) fn perform(
        &mut self,
        stage: &mut Stage,
        act: &Act,
        socket: &Socket,
        holders: &[Holder],
    ) -> Result<u16> {
        Ok(self.try_call(stage, act, socket, holders)?.errno)
    }

    /// The same, with what the rules say.
    pub(super) fn try_call(
        &mut self,
        stage: &mut Stage,
        act: &Act,
        socket: &Socket,
        holders: &[Holder],
    ) -> Result<Outcome> {
        let done = match act.request.call {
            Call::Bind => {
                let asked = act.request.asked.context("bind() without an address")?;
                socket.bind_oddly(asked.addr, asked.family, asked.len, asked.scope)
            }
            Call::Listen => socket.listen(16),
            Call::Connect => anyhow::bail!("connect() is not compared here"),
        };
        let errno = errno(done)?;
        let by_cache = act.only.is_none() && stage.cache.lets_in(&act.request);
        if errno == 0 {
            let first = holders.is_empty() && act.request.call == Call::Bind;
            stage.cache.granted(&act.request, first, stage.kernel);
        }
        let world = World {
            holders,
            sysctls: &stage.sysctls,
            ports: act.only.map(|port| port_use(port, stage, holders)),
            kernel: stage.kernel,
        };
        let verdict = conflict::decide(&act.request, &world);
        self.tally.compared += 1;
        self.tally.failed += u64::from(errno != 0);
        if i32::from(errno) == libc::EADDRINUSE && by_cache && stage.cache.is_certain() {
            self.differs(&format!(
                "{:?} must be let in by what the port remembers",
                act.request
            ));
        }
        match &verdict {
            Verdict::Succeeds if errno == 0 => {}
            Verdict::Fails { error, .. } if *error == errno => {}
            // The kernel's choice goes by more than what the rules are told, and so does SO_REUSEPORT
            // where an earlier bind() may have left its mark.
            Verdict::Undecided { missing } if act.only.is_some() || act.request.asker.reuseport => {
                let what = format!("{missing} ({})", if errno == 0 { "ok" } else { "failed" });
                let example = || (0, self.case.clone());
                self.tally.undecided.entry(what).or_insert_with(example).0 += 1;
            }
            // What the port remembers is nothing that the rules are told.
            Verdict::Fails { .. } if errno == 0 && by_cache => {
                self.tally.by_cache.0 += 1;
                self.tally.by_cache.1.clone_from(&self.case);
            }
            Verdict::Succeeds | Verdict::Fails { .. } | Verdict::Undecided { .. } => {
                self.differs(&format!(
                    "{:?}: kernel {errno}, rules {verdict:?}\n    {:?}\n    {holders:#?}",
                    act.request.call, act.request
                ));
            }
        }
        Ok(Outcome {
            errno,
            verdict,
            by_cache,
        })
    }

    /// Notes that the kernel and the rules differ about this case.
    pub(super) fn differs(&mut self, how: &str) {
        self.tally.differing += 1;
        if self.tally.told.len() < TOLD {
            self.tally.told.push(format!("{}\n  {how}", self.case));
        }
    }
}

impl Tally {
    /// What differs, told; fails if anything does.
    pub(super) fn verdict(&self) -> Result<()> {
        anyhow::ensure!(
            self.differing == 0,
            "{} of {} calls differ from the rules:\n{}",
            self.differing,
            self.compared,
            self.told.join("\n")
        );
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} cases, {} calls compared, {} of them failed, {} differ from the rules; {} let in by what \
             the port remembers; {} guilty sets tried out; {} cases whose holders cannot be together, {} without a second interface",
            self.cases,
            self.compared,
            self.failed,
            self.differing,
            self.by_cache.0,
            self.guilty_sets,
            self.not_together,
            self.no_device
        )?;
        if self.by_cache.0 > 0 {
            writeln!(
                f,
                "  let in by what the port remembers, such as {}",
                self.by_cache.1
            )?;
        }
        for (what, (count, example)) in &self.undecided {
            writeln!(f, "  undecided {count}: {what}, such as {example}")?;
        }
        for (kind, count) in &self.by_kind {
            writeln!(f, "  {count:>5} with {kind}")?;
        }
        Ok(())
    }
}

fn port_use(port: u16, stage: &Stage, holders: &[Holder]) -> PortUse {
    let mut by_state = [0; 14];
    for holder in holders {
        by_state[usize::from(holder.state.number())] += 1;
    }
    let reserved = stage.sysctls.reserved_in_range;
    PortUse {
        ts_ns: 0,
        range: (port, port),
        reserved,
        held: u32::from(!holders.is_empty() && reserved == 0),
        by_state,
        to_destination: [0; 14],
        destination: None,
    }
}

fn errno(done: io::Result<()>) -> Result<u16> {
    match done {
        Ok(()) => Ok(0),
        Err(error) => {
            let errno = error.raw_os_error().context("an error without a number")?;
            Ok(u16::try_from(errno)?)
        }
    }
}
