//! Owns how the sockets that hold a port are told: in groups of one state and one owner, never one by
//! one.

use std::net::SocketAddr;

use tcptrace_model::{CallFailed, HolderFound, Owner, Phase, TcpState};

use super::{super::prose::Section, Mode, Telling, common, words};
use crate::render::time;

/// Of so many sockets of a group the addresses are told.
const EXAMPLES: usize = 2;
/// So many groups are told.
const MOST_GROUPS: usize = 6;

/// Holders of one state and one owner.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) state: TcpState,
    pub(super) phase: Option<Phase>,
    pub(super) owner: Option<Owner>,
    pub(super) members: Vec<&'a HolderFound>,
}

/// In groups, in the order in which the first of each comes.
pub(super) fn groups<'a>(holders: &[&'a HolderFound]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for found in holders {
        let (state, phase) = (found.holder.state, found.holder.minisocket);
        let known = groups.iter_mut().find(|group| {
            group.state == state && group.phase == phase && group.owner == found.owner
        });
        match known {
            Some(group) => group.members.push(found),
            None => groups.push(Group {
                state,
                phase,
                owner: found.owner,
                members: vec![found],
            }),
        }
    }
    groups
}

/// The sockets in the way, in the order of the finding.
pub(super) fn blocking(found: &CallFailed) -> Vec<&HolderFound> {
    found.holders.iter().filter(|one| one.blocks).collect()
}

/// What is in the way, where the rule says that something is, and what else holds the port.
pub(super) fn in_the_way(found: &CallFailed, telling: Telling) -> Vec<Section> {
    let blocking = blocking(found);
    let mut sections = Vec::new();
    if !blocking.is_empty() {
        sections.push(Section {
            label: "In the way:".to_owned(),
            items: items(
                &groups(&blocking),
                found.blocking_total.max(blocking.len()),
                found.call.ts_ns,
            ),
            joint: "; ",
        });
    } else if words::subject(found.rule) == words::Subject::Holders {
        let saw = match telling.mode {
            Mode::Failed => "was seen",
            Mode::WouldFail => "can be seen",
        };
        sections.push(Section::plain(&format!(
            "In the way: not known; no socket that holds the port {saw}."
        )));
    }
    let others = found.holders_total.saturating_sub(found.blocking_total);
    match others {
        0 => {}
        1 => sections.push(Section::plain(
            "One more socket holds the port and is not in the way.",
        )),
        _ => sections.push(Section::plain(&format!(
            "{others} more sockets hold the port and are not in the way."
        ))),
    }
    sections
}

/// An item for each group, and one for those that are not listed. `total` counts them all; `now_ns` is
/// CLOCK_BOOTTIME.
pub(super) fn items(groups: &[Group<'_>], total: usize, now_ns: u64) -> Vec<String> {
    let mut items: Vec<String> = groups
        .iter()
        .take(MOST_GROUPS)
        .map(|group| item(group, now_ns))
        .collect();
    let told: usize = groups
        .iter()
        .take(MOST_GROUPS)
        .map(|group| group.members.len())
        .sum();
    match total.saturating_sub(told) {
        0 => {}
        more => items.push(format!("and {more} more")),
    }
    items
}

/// `3 connections in TIME_WAIT (127.0.0.1:8000 -- 127.0.0.1:50210, …), left by python3[770], …`
fn item(group: &Group<'_>, now_ns: u64) -> String {
    let members = &group.members;
    let addresses: Vec<String> = members
        .iter()
        .take(EXAMPLES)
        .map(|found| addresses(found))
        .collect();
    let more = match members.len().saturating_sub(EXAMPLES) {
        0 => String::new(),
        more => format!(", {more} more"),
    };
    let mut parts = vec![format!(
        "{} ({}{more}) {}",
        words::sockets(group.state, group.phase, members.len()),
        addresses.join(", "),
        owner(group)
    )];
    parts.extend(since(group, now_ns));
    parts.extend(frees(group, now_ns));
    parts.join(", ")
}

/// `127.0.0.1:8000 -- 127.0.0.1:50210`, or `0.0.0.0:8000` for a socket without a peer.
pub(super) fn addresses(found: &HolderFound) -> String {
    let (local, remote): (SocketAddr, SocketAddr) = (found.holder.local, found.holder.remote);
    if words::is_connection(found.holder.state) && remote.port() != 0 {
        format!("{local} -- {remote}")
    } else {
        local.to_string()
    }
}

/// Whose it is. A minisocket is nobody's any more: it is what a process has left behind, and whether
/// that process is still there is another matter.
fn owner(group: &Group<'_>) -> String {
    let name = group.owner.as_ref().map(common::owner);
    match (group.phase, name) {
        (None, Some(name)) => format!("of {name}"),
        (Some(_), Some(name)) => format!("left by {name}"),
        (None, None) => "of a process that is not known".to_owned(),
        (Some(_), None) => "left by a process that is not known".to_owned(),
    }
}

/// For how long they have been in their state; of several, the oldest.
fn since(group: &Group<'_>, now_ns: u64) -> Option<String> {
    let since_ns: Option<Vec<u64>> = group.members.iter().map(|found| found.since_ns).collect();
    let oldest_ns = since_ns?.into_iter().min()?;
    let age = time::brief(now_ns.saturating_sub(oldest_ns));
    Some(match group.members.len() {
        1 => format!("for {age}"),
        _ => format!("for up to {age}"),
    })
}

/// When the timer of minisockets runs out; of several, the last.
fn frees(group: &Group<'_>, now_ns: u64) -> Option<String> {
    let frees_at_ns: Option<Vec<u64>> = group
        .members
        .iter()
        .map(|found| found.frees_at_ns)
        .collect();
    let last_ns = frees_at_ns?.into_iter().max()?.saturating_sub(now_ns);
    let whose = match group.members.len() {
        1 => "its timer",
        _ => "the last timer",
    };
    Some(match last_ns {
        0 => format!("{whose} has run out and ends it any moment"),
        ns => format!("{whose} runs out in {}", time::brief(ns)),
    })
}
