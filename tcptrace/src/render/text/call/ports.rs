//! Owns how exhausted ports are told: how many there are, and what holds them.

use tcptrace_model::{
    CallFailed, TcpState,
    conflict::{Call, PortUse},
};

use super::{super::summary::plural, words};

/// Why there was no port left.
pub(super) fn sentences(found: &CallFailed) -> String {
    let Some(ports) = &found.ports else {
        return match found.call.call {
            Call::Connect => {
                "every port of the automatic range is taken for this destination, held \
                              by a bind(), or reserved. How they are used was not counted."
                    .to_owned()
            }
            Call::Bind | Call::Listen => {
                "every port of the automatic range is held or reserved. How \
                                          they are used was not counted."
                    .to_owned()
            }
        };
    };
    let mut sentences = vec![range(found, ports)];
    let held = by_state(&ports.by_state);
    match found.call.call {
        Call::Connect => {
            let here = by_state(&ports.to_destination);
            if let (Some(destination), false) = (ports.destination, here.is_empty()) {
                sentences.push(format!("Connected to {destination}: {}.", here.join(", ")));
            }
            if !held.is_empty() {
                sentences.push(format!(
                    "All sockets on these ports, whatever they are connected to: {}.",
                    held.join(", ")
                ));
            }
            sentences.push(
                "connect() counts ports for each destination address and port apart, and leaves \
                 ports alone that a bind() has taken."
                    .to_owned(),
            );
        }
        Call::Bind | Call::Listen => {
            if !held.is_empty() {
                sentences.push(format!("Sockets that hold them: {}.", held.join(", ")));
            }
            sentences.push(
                "A port without a number is given only if no other socket has it, whatever \
                 SO_REUSEADDR or SO_REUSEPORT say."
                    .to_owned(),
            );
        }
    }
    sentences.join(" ")
}

/// How many ports there are, and how many of them are gone.
fn range(found: &CallFailed, ports: &PortUse) -> String {
    let (low, high) = ports.range;
    let count = u32::from(high).saturating_sub(low.into()) + 1;
    let setting = if found.call.asker.port_range.is_some() {
        "the socket's IP_LOCAL_PORT_RANGE"
    } else {
        "net.ipv4.ip_local_port_range"
    };
    let reserved = match ports.reserved {
        0 => "none reserved".to_owned(),
        reserved => format!("{reserved} reserved (ip_local_reserved_ports)"),
    };
    let held = ports.held;
    let destination = match (found.call.call, ports.destination) {
        (Call::Connect, Some(destination)) => format!(" for {destination}"),
        (Call::Connect | Call::Bind | Call::Listen, _) => String::new(),
    };
    format!(
        "no port is left{destination} in {low}-{high} ({setting}): {count} {}, {reserved}, {held} \
         held when it was counted.",
        plural(count.into(), "port")
    )
}

/// `27000 TIME_WAIT`, most first; equal ones in the order of the kernel's numbers.
fn by_state(counts: &[u32]) -> Vec<String> {
    let mut states: Vec<(TcpState, u32)> = TcpState::ALL
        .into_iter()
        .filter_map(|state| Some((state, *counts.get(usize::from(state.number()))?)))
        .filter(|(_, count)| *count > 0)
        .collect();
    states.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    states
        .into_iter()
        .map(|(state, count)| format!("{count} {}", words::counted(state)))
        .collect()
}
