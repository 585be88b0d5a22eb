//! Owns what the tracker does with transitions that do not end a connection, and with accept().

use core::num::NonZeroU64;

use TcpState::{Close, CloseWait, Established, FinWait1, LastAck, Listen, SynRecv, SynSent};

use crate::{
    Accepted, Doubt, Doubts, File, Finding, Owner, OwnerSource, Phase, Process, Role, TcpState,
    Tracker, Transition, TransitionFinding,
    connection::{Continues, End},
    verdict::Action,
};

impl Tracker {
    /// A socket changed its state.
    pub(crate) fn transition(&mut self, transition: &Transition) {
        self.tally.transitions += 1;
        if !self.bound.is_empty() && matches!(transition.oldstate, Close | Listen) {
            self.leaves_bound(transition);
        }
        self.calls.passes(transition);
        match (transition.oldstate, transition.newstate) {
            (_, Listen) => self.listens(transition),
            (Listen, Close) => self.listens_no_more(transition),
            // MPTCP sets CLOSE again; a TCP socket in CLOSE is nobody's connection.
            (Close, Close) => {
                let owner = self.bound.owner(transition.socket.sk);
                self.tell_transition(transition, None, owner, None);
            }
            (_, Close) => self.closes(transition),
            (_, _) => self.moves(transition),
        }
    }

    /// accept() returned a connection.
    pub(crate) fn accepted(&mut self, accepted: &Accepted) {
        if let Some(index) = self.ends.with_address(accepted.sk)
            && let Some(end) = self.ends.at_mut(index)
        {
            end.offer_owner(Process::from(&accepted.task), OwnerSource::Accept);
            end.last_ns = accepted.ts_ns;
        }
    }

    pub(crate) fn tell_transition(
        &mut self,
        transition: &Transition,
        in_state_ns: Option<u64>,
        owner: Option<Owner>,
        minisocket: Option<Phase>,
    ) {
        self.tell(Finding::Transition(alloc::boxed::Box::new(
            TransitionFinding {
                transition: *transition,
                in_state_ns,
                owner,
                minisocket,
            },
        )));
    }

    /// The life that `transition` belongs to, and whether it begins with it. One that did not go on
    /// as it should have is told as gone.
    pub(crate) fn life(&mut self, transition: &Transition) -> (u32, bool) {
        let born = match (transition.oldstate, transition.newstate) {
            (Close, _) | (Listen, SynRecv) => true,
            (_, _) => false,
        };
        let known = self
            .ends
            .with_address(transition.socket.sk)
            .filter(|index| self.goes_on(*index, transition, born))
            .or_else(|| (!born).then(|| self.revealed(transition)).flatten());
        let index = match known {
            Some(index) => index,
            None => self.begin(transition, born),
        };
        if let Some(end) = self.ends.at_mut(index) {
            if !born {
                end.refresh(&transition.socket);
            }
            end.last_ns = transition.ts_ns;
        }
        self.index_by_tuple(index, transition.ts_ns);
        (index, born)
    }

    /// Makes an end found by its tuple, once that is known. Whoever had it before is gone.
    pub(crate) fn index_by_tuple(&mut self, index: u32, now_ns: u64) {
        let Some((tuple, netns)) = self
            .ends
            .at(index)
            .filter(|end| !end.indexed)
            .and_then(|end| Some((end.tuple()?, end.socket.netns)))
        else {
            return;
        };
        while let Some(other) = self.ends.with_tuple(tuple, netns) {
            self.displace(other, index, now_ns);
        }
        self.ends.index_by_tuple(index, tuple);
    }

    /// What doubts a life has that did not begin before our eyes.
    pub(crate) fn doubts_of_unknown(&self, evicted: u64) -> Doubts {
        let mut doubts = Doubts::NONE;
        if evicted > 0 {
            doubts = doubts.with(Doubt::Evicted);
        }
        if self.losses > 0 {
            doubts = doubts.with(Doubt::RecordsLost);
        }
        if doubts.is_empty() {
            doubts = doubts.with(Doubt::BeforeTrace);
        }
        doubts
    }

    /// What was bound at this address does more than that now, or is gone.
    fn leaves_bound(&mut self, transition: &Transition) {
        if transition.newstate != Close {
            self.bound.leaves(transition.socket.sk);
        }
    }

    fn listens(&mut self, transition: &Transition) {
        let socket = &transition.socket;
        if let Some(stale) = self.ends.with_address(socket.sk) {
            self.vanish(stale, transition.ts_ns);
        }
        if transition.oldstate == Listen {
            let in_state_ns = self
                .listeners
                .in_state_ns(socket.sk, transition.ts_ns, self.losses);
            let owner = self.listeners.owner(socket.sk);
            return self.tell_transition(transition, in_state_ns, owner, None);
        }
        let process = Process::from(&transition.current);
        self.listeners
            .begin(socket, process, transition.ts_ns, self.losses);
        let owner = self.listeners.owner(socket.sk);
        self.tell_transition(transition, None, owner, None);
    }

    fn listens_no_more(&mut self, transition: &Transition) {
        let socket = &transition.socket;
        let in_state_ns = self
            .listeners
            .in_state_ns(socket.sk, transition.ts_ns, self.losses);
        let owner = self.listeners.owner(socket.sk);
        if self.listeners.port_bound(socket.sk) != Some(false) {
            self.keeps_its_port(transition, owner);
        }
        self.listeners.end(socket);
        if let Some(stale) = self.ends.with_address(socket.sk) {
            self.vanish(stale, transition.ts_ns);
        }
        self.tell_transition(transition, in_state_ns, owner, None);
    }

    fn moves(&mut self, transition: &Transition) {
        let &Transition {
            ts_ns,
            oldstate,
            newstate,
            ..
        } = transition;
        let losses = self.losses;
        let (index, born) = self.life(transition);
        let Some(end) = self.ends.at_mut(index) else {
            return;
        };
        let mut in_state_ns = None;
        if born {
            if newstate == SynSent {
                end.role = Role::Client;
                end.offer_owner(Process::from(&transition.current), OwnerSource::Connect);
            } else if newstate == SynRecv {
                end.role = Role::Server;
            }
        } else {
            in_state_ns = end.in_state_ns(ts_ns, losses);
            end.note_action(transition);
            if newstate != oldstate {
                end.enter(newstate, ts_ns, losses);
            }
        }
        if end.owner.is_none() && matches!(newstate, SynRecv | Established) {
            self.ask_listener(index);
        }
        let owner = self.ends.at(index).and_then(|end| end.owner);
        self.tell_transition(transition, in_state_ns, owner, None);
    }

    /// The owner of the listener that a child comes from is its owner until somebody accepts it.
    fn ask_listener(&mut self, index: u32) {
        let Some(end) = self.ends.at_mut(index) else {
            return;
        };
        let (netns, local) = (end.socket.netns, end.socket.local);
        if end.role == Role::Server
            && let Some(process) = self.listeners.process_for(netns, local, self.losses)
        {
            end.offer_owner(process, OwnerSource::Listener);
        }
    }

    /// Whether the end at the address of `transition` goes on with it; it is told as gone if not.
    fn goes_on(&mut self, index: u32, transition: &Transition, born: bool) -> bool {
        let losses = self.losses;
        let Some(end) = self.ends.at_mut(index) else {
            return false;
        };
        if end.has_closed() {
            self.settle_ending(index);
            return false;
        }
        let continues = if born {
            Continues::No
        } else {
            end.continues(transition, losses)
        };
        match continues {
            Continues::Yes => true,
            Continues::AfterLoss => {
                end.is_found_in(transition.oldstate, transition.ts_ns);
                end.doubts = end.doubts.with(Doubt::RecordsLost);
                true
            }
            Continues::No => {
                self.vanish(index, transition.ts_ns);
                false
            }
        }
    }

    /// The end that a snapshot has shown and that now shows its address.
    fn revealed(&mut self, transition: &Transition) -> Option<u32> {
        let socket = &transition.socket;
        let tuple = crate::tuple::Tuple::of(socket.local, socket.remote)?;
        let index = self.ends.with_tuple(tuple, socket.netns)?;
        let end = self.ends.at_mut(index)?;
        if end.socket.sk != 0 || end.has_closed() || end.socket.is_not(socket) {
            return None;
        }
        end.restart_in(transition.oldstate, transition.ts_ns);
        self.ends.reveal(index, |end| end.socket.sk = socket.sk);
        Some(index)
    }

    fn begin(&mut self, transition: &Transition, born: bool) -> u32 {
        self.make_room();
        let mut end = if born {
            End::born(transition, self.losses)
        } else {
            End::found(
                transition.socket,
                transition.oldstate,
                transition.ts_ns,
                self.losses,
            )
        };
        if born && end.socket.remote.port() == 0 && transition.newstate == SynRecv {
            // Up to 6.14 these are the listener's fields, its cookie among them:
            // net/ipv4/inet_connection_sock.c `inet_csk_clone_lock`.
            end.socket.cookie = None;
        }
        if !born {
            end.doubts = self.doubts_of_unknown(self.evicted_ends);
            if self.listeners.any_for(end.socket.netns, end.socket.local) {
                end.role = Role::Server;
            }
        }
        self.ends.insert(end).index()
    }

    /// `other` has the tuple that the newer end at `index` has now.
    fn displace(&mut self, other: u32, index: u32, now_ns: u64) {
        let Some(end) = self.ends.at(other) else {
            return;
        };
        if end.has_closed() {
            return self.settle_ending(other);
        }
        let shown_ahead = end.socket.sk == 0
            && self.ends.at(index).is_some_and(|newer| {
                newer.first_ns <= end.last_ns && !newer.socket.is_not(&end.socket)
            });
        if !shown_ahead {
            return self.vanish(other, now_ns);
        }
        // The snapshot had shown it before its first records were read.
        if let Some(shown) = self.ends.remove(other)
            && let Some(end) = self.ends.at_mut(index)
        {
            if let Some(owner) = shown.owner {
                end.offer_owner(owner.process, owner.source);
            }
            end.listed = shown.listed;
            end.peer = shown.peer;
            end.story = shown.story;
            self.second_has_moved(index);
        }
    }

    pub(crate) fn make_room(&mut self) {
        while self.ends.len() >= self.settings.max_connections.max(1) {
            let Some(oldest) = self.ends.oldest() else {
                return;
            };
            if self.ends.at(oldest).is_some_and(End::has_closed) {
                self.settle_ending(oldest);
            } else if let Some(end) = self.ends.remove(oldest) {
                self.evicted_ends += 1;
                self.tally.evicted += 1;
                self.without_second(&end);
            }
        }
    }
}

impl End {
    /// Notes what a transition shows of the application's part in closing.
    fn note_action(&mut self, transition: &Transition) {
        let Some(evidence) = &transition.evidence else {
            return;
        };
        let released = evidence.file == File::Released;
        let action = match (transition.oldstate, transition.newstate) {
            // net/ipv4/tcp.c `tcp_close_state` (v6.18), always in process context.
            (Established | SynRecv, FinWait1) | (CloseWait, LastAck) => Action::of(evidence),
            // It sets the same state again only for a close() after a shutdown().
            (old, new) if old == new && released => {
                self.action.unwrap_or_else(Action::must_have_been_shutdown)
            }
            (_, _) => return,
        };
        let ts_ns = NonZeroU64::new(transition.ts_ns);
        if self.action.is_none() {
            self.action = Some(action);
            if transition.oldstate != transition.newstate {
                self.action_ns = ts_ns;
            }
        }
        if released {
            self.released_ns = ts_ns;
        }
        if !evidence.kernel_thread {
            self.is_closed_by(Process::from(&transition.current));
        }
    }

    /// Its own process closed it.
    pub(crate) fn is_closed_by(&mut self, process: Process) {
        self.closed_by.get_or_insert(process);
        self.offer_owner(process, OwnerSource::Closer);
    }
}
