//! Owns the conflict between a socket that asks for a port and one that holds it, and bind() with it.

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::TcpState;

use super::{
    Asker, Family, Holder, KernelVersion, Request, Rule, Verdict, World, automatic,
    errno::EADDRINUSE,
    overlap::{Fields, covers, overlap},
    precheck::{self, Passed, Stop},
};

/// The first kernel in which a closed listener of its group lets a socket with `SO_REUSEPORT` in again:
/// net/ipv4/inet_connection_sock.c `inet_csk_bind_conflict` (v5.14), `num_closed_socks`.
const CLOSED_IN_GROUP: KernelVersion = KernelVersion::of(5, 14);

/// The first kernel in which the user of a socket is `sk_uid`; before, a socket that no descriptor holds
/// counted as root's: net/core/sock.c `sock_i_uid` (v6.16), which is gone in 6.17, and from the stable series of
/// 6.16 since 6.16.6.
const OWN_UID: KernelVersion = KernelVersion {
    patch: 6,
    ..KernelVersion::of(6, 16)
};

/// What the port's own cache of `SO_REUSEPORT` (`tb->fastreuseport`) may let in although a holder is in
/// the way: which bind() came last is not known.
const CACHE: &str = "what the kernel remembers of the last bind() with SO_REUSEPORT to this port";

/// A socket that asks for a port, as `inet_csk_get_port` finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newcomer {
    fields: Fields,
    port: u16,
    device: u32,
    reuseaddr: bool,
    reuseport: bool,
    force_reuse: bool,
    /// `reuseport_cb_ok`; `None` when not known.
    group_ok: Option<bool>,
    uid: u32,
}

/// What a holder means for a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    /// It is not in the way.
    Free,
    /// It is in the way.
    Blocks(Rule),
    /// It is in the way or not: that depends on something that is not known. By which clause, if so.
    Depends(Rule, &'static str),
}

impl Newcomer {
    /// `asker` when it asks for the port of `passed`.
    pub(super) fn new(asker: &Asker, passed: &Passed, kernel: KernelVersion) -> Self {
        // bind() to a specific IPv6 address makes the socket IPv6-only (net/ipv6/af_inet6.c
        // `__inet6_bind`, v6.18).
        let v6only = match passed.local.ip() {
            IpAddr::V4(_) => false,
            IpAddr::V6(v6) => {
                asker.v6only || !(v6.is_unspecified() || v6.to_ipv4_mapped().is_some())
            }
        };
        Self {
            fields: Fields::new(passed.local.ip(), v6only),
            port: passed.local.port(),
            device: passed.device,
            reuseaddr: asker.reuseaddr || asker.force_reuse,
            reuseport: asker.reuseport,
            force_reuse: asker.force_reuse,
            group_ok: match asker.reuseport_group {
                false => Some(true),
                true if kernel >= CLOSED_IN_GROUP => None,
                true => Some(false),
            },
            uid: asker.uid,
        }
    }

    /// What `holder` means for it when it asks for this port: net/ipv4/inet_connection_sock.c
    /// `inet_bind_conflict` (v6.18), part of `inet_csk_bind_conflict` before 6.1.
    pub(super) fn judge(&self, holder: &Holder, kernel: KernelVersion) -> Stance {
        let same_device = self.device == 0 || holder.device == 0 || self.device == holder.device;
        if self.force_reuse || !same_device || holder.local.port() != self.port {
            return Stance::Free;
        }
        let overlaps = self.overlaps(holder, kernel);
        let reuseaddr = self.shares_by_reuseaddr(holder);
        let reuseport = self.shares_by_reuseport(holder);
        let unknown = match (overlaps, reuseaddr, reuseport) {
            (Some(false), _, _) | (_, Ok(true), _) | (_, _, Ok(true)) => return Stance::Free,
            (Some(true), Ok(false), Ok(false)) => return Stance::Blocks(self.clause(holder)),
            (_, Err(unknown), _) | (_, _, Err(unknown)) => unknown,
            (None, Ok(false), Ok(false)) => "IPV6_V6ONLY of the holder",
        };
        Stance::Depends(self.clause(holder), unknown)
    }

    /// Whether the addresses overlap; `None` when that depends on an unknown `IPV6_V6ONLY`.
    fn overlaps(&self, holder: &Holder, kernel: KernelVersion) -> Option<bool> {
        let with = |v6only| overlap(self.fields, Fields::new(holder.local.ip(), v6only), kernel);
        match holder.v6only {
            Some(v6only) => Some(with(v6only)),
            None if with(false) == with(true) => Some(with(true)),
            None => None,
        }
    }

    /// Whether both have `SO_REUSEADDR` and the holder does not listen.
    fn shares_by_reuseaddr(&self, holder: &Holder) -> Result<bool, &'static str> {
        if !self.reuseaddr || holder.state == TcpState::Listen {
            return Ok(false);
        }
        if holder.force_reuse {
            return Ok(true);
        }
        holder.reuseaddr.ok_or("SO_REUSEADDR of the holder")
    }

    /// Whether both have `SO_REUSEPORT` and may share it.
    fn shares_by_reuseport(&self, holder: &Holder) -> Result<bool, &'static str> {
        // What is known to be missing decides, whatever else is not known.
        let is_users = self.is_same_user(holder);
        if !self.reuseport
            || holder.reuseport == Some(false)
            || self.group_ok == Some(false)
            || is_users == Some(false)
        {
            return Ok(false);
        }
        holder.reuseport.ok_or("SO_REUSEPORT of the holder")?;
        is_users.ok_or("the user of the holder")?;
        self.group_ok
            .ok_or("whether a listener of the socket's own SO_REUSEPORT group was closed")
    }

    /// Whether the users are the same, which nobody asks of a minisocket, in either phase (`sk_state` of
    /// both is TIME_WAIT).
    fn is_same_user(&self, holder: &Holder) -> Option<bool> {
        if holder.minisocket.is_some() {
            return Some(true);
        }
        holder.uid.map(|uid| uid == self.uid)
    }

    /// The clause by which a holder that is in the way is.
    fn clause(&self, holder: &Holder) -> Rule {
        if self.reuseport
            && holder.reuseport == Some(true)
            && self.group_ok != Some(false)
            && self.is_same_user(holder) == Some(false)
        {
            Rule::ReuseportOtherUser
        } else if holder.state == TcpState::Listen {
            Rule::PortListening
        } else {
            Rule::PortHeld
        }
    }

    /// Whether the port's cache (`sk_reuseport_match`) may have let it in although `holder` is in the way:
    /// net/ipv4/inet_connection_sock.c `inet_csk_get_port`, `inet_csk_update_fastreuse` (v6.18).
    ///
    /// It remembers the last socket with `SO_REUSEPORT` that got the port. So it differs from a look at
    /// all the holders where that socket, which stands for the newcomer, is not stopped by the holder:
    /// they share by another option, or have other interfaces or families.
    fn may_be_cached(&self, holder: &Holder, world: &World<'_>) -> bool {
        if !self.reuseport || self.group_ok != Some(true) {
            return false;
        }
        let orphan_of_listener = world.kernel < OWN_UID
            && holder.minisocket.is_none()
            && holder.port_bound != Some(true)
            && holder.reuseport == Some(true)
            && holder.uid == Some(0);
        orphan_of_listener
            || world
                .holders
                .iter()
                .filter_map(|other| self.remembered(other, world.kernel))
                .any(|last| !matches!(last.judge(holder, world.kernel), Stance::Blocks(_)))
    }

    /// `other` as it got its port, if it may be the one that the port remembers, and stands for this one.
    ///
    /// What is connected, or was, may have got it with a wider address, or as another socket: by the
    /// listener that accepted it. A minisocket does not say whose it was.
    fn remembered(&self, other: &Holder, kernel: KernelVersion) -> Option<Self> {
        let is_as_bound = matches!(
            other.state,
            TcpState::Close | TcpState::BoundInactive | TcpState::Listen
        );
        let fields = if is_as_bound {
            let v6only = other.v6only.unwrap_or(self.fields.v6only());
            Fields::new(other.local.ip(), v6only)
        } else {
            self.fields
        };
        let may_be_users = other.minisocket.is_some()
            || other.uid == Some(self.uid)
            || (kernel < OWN_UID && other.uid == Some(0));
        let stands_for_it = may_be_users
            && other.reuseport == Some(true)
            && other.local.port() == self.port
            && covers(fields, self.fields);
        stands_for_it.then_some(Self {
            fields,
            device: other.device,
            reuseaddr: other.reuseaddr != Some(false) || other.force_reuse,
            force_reuse: other.force_reuse,
            ..*self
        })
    }
}

/// What all holders together mean for a newcomer that asks for an explicit port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// Those that are in the way for certain: indices, ascending, and the clauses.
    pub(super) guilty: Vec<(usize, Rule)>,
    /// Those that may be.
    pub(super) possible: Vec<(usize, Rule)>,
    /// What `possible` depends on, or what may let the newcomer in in spite of `guilty`.
    pub(super) missing: Option<&'static str>,
}

impl Scan {
    /// Looks at every holder.
    pub(super) fn of(newcomer: &Newcomer, world: &World<'_>) -> Self {
        let mut scan = Self {
            guilty: Vec::new(),
            possible: Vec::new(),
            missing: None,
        };
        for (index, holder) in world.holders.iter().enumerate() {
            match newcomer.judge(holder, world.kernel) {
                Stance::Free => {}
                Stance::Blocks(rule) => scan.guilty.push((index, rule)),
                Stance::Depends(rule, missing) => {
                    scan.possible.push((index, rule));
                    scan.missing = scan.missing.or(Some(missing));
                }
            }
        }
        let cached =
            |(index, _): &(usize, Rule)| newcomer.may_be_cached(&world.holders[*index], world);
        if !scan.guilty.is_empty() {
            scan.missing = scan.guilty.iter().all(cached).then_some(CACHE);
        }
        scan
    }

    /// What the kernel does.
    pub(super) fn verdict(&self) -> Verdict {
        if let Some(missing) = self.missing {
            return Verdict::Undecided { missing };
        }
        match clause_of_all(&self.guilty) {
            None => Verdict::Succeeds,
            Some(rule) => Verdict::Fails {
                error: EADDRINUSE,
                rule,
                guilty: self.guilty.iter().map(|(index, _)| *index).collect(),
            },
        }
    }
}

/// What the kernel does with a bind().
pub(super) fn decide(request: &Request, world: &World<'_>) -> Verdict {
    let passed = match precheck::bind(request, world.sysctls) {
        Ok(passed) => passed,
        Err(stop) => return stop.into(),
    };
    if passed.local.port() != 0 {
        let newcomer = Newcomer::new(&request.asker, &passed, world.kernel);
        return Scan::of(&newcomer, world).verdict();
    }
    if request.asker.bind_address_no_port {
        // connect() will choose the port.
        return Verdict::Succeeds;
    }
    automatic::search(&request.asker, &passed, world)
}

/// The clause that stands for all of those in the way: a listener before what it has accepted, since it is
/// the one that no `SO_REUSEADDR` shares with. `None` when there are none.
pub(super) fn clause_of_all(guilty: &[(usize, Rule)]) -> Option<Rule> {
    let has = |rule| guilty.iter().any(|(_, one)| *one == rule);
    [
        Rule::PortListening,
        Rule::ReuseportOtherUser,
        Rule::PortHeld,
    ]
    .into_iter()
    .find(|rule| has(*rule))
}

impl From<Stop> for Verdict {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Fails(error, rule) => Self::Fails {
                error,
                rule,
                guilty: Vec::new(),
            },
            Stop::Unknown(missing) => Self::Undecided { missing },
        }
    }
}

/// Whether the socket overlaps with every other one that can hold a port: `::` that takes IPv4 too.
pub(super) fn overlaps_with_all(asker: &Asker, passed: &Passed) -> bool {
    asker.family == Family::V6
        && passed.local.ip().is_unspecified()
        && !asker.v6only
        && passed.device == 0
}
