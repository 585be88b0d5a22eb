//! Owns the remedies in words that say what to do.

use std::net::IpAddr;

use tcptrace_model::{
    CallFailed, HolderFound, OwnerSource, TcpState,
    conflict::{Call, Remedy, Rule},
};

use super::{super::prose::Section, Mode, Telling, asked_address, common, holders, timer, words};

/// So many processes are named.
const MOST_NAMES: usize = 3;

/// What would have made the call succeed, best first; `None` where nothing on this host would.
pub(super) fn section(found: &CallFailed, telling: Telling) -> Option<Section> {
    if found.remedies.is_empty() {
        return (words::subject(found.rule) == words::Subject::Holders)
            .then(|| Section::plain("No remedy is known that the rules confirm."));
    }
    let label = match telling.mode {
        Mode::Failed => "What would have helped:",
        Mode::WouldFail => "What would help:",
    };
    Some(Section {
        label: label.to_owned(),
        items: found
            .remedies
            .iter()
            .map(|remedy| words_of(remedy, found, telling))
            .collect(),
        joint: "; or ",
    })
}

fn words_of(remedy: &Remedy, found: &CallFailed, telling: Telling) -> String {
    let call = &found.call;
    let before = words::function(call.call);
    match remedy {
        Remedy::ReuseaddrOnNew => format!(
            "SO_REUSEADDR on the new socket, set before {before}: {}",
            have_it(found)
        ),
        Remedy::ReuseaddrOnBoth => on_both("SO_REUSEADDR", found),
        Remedy::ReuseportOnNew => format!(
            "SO_REUSEPORT on the new socket, set before bind(): {}",
            have_it(found)
        ),
        Remedy::ReuseportOnBoth => {
            format!("{}, by the same user", on_both("SO_REUSEPORT", found))
        }
        Remedy::V6onlyOnNew => "IPV6_V6ONLY on the new socket, set before bind(): it then leaves \
                                IPv4, where the conflict is, alone"
            .to_owned(),
        Remedy::OtherAddress(address) => {
            format!("another address, such as {address}: nobody is in the way there")
        }
        Remedy::Wait => wait(found, telling),
        Remedy::CloseHolders(indices) => close(found, indices),
        Remedy::Freebind => {
            "IP_FREEBIND on the new socket, which allows an address that this host \
                             does not have (yet)"
                .to_owned()
        }
        Remedy::NonlocalBind => format!(
            "sysctl {}.ip_nonlocal_bind=1, which allows addresses that this host does not have",
            if is_plain_v6(found) {
                "net.ipv6"
            } else {
                "net.ipv4"
            }
        ),
        Remedy::Capability => "CAP_NET_BIND_SERVICE for the process (setcap \
                               cap_net_bind_service=+ep on its program, or AmbientCapabilities= in \
                               its systemd unit)"
            .to_owned(),
        Remedy::UnprivilegedPortStart(port) => {
            format!("sysctl net.ipv4.ip_unprivileged_port_start={port}, for all processes")
        }
        Remedy::WiderPortRange => "a wider sysctl net.ipv4.ip_local_port_range".to_owned(),
        Remedy::OtherDestination => {
            "another address or port of the peer: each has ports of its own".to_owned()
        }
        Remedy::TcpTwReuse => "sysctl net.ipv4.tcp_tw_reuse=1, so that connect() takes over ports \
                               that are in TIME_WAIT"
            .to_owned(),
        Remedy::AutobindReuse => {
            "sysctl net.ipv4.ip_autobind_reuse=1, with SO_REUSEADDR on all sockets".to_owned()
        }
        Remedy::NewSocket => "a new socket for it".to_owned(),
        Remedy::ClearV6only => {
            "IPV6_V6ONLY off on the new socket, so that it may have IPv4 addresses".to_owned()
        }
    }
}

fn have_it(found: &CallFailed) -> &'static str {
    if found.blocking_total.max(holders::blocking(found).len()) == 1 {
        "the one in the way has it"
    } else {
        "all in the way have it"
    }
}

/// An option on both sides, and when the old side needed it.
fn on_both(option: &str, found: &CallFailed) -> String {
    let blocking = holders::blocking(found);
    // A connection that connect() made has its own; any other has its listener's.
    let accepted = |one: &&HolderFound| {
        words::is_connection(one.holder.state)
            && one.holder.port_bound != Some(true)
            && one
                .owner
                .is_none_or(|owner| owner.source != OwnerSource::Connect)
    };
    let accepted_count = blocking.iter().copied().filter(|one| accepted(one)).count();
    if accepted_count == 0 {
        format!("{option} on both the new socket and the old, set before bind()")
    } else if accepted_count < blocking.len() {
        format!(
            "{option} on all: on the sockets before bind(), and for the connections on their \
             listener when it accepted them"
        )
    } else if accepted_count == 1 {
        format!(
            "{option} on both: on the new socket before bind(), and on the old listener when it \
             accepted this connection, which keeps what the listener had then (too late now, right \
             for the next restart)"
        )
    } else {
        format!(
            "{option} on both: on the new socket before bind(), and on the old listener when it \
             accepted these connections, which keep what the listener had then (too late now, right \
             for the next restart)"
        )
    }
}

/// How long.
fn wait(found: &CallFailed, telling: Telling) -> String {
    match found.free_at_ns {
        Some(at_ns) => {
            let what = match found.call.call {
                Call::Bind | Call::Listen => "the port is free",
                Call::Connect => "the addresses and ports are free",
            };
            let when = timer::until(at_ns, found.call.ts_ns, telling.hz);
            format!("waiting: {what} {when}")
        }
        // TCP_TIMEWAIT_LEN, include/net/tcp.h (v6.18).
        None if found.rule == Rule::PortsExhausted => {
            "waiting: the ports in TIME_WAIT come free one by one, each after about 60s".to_owned()
        }
        None => "waiting: what is in the way goes by itself, when is not known".to_owned(),
    }
}

/// Whom to end, or what to have closed there: in the ordinary way, with what that leaves behind.
fn close(found: &CallFailed, indices: &[usize]) -> String {
    let closing: Vec<&HolderFound> = indices
        .iter()
        .filter_map(|index| found.holders.get(*index))
        .collect();
    let all = |is: &dyn Fn(TcpState) -> bool| closing.iter().all(|one| is(one.holder.state));
    let noun = if all(&|state| state == TcpState::Listen) {
        "the listener"
    } else if all(&words::is_connection) {
        "the connection"
    } else {
        "the socket"
    };
    let what = match closing.len() {
        1 => noun.to_owned(),
        _ => format!("{noun}s"),
    };
    let leaves_time_wait =
        !all(&|state| !matches!(state, TcpState::Established | TcpState::SynRecv));
    let left = if leaves_time_wait {
        " (a TIME_WAIT that this leaves would not be in the way)"
    } else {
        ""
    };
    match names(&closing) {
        Some(names) => format!("stopping {names}, or closing {what} there{left}"),
        None => format!("closing {what}; whose is not known{left}"),
    }
}

/// `nginx[77], nginx[78]`; `None` when the owner of one of them is not known.
fn names(holders: &[&HolderFound]) -> Option<String> {
    let mut names: Vec<String> = Vec::new();
    for one in holders {
        let name = common::process(&one.owner?.process);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let more = names.len().saturating_sub(MOST_NAMES);
    names.truncate(MOST_NAMES);
    let names = names.join(", ");
    Some(match more {
        0 => names,
        _ => format!("{names} and {more} more"),
    })
}

/// Whether the address asked for is an IPv6 address that is not IPv4's in another form.
fn is_plain_v6(found: &CallFailed) -> bool {
    found
        .call
        .asked
        .and_then(asked_address)
        .is_some_and(|address| match address.ip() {
            IpAddr::V4(_) => false,
            IpAddr::V6(ip) => ip.to_ipv4_mapped().is_none(),
        })
}
