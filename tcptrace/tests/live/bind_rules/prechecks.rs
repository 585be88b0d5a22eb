//! Owns what bind() and listen() check before other sockets count: addresses, ports, privileges and the
//! state of the socket, all with each other, so that the order of the checks is compared, too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use tcptrace_model::TcpState;
use tcptrace_model::conflict::{Address, Asked};

use super::Wanted;
use super::case::{Place, Traits};
use super::generate::Extent;
use super::judge::{Act, Judge};
use super::stage::Stage;
use crate::netns;
use crate::sockets::Socket;
use crate::sys;

/// None of this host's; documentation's own (RFC 5737, RFC 3849).
const FOREIGN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FOREIGN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const PRIVILEGED: u16 = 80;

/// An address that is asked for.
#[derive(Clone, Copy, Debug)]
struct Target {
    ip: IpAddr,
    scope: u32,
    is_local: bool,
}

/// How a socket is before it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    New,
    Bound,
    Listening,
    Connected,
}

/// How the family and the length of an address are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Right,
    /// One byte less than the kernel wants.
    Short,
    OtherFamily,
    Unspecified,
}

/// One bind(), with all that the checks look at.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Check {
    ipv6: bool,
    v6only: bool,
    target: Target,
    privileged_port: bool,
    may_bind_privileged: bool,
    freebind: bool,
    transparent: bool,
    nonlocal_bind: bool,
    before: Before,
    form: Form,
}

/// Performs and compares all, or every seventh.
pub(super) fn run(judge: &mut Judge, extent: Extent, which: Wanted) -> Result<()> {
    let checks: Vec<_> = all().into_iter().enumerate().collect();
    for nonlocal_bind in [false, true] {
        let wanted: Vec<_> = checks
            .iter()
            .filter(|(number, check)| {
                check.nonlocal_bind == nonlocal_bind
                    && which.includes(*number)
                    && (extent == Extent::All || number % 7 == 0)
            })
            .collect();
        netns::with_new(|_| {
            let mut stage = Stage::set_up()?;
            let value = if nonlocal_bind { "1" } else { "0" };
            netns::set_sysctl("ipv4/ip_nonlocal_bind", value)?;
            netns::set_sysctl("ipv6/ip_nonlocal_bind", value)?;
            stage.sysctls.nonlocal_bind = nonlocal_bind;
            stage.sysctls.nonlocal_bind_v6 = nonlocal_bind;
            for (number, check) in wanted {
                judge.case = format!("prechecks/{number}: {check:?}");
                judge.tally.cases += 1;
                perform(&mut stage, judge, check).with_context(|| judge.case.clone())?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn all() -> Vec<Check> {
    let mut checks = Vec::new();
    for (ipv6, targets) in [(false, v4_targets()), (true, v6_targets())] {
        for target in targets {
            for bits in 0..64_u8 {
                let bit = |number: u8| bits & (1 << number) != 0;
                if bit(0) && !ipv6 {
                    continue;
                }
                for (before, form) in [
                    (Before::New, Form::Right),
                    (Before::Bound, Form::Right),
                    (Before::Listening, Form::Right),
                    (Before::Connected, Form::Right),
                    (Before::New, Form::Short),
                    (Before::New, Form::OtherFamily),
                    (Before::New, Form::Unspecified),
                    (Before::Bound, Form::Short),
                    (Before::Bound, Form::OtherFamily),
                    (Before::Bound, Form::Unspecified),
                ] {
                    checks.push(Check {
                        ipv6,
                        v6only: bit(0),
                        target,
                        privileged_port: bit(1),
                        may_bind_privileged: bit(2),
                        freebind: bit(3),
                        transparent: bit(4),
                        nonlocal_bind: bit(5),
                        before,
                        form,
                    });
                }
            }
        }
    }
    checks
}

fn v4_targets() -> Vec<Target> {
    [
        (Ipv4Addr::UNSPECIFIED, true),
        (Ipv4Addr::LOCALHOST, true),
        (FOREIGN, false),
        (Ipv4Addr::BROADCAST, true),
        (Ipv4Addr::new(224, 0, 0, 1), true),
        (Ipv4Addr::new(0, 0, 0, 5), false),
    ]
    .map(|(ip, is_local)| Target {
        ip: ip.into(),
        scope: 0,
        is_local,
    })
    .into()
}

fn v6_targets() -> Vec<Target> {
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let multicast = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    [
        (Ipv6Addr::UNSPECIFIED, 0, true),
        (Ipv6Addr::LOCALHOST, 0, true),
        (FOREIGN_V6, 0, false),
        (link_local, 0, false),
        // Loopback, which does not have the address. That an interface does not exist (ENODEV) is
        // nothing that the rules are told.
        (link_local, 1, false),
        (multicast, 1, true),
        (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0, true),
        (FOREIGN.to_ipv6_mapped(), 0, false),
        (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 0, true),
    ]
    .map(|(ip, scope, is_local)| Target {
        ip: ip.into(),
        scope,
        is_local,
    })
    .into()
}

fn perform(stage: &mut Stage, judge: &mut Judge, check: &Check) -> Result<()> {
    let (before_port, free_port) = (stage.fresh_port()?, stage.fresh_port()?);
    let place = if check.ipv6 {
        Place::V6One
    } else {
        Place::V4One
    };
    let traits = Traits {
        v6only: check.v6only,
        ..Traits::at(place)
    };
    let socket = stage.socket(traits)?;
    for (wanted, option) in [
        (check.freebind, libc::IP_FREEBIND),
        (check.transparent, libc::IP_TRANSPARENT),
    ] {
        if wanted {
            socket.set(libc::IPPROTO_IP, option, &1_i32)?;
        }
    }
    let before = prepare(stage, &socket, check.before, place, before_port)?;
    let mut act = Act::bind(stage, traits, &socket, 0)?;
    let asker = &mut act.request.asker;
    asker.state = before;
    asker.freebind = check.freebind;
    asker.transparent = check.transparent;
    asker.may_bind_privileged = Some(check.may_bind_privileged);
    let asker = *asker;
    act.request.asked = Some(asked(check, free_port));
    act.request.address = Some(if check.target.is_local {
        Address::Local
    } else {
        Address::Foreign
    });
    let errno = if check.may_bind_privileged {
        judge.perform(stage, &act, &socket, &[])?
    } else {
        sys::without_net_bind_service(|| judge.perform(stage, &act, &socket, &[]))??
    };
    // listen() after a bind() that failed.
    if errno != 0 {
        let mut act = Act::listen(stage, traits, &socket)?;
        act.request.asker = asker;
        if check.before == Before::New {
            stage.only(free_port)?;
            act = act.choosing_only(free_port);
        }
        judge.perform(stage, &act, &socket, &[])?;
    }
    Ok(())
}

/// The address as it is given to the kernel.
fn asked(check: &Check, free_port: u16) -> Asked {
    let port = if check.privileged_port {
        PRIVILEGED
    } else {
        free_port
    };
    // AF_INET, AF_INET6.
    let (right, other, length) = if check.ipv6 { (10, 2, 28) } else { (2, 10, 16) };
    Asked {
        family: match check.form {
            Form::Right | Form::Short => right,
            Form::OtherFamily => other,
            Form::Unspecified => 0,
        },
        len: match check.form {
            // Up to the scope (SIN6_LEN_RFC2133), it is long enough for IPv6.
            Form::Short => {
                if check.ipv6 {
                    23
                } else {
                    15
                }
            }
            Form::Right | Form::OtherFamily | Form::Unspecified => length,
        },
        addr: SocketAddr::new(check.target.ip, port),
        scope: check.target.scope,
    }
}

/// What the socket has gone through; returns its state.
fn prepare(
    stage: &Stage,
    socket: &Socket,
    before: Before,
    place: Place,
    port: u16,
) -> Result<TcpState> {
    let here = SocketAddr::new(place.ip(), port);
    match before {
        Before::New => return Ok(TcpState::Close),
        Before::Bound => {
            socket.bind(here)?;
            return Ok(TcpState::Close);
        }
        Before::Listening => {
            socket.bind(here)?;
            socket.listen(1)?;
            return Ok(TcpState::Listen);
        }
        Before::Connected => {}
    }
    socket.bind(here)?;
    let (address, server) = stage.server(0, place.ip())?;
    socket.connect(address)?;
    // The server resets it when it has gone.
    server.accept()?.reset_on_close()?;
    Ok(TcpState::Established)
}
