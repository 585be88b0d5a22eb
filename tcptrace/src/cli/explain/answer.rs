//! Owns the answers: what the rules say of a bind() and of the listen() after it, in the words of a trace.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use hashbrown::HashSet;
use tcptrace_common::TASK_COMM_LEN;
use tcptrace_model::{
    CallFailed, Certainty, Comm, Doubt, Doubts, Finding, HolderFound, Input, OptionsSource, Owner,
    OwnerSource, Settings, SocketCall, Surroundings, Task, Tracker,
    conflict::{self, Call, Holder, PortUse, Verdict, World, errno},
};

use super::{
    look::{ASKER, Seen},
    question::Question,
};
use crate::host::open_files;

/// Open files that are looked at to find owners, in all and of one process. A busy server has 100,000 of
/// them, each takes some microseconds, and its listeners are among the first.
const MOST_FILES: usize = 40_000;
const MOST_FILES_OF_ONE: usize = 2_048;

/// What becomes of one bind().
pub(super) struct Answer {
    pub(super) question: Question,
    /// The call, as if it had been made.
    pub(super) call: SocketCall,
    pub(super) outcome: Outcome,
}

/// What becomes of a bind().
pub(super) enum Outcome {
    /// It would fail, or may.
    Fails(Box<CallFailed>),
    /// It would succeed.
    Succeeds {
        /// Sockets that hold the port and share it.
        holders: Vec<HolderFound>,
        /// How many there are.
        total: usize,
        /// Why the listen() after it would fail.
        listen: Option<Box<CallFailed>>,
    },
}

impl Answer {
    /// Whether both say the same of two addresses.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (&self.outcome, &other.outcome) {
            (Outcome::Fails(one), Outcome::Fails(two)) => same_reason(one, two),
            (Outcome::Succeeds { listen: one, .. }, Outcome::Succeeds { listen: two, .. }) => {
                match (one, two) {
                    (None, None) => true,
                    (Some(one), Some(two)) => same_reason(one, two),
                    (None, Some(_)) | (Some(_), None) => false,
                }
            }
            (Outcome::Fails(_), Outcome::Succeeds { .. })
            | (Outcome::Succeeds { .. }, Outcome::Fails(_)) => false,
        }
    }

    fn holders_mut(&mut self) -> impl Iterator<Item = &mut HolderFound> {
        let (one, two) = match &mut self.outcome {
            Outcome::Fails(found) => (&mut found.holders[..], None),
            Outcome::Succeeds {
                holders, listen, ..
            } => (&mut holders[..], listen.as_mut()),
        };
        let two = two.map(|found| &mut found.holders[..]).unwrap_or_default();
        one.iter_mut().chain(two)
    }
}

fn same_reason(one: &CallFailed, two: &CallFailed) -> bool {
    let holders = |found: &CallFailed| -> Vec<(Holder, bool)> {
        (found.holders.iter())
            .map(|found| (found.holder, found.blocks))
            .collect()
    };
    (one.rule, one.certainty) == (two.rule, two.certainty)
        && one.remedies == two.remedies
        && holders(one) == holders(two)
}

/// What would become of the bind() that is asked for.
///
/// # Errors
/// When the model has nothing to say.
pub(super) fn answer(question: &Question, seen: &Seen) -> Result<Answer> {
    let holders: Vec<Holder> = seen.holders.iter().map(|held| held.listed.holder).collect();
    let world = World {
        holders: &holders,
        sysctls: &seen.settings.sysctls,
        ports: seen.ports,
        kernel: seen.kernel,
    };
    let request = question.request();
    let mut call = call(question, seen);
    let outcome = match conflict::decide(&request, &world) {
        Verdict::Succeeds => {
            let listen = match conflict::listen_after(&request, &world) {
                Verdict::Succeeds => None,
                Verdict::Fails { error, .. } => Some(failed(&listening(&call, error), seen, true)?),
                Verdict::Undecided { .. } => {
                    Some(failed(&listening(&call, errno::EADDRINUSE), seen, false)?)
                }
            };
            Outcome::Succeeds {
                total: holders.len(),
                holders: (seen.holders.iter().take(CallFailed::MOST_HOLDERS))
                    .map(|held| HolderFound {
                        holder: held.listed.holder,
                        blocks: false,
                        named_by_kernel: false,
                        rule: None,
                        owner: None,
                        since_ns: None,
                        frees_at_ns: held.listed.expires_ns,
                        options: seen.options,
                    })
                    .collect(),
                listen,
            }
        }
        Verdict::Fails { error, .. } => {
            call.error = error;
            Outcome::Fails(failed(&call, seen, true)?)
        }
        // What other sockets have is all that can be unknown: everything else has been looked at.
        Verdict::Undecided { .. } => {
            call.error = errno::EADDRINUSE;
            Outcome::Fails(failed(&call, seen, false)?)
        }
    };
    Ok(Answer {
        question: *question,
        call,
        outcome,
    })
}

/// What the model says of a call that failed, told as if it had happened.
fn failed(call: &SocketCall, seen: &Seen, decided: bool) -> Result<Box<CallFailed>> {
    let mut tracker = Tracker::new(Settings {
        kernel: seen.kernel,
        ..Settings::default()
    });
    for held in &seen.holders {
        tracker.handle(&Input::Holder(held.listed));
    }
    tracker.handle(&Input::Surroundings(Surroundings {
        ts_ns: seen.ts_ns,
        netns: seen.netns,
        sk: ASKER,
        sysctls: seen.settings.sysctls,
        ports: seen.ports,
    }));
    tracker.handle(&Input::Call(*call));
    let mut found = match tracker.poll() {
        Some(Finding::CallFailed(found)) => Some(found),
        Some(_) | None => None,
    }
    .context("the model says nothing of a call that fails")?;
    // There is no trace that anything could be older than.
    found.doubts = (found.doubts.iter())
        .filter(|doubt| *doubt != Doubt::BeforeTrace)
        .fold(Doubts::NONE, Doubts::with);
    for holder in &mut found.holders {
        holder.options = seen.options;
    }
    if seen.options == OptionsSource::Unknown && !decided {
        found.certainty = Certainty::Unknown;
        found.doubts = found.doubts.with(Doubt::OptionsUnknown);
    }
    Ok(found)
}

fn call(question: &Question, seen: &Seen) -> SocketCall {
    SocketCall {
        ts_ns: seen.ts_ns,
        began_ns: Some(seen.ts_ns),
        call: Call::Bind,
        error: 0,
        sk: ASKER,
        cookie: None,
        netns: Some(seen.netns),
        cgroup_id: None,
        task: Task {
            pid: 0,
            tid: 0,
            comm: Comm([0; TASK_COMM_LEN]),
        },
        asker: question.asker,
        asked: Some(question.asked),
        backlog: 0,
        local: question.asker.local,
        remote: SocketAddr::new(question.asker.local.ip(), 0),
        nonblocking: false,
        refused_by_lsm: false,
        guilty: None,
        listing: seen.listing,
    }
}

/// The listen() after `bind`, which has succeeded.
fn listening(bind: &SocketCall, error: u16) -> SocketCall {
    let local = bind.asked.map_or(bind.local, |asked| asked.addr);
    let mut call = SocketCall {
        call: Call::Listen,
        error,
        asked: None,
        local,
        ..*bind
    };
    call.asker.local = local;
    call
}

/// Looks up who has the sockets open that the answers show. Returns why some have no owner.
pub(super) fn add_owners(answers: &mut [Answer], seen: &Seen) -> Option<String> {
    let inode = |holder: &Holder| {
        (seen.holders.iter())
            .find(|held| held.listed.holder == *holder)
            .and_then(|held| held.inode)
    };
    let inodes: HashSet<u32> = answers
        .iter_mut()
        .flat_map(Answer::holders_mut)
        .filter_map(|found| inode(&found.holder))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let owners = match open_files::owners_among(inodes, MOST_FILES, MOST_FILES_OF_ONE) {
        Ok(owners) => owners,
        Err(error) => {
            return Some(format!(
                "the owners are not known: cannot read /proc: {error}"
            ));
        }
    };
    for found in answers.iter_mut().flat_map(Answer::holders_mut) {
        found.owner = inode(&found.holder)
            .and_then(|inode| owners.of(inode))
            .map(|process| Owner {
                process,
                source: OwnerSource::Proc,
            });
    }
    if owners.unfinished {
        return Some(format!(
            "not all owners are known: processes have more open files than were looked at ({MOST_FILES_OF_ONE} of each, {MOST_FILES} in all)"
        ));
    }
    (owners.unreadable > 0).then(|| {
        format!(
            "not all owners are known: permission denied to read the open files of some processes ({}); type: {}",
            owners.unreadable, seen.as_root
        )
    })
}

/// How many automatic ports are free, where that was asked.
pub(super) fn free_ports(answers: &[Answer], seen: &Seen) -> Option<String> {
    let succeeds =
        (answers.iter()).any(|answer| matches!(answer.outcome, Outcome::Succeeds { .. }));
    let PortUse {
        range: (low, high),
        reserved,
        held,
        ..
    } = seen.ports.filter(|_| succeeds)?;
    let total = u32::from(high) + 1 - u32::from(low);
    Some(format!(
        "Of the {total} ports from {low} to {high} (net.ipv4.ip_local_port_range) nobody holds {}; {held} are held, {reserved} are reserved.",
        total.saturating_sub(held).saturating_sub(reserved)
    ))
}
