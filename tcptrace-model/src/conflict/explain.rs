//! Owns the explanation of an errno that the kernel has returned.

use alloc::vec::Vec;

use super::{
    Address, Call, Family, Request, Rule, Verdict, World,
    bind::{Stance, clause_of_all},
    connect,
    errno::{
        EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EALREADY, ECONNREFUSED, ECONNRESET,
        EHOSTDOWN, EHOSTUNREACH, EINTR, EINVAL, EISCONN, ENETDOWN, ENETUNREACH, ENOBUFS, ENODEV,
        ENOMEM, ENONET, ENOPROTOOPT, EOPNOTSUPP, EPERM, ERESTARTSYS, ETIMEDOUT,
    },
    stance,
};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The clause that gave the errno.
    pub rule: Rule,
    /// The holders in the way, as indices into [`World::holders`], ascending, each with the clause by
    /// which it is.
    pub guilty: Vec<(usize, Rule)>,
    /// Each of `guilty` is in the way for certain. Else at least one of them is: what the others are
    /// depends on facts that are not known.
    pub sure: bool,
    /// The rules give this errno for this request in this world, or at least do not rule it out. Else
    /// something is missing, such as a holder that has gone in the meantime; `rule` is then
    /// [`Rule::Unknown`], unless only one clause can give this errno.
    pub agrees: bool,
}

/// Holders in the way, as indices into [`World::holders`], ascending, with the clauses.
#[derive(Default)]
pub(super) struct InTheWay {
    /// Those that are for certain.
    pub(super) certain: Vec<(usize, Rule)>,
    /// Those that may be.
    pub(super) possible: Vec<(usize, Rule)>,
}

/// Explains why `request` failed with `error` in `world`. `refused_by_lsm`: a security module is known to
/// have refused.
///
/// EINPROGRESS is not a failure, and [`Rule::Unknown`] here.
#[must_use]
pub fn explain(
    request: &Request,
    world: &World<'_>,
    error: u16,
    refused_by_lsm: bool,
) -> Explanation {
    if refused_by_lsm {
        return plain(Rule::SecurityModule, true);
    }
    let request = settled(request, error);
    let verdict = super::decide(&request, world);
    let rules_allow = match &verdict {
        Verdict::Succeeds => false,
        Verdict::Fails { error: ruled, .. } => *ruled == error,
        Verdict::Undecided { .. } => true,
    };
    if rules_allow && error == port_error(request.call) {
        let InTheWay { certain, possible } = in_the_way(&request, world);
        let sure = !certain.is_empty() || possible.len() == 1;
        let guilty = if certain.is_empty() {
            possible
        } else {
            certain
        };
        if let Some(rule) = clause(&guilty) {
            return Explanation {
                rule,
                guilty,
                sure,
                agrees: true,
            };
        }
    }
    match verdict {
        Verdict::Fails {
            error: ruled, rule, ..
        } if ruled == error => plain(rule, true),
        Verdict::Fails { .. } | Verdict::Succeeds | Verdict::Undecided { .. } => {
            let (rule, agrees) = only_clause(&request, world, error, rules_allow);
            plain(rule, agrees)
        }
    }
}

/// `request` with what `error` proves about it: a check that comes after others says that they passed.
#[must_use]
pub fn settled(request: &Request, error: u16) -> Request {
    let mut settled = *request;
    if request.call != Call::Bind {
        return settled;
    }
    let asker = &mut settled.asker;
    // net/ipv4/af_inet.c `__inet_bind` asks for the address, then for the port; net/ipv6/af_inet6.c
    // `__inet6_bind` the other way round (v6.18).
    let (address, may_bind) = match (error, asker.family) {
        // What gives EINVAL before these checks is found before them again; the rest comes after.
        (EADDRINUSE, _) | (EINVAL, Family::V4) => (Some(Address::Local), Some(true)),
        (EADDRNOTAVAIL, Family::V4) => (Some(Address::Foreign), None),
        (EADDRNOTAVAIL, Family::V6) => (Some(Address::Foreign), Some(true)),
        (EACCES, Family::V4) => (Some(Address::Local), Some(false)),
        (EACCES, Family::V6) => (None, Some(false)),
        (EINVAL, Family::V6) => (None, Some(true)),
        _ => (None, None),
    };
    settled.address = settled.address.or(address);
    asker.may_bind_privileged = asker.may_bind_privileged.or(may_bind);
    settled
}

/// The holders in the way of `request`.
pub(super) fn in_the_way(request: &Request, world: &World<'_>) -> InTheWay {
    let mut found = InTheWay::default();
    for (index, holder) in world.holders.iter().enumerate() {
        match stance(request, holder, world.kernel) {
            Stance::Free => {}
            Stance::Blocks(rule) => found.certain.push((index, rule)),
            Stance::Depends(rule, _) => found.possible.push((index, rule)),
        }
    }
    found
}

fn plain(rule: Rule, agrees: bool) -> Explanation {
    Explanation {
        rule,
        guilty: Vec::new(),
        sure: true,
        agrees,
    }
}

/// The errno that says that a holder is in the way.
fn port_error(call: Call) -> u16 {
    match call {
        Call::Bind | Call::Listen => EADDRINUSE,
        Call::Connect => EADDRNOTAVAIL,
    }
}

fn clause(guilty: &[(usize, Rule)]) -> Option<Rule> {
    clause_of_all(guilty).or_else(|| guilty.first().map(|(_, rule)| *rule))
}

/// The only clause of the call that can give `error`, and whether nothing speaks against it.
fn only_clause(
    request: &Request,
    world: &World<'_>,
    error: u16,
    rules_allow: bool,
) -> (Rule, bool) {
    match error {
        ENOMEM | ENOBUFS => return (Rule::NoMemory, true),
        EINTR | ERESTARTSYS => return (Rule::Interrupted, true),
        _ => {}
    }
    match request.call {
        Call::Bind => match error {
            EADDRINUSE if asks_for_any_port(request) => (Rule::NoFreePort, rules_allow),
            EADDRNOTAVAIL => (Rule::AddressNotLocal, false),
            EAFNOSUPPORT => (Rule::AddressFamily, false),
            ENODEV => (Rule::NoSuchDevice, has_device(request)),
            EPERM => (Rule::CgroupProgram, true),
            _ => (Rule::Unknown, false),
        },
        Call::Listen => match error {
            EADDRINUSE if asks_for_any_port(request) => (Rule::NoFreePort, rules_allow),
            EINVAL => (Rule::CannotListen, false),
            _ => (Rule::Unknown, false),
        },
        Call::Connect => match error {
            EADDRNOTAVAIL if request.asker.local.port() == 0 => unbound(request, world),
            EAFNOSUPPORT => (Rule::AddressFamily, false),
            // A RST after the handshake counts as a reset, but connect() is told of it all the same.
            ECONNREFUSED | ECONNRESET => (Rule::Refused, true),
            // The codes of ICMP: net/ipv4/icmp.c `icmp_err_convert` (v6.18).
            ENETUNREACH | EHOSTUNREACH | ENETDOWN | EHOSTDOWN | ENONET | ENOPROTOOPT
            | EOPNOTSUPP => (Rule::Unreachable, true),
            ETIMEDOUT => (Rule::TimedOut, true),
            EISCONN => (Rule::AlreadyConnected, true),
            EALREADY => (Rule::AlreadyConnecting, true),
            EPERM | EACCES => (Rule::NotPermitted, true),
            _ => (Rule::Unknown, false),
        },
    }
}

/// EADDRNOTAVAIL of a socket without a port: no port, or for IPv6 no source address
/// (net/ipv6/addrconf.c `ipv6_dev_get_saddr`, v6.18).
fn unbound(request: &Request, world: &World<'_>) -> (Rule, bool) {
    let is_ipv6 = request
        .asked
        .is_some_and(|asked| connect::canonical(asked.addr).is_ipv6());
    let exhausted = connect::may_be_exhausted(&request.asker, world);
    match (is_ipv6, exhausted) {
        (false, exhausted) => (Rule::PortsExhausted, exhausted != Some(false)),
        (true, Some(true)) => (Rule::PortsExhausted, true),
        (true, Some(false)) => (Rule::NoSourceAddress, true),
        (true, None) => (Rule::Unknown, false),
    }
}

fn asks_for_any_port(request: &Request) -> bool {
    match request.call {
        Call::Bind => request.asked.is_some_and(|asked| asked.addr.port() == 0),
        Call::Listen => request.asker.local.port() == 0,
        Call::Connect => false,
    }
}

fn has_device(request: &Request) -> bool {
    request.asker.device != 0 || request.asked.is_some_and(|asked| asked.scope != 0)
}
