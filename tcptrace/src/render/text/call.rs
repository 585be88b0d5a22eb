//! Owns what is told of a call: one that failed, one that would fail now, one that succeeded. The same
//! paragraph serves a trace and `tcptrace explain`; only the tense differs.

mod holders;
mod ports;
mod remedies;
mod timer;
mod why;
pub(super) mod words;

use std::net::SocketAddr;

use tcptrace_model::{
    CallFailed, CallSucceeded, Certainty, FailedBind, HolderFound, SocketCall,
    conflict::{Asked, Asker, Call, Family, Rule},
};

use super::{
    Layout,
    prose::{self, Mark, Paragraph, Section},
    words as common,
};
use crate::render::{names, time};

/// Whether a call has failed, or is thought through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A process called, and it failed.
    Failed,
    /// Nobody called: it would fail now. The task, the errno's moment and the socket's address of the
    /// [`CallFailed`] mean nothing.
    WouldFail,
}

/// How a call is told.
#[derive(Clone, Copy, Debug)]
pub struct Telling {
    /// The tense.
    pub mode: Mode,
    /// Everything that is known of the socket that asks.
    pub wide: bool,
    /// The kernel's ticks per second, which say how late its timers may be; `None` when not known.
    pub hz: Option<u32>,
}

/// The paragraph on a call that would fail now, as `tcptrace explain` prints it, with its newline. `hz`
/// is the kernel's ticks per second; `None` when not known.
#[must_use]
pub fn would_fail(layout: &Layout, hz: Option<u32>, found: &CallFailed) -> String {
    let telling = Telling {
        mode: Mode::WouldFail,
        wide: layout.wide,
        hz,
    };
    let mut out = String::new();
    prose::sections(&mut out, layout, &failed(found, telling));
    out
}

/// The paragraph on a call that would succeed now, as `tcptrace explain` prints it, with its newline.
/// `holders` are those that hold the port and share it; `total` is how many there are, as far as known.
#[must_use]
pub fn would_succeed(
    layout: &Layout,
    call: &SocketCall,
    holders: &[HolderFound],
    total: usize,
) -> String {
    let sections = if total == 0 {
        vec![Section::plain(match call.call {
            Call::Bind if call.asked.is_some_and(|asked| asked.addr.port() == 0) => {
                "The kernel would choose a port."
            }
            Call::Bind | Call::Listen => "No socket holds the port.",
            Call::Connect => "Nothing on this host is in the way.",
        })]
    } else {
        let all: Vec<&HolderFound> = holders.iter().collect();
        let groups = holders::groups(&all);
        vec![Section {
            label: "Holding the port, and not in the way:".to_owned(),
            items: holders::items(&groups, total, call.ts_ns),
            joint: "; ",
        }]
    };
    let mut out = String::new();
    let paragraph = Paragraph {
        mark: Mark::Plain,
        heading: format!("{} would succeed now", what(call, Mode::WouldFail)),
        sections,
    };
    prose::sections(&mut out, layout, &paragraph);
    out
}

/// A call that failed or would fail: who asked for what, what is in the way, by which clause, and what
/// would change that.
pub(super) fn failed(found: &CallFailed, telling: Telling) -> Paragraph {
    let call = &found.call;
    let error = names::error(call.error).unwrap_or_else(|| "no error".to_owned());
    let heading = match telling.mode {
        Mode::Failed => format!("{} failed: {error}", what(call, telling.mode)),
        Mode::WouldFail => {
            let would = match found.certainty {
                Certainty::Exact => "would fail",
                Certainty::Inferred => "would probably fail",
                Certainty::Unknown => "may fail",
            };
            format!("{} {would} now: {error}", what(call, telling.mode))
        }
    };
    let mut sections = Vec::new();
    if telling.wide && telling.mode == Mode::Failed {
        sections.push(Section::plain(&asker(call)));
    }
    sections.extend(holders::in_the_way(found, telling));
    let why = why::sentences(found, telling.mode);
    if words::subject(found.rule) == words::Subject::Network {
        sections.push(Section::plain(&why));
    } else {
        sections.push(Section::plain(&format!("Why: {why}")));
    }
    sections.extend(remedies::section(found, telling));
    sections.extend(found.after_failed_bind.as_ref().map(after));
    sections.extend(doubtful(found));
    let is_certain = found.certainty == Certainty::Exact;
    Paragraph {
        mark: match telling.mode {
            // That it failed is certain, whatever the reason.
            Mode::Failed if words::subject(found.rule) == words::Subject::Network => Mark::Plain,
            Mode::WouldFail if !is_certain => Mark::Uncertain,
            Mode::Failed | Mode::WouldFail => Mark::Attention,
        },
        heading,
        sections,
    }
}

/// A bind() or listen() that succeeded. One that does not do what was meant asks for attention.
pub(super) fn succeeded(found: &CallSucceeded) -> Paragraph {
    let CallSucceeded {
        call,
        autobound,
        after_failed_bind,
    } = found;
    let who = common::task(&call.task);
    if !autobound {
        let at = match call.call {
            Call::Bind | Call::Listen => call.local,
            Call::Connect => call.remote,
        };
        return Paragraph {
            mark: Mark::Plain,
            heading: format!("{} {at} by {who} succeeded", call.call.name()),
            sections: after_failed_bind.iter().map(after).collect(),
        };
    }
    let because = match after_failed_bind {
        Some(bind) => format!(
            "{}; the kernel then gave listen() a free port. Who connects to {} does not reach this \
             socket.",
            capitalised(&earlier(bind)),
            bind.asked.map_or_else(
                || "what was meant".to_owned(),
                |asked| format!("port {}", asked.port())
            )
        ),
        None => "The socket was not bound before: the kernel chose the port.".to_owned(),
    };
    Paragraph {
        mark: Mark::Attention,
        heading: format!(
            "listen() of {who} succeeded on {}, a port nobody asked for",
            call.local
        ),
        sections: vec![Section::plain(&because)],
    }
}

/// `bind 0.0.0.0:8000 by python3[812]`
fn what(call: &SocketCall, mode: Mode) -> String {
    let name = call.call.name();
    let address = match call.call {
        Call::Bind | Call::Connect => asked(call.asked),
        Call::Listen if call.local.port() == 0 => "on a socket without a port".to_owned(),
        Call::Listen => call.local.to_string(),
    };
    match mode {
        Mode::Failed => format!("{name} {address} by {}", common::task(&call.task)),
        Mode::WouldFail => format!("{name} {address}{}", with_options(&call.asker)),
    }
}

/// What was asked for, as far as it is an address at all.
fn asked(asked: Option<Asked>) -> String {
    match asked {
        None => "(address not known)".to_owned(),
        Some(asked) => match asked_address(asked) {
            Some(address) => address.to_string(),
            None => format!("(address family {})", asked.family),
        },
    }
}

/// The address, of a family that has one.
fn asked_address(asked: Asked) -> Option<SocketAddr> {
    [libc::AF_INET, libc::AF_INET6]
        .contains(&asked.family.into())
        .then_some(asked.addr)
}

/// ` (with SO_REUSEADDR)`; empty without any.
fn with_options(asker: &Asker) -> String {
    let options = options(asker);
    if options.is_empty() {
        String::new()
    } else {
        format!(" (with {})", options.join(", "))
    }
}

/// Options of the new socket by their names.
fn options(asker: &Asker) -> Vec<&'static str> {
    let Asker {
        family,
        state: _,
        local: _,
        reuseaddr,
        force_reuse,
        reuseport,
        reuseport_group: _,
        v6only,
        freebind,
        transparent,
        bind_address_no_port,
        device: _,
        uid: _,
        port_range: _,
        may_bind_privileged: _,
    } = *asker;
    [
        (reuseaddr, "SO_REUSEADDR"),
        (reuseport, "SO_REUSEPORT"),
        (v6only && family == Family::V6, "IPV6_V6ONLY"),
        (freebind, "IP_FREEBIND"),
        (transparent, "IP_TRANSPARENT"),
        (bind_address_no_port, "IP_BIND_ADDRESS_NO_PORT"),
        (force_reuse, "TCP_REPAIR"),
    ]
    .into_iter()
    .filter_map(|(is_set, name)| is_set.then_some(name))
    .collect()
}

/// Everything that is known of the socket that asked.
fn asker(call: &SocketCall) -> String {
    let mut parts = vec![match options(&call.asker)[..] {
        [] => "no options".to_owned(),
        ref options => options.join(" "),
    }];
    if call.asker.device != 0 {
        parts.push(format!("bound to interface {}", call.asker.device));
    }
    parts.push(format!("uid {}", call.asker.uid));
    parts.extend(call.netns.map(|netns| format!("netns {netns}")));
    parts.extend(call.cgroup_id.map(|cgroup| format!("cgroup {cgroup}")));
    parts.push(format!("thread {}", call.task.tid));
    parts.push(format!("skaddr {:#x}", call.sk));
    parts.extend(call.cookie.map(|cookie| format!("cookie {cookie}")));
    if call.call == Call::Listen {
        parts.push(format!("backlog {}", call.backlog));
    }
    let took = call
        .began_ns
        .and_then(|began_ns| call.ts_ns.checked_sub(began_ns));
    parts.extend(took.map(|ns| format!("took {}", time::brief(ns))));
    format!("The socket that asked: {}.", parts.join(", "))
}

/// `the bind to 0.0.0.0:8000 before it had failed with EADDRINUSE`
fn earlier(bind: &FailedBind) -> String {
    let FailedBind {
        ts_ns: _,
        error,
        asked,
    } = bind;
    let error = names::error(*error).unwrap_or_else(|| "no error".to_owned());
    match asked {
        Some(address) => format!("the bind to {address} before it had failed with {error}"),
        None => format!("a bind before it had failed with {error}"),
    }
}

/// A bind() of the same socket that had failed, as a sentence.
fn after(bind: &FailedBind) -> Section {
    Section::plain(&format!("{}.", capitalised(&earlier(bind))))
}

/// How sure it is, where it is not.
fn doubtful(found: &CallFailed) -> Option<Section> {
    let because = if found.doubts.is_empty() {
        String::new()
    } else {
        format!(": {}", common::doubts(found.doubts))
    };
    let text = match found.certainty {
        Certainty::Exact if found.doubts.is_empty() => return None,
        Certainty::Exact => format!("Seen in part{because}."),
        Certainty::Inferred => format!("Probably so{because}."),
        // The reason has just been said to be unknown.
        Certainty::Unknown if found.rule == Rule::Unknown && found.doubts.is_empty() => {
            return None;
        }
        Certainty::Unknown => format!("Not known for sure{because}."),
    };
    Some(Section::plain(&text))
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}
