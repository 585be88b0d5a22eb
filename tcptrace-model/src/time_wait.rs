//! Owns `Wait`: what is remembered of a minisocket, and what its end says of its life.

use core::num::NonZeroU64;

use crate::{
    Certainty, Doubt, Doubts, EndedBy, Minisocket, MinisocketEnded, MinisocketEntered, Owner,
    Phase, Process, TimeWait, TimeWaitEnd,
    connection::differ,
    tuple::{Tuple, may_be_same},
};

/// `TCP_TIMEWAIT_LEN` (include/net/tcp.h, v6.18): for how long the timer of a real TIME_WAIT is set,
/// always.
const TIME_WAIT_NS: u64 = 60_000_000_000;

/// Dates of the timer agree to within two ticks of the slowest kernel (HZ=100): one for the setting,
/// one for the reading.
const TICKS_NS: u64 = 20_000_000;

/// How much earlier `tw_entry_stamp`, which is in whole ms, may date what a hook has shown.
const STAMP_NS: u64 = 2_000_000;

/// A minisocket.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Wait {
    /// Its `tw` is 0 as long as only a snapshot has shown it.
    pub(crate) minisocket: Minisocket,
    /// The socket that it replaces.
    pub(crate) sk: Option<NonZeroU64>,
    /// Who owned the connection.
    pub(crate) owner: Option<Owner>,
    /// When it took the socket's place; `None` when that was not seen.
    pub(crate) entered_ns: Option<u64>,
    /// For how long its timer was set then, in ns.
    pub(crate) timeout_ns: u64,
    /// The phase that it began with.
    pub(crate) first_phase: Phase,
    /// When the real TIME_WAIT began; `None` when that was not seen or has not come.
    pub(crate) since_ns: Option<u64>,
    /// `since_ns` is the latest moment at which it can have begun.
    since_at_latest: bool,
    /// When its timer runs out, as last seen; `None` when not seen.
    pub(crate) expires_ns: Option<u64>,
    /// CLOCK_BOOTTIME ns of the last input about it; of snapshots only while no other has shown it.
    pub(crate) last_ns: u64,
    pub(crate) phase: Phase,
    /// How often its timer was seen to be set anew in the real TIME_WAIT.
    pub(crate) rearmed: u32,
    /// What is doubtful from the start.
    pub(crate) doubts: Doubts,
    /// How many losses there had been when it was first seen.
    pub(crate) losses_at_birth: u32,
    /// The last snapshot that listed it.
    pub(crate) listed: u32,
    /// The connection before it is known, so it counts even if only such are to count.
    pub(crate) known: bool,
    /// That it was entered has been told, or will never be.
    pub(crate) told: bool,
    /// It is in the index of tuples.
    pub(crate) indexed: bool,
}

impl Wait {
    /// One that took the place of a socket.
    pub(crate) fn entered(entered: &MinisocketEntered, losses: u32) -> Self {
        let &MinisocketEntered {
            ts_ns,
            minisocket,
            sk,
            phase,
            timeout_ns,
        } = entered;
        Self {
            sk: sk.and_then(NonZeroU64::new),
            entered_ns: Some(ts_ns),
            timeout_ns,
            since_ns: (phase == Phase::TimeWait).then_some(ts_ns),
            since_at_latest: false,
            expires_ns: Some(ts_ns.saturating_add(timeout_ns)),
            told: false,
            ..Self::found(minisocket, phase, ts_ns, losses)
        }
    }

    /// One that was not seen to be entered.
    pub(crate) fn found(minisocket: Minisocket, phase: Phase, ts_ns: u64, losses: u32) -> Self {
        Self {
            minisocket,
            sk: None,
            owner: None,
            entered_ns: None,
            timeout_ns: 0,
            first_phase: phase,
            since_ns: None,
            since_at_latest: false,
            expires_ns: None,
            last_ns: ts_ns,
            phase,
            rearmed: 0,
            doubts: Doubts::NONE,
            losses_at_birth: losses,
            listed: 0,
            known: false,
            told: true,
            indexed: false,
        }
    }

    /// Its addresses and ports; `None` when a port is 0, which no connection has.
    pub(crate) fn tuple(&self) -> Option<Tuple> {
        Tuple::of(self.minisocket.local, self.minisocket.remote)
    }

    /// Whether `shown`, with this phase, can be this minisocket later on.
    pub(crate) fn is(&self, shown: &Minisocket, phase: Phase) -> bool {
        let known = &self.minisocket;
        self.tuple() == Tuple::of(shown.local, shown.remote)
            && may_be_same(known.netns, shown.netns)
            && !differ(known.cookie, shown.cookie)
            // There is no way back.
            && (self.phase, phase) != (Phase::TimeWait, Phase::FinWait2)
    }

    /// What is doubtful now.
    pub(crate) fn doubts(&self, losses: u32) -> Doubts {
        if self.losses_at_birth == losses {
            self.doubts
        } else {
            self.doubts.with(Doubt::RecordsLost)
        }
    }

    /// When it entered its phase; `None` when that was not seen.
    pub(crate) fn phase_since_ns(&self) -> Option<u64> {
        match self.phase {
            Phase::FinWait2 => self.entered_ns,
            Phase::TimeWait => self.since_ns.filter(|_| !self.since_at_latest),
        }
    }

    /// Its timer was set anew. `exact` says whether every setting is shown.
    pub(crate) fn rearm(&mut self, phase: Phase, ts_ns: u64, timeout_ns: u64, exact: bool) {
        match (self.phase, phase) {
            // net/ipv4/tcp_minisocks.c `tcp_timewait_state_process` (v6.18): the peer's FIN. Where not
            // every setting of the timer is shown, this may be a later one.
            (Phase::FinWait2, Phase::TimeWait) => {
                self.since_ns = Some(ts_ns);
                self.since_at_latest = !exact;
            }
            (Phase::TimeWait, Phase::TimeWait) => self.rearmed = self.rearmed.saturating_add(1),
            (Phase::FinWait2 | Phase::TimeWait, Phase::FinWait2) => {}
        }
        self.phase = phase;
        self.expires_ns = Some(ts_ns.saturating_add(timeout_ns));
        self.last_ns = ts_ns;
    }

    /// The end of one whose end nobody has seen, noticed at `ts_ns`.
    pub(crate) fn vanished(&self, ts_ns: u64, losses: u32) -> TimeWait {
        TimeWait {
            ts_ns,
            minisocket: self.minisocket,
            owner: self.owner,
            entered_ns: self.entered_ns,
            fin_wait2_ns: self.fin_wait2_ns(),
            time_wait_ns: None,
            rearmed: self.rearmed,
            rearmed_at_least: true,
            end: TimeWaitEnd::Unknown,
            last_phase: self.phase,
            by: None,
            certainty: Certainty::Unknown,
            doubts: self.doubts(losses).with(Doubt::RecordsLost),
        }
    }

    /// Its end.
    pub(crate) fn ended(&self, ended: &MinisocketEnded, how: Hooks, losses: u32) -> TimeWait {
        let end_ns = ended.ts_ns;
        let mut doubts = self.doubts(losses);
        let mut certainty = if doubts.is_empty() {
            Certainty::Exact
        } else {
            Certainty::Inferred
        };
        let (end, by) = how.end(ended);
        if end == TimeWaitEnd::Unknown {
            doubts = doubts.with(Doubt::EndNotShown);
            certainty = Certainty::Unknown;
        }
        let mut told = TimeWait {
            ts_ns: end_ns,
            minisocket: ended.minisocket,
            owner: self.owner,
            entered_ns: self.entered_ns,
            fin_wait2_ns: None,
            time_wait_ns: None,
            rearmed: self.rearmed,
            rearmed_at_least: self.rearmed > 0 && !how.rearms_exact,
            end,
            last_phase: ended.phase,
            by,
            certainty,
            doubts,
        };
        if ended.phase == Phase::FinWait2 {
            told.fin_wait2_ns = self
                .entered_ns
                .map(|entered_ns| end_ns.saturating_sub(entered_ns));
            told.time_wait_ns = Some(0);
            return told;
        }
        let seen_ns = self.since_ns.filter(|_| self.phase == Phase::TimeWait);
        // The kernel's stamp confirms what may have been a later setting of the timer.
        let confirmed = |since_ns: u64| {
            ended
                .time_wait_since_ns
                .is_some_and(|stamp_ns| since_ns.saturating_sub(stamp_ns) <= STAMP_NS)
        };
        let exact_ns = seen_ns.filter(|since_ns| !self.since_at_latest || confirmed(*since_ns));
        // When it began, and when the timer runs out that was set then or, as far as seen, last.
        let (since_ns, set_ns) = match (exact_ns, ended.time_wait_since_ns) {
            (Some(since_ns), _) => (since_ns, self.expires_ns),
            (None, Some(stamp_ns)) => {
                told.doubts = told.doubts.with(Doubt::DateFromStamp);
                (stamp_ns, Some(stamp_ns.saturating_add(TIME_WAIT_NS)))
            }
            (None, None) => {
                told.doubts = told.doubts.with(Doubt::DateFromTimer);
                // How often it was set before that cannot be known.
                told.rearmed_at_least = true;
                let set_ns = self.expires_ns.filter(|_| self.phase == Phase::TimeWait);
                let last_ns = ended.expires_ns.saturating_sub(TIME_WAIT_NS);
                (
                    seen_ns.map_or(last_ns, |seen_ns| seen_ns.min(last_ns)),
                    set_ns,
                )
            }
        };
        if exact_ns.is_none() {
            told.certainty = told.certainty.max(Certainty::Inferred);
        }
        let earliest_ns = self.entered_ns.unwrap_or(0).min(end_ns);
        let since_ns = since_ns.clamp(earliest_ns, end_ns);
        told.time_wait_ns = Some(end_ns - since_ns);
        told.fin_wait2_ns = self.entered_ns.map(|_| since_ns - earliest_ns);
        if set_ns.is_some_and(|set_ns| ended.expires_ns > set_ns.saturating_add(TICKS_NS)) {
            told.rearmed = told.rearmed.saturating_add(1);
            told.rearmed_at_least = true;
        }
        told
    }

    /// How long it waited for the peer's FIN, when both dates were seen.
    fn fin_wait2_ns(&self) -> Option<u64> {
        self.since_ns?.checked_sub(self.entered_ns?)
    }
}

/// What the hooks show of the end of a minisocket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hooks {
    /// See [`crate::Settings::rearms_exact`].
    pub(crate) rearms_exact: bool,
    /// See [`crate::Settings::minisocket_resets`].
    pub(crate) resets_shown: bool,
    /// This minisocket sent a RST a moment before.
    pub(crate) reset_sent: bool,
}

impl Hooks {
    /// What ended it, and who, where that is a system call.
    fn end(self, ended: &MinisocketEnded) -> (TimeWaitEnd, Option<Process>) {
        let end = match ended.by {
            EndedBy::Expiry => TimeWaitEnd::Expired,
            EndedBy::Connect => TimeWaitEnd::ReusedByConnect,
            EndedBy::Syn => TimeWaitEnd::ReusedBySyn,
            EndedBy::Data => TimeWaitEnd::DataAfterClose,
            // The RST is sent first: net/ipv4/tcp_ipv4.c `tcp_v4_rcv`, case `TCP_TW_RST` (v6.18).
            EndedBy::SynOrData if self.reset_sent => TimeWaitEnd::DataAfterClose,
            EndedBy::SynOrData if self.resets_shown => TimeWaitEnd::ReusedBySyn,
            EndedBy::SynOrData | EndedBy::Unknown => TimeWaitEnd::Unknown,
            EndedBy::Reset => TimeWaitEnd::Reset,
            EndedBy::Destroyed => TimeWaitEnd::SocketDestroyed,
            EndedBy::NetnsExit => TimeWaitEnd::NetnsExit,
        };
        let by = matches!(ended.by, EndedBy::Connect | EndedBy::Destroyed)
            .then(|| Process::from(&ended.current));
        (end, by)
    }
}
