//! Owns what the tracker does with minisockets: joins them to the connections that they come from, and
//! tells their lives.

use alloc::boxed::Box;
use core::num::NonZeroU64;

use crate::{
    Certainty, Doubt, Doubts, Finding, Minisocket, MinisocketEnded, MinisocketEntered,
    MinisocketRearmed, Phase, TimeWait, TimeWaitEntered, Tracker,
    connection::{End, differ},
    snapshots::Kind,
    table::Key,
    time_wait::{Hooks, Wait},
    tuple::{Tuple, may_be_same},
};

impl Tracker {
    /// A connection got a minisocket; its transition to CLOSE follows.
    pub(crate) fn minisocket_entered(&mut self, entered: &MinisocketEntered) {
        let minisocket = &entered.minisocket;
        if let Some(recycled) = self.waits.with_address(minisocket.tw) {
            self.wait_vanished(recycled, entered.ts_ns);
        }
        let mut wait = Wait::entered(entered, self.losses);
        while let Some(other) = wait
            .tuple()
            .and_then(|tuple| self.waits.with_tuple(tuple, minisocket.netns))
        {
            self.displace_wait(other, &mut wait);
        }
        let connection = self.connection_of(&wait);
        if let Some(end) = connection.and_then(|index| self.ends.at(index)) {
            wait.known = true;
            wait.owner = end.owner;
        }
        let key = self.insert_wait(wait);
        if let Some(end) = connection.and_then(|index| self.ends.at_mut(index)) {
            end.minisocket = Some((entered.phase, key));
        }
        self.entered.push(entered.ts_ns, key);
    }

    /// A minisocket's timer was set anew.
    pub(crate) fn minisocket_rearmed(&mut self, rearmed: &MinisocketRearmed) {
        let &MinisocketRearmed {
            ts_ns,
            minisocket,
            phase,
            timeout_ns,
        } = rearmed;
        let exact = self.settings.rearms_exact;
        if let Some(index) = self.wait_of(&minisocket, phase, ts_ns) {
            if let Some(wait) = self.waits.at_mut(index) {
                wait.rearm(phase, ts_ns, timeout_ns, exact);
            }
        } else if !self.settings.known_minisockets_only {
            let mut wait = Wait::found(minisocket, phase, ts_ns, self.losses);
            wait.doubts = self.doubts_of_unknown(self.evicted_waits);
            wait.expires_ns = Some(ts_ns.saturating_add(timeout_ns));
            self.insert_wait(wait);
        }
    }

    /// A minisocket is gone.
    pub(crate) fn minisocket_ended(&mut self, ended: &MinisocketEnded) {
        let hooks = Hooks {
            rearms_exact: self.settings.rearms_exact,
            resets_shown: self.settings.minisocket_resets,
            reset_sent: self.has_sent_reset(ended.minisocket.tw, ended.ts_ns),
        };
        let known = self.wait_of(&ended.minisocket, ended.phase, ended.ts_ns);
        if let Some(key) = known.and_then(|index| self.waits.key(index)) {
            // On another CPU it may end before its connection's transition has been reported.
            self.tell_entered_minisocket(key, Doubts::NONE);
        }
        let wait = match known.and_then(|index| self.waits.remove(index)) {
            Some(wait) => wait,
            None if self.settings.known_minisockets_only => return,
            None => {
                let mut wait = Wait::found(ended.minisocket, ended.phase, ended.ts_ns, self.losses);
                wait.doubts = self.doubts_of_unknown(self.evicted_waits);
                wait
            }
        };
        if self.counts(&wait) {
            let told = wait.ended(ended, hooks, self.losses);
            self.tell_time_wait(told);
        }
    }

    /// Finds the minisocket that takes the place of an end that closes now, if that is not known yet,
    /// and hands it the owner.
    pub(crate) fn join_minisocket(&mut self, index: u32) {
        let Some(end) = self.ends.at_mut(index) else {
            return;
        };
        if end.minisocket.is_none()
            && !self.entered.is_empty()
            && let Some(tuple) = end.tuple()
            && let Some(index) = self.waits.with_tuple(tuple, end.socket.netns)
            && let Some(wait) = self.waits.at(index)
            && !wait.told
            && end.is_replaced_by(wait)
        {
            end.minisocket = self.waits.key(index).map(|key| (wait.first_phase, key));
        }
        if let Some((_, key)) = end.minisocket
            && let Some(wait) = self.waits.get_mut(key)
        {
            wait.known = true;
            wait.owner = end.owner;
            wait.sk = wait.sk.or(NonZeroU64::new(end.socket.sk));
        }
    }

    /// Tells that a minisocket was entered, once.
    pub(crate) fn tell_entered_minisocket(&mut self, key: Key, doubts: Doubts) {
        let counts = self.waits.get(key).is_some_and(|wait| self.counts(wait));
        let Some(wait) = self.waits.get(key) else {
            return;
        };
        let (false, Some(ts_ns), true) = (wait.told, wait.entered_ns, counts) else {
            return;
        };
        let told = TimeWaitEntered {
            ts_ns,
            minisocket: wait.minisocket,
            sk: wait.sk.map(NonZeroU64::get),
            owner: wait.owner,
            phase: wait.first_phase,
            timeout_ns: wait.timeout_ns,
            certainty: if doubts.is_empty() {
                Certainty::Exact
            } else {
                Certainty::Inferred
            },
            doubts,
        };
        self.waits.is_told(key.index());
        self.tally.time_waits_entered += 1;
        self.tell(Finding::TimeWaitEntered(Box::new(told)));
    }

    /// Tells what was entered and waited in vain for the transition of its connection.
    pub(crate) fn tell_entered(&mut self, now_ns: Option<u64>) {
        while let Some((_, key)) = self.entered.take(now_ns) {
            let Some(wait) = self.waits.get(key).filter(|wait| !wait.told) else {
                continue;
            };
            if !self.counts(wait) {
                self.waits.remove(key.index());
                continue;
            }
            let mut doubts = wait.doubts(self.losses);
            if !wait.known && self.losses > 0 {
                doubts = doubts.with(Doubt::RecordsLost);
            }
            self.tell_entered_minisocket(key, doubts);
        }
    }

    /// A minisocket is gone, and nobody has seen how.
    pub(crate) fn wait_vanished(&mut self, index: u32, now_ns: u64) {
        if let Some(key) = self.waits.key(index) {
            self.tell_entered_minisocket(key, Doubts::NONE);
        }
        if let Some(wait) = self.waits.remove(index)
            && self.counts(&wait)
        {
            self.tell_time_wait(wait.vanished(now_ns, self.losses));
        }
    }

    /// Puts a minisocket in; the oldest makes room.
    pub(crate) fn insert_wait(&mut self, wait: Wait) -> Key {
        while self.waits.len() >= self.settings.max_minisockets.max(1) {
            let Some(oldest) = self.waits.oldest() else {
                break;
            };
            if let Some(key) = self.waits.key(oldest) {
                self.tell_entered_minisocket(key, Doubts::NONE);
            }
            self.waits.remove(oldest);
            self.evicted_waits += 1;
            self.tally.evicted += 1;
        }
        self.waits.insert(wait)
    }

    /// Whether anything is told of this minisocket.
    fn counts(&self, wait: &Wait) -> bool {
        wait.known || !self.settings.known_minisockets_only
    }

    fn tell_time_wait(&mut self, told: TimeWait) {
        let tuple = Tuple::of(told.minisocket.local, told.minisocket.remote);
        self.snapshots.note_end(tuple, Kind::Minisocket, told.ts_ns);
        self.tally.time_wait(&told);
        self.tell(Finding::TimeWait(Box::new(told)));
    }

    /// The minisocket that an input is about, if it is known. Another one at its address is gone.
    fn wait_of(&mut self, shown: &Minisocket, phase: Phase, now_ns: u64) -> Option<u32> {
        if let Some(index) = self.waits.with_address(shown.tw) {
            if self.waits.at(index)?.is(shown, phase) {
                return Some(index);
            }
            self.wait_vanished(index, now_ns);
        }
        let tuple = Tuple::of(shown.local, shown.remote)?;
        let index = self.waits.with_tuple(tuple, shown.netns)?;
        let wait = self.waits.at(index)?;
        // Only a snapshot has shown it so far.
        if wait.minisocket.tw != 0 || !wait.is(shown, phase) {
            return None;
        }
        self.waits.reveal(index, shown);
        Some(index)
    }

    /// The connection whose place a minisocket takes.
    fn connection_of(&self, wait: &Wait) -> Option<u32> {
        let replaced = |index: &u32| {
            self.ends
                .at(*index)
                .is_some_and(|end| !end.has_closed() && end.is_replaced_by(wait))
        };
        wait.sk
            .and_then(|sk| self.ends.with_address(sk.get()))
            .filter(replaced)
            .or_else(|| {
                self.ends
                    .with_tuple(wait.tuple()?, wait.minisocket.netns)
                    .filter(replaced)
            })
    }

    /// A minisocket with the tuple of a newer one is gone, or a snapshot had shown it already.
    fn displace_wait(&mut self, other: u32, newer: &mut Wait) {
        let entered_ns = newer.last_ns;
        let shown_ahead = self.waits.at(other).is_some_and(|known| {
            known.minisocket.tw == 0
                && entered_ns <= known.last_ns
                && !differ(known.minisocket.cookie, newer.minisocket.cookie)
        });
        if !shown_ahead {
            return self.wait_vanished(other, entered_ns);
        }
        if let Some(known) = self.waits.remove(other) {
            newer.listed = known.listed;
            newer.known |= known.known;
        }
    }
}

impl End {
    /// Whether `wait` can be what takes the place of this socket.
    fn is_replaced_by(&self, wait: &Wait) -> bool {
        let shown = &wait.minisocket;
        let another = |sk: NonZeroU64| self.socket.sk != 0 && sk.get() != self.socket.sk;
        !wait.sk.is_some_and(another)
            && self.tuple() == wait.tuple()
            && may_be_same(self.socket.netns, shown.netns)
            && !differ(self.socket.cookie, shown.cookie)
    }
}
