//! Owns the `Tracker`: takes inputs, remembers what it needs of each socket, and tells findings.

use alloc::collections::VecDeque;

use crate::{
    Finding, Input, Process, Snapshot, Summary, Task, bound::BoundOnly, calls::Calls,
    conflict::KernelVersion, connection::End, ends::Ends, listeners::Listeners, ports::Asked,
    snapshots::Snapshots, stories::Stories, table::Key, tally::Tally, waits::Waits,
};

/// How long the parts of one event of the kernel may lie apart, in ns: a transition to CLOSE and the
/// RST or the minisocket that belongs to it. The kernel makes them at once, in one call; this much
/// more is for an interrupt in between.
pub(crate) const ONE_EVENT_NS: u64 = 5_000_000;

/// How long an end that has closed waits for its RST, in ns. The kernel sends it in the same call, but a
/// process that closes can lose the CPU in between, and over loopback the peer handles the RST first.
const RESET_WITHIN_NS: u64 = 50_000_000;

/// Of what waits for another part of its event, so many are remembered, at most.
const MOST_PARTS: usize = 1 << 16;

/// What the tracker must know of the trace that its inputs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Settings {
    /// Connections remembered at once, at most.
    pub max_connections: usize,
    /// Minisockets remembered at once, at most.
    pub max_minisockets: usize,
    /// A connection that has been in a passing state for so long is told to be stuck, in ns; `None`
    /// for never.
    pub stuck_after_ns: Option<u64>,
    /// Whether minisockets are reported at all. Where they are not, nothing is said of TIME_WAIT.
    pub minisockets: bool,
    /// Whether `tcp_send_reset` tells of the RSTs that minisockets send (6.10 and later).
    pub minisocket_resets: bool,
    /// Whether minisockets count only if the connection before them was seen, because the filters
    /// (user, cgroup, process) cannot be applied to them in the kernel.
    pub known_minisockets_only: bool,
    /// Whether every time that a minisocket's timer is set anew is reported, as fentry does; the
    /// timer tracepoints miss those that stay in the same bucket of the wheel.
    pub rearms_exact: bool,
    /// The kernel, for its rules of bind().
    pub kernel: KernelVersion,
    /// Whether calls are reported at all, and accept() with them.
    pub calls: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_connections: 1 << 20,
            max_minisockets: 1 << 20,
            stuck_after_ns: Some(60_000_000_000),
            minisockets: true,
            minisocket_resets: true,
            known_minisockets_only: false,
            rearms_exact: true,
            kernel: KernelVersion::of(6, 18),
            calls: true,
        }
    }
}

/// The analysis. See the crate's documentation for the order of calls.
#[derive(Debug)]
pub struct Tracker {
    pub(crate) settings: Settings,
    pub(crate) ends: Ends,
    pub(crate) waits: Waits,
    pub(crate) listeners: Listeners,
    pub(crate) bound: BoundOnly,
    pub(crate) asked: Asked,
    pub(crate) calls: Calls,
    pub(crate) stories: Stories,
    pub(crate) snapshots: Snapshots,
    pub(crate) tally: Tally,
    /// How many losses there have been: what is older than the last one is not sure any more.
    pub(crate) losses: u32,
    /// Ends that have closed and may still send a RST, and when they closed.
    pub(crate) endings: Parts,
    /// Minisockets whose connection has not closed yet, and when they were entered.
    pub(crate) entered: Parts,
    /// RSTs that minisockets have sent a moment ago: their addresses and when.
    pub(crate) resets: VecDeque<(u64, u64)>,
    /// Connections that were forgotten because the table was full.
    pub(crate) evicted_ends: u64,
    /// Minisockets likewise.
    pub(crate) evicted_waits: u64,
    /// When the next connection can be stuck, at the earliest.
    pub(crate) stuck_due_ns: u64,
    findings: VecDeque<Finding>,
}

impl Tracker {
    /// A tracker that has seen nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ends: Ends::new(),
            waits: Waits::new(),
            listeners: Listeners::new(),
            bound: BoundOnly::new(),
            asked: Asked::never(),
            calls: Calls::new(),
            stories: Stories::new(),
            snapshots: Snapshots::new(),
            tally: Tally::new(),
            losses: 0,
            endings: Parts::waiting(RESET_WITHIN_NS),
            entered: Parts::waiting(ONE_EVENT_NS),
            resets: VecDeque::new(),
            evicted_ends: 0,
            evicted_waits: 0,
            stuck_due_ns: 0,
            findings: VecDeque::new(),
        }
    }

    /// Takes one input. Inputs come in the order in which they were read.
    pub fn handle(&mut self, input: &Input) {
        match input {
            Input::Transition(transition) => {
                self.pass(transition.ts_ns);
                self.transition(transition);
            }
            Input::MinisocketEntered(entered) => {
                self.pass(entered.ts_ns);
                self.minisocket_entered(entered);
            }
            Input::MinisocketRearmed(rearmed) => {
                self.pass(rearmed.ts_ns);
                self.minisocket_rearmed(rearmed);
            }
            Input::MinisocketEnded(ended) => {
                self.pass(ended.ts_ns);
                self.minisocket_ended(ended);
            }
            Input::Reset(reset) => {
                self.pass(reset.ts_ns);
                self.reset(reset);
            }
            Input::Accepted(accepted) => {
                self.pass(accepted.ts_ns);
                self.accepted(accepted);
            }
            Input::Holder(listed) => {
                self.pass(listed.ts_ns);
                self.holder(listed);
            }
            // It was looked up later: records from before may still be in the buffer.
            Input::Surroundings(surroundings) => self.surroundings(surroundings),
            Input::Call(call) => {
                self.pass(call.ts_ns);
                self.called(call);
            }
            // A snapshot runs ahead of the records that are still in the buffer, and so does the
            // count of what was lost: their times do not say that all before them has been read.
            Input::Snapshot(Snapshot::Begin { ts_ns }) => self.snapshot_begins(*ts_ns),
            Input::Snapshot(Snapshot::Socket(existing)) => self.exists(existing),
            Input::Snapshot(Snapshot::End { ts_ns, complete }) => {
                self.snapshot_ends(*ts_ns, *complete);
            }
            Input::Gap { ts_ns } => {
                self.lose();
                self.calls.gap(*ts_ns);
                self.pass(*ts_ns);
            }
            Input::Lost(loss) => {
                self.lose();
                self.tally.lost += loss.records;
                self.tell(Finding::Lost(*loss));
            }
        }
    }

    /// Tells the time: CLOCK_BOOTTIME in ns, read before the last time that all inputs there were
    /// have been handled. What depends on its passing becomes a finding.
    pub fn advance(&mut self, now_ns: u64) {
        self.pass(now_ns);
        self.tell_stuck(now_ns);
    }

    /// The trace is over: what had waited for more is told as it is. What is still open has not
    /// ended and is only counted.
    pub fn finish(&mut self, now_ns: u64) {
        self.pass(now_ns);
        self.tell_endings(Until::TraceEnded);
        self.tell_entered(None);
        self.tell_stories(None);
    }

    /// The next finding, oldest first; `None` when all have been told.
    pub fn poll(&mut self) -> Option<Finding> {
        self.findings.pop_front()
    }

    /// What the trace amounts to so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let closed = self
            .endings
            .newest_first()
            .filter(|key| self.ends.get(*key).is_some_and(End::has_closed))
            .count();
        self.tally
            .summary(self.ends.len() - closed, self.waits.len())
    }

    /// One finding more.
    pub(crate) fn tell(&mut self, finding: Finding) {
        self.findings.push_back(finding);
    }

    /// All records up to a moment before `now_ns` have been read: what waited for one of them waits
    /// no more.
    fn pass(&mut self, now_ns: u64) {
        if self.entered.is_due(now_ns) {
            self.tell_entered(Some(now_ns));
        }
        if self.endings.is_due(now_ns) {
            self.tell_endings(Until::Passed(now_ns));
        }
        if self.snapshots.is_due(now_ns) {
            self.settle_snapshot();
        }
        if self.stories.is_due(now_ns) {
            self.tell_stories(Some(now_ns));
        }
        if now_ns > self.asked.until_ns {
            self.nobody_asks();
        }
    }

    fn lose(&mut self) {
        self.losses = self.losses.wrapping_add(1);
    }
}

/// How far the records that a verdict waits for have been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// All up to a moment before this time.
    Passed(u64),
    /// No more will come.
    TraceEnded,
}

/// Things that wait for another part of their event, the oldest first, bounded.
#[derive(Debug)]
pub(crate) struct Parts {
    since: VecDeque<(u64, Key)>,
    /// How long, in ns.
    within_ns: u64,
}

impl Parts {
    const fn waiting(within_ns: u64) -> Self {
        Self {
            since: VecDeque::new(),
            within_ns,
        }
    }

    /// Whether the first has waited long enough.
    fn is_due(&self, now_ns: u64) -> bool {
        self.since
            .front()
            .is_some_and(|(since_ns, _)| now_ns > since_ns.saturating_add(self.within_ns))
            || self.since.len() > MOST_PARTS
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// Takes the first if it has waited long enough, or no time is given.
    pub(crate) fn take(&mut self, now_ns: Option<u64>) -> Option<(u64, Key)> {
        if now_ns.is_none_or(|now_ns| self.is_due(now_ns)) {
            self.since.pop_front()
        } else {
            None
        }
    }

    pub(crate) fn push(&mut self, since_ns: u64, key: Key) {
        self.since.push_back((since_ns, key));
    }

    /// All that wait, the newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = Key> {
        self.since.iter().rev().map(|(_, key)| *key)
    }
}

impl From<&Task> for Process {
    fn from(task: &Task) -> Self {
        Self {
            pid: task.pid,
            comm: task.comm,
        }
    }
}
