//! Owns the clauses of the kernel's procedure in plain words: why a call fails.

use std::net::IpAddr;

use tcptrace_model::{
    CallFailed, HolderFound, TcpState,
    conflict::{Asker, Call, Family, Rule},
};

use super::{Mode, asked_address, holders, ports, words};
use crate::render::{names, time};

/// What a socket has that has neither option.
const NEITHER: &str = "neither";

/// Why the call fails.
pub(super) fn sentences(found: &CallFailed, mode: Mode) -> String {
    let call = &found.call;
    match found.rule {
        Rule::SecurityModule => "a Linux security module (such as SELinux, AppArmor or Landlock) \
                                 does not allow it. Its log (audit) may say more."
            .to_owned(),
        Rule::CgroupProgram => {
            "an eBPF program that is attached to its cgroup does not allow it.".to_owned()
        }
        Rule::AddressLength => match call.asked {
            Some(asked) => format!(
                "{} bytes are too short for an address of an {} socket.",
                asked.len,
                family(&call.asker)
            ),
            None => "the address is too short.".to_owned(),
        },
        Rule::AddressFamily => format!(
            "the address is not of the socket's family, which is {}.",
            family(&call.asker)
        ),
        Rule::Multicast => "a TCP socket cannot have a multicast address.".to_owned(),
        Rule::MappedOnV6only => "it is an IPv4 address in IPv6 form, and the socket has \
                                 IPV6_V6ONLY."
            .to_owned(),
        Rule::LinkLocalWithoutScope => "a link-local address means nothing without its interface \
                                        (sin6_scope_id, the part behind % in fe80::1%eth0)."
            .to_owned(),
        Rule::NoSuchDevice => match call.asked.map(|asked| asked.scope) {
            Some(scope) if scope != 0 => format!("there is no interface with the index {scope}."),
            Some(_) | None => "there is no such interface.".to_owned(),
        },
        Rule::AddressNotLocal => format!(
            "no interface has {} in the network namespace of the socket.",
            address(found)
        ),
        Rule::PrivilegedPort => format!(
            "{} is below net.ipv4.ip_unprivileged_port_start, and the process has no \
             CAP_NET_BIND_SERVICE.",
            port(found)
        ),
        Rule::AlreadyBound => already_bound(&call.asker),
        Rule::PortHeld => port_held(found, mode),
        Rule::PortListening => port_listening(found),
        Rule::ReuseportOtherUser => other_user(found),
        Rule::NoFreePort | Rule::PortsExhausted => ports::sentences(found),
        Rule::CannotListen => format!("a socket in {} cannot listen.", call.asker.state.name()),
        Rule::TupleInUse => "a connection with the same two addresses and ports exists; there can \
                             be only one."
            .to_owned(),
        Rule::TupleInTimeWait => "a connection with the same two addresses and ports is in \
                                  TIME_WAIT. A new one may take its place only if the old one \
                                  used TCP timestamps, or after its time is over."
            .to_owned(),
        Rule::NoSourceAddress => format!(
            "no address of this host can be the source of a connection to {}, as where IPv6 is \
             disabled or an interface has no address.",
            address(found)
        ),
        Rule::Refused => {
            "The peer answered with a RST: nobody listens there, or a firewall says so.".to_owned()
        }
        Rule::Unreachable => {
            "There is no route to it, or a router or the peer said that it cannot \
                              be reached."
                .to_owned()
        }
        Rule::TimedOut => match call
            .began_ns
            .and_then(|began_ns| call.ts_ns.checked_sub(began_ns))
        {
            Some(ns) => format!("The peer did not answer for {}.", time::brief(ns)),
            None => "The peer did not answer.".to_owned(),
        },
        Rule::AlreadyConnected => "The socket is connected.".to_owned(),
        Rule::AlreadyConnecting => {
            "An earlier connect() of the socket has not come to its end.".to_owned()
        }
        Rule::Broadcast => {
            "it is a broadcast or multicast address, and TCP has one peer.".to_owned()
        }
        Rule::NotPermitted => {
            "a firewall of this host, a route of type prohibit, or an eBPF program \
                               that is attached to its cgroup does not allow it."
                .to_owned()
        }
        Rule::Interrupted => {
            "A signal interrupted the call; the handshake goes on without it.".to_owned()
        }
        Rule::NoMemory => "the kernel had no memory for it.".to_owned(),
        Rule::Unknown => match names::error(call.error) {
            Some(error) => format!("not known; no rule that tcptrace knows gives {error} here."),
            None => "not known.".to_owned(),
        },
    }
}

fn family(asker: &Asker) -> &'static str {
    match asker.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn address(found: &CallFailed) -> String {
    found.call.asked.and_then(asked_address).map_or_else(
        || "the address".to_owned(),
        |address| address.ip().to_string(),
    )
}

fn port(found: &CallFailed) -> String {
    found.call.asked.and_then(asked_address).map_or_else(
        || "the port".to_owned(),
        |address| format!("port {}", address.port()),
    )
}

fn already_bound(asker: &Asker) -> String {
    let has = match (asker.state, asker.local.port()) {
        (TcpState::Close, 0) => "the socket has a port or has been used".to_owned(),
        (TcpState::Close, _) => format!("the socket is bound already, to {}", asker.local),
        (TcpState::Listen, _) => format!("the socket listens already, on {}", asker.local),
        (state, _) => format!("the socket is in {}", state.name()),
    };
    format!("{has}. bind() comes once, and before connect() and listen().")
}

/// Two sockets, one port, and not both have the option.
fn port_held(found: &CallFailed, mode: Mode) -> String {
    let blocking = holders::blocking(found);
    let mut sentences = Vec::new();
    if found.call.call == Call::Listen {
        sentences.push("listen() looks at the port once more.".to_owned());
    }
    sentences.push(
        "Two sockets share a port only if both have SO_REUSEADDR and neither listens, or both have \
         SO_REUSEPORT."
            .to_owned(),
    );
    let asker = &found.call.asker;
    let would = match mode {
        Mode::Failed => "has",
        Mode::WouldFail => "would have",
    };
    let new = options(Some(asker.reuseaddr), Some(asker.reuseport));
    sentences.push(match theirs(&blocking) {
        Some(theirs) if new == NEITHER && theirs.ends_with(NEITHER) && !theirs.contains(", ") => {
            "Here, none of them has either option.".to_owned()
        }
        Some(theirs) => format!("The new socket {would} {new}, {theirs}."),
        None => format!("The new socket {would} {new}."),
    });
    if asker.reuseaddr
        && blocking
            .iter()
            .any(|one| one.holder.reuseaddr == Some(false))
    {
        sentences.push("SO_REUSEADDR on the new socket alone changes nothing.".to_owned());
    }
    sentences.extend(overlap(found, &blocking));
    lowercased(&sentences.join(" "))
}

/// Somebody listens.
fn port_listening(found: &CallFailed) -> String {
    let blocking = holders::blocking(found);
    let mut sentences = Vec::new();
    match found.call.call {
        Call::Listen => sentences.push(
            "only one of the sockets that share a port by SO_REUSEADDR may listen: bind() lets \
             them all, listen() only the first."
                .to_owned(),
        ),
        Call::Bind | Call::Connect => sentences.push(
            "somebody listens on the port. SO_REUSEADDR does not share it with a listener, even if \
             both sockets have it; SO_REUSEPORT on both does."
                .to_owned(),
        ),
    }
    sentences.extend(who_lacks_reuseport(found.call.asker.reuseport, &blocking));
    if blocking
        .iter()
        .any(|one| one.holder.state != TcpState::Listen)
    {
        sentences.push(
            "Without the listener, the other sockets would still be in the way: not both sides have \
             SO_REUSEADDR, or both SO_REUSEPORT."
                .to_owned(),
        );
    }
    sentences.extend(overlap(found, &blocking));
    sentences.join(" ")
}

/// Which side has no SO_REUSEPORT, as far as known.
fn who_lacks_reuseport(new: bool, blocking: &[&HolderFound]) -> Option<String> {
    let old = blocking
        .iter()
        .filter(|one| one.holder.state == TcpState::Listen)
        .map(|one| one.holder.reuseport);
    let old: Vec<bool> = old.collect::<Option<_>>()?;
    let old = match old[..] {
        [] => return None,
        _ => old.into_iter().all(|has_it| has_it),
    };
    match (new, old) {
        (false, false) => Some("Neither has SO_REUSEPORT.".to_owned()),
        (false, true) => Some("The listener has SO_REUSEPORT, the new socket does not.".to_owned()),
        (true, false) => Some("The new socket has SO_REUSEPORT, the listener does not.".to_owned()),
        (true, true) => None,
    }
}

fn other_user(found: &CallFailed) -> String {
    let mut theirs: Vec<u32> = holders::blocking(found)
        .iter()
        .filter_map(|one| one.holder.uid)
        .collect();
    theirs.sort_unstable();
    theirs.dedup();
    let theirs: Vec<String> = theirs.iter().take(3).map(u32::to_string).collect();
    let theirs = if theirs.is_empty() {
        String::new()
    } else {
        format!(", the one in the way to uid {}", theirs.join(", "))
    };
    format!(
        "both have SO_REUSEPORT, which shares a port among sockets of one user only. The new socket \
         belongs to uid {}{theirs}.",
        found.call.asker.uid
    )
}

/// `those in the way have SO_REUSEADDR`; `None` when nobody is known to be in the way.
fn theirs(blocking: &[&HolderFound]) -> Option<String> {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for one in blocking {
        let options = options(one.holder.reuseaddr, one.holder.reuseport);
        match counts.iter_mut().find(|(known, _)| *known == options) {
            Some((_, count)) => *count += 1,
            None => counts.push((options, 1)),
        }
    }
    match counts[..] {
        [] => None,
        [(options, 1)] => Some(format!("the one in the way has {options}")),
        [(options, _)] => Some(format!("those in the way have {options}")),
        _ => {
            let counts: Vec<String> = counts
                .iter()
                .map(|(options, count)| {
                    let have = if *count == 1 { "has" } else { "have" };
                    format!("{count} {have} {options}")
                })
                .collect();
            Some(format!("of those in the way {}", counts.join(", ")))
        }
    }
}

fn options(reuseaddr: Option<bool>, reuseport: Option<bool>) -> &'static str {
    match (reuseaddr, reuseport) {
        (Some(false), Some(false)) => NEITHER,
        (Some(true), Some(false)) => "SO_REUSEADDR",
        (Some(false), Some(true)) => "SO_REUSEPORT",
        (Some(true), Some(true)) => "both",
        (None, _) | (_, None) => "options that are not known",
    }
}

/// Why a socket with another address is in the way, where that is not plain to see.
fn overlap(found: &CallFailed, blocking: &[&HolderFound]) -> Option<String> {
    let asker = &found.call.asker;
    let new = match found.call.call {
        Call::Bind => asked_address(found.call.asked?)?.ip(),
        Call::Listen | Call::Connect => asker.local.ip(),
    };
    blocking
        .iter()
        .find_map(|one| overlap_of(new, asker.v6only, one))
}

/// net/ipv4/inet_connection_sock.c `inet_rcv_saddr_equal` (v6.18).
fn overlap_of(new: IpAddr, new_v6only: bool, one: &HolderFound) -> Option<String> {
    let old = one.holder.local.ip();
    let [new_v4, old_v4] = [new, old].map(|ip| ip.to_canonical().is_ipv4());
    if new.to_canonical() == old.to_canonical() {
        return None;
    }
    let any = |ip: IpAddr| ip.to_canonical().is_unspecified();
    let [shown_new, shown_old] = [new, old].map(|ip| ip.to_canonical());
    match (new_v4, old_v4) {
        (true, true) | (false, false) if any(new) => Some(format!("{new} includes {shown_old}.")),
        (true, true) | (false, false) if any(old) => Some(format!("{old} includes {shown_new}.")),
        (false, true) if any(new) && !new_v6only => {
            Some("A socket on :: without IPV6_V6ONLY takes the port of IPv4, too.".to_owned())
        }
        (true, false) if any(old) && one.holder.v6only == Some(false) => {
            Some("A socket on :: without IPV6_V6ONLY has the port of IPv4, too.".to_owned())
        }
        (true, false) if any(new) && words::is_connection(one.holder.state) => Some(
            "An IPv6 connection whose listener was open to IPv4 as well is in the way of 0.0.0.0."
                .to_owned(),
        ),
        (_, _) => None,
    }
}

/// It follows a colon; but a name stays as it is.
fn lowercased(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) if characters.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(characters).collect()
        }
        Some(_) | None => text.to_owned(),
    }
}
