//! Owns connect(): what the kernel checks before the network has its say, and the port.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::TcpState;

use super::{
    Asked, Asker, Family, Holder, Request, Rule, Verdict, World,
    automatic::{Choice, looks_at_every_port},
    bind::Stance,
    errno::{EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL, EISCONN, ENETUNREACH},
    precheck::{AF_INET, AF_INET6, AF_UNSPEC, IPV4_LENGTH, IPV6_LENGTH, LONGEST, Stop, scoped},
};

/// `sizeof(sa_family_t)`
const FAMILY_LENGTH: u32 = 2;

/// What a connect() that passed the checks asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Where to, a v4-mapped address as the IPv4 address that it is for the table of connections.
    to: SocketAddr,
    /// The interface.
    device: u32,
}

/// What the kernel does with a connect(), as far as it is this host's to say: [`Verdict::Succeeds`] means
/// that a SYN is sent. `None` in the result of the checks is a connect() with `AF_UNSPEC`, which
/// disconnects.
pub(super) fn decide(request: &Request, world: &World<'_>) -> Verdict {
    let route = match check(request) {
        Ok(Some(route)) => route,
        Ok(None) => return Verdict::Succeeds,
        Err(stop) => return stop.into(),
    };
    if request.asker.local.port() == 0 {
        return choose(&request.asker, &route, world);
    }
    let mut guilty = Vec::new();
    let mut clause = None;
    let mut missing = None;
    for (index, holder) in world.holders.iter().enumerate() {
        match judge(&request.asker, &route, holder) {
            Stance::Free => {}
            Stance::Blocks(rule) => {
                clause = Some(rule);
                guilty.push(index);
            }
            Stance::Depends(_, what) => missing = Some(what),
        }
    }
    match (clause, missing) {
        (Some(rule), _) => Verdict::Fails {
            error: EADDRNOTAVAIL,
            rule,
            guilty,
        },
        (None, Some(missing)) => Verdict::Undecided { missing },
        (None, None) => Verdict::Succeeds,
    }
}

/// What `holder` means for a connect() of a socket that has a port. [`Stance::Free`] when the request does
/// not come as far as that.
pub(super) fn stance(request: &Request, holder: &Holder) -> Stance {
    match check(request) {
        Ok(Some(route)) if request.asker.local.port() != 0 => judge(&request.asker, &route, holder),
        Ok(_) | Err(_) => Stance::Free,
    }
}

/// net/ipv4/inet_hashtables.c `__inet_check_established`, net/ipv6/inet6_hashtables.c
/// `__inet6_check_established`, net/ipv4/tcp_ipv4.c `tcp_twsk_unique` with `twp` NULL (v6.18; the same
/// since 5.10): a minisocket of either phase gives way if its connection used timestamps, whatever
/// `tcp_tw_reuse` is.
fn judge(asker: &Asker, route: &Route, holder: &Holder) -> Stance {
    let connected = match holder.state {
        TcpState::Close | TcpState::Listen | TcpState::BoundInactive => false,
        TcpState::Established
        | TcpState::SynSent
        | TcpState::SynRecv
        | TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::TimeWait
        | TcpState::CloseWait
        | TcpState::LastAck
        | TcpState::Closing
        | TcpState::NewSynRecv => true,
    };
    let same_device = holder.device == 0 || holder.device == route.device;
    if !connected
        || !same_device
        || holder.local.port() != asker.local.port()
        || canonical(holder.remote) != route.to
    {
        return Stance::Free;
    }
    let rule = match holder.minisocket {
        None => Rule::TupleInUse,
        Some(_) if holder.timestamps == Some(true) => return Stance::Free,
        Some(_) => Rule::TupleInTimeWait,
    };
    let local = canonical(asker.local).ip();
    if local.is_unspecified() {
        return Stance::Depends(rule, "the local address that the route gives");
    }
    if local != canonical(holder.local).ip() {
        return Stance::Free;
    }
    if holder.minisocket.is_some() && holder.timestamps.is_none() {
        return Stance::Depends(rule, "whether the connection in TIME_WAIT used timestamps");
    }
    Stance::Blocks(rule)
}

/// The checks of net/ipv4/af_inet.c `__inet_stream_connect`, net/ipv4/tcp_ipv4.c `tcp_v4_connect`,
/// net/ipv6/tcp_ipv6.c `tcp_v6_connect` (v6.18) before they look for a port. `None` for a connect() that
/// only disconnects.
fn check(request: &Request) -> Result<Option<Route>, Stop> {
    let Some(asked) = request.asked else {
        return Err(Stop::Unknown("the address that was asked for"));
    };
    if asked.len > LONGEST || asked.len < FAMILY_LENGTH {
        return Err(Stop::Fails(EINVAL, Rule::AddressLength));
    }
    if asked.family == AF_UNSPEC {
        return Ok(None);
    }
    unconnected(request.asker.state)?;
    let shortest = match request.asker.family {
        Family::V4 => IPV4_LENGTH,
        Family::V6 => IPV6_LENGTH,
    };
    if asked.len < shortest {
        return Err(Stop::Fails(EINVAL, Rule::AddressLength));
    }
    match (request.asker.family, asked.family, asked.addr.ip()) {
        (Family::V4, AF_INET, IpAddr::V4(_)) => check_v4(request, &asked).map(Some),
        (Family::V6, AF_INET6, IpAddr::V6(_)) => check_v6(request, &asked).map(Some),
        (Family::V4 | Family::V6, _, _) => Err(Stop::Fails(EAFNOSUPPORT, Rule::AddressFamily)),
    }
}

/// A second connect() of the same socket: `SS_CONNECTING` and `SS_CONNECTED` of `struct socket`, which the
/// state does not tell apart in every case.
fn unconnected(state: TcpState) -> Result<(), Stop> {
    match state {
        TcpState::Close | TcpState::BoundInactive => Ok(()),
        TcpState::Listen => Err(Stop::Fails(EISCONN, Rule::AlreadyConnected)),
        TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv => Err(Stop::Unknown(
            "whether the socket waits for the connection it is making",
        )),
        TcpState::Established
        | TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::TimeWait
        | TcpState::CloseWait
        | TcpState::LastAck
        | TcpState::Closing => Err(Stop::Unknown(
            "whether an earlier connect() has said that the socket is connected",
        )),
    }
}

fn check_v4(request: &Request, asked: &Asked) -> Result<Route, Stop> {
    let IpAddr::V4(address) = canonical(asked.addr).ip() else {
        return Err(Stop::Fails(EAFNOSUPPORT, Rule::AddressFamily));
    };
    if address.is_multicast() {
        return Err(Stop::Fails(ENETUNREACH, Rule::Multicast));
    }
    if address.is_broadcast() {
        return Err(Stop::Fails(ENETUNREACH, Rule::Broadcast));
    }
    Ok(Route {
        to: destination(&request.asker, asked.addr),
        device: request.asker.device,
    })
}

fn check_v6(request: &Request, asked: &Asked) -> Result<Route, Stop> {
    let IpAddr::V6(address) = asked.addr.ip() else {
        return Err(Stop::Fails(EAFNOSUPPORT, Rule::AddressFamily));
    };
    if address.is_multicast() {
        return Err(Stop::Fails(ENETUNREACH, Rule::Multicast));
    }
    let device = scoped(asked, address, request.asker.device)?;
    if address.to_ipv4_mapped().is_some() {
        if request.asker.v6only {
            return Err(Stop::Fails(ENETUNREACH, Rule::MappedOnV6only));
        }
        return check_v4(request, asked);
    }
    Ok(Route {
        to: destination(&request.asker, asked.addr),
        device,
    })
}

/// Where a connect() goes: any address means this host. net/ipv4/route.c `ip_route_output_key_hash_rcu`,
/// net/ipv6/tcp_ipv6.c `tcp_v6_connect` (v6.18).
fn destination(asker: &Asker, address: SocketAddr) -> SocketAddr {
    let to = canonical(address);
    let local = asker.local.ip().to_canonical();
    let ip = match (to.ip(), local) {
        (IpAddr::V4(v4), IpAddr::V4(own)) if v4.is_unspecified() && !own.is_unspecified() => local,
        (IpAddr::V4(v4), _) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        (IpAddr::V6(v6), IpAddr::V4(_)) if v6.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        (IpAddr::V6(v6), IpAddr::V6(_)) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        (ip, _) => ip,
    };
    SocketAddr::new(ip, to.port())
}

/// connect() of a socket without a port: net/ipv4/inet_hashtables.c `__inet_hash_connect` (v6.18). A port
/// serves many destinations, but not if a bind() took it, whatever for.
///
/// The counts of [`super::PortUse`] do not say which ports those are. A listener or an only-bound socket is taken
/// to spoil one port each; connections are taken to have theirs from connect(), and TIME_WAIT, where
/// `tcp_tw_reuse` is 1 and the namespace has timestamps on, to be of connections that used them, and older
/// than `tcp_tw_reuse_delay` (1 s).
fn choose(asker: &Asker, route: &Route, world: &World<'_>) -> Verdict {
    let Some(ports) = &world.ports else {
        return Verdict::Undecided {
            missing: "which ports of the automatic range are held",
        };
    };
    let choice = Choice::new(ports, looks_at_every_port(asker, world.kernel));
    match choice.finds_free() {
        Some(true) => return Verdict::Succeeds,
        None => {
            return Verdict::Undecided {
                missing: "which port of the automatic range is free",
            };
        }
        Some(false) => {}
    }
    let exhausted = Stop::Fails(EADDRNOTAVAIL, Rule::PortsExhausted).into();
    let count = |state: TcpState| ports.by_state[usize::from(state.number())];
    let spoiled = count(TcpState::Listen) + count(TcpState::Close) + u32::from(choice.skips_last);
    let usable = choice.open.saturating_sub(spoiled);
    if usable == 0 {
        return exhausted;
    }
    if ports.destination.map(canonical) != Some(route.to) {
        return Verdict::Undecided {
            missing: "how many connections there are to this destination",
        };
    }
    let waiting = ports.to_destination[usize::from(TcpState::TimeWait.number())];
    let connected = ports.to_destination.iter().sum::<u32>();
    if connected < usable {
        return Verdict::Succeeds;
    }
    if connected - waiting >= usable {
        return exhausted;
    }
    let reuse = match world.sysctls.tcp_tw_reuse {
        0 => false,
        1 => true,
        // 2: net/ipv4/tcp_ipv4.c `tcp_twsk_unique` (v6.18) asks for a loopback device or address.
        _ => is_loopback(route.to.ip()),
    };
    if reuse && world.sysctls.tcp_timestamps {
        Verdict::Succeeds
    } else {
        exhausted
    }
}

/// Whether no port was left for an unbound connect(), as far as the count says; `None` without a count.
pub(super) fn may_be_exhausted(asker: &Asker, world: &World<'_>) -> Option<bool> {
    let choice = Choice::new(&world.ports?, looks_at_every_port(asker, world.kernel));
    Some(choice.finds_free() != Some(true))
}

/// The address that counts in the table of connections: a v4-mapped one is an IPv4 address there. Flow
/// label and scope do not count.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_loopback(),
    }
}
