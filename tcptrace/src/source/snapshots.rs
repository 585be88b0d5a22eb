//! Owns when snapshots of the existing sockets are taken: one at the start, and one after each loss, at
//! most one a second, in a thread of its own.

use std::{
    collections::{HashSet, VecDeque},
    panic, thread,
    thread::JoinHandle,
};

use tcptrace_common::PortSet;
use tcptrace_model::{Input, Snapshot};

use super::trouble::Trouble;
use crate::{
    bpf::filters::{Family, Filters, NetnsFilter},
    host::{
        cgroup, clock, open_files,
        snapshot::{self, Listed, Scope, Taken},
    },
};

/// The least time between two snapshots, in ns: each looks at all sockets and all processes.
const INTERVAL_NS: u64 = 1_000_000_000;

/// The snapshots of one trace.
pub(super) struct Snapshots {
    filters: Filters,
    /// One that is being taken.
    under_way: Option<JoinHandle<Taken>>,
    /// One that has been taken, and not been handed over yet.
    ready: VecDeque<Input>,
    /// Whether its handing over has begun.
    handing_over: bool,
    /// CLOCK_BOOTTIME ns at which the last one began.
    last_ns: u64,
    wanted: bool,
    troubles: Vec<Trouble>,
    told: HashSet<String>,
}

impl Snapshots {
    /// Of the sockets that these filters want.
    pub(super) fn new(filters: &Filters) -> Self {
        Self {
            filters: filters.clone(),
            under_way: None,
            ready: VecDeque::new(),
            handing_over: false,
            last_ns: 0,
            wanted: false,
            troubles: Vec::new(),
            told: HashSet::new(),
        }
    }

    /// Begins to take one, where there can be anything in it.
    pub(super) fn begin(&mut self) {
        self.wanted = false;
        match self.filters.netns {
            NetnsFilter::Any | NetnsFilter::These(_) => {}
            // All that is in these namespaces is younger than their being traced.
            NetnsFilter::Changing => return,
        }
        let filters = self.filters.clone();
        self.last_ns = clock::boottime_ns();
        self.under_way = Some(thread::spawn(move || take(&filters)));
    }

    /// Waits until the one that is being taken is there.
    pub(super) fn wait(&mut self) {
        let Some(thread) = self.under_way.take() else {
            return;
        };
        let Taken {
            inputs,
            gaps,
            owners_missing,
        } = thread
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic));
        self.ready.extend(inputs);
        let missing = gaps.into_iter().map(|gap| {
            let place = gap.netns.map_or_else(String::new, |inode| {
                format!(" of network namespace {inode}")
            });
            Trouble::Sockets(format!(
                "the sockets{place} that are older than the trace are not all known: {}",
                gap.why
            ))
        });
        for trouble in missing.chain(owners_missing.map(Trouble::Owners)) {
            if self.told.insert(trouble.sentence().to_owned()) {
                self.troubles.push(trouble);
            }
        }
    }

    /// Asks for one as soon as the last one is long enough ago: records were lost.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Takes care of what is to be done at `now_ns`, CLOCK_BOOTTIME.
    pub(super) fn look(&mut self, now_ns: u64) {
        match &self.under_way {
            Some(thread) if thread.is_finished() => self.wait(),
            None if self.wanted && now_ns.saturating_sub(self.last_ns) >= INTERVAL_NS => {
                self.begin();
            }
            Some(_) | None => {}
        }
    }

    /// Whether the handing over of a snapshot is to begin now: the next record is younger than it, or
    /// there is none.
    pub(super) fn is_due(&mut self, next_record_ns: Option<u64>) -> bool {
        let Some(Input::Snapshot(Snapshot::Begin { ts_ns })) = self.ready.front() else {
            return false;
        };
        self.handing_over = next_record_ns.is_none_or(|next| next >= *ts_ns);
        self.handing_over
    }

    /// The next part of the snapshot that is being handed over.
    pub(super) fn next(&mut self) -> Option<Input> {
        if !self.handing_over {
            return None;
        }
        let next = self.ready.pop_front();
        if matches!(next, None | Some(Input::Snapshot(Snapshot::End { .. }))) {
            self.handing_over = false;
        }
        next
    }

    /// What could not be looked into; each is told once.
    pub(super) fn troubles(&mut self) -> Vec<Trouble> {
        std::mem::take(&mut self.troubles)
    }
}

fn take(filters: &Filters) -> Taken {
    let inodes = filters.pid.map(open_files::sockets_of);
    let cgroups = filters.cgroup_id.map(cgroup::family);
    let keep = |listed: &Listed| {
        ports_match(filters, listed)
            && filters.uid.is_none_or(|uid| listed.uid == Some(uid))
            && cgroups
                .as_ref()
                .is_none_or(|cgroups| listed.cgroup_id.is_some_and(|id| cgroups.contains(&id)))
            && inodes.as_ref().is_none_or(|inodes| {
                listed
                    .inode
                    .is_some_and(|inode| inodes.contains(&inode.get()))
            })
    };
    snapshot::take(
        &Scope {
            namespaces: filters.netns.these(),
            ipv4: filters.family != Some(Family::Ipv6),
            ipv6: filters.family != Some(Family::Ipv4),
            keep: &keep,
        },
        clock::boottime_ns,
    )
}

/// The port filters, as the eBPF programs apply them. A listener has no remote port.
fn ports_match(filters: &Filters, listed: &Listed) -> bool {
    let (local, remote) = (listed.local.port(), listed.remote.port());
    [PortSet::Either, PortSet::Local, PortSet::Remote]
        .into_iter()
        .all(|set| {
            let mut wanted = filters
                .ports
                .iter()
                .filter(|(of, _)| *of == set)
                .map(|(_, port)| *port)
                .peekable();
            wanted.peek().is_none()
                || wanted.any(|port| match set {
                    PortSet::Either => port == local || port == remote,
                    PortSet::Local => port == local,
                    PortSet::Remote => port == remote,
                })
        })
}
