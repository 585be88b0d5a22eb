//! Owns what the tracker does when an end of a connection closes: from its transition to CLOSE, over
//! the RST that may follow, to the finding.

use alloc::boxed::Box;

use TcpState::{CloseWait, Closing, Established, FinWait2};

use crate::{
    Certainty, CloseCause, Connection, Direction, Doubt, Doubts, Finding, Minisocket, Phase,
    Process, Reset, ResetSeen, StateSpan, TcpState, TimeWait, TimeWaitEnd, Tracker, Transition,
    close::{self, Facts},
    connection::{End, Ending},
    snapshots::Kind,
    tracker::{ONE_EVENT_NS, Until},
    verdict::{Closer, Verdict},
};

/// RSTs of minisockets that are remembered, at most: each belongs to the very next thing that the
/// same CPU reports of the same minisocket.
const MOST_RESETS: usize = 256;

impl Tracker {
    /// A transition to CLOSE.
    pub(crate) fn closes(&mut self, transition: &Transition) {
        let losses = self.losses;
        let ts_ns = transition.ts_ns;
        let (index, _) = self.life(transition);
        self.join_minisocket(index);
        let Some(end) = self.ends.at_mut(index) else {
            return;
        };
        let in_state_ns = end.in_state_ns(ts_ns, losses);
        let unbroken = end.losses_at_state == losses && end.first_ns < ts_ns;
        let ending = Ending {
            ts_ns,
            evidence: transition.evidence,
            current: Some(transition.current),
            in_state_ns,
            sent_after: None,
            losses,
            unbroken,
        };
        let (owner, minisocket) = (end.owner, end.minisocket);
        if end.port_bound {
            self.keeps_its_port(transition, owner);
        }
        self.tell_transition(
            transition,
            in_state_ns,
            owner,
            minisocket.map(|(phase, _)| phase),
        );
        if let Some((_, key)) = minisocket {
            self.tell_entered_minisocket(key, Doubts::NONE);
        }
        let Some(end) = self.ends.at_mut(index) else {
            return;
        };
        let verdict = close::decide(&end.facts(&ending, true, self.settings.minisockets, losses));
        if let Some(verdict) = verdict {
            return self.conclude(index, &ending, &verdict, Doubts::NONE);
        }
        end.ending = Some(Box::new(ending));
        if let Some(key) = self.ends.key(index) {
            self.endings.push(ts_ns, key);
        }
    }

    /// A RST was sent or received.
    pub(crate) fn reset(&mut self, reset: &Reset) {
        let seen = ResetSeen {
            ts_ns: reset.ts_ns,
            direction: reset.direction,
            reason: reset.reason,
        };
        if reset.state == TcpState::TimeWait {
            if reset.direction == Direction::Sent {
                self.resets.push_back((reset.sk, reset.ts_ns));
                if self.resets.len() > MOST_RESETS {
                    self.resets.pop_front();
                }
            }
            return;
        }
        let Some(index) = self.ends.with_address(reset.sk) else {
            return;
        };
        let Some(end) = self.ends.at_mut(index) else {
            return;
        };
        match (reset.direction, &mut end.ending) {
            (Direction::Sent, Some(ending)) => {
                ending.sent_after = Some(seen);
                self.settle_ending(index);
            }
            (Direction::Received, Some(_)) => {}
            (Direction::Sent, None) => end.sent = Some(seen),
            (Direction::Received, None) => end.received = Some(seen),
        }
    }

    /// Whether a minisocket sent a RST a moment before `ts_ns`.
    pub(crate) fn has_sent_reset(&self, tw: u64, ts_ns: u64) -> bool {
        self.resets
            .iter()
            .rev()
            .any(|(sk, sent_ns)| *sk == tw && sent_ns.abs_diff(ts_ns) <= ONE_EVENT_NS)
    }

    /// Decides the ends whose RST would have been read by now.
    pub(crate) fn tell_endings(&mut self, until: Until) {
        let now_ns = match until {
            Until::Passed(now_ns) => Some(now_ns),
            Until::TraceEnded => None,
        };
        while let Some((_, key)) = self.endings.take(now_ns) {
            if !self.ends.get(key).is_some_and(End::has_closed) {
                continue;
            }
            let doubts = match until {
                Until::Passed(_) => Doubts::NONE,
                Until::TraceEnded => Doubts::NONE.with(Doubt::TraceEnded),
            };
            self.settle(key.index(), doubts);
        }
    }

    /// Decides an end that has closed by what is known now.
    pub(crate) fn settle_ending(&mut self, index: u32) {
        self.settle(index, Doubts::NONE);
    }

    fn settle(&mut self, index: u32, doubts: Doubts) {
        let losses = self.losses;
        let Some(end) = self.ends.at_mut(index) else {
            return;
        };
        let Some(ending) = end.ending.take() else {
            return;
        };
        // A RST that was seen leaves nothing to be doubted.
        let doubts = if ending.sent_after.is_some() {
            Doubts::NONE
        } else {
            doubts
        };
        let shown = self.settings.minisockets && doubts.is_empty();
        let facts = Facts {
            reset_would_show: doubts.is_empty() && losses == ending.losses,
            ..end.facts(&ending, false, shown, losses)
        };
        let verdict = close::decide(&facts).unwrap_or_else(Verdict::unknown);
        self.conclude(index, &ending, &verdict, doubts);
    }

    /// An end is no more, though its transition to CLOSE was not seen.
    pub(crate) fn vanish(&mut self, index: u32, now_ns: u64) {
        let Some(end) = self.ends.at(index) else {
            return;
        };
        if end.has_closed() {
            return self.settle_ending(index);
        }
        let ending = Ending {
            ts_ns: now_ns,
            evidence: None,
            current: None,
            in_state_ns: None,
            sent_after: None,
            losses: self.losses,
            unbroken: false,
        };
        let verdict = if end.minisocket.is_some() {
            close::decide(&end.facts(&ending, false, false, self.losses))
        } else {
            None
        };
        let doubts = Doubts::NONE.with(Doubt::RecordsLost);
        self.conclude(
            index,
            &ending,
            &verdict.unwrap_or_else(Verdict::unknown),
            doubts,
        );
    }

    /// Tells how an end ended, and forgets it.
    fn conclude(&mut self, index: u32, ending: &Ending, verdict: &Verdict, doubts: Doubts) {
        let Some(mut end) = self.ends.remove(index) else {
            return;
        };
        if let Some(current) = &ending.current {
            let process = Process::from(current);
            match verdict.closer {
                Closer::Nobody => {}
                Closer::Holder => end.is_closed_by(process),
                Closer::Stranger => {
                    end.closed_by.get_or_insert(process);
                }
            }
        }
        self.snapshots
            .note_end(end.tuple(), Kind::Connection, ending.ts_ns);
        let mut doubts = doubts.and(end.doubts(ending.losses));
        if verdict.never_entered {
            self.tell_never_entered(&end, ending);
        }
        if self.losses != ending.losses && ending.sent_after.is_none() {
            // The RST that was waited for may be among what was lost.
            doubts = doubts.with(Doubt::RecordsLost);
        }
        let connection = self.connection(&mut end, ending, verdict, doubts);
        self.tally.connection(&connection);
        self.tell(Finding::Connection(Box::new(connection.clone())));
        self.tell_or_keep_story(&end, connection);
    }

    fn connection(
        &self,
        end: &mut End,
        ending: &Ending,
        verdict: &Verdict,
        doubts: Doubts,
    ) -> Connection {
        let mut certainty = verdict.certainty;
        if !doubts.is_empty() && !verdict.proven {
            certainty = certainty.max(Certainty::Inferred);
        }
        let seen = ending.current.is_some();
        let states = end.states(seen.then_some(ending.ts_ns), ending.losses);
        Connection {
            ts_ns: ending.ts_ns,
            socket: end.socket,
            role: end.role,
            owner: end.owner,
            closed_by: end.closed_by,
            close: verdict.close,
            cause: verdict.cause.word,
            signal: verdict.cause.signal(),
            exit_status: verdict.cause.exit_status(),
            error: ending.evidence.map_or(0, |evidence| evidence.error),
            closed_first: close::closed_first(end.state()),
            half_closed_ns: end.half_closed_ns(ending, &states),
            reset: verdict.reset,
            established_ns: states
                .iter()
                .find(|span| span.state == Established)
                .and_then(|span| span.ns),
            states,
            minisocket: end.minisocket.map(|(phase, _)| phase),
            never_entered: verdict.never_entered,
            peer: self.peer_of(end),
            complete: end.from_birth && seen && !doubts.contains(Doubt::RecordsLost),
            certainty,
            doubts,
        }
    }

    fn tell_never_entered(&mut self, end: &End, ending: &Ending) {
        let socket = &end.socket;
        // An orphan gets its minisocket as soon as it is in FIN_WAIT2; with a descriptor open it gets
        // one when the peer's FIN comes.
        let orphan = ending.evidence.is_some_and(|evidence| evidence.orphan);
        let last_phase = if end.state() == FinWait2 && orphan {
            Phase::FinWait2
        } else {
            Phase::TimeWait
        };
        let told = TimeWait {
            ts_ns: ending.ts_ns,
            minisocket: Minisocket {
                tw: 0,
                cookie: socket.cookie,
                netns: socket.netns,
                local: socket.local,
                remote: socket.remote,
                reuseaddr: socket.reuseaddr,
                reuseport: socket.reuseport,
            },
            owner: end.owner,
            entered_ns: None,
            fin_wait2_ns: None,
            time_wait_ns: None,
            rearmed: 0,
            rearmed_at_least: false,
            end: TimeWaitEnd::NeverEntered,
            last_phase,
            by: None,
            certainty: Certainty::Exact,
            doubts: Doubts::NONE,
        };
        self.tally.time_wait(&told);
        self.tell(Finding::TimeWait(Box::new(told)));
    }
}

impl End {
    /// What a verdict rests on.
    fn facts<'a>(
        &self,
        ending: &'a Ending,
        may_follow: bool,
        minisockets_shown: bool,
        losses: u32,
    ) -> Facts<'a> {
        let just_before = |reset: &ResetSeen| reset.ts_ns.abs_diff(ending.ts_ns) <= ONE_EVENT_NS;
        Facts {
            oldstate: self.state(),
            evidence: ending.evidence.as_ref(),
            in_state_ns: ending.in_state_ns,
            action: self.action,
            received: self.received.filter(just_before),
            sent_before: self.sent.filter(just_before),
            sent_after: ending.sent_after,
            may_follow,
            minisocket: self.minisocket.is_some(),
            reset_would_show: false,
            minisocket_would_show: minisockets_shown && ending.unbroken && losses == ending.losses,
        }
    }

    /// How long one direction was closed and the other was not.
    fn half_closed_ns(&self, ending: &Ending, states: &[StateSpan]) -> Option<u64> {
        if let Some(waited) = states.iter().find(|span| span.state == CloseWait) {
            // The peer's FIN came first.
            return waited.ns;
        }
        let begun_ns = self.action_ns?.get();
        let last = states.last()?;
        if self.action?.cause.word != CloseCause::Shutdown || last.ns.is_none() {
            return None;
        }
        // Until the peer's FIN or this end's close(), whichever came first.
        let peers_ns = if last.state == Closing {
            last.entered_ns?
        } else {
            ending.ts_ns
        };
        self.released_ns
            .map_or(peers_ns, |released_ns| released_ns.get().min(peers_ns))
            .checked_sub(begun_ns)
    }
}
