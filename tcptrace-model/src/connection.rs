//! Owns `End`: what is remembered of one end of a connection, from its first state to its last.

use alloc::{boxed::Box, vec::Vec};
use core::num::NonZeroU64;

use crate::{
    Doubt, Doubts, Evidence, Owner, OwnerSource, PeerEnd, Phase, Process, ResetSeen, Role, Socket,
    StateSpan, Task, TcpState, Transition,
    table::Key,
    tuple::{Tuple, may_be_same},
    verdict::Action,
};

/// States that one end can go through: SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT1, FIN_WAIT2 is the
/// longest way (RFC 9293 3.3.2, figure 5), and one to spare.
const MOST_STATES: usize = 6;

/// One end of a connection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct End {
    /// As it was last seen with all its addresses and ports. Its `sk` is 0 as long as only a snapshot
    /// has shown it.
    pub(crate) socket: Socket,
    spans: Spans,
    pub(crate) role: Role,
    pub(crate) owner: Option<Owner>,
    pub(crate) closed_by: Option<Process>,
    /// What the application did first to close it.
    pub(crate) action: Option<Action>,
    /// When it did so.
    pub(crate) action_ns: Option<NonZeroU64>,
    /// When the last descriptor was let go.
    pub(crate) released_ns: Option<NonZeroU64>,
    /// The last RST that was received.
    pub(crate) received: Option<ResetSeen>,
    /// The last RST that was sent before the end.
    pub(crate) sent: Option<ResetSeen>,
    /// The minisocket that takes its place.
    pub(crate) minisocket: Option<(Phase, Key)>,
    /// What is doubtful from the start.
    pub(crate) doubts: Doubts,
    /// Its first transition was seen.
    pub(crate) from_birth: bool,
    /// It had a port when it began to connect: bind() gave it that port, and it keeps it until its
    /// last descriptor is closed.
    pub(crate) port_bound: bool,
    /// How many losses there had been when it was first seen.
    pub(crate) losses_at_birth: u32,
    /// How many losses there had been when it entered its state.
    pub(crate) losses_at_state: u32,
    /// CLOCK_BOOTTIME ns at which it was first seen.
    pub(crate) first_ns: u64,
    /// CLOCK_BOOTTIME ns at which it was first seen in its state.
    pub(crate) state_ns: u64,
    /// CLOCK_BOOTTIME ns of the last input about it, snapshots apart; while only they have shown it,
    /// of the last of them.
    pub(crate) last_ns: u64,
    /// The last snapshot that listed it.
    pub(crate) listed: u32,
    /// It has been told to be stuck in its state.
    pub(crate) stuck_told: bool,
    /// It is in the index of tuples.
    pub(crate) indexed: bool,
    /// At some time another end had its tuple in another namespace: which of their peers is whose is
    /// not known.
    pub(crate) has_twin: bool,
    /// It has closed, and a RST may still belong to that.
    pub(crate) ending: Option<Box<Ending>>,
    /// The story that waits for its end.
    pub(crate) story: Option<Key>,
    /// The other end, when that has been told in a story before.
    pub(crate) peer: Option<Box<PeerEnd>>,
}

/// The transition to CLOSE of an end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) ts_ns: u64,
    /// `None` where the transition itself was not seen.
    pub(crate) evidence: Option<Evidence>,
    pub(crate) current: Option<Task>,
    pub(crate) in_state_ns: Option<u64>,
    /// A RST that was sent right after.
    pub(crate) sent_after: Option<ResetSeen>,
    /// How many losses there had been.
    pub(crate) losses: u32,
    /// The end was known before, with nothing lost since it had entered its last state.
    pub(crate) unbroken: bool,
}

/// Whether a transition continues what is known of the socket at its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Continues {
    /// It does.
    Yes,
    /// It is the same socket, but states between are missing.
    AfterLoss,
    /// It is another socket, or the same after something that nobody has seen.
    No,
}

impl End {
    /// One that begins with `transition`.
    pub(crate) fn born(transition: &Transition, losses: u32) -> Self {
        let &Transition {
            ts_ns,
            socket,
            newstate,
            ..
        } = transition;
        Self {
            from_birth: true,
            // net/ipv4/tcp_ipv4.c `tcp_v4_connect` (v6.18): the kernel chooses a port after this.
            port_bound: newstate == TcpState::SynSent && socket.local.port() != 0,
            ..Self::new(
                socket,
                Spans::starting(newstate, Some(ts_ns)),
                ts_ns,
                losses,
            )
        }
    }

    /// One that was first seen at `ts_ns`, in a state that it was not seen to enter.
    pub(crate) fn found(socket: Socket, state: TcpState, ts_ns: u64, losses: u32) -> Self {
        Self::new(socket, Spans::starting(state, None), ts_ns, losses)
    }

    fn new(socket: Socket, spans: Spans, ts_ns: u64, losses: u32) -> Self {
        Self {
            socket,
            spans,
            role: Role::Unknown,
            owner: None,
            closed_by: None,
            action: None,
            action_ns: None,
            released_ns: None,
            received: None,
            sent: None,
            minisocket: None,
            doubts: Doubts::NONE,
            from_birth: false,
            port_bound: false,
            losses_at_birth: losses,
            losses_at_state: losses,
            first_ns: ts_ns,
            state_ns: ts_ns,
            last_ns: ts_ns,
            listed: 0,
            stuck_told: false,
            indexed: false,
            has_twin: false,
            ending: None,
            story: None,
            peer: None,
        }
    }

    /// Whether it has closed, and is here only until all of that is known.
    pub(crate) fn has_closed(&self) -> bool {
        self.ending.is_some()
    }

    /// The state it is in.
    pub(crate) fn state(&self) -> TcpState {
        self.spans.last().state
    }

    /// When it entered that state; `None` when that was not seen, or records were lost since.
    pub(crate) fn since_ns(&self, losses: u32) -> Option<u64> {
        (self.losses_at_state == losses)
            .then(|| self.spans.last().entered_ns())
            .flatten()
    }

    /// How long it has been in its state.
    pub(crate) fn in_state_ns(&self, now_ns: u64, losses: u32) -> Option<u64> {
        now_ns.checked_sub(self.since_ns(losses)?)
    }

    /// Notes a new state.
    pub(crate) fn enter(&mut self, state: TcpState, ts_ns: u64, losses: u32) {
        if !self
            .spans
            .push(state, Some(ts_ns), self.losses_at_state != losses)
        {
            // No socket of the kernel goes through so many states: some of them were another's.
            self.doubts = self.doubts.with(Doubt::RecordsLost);
        }
        self.losses_at_state = losses;
        self.state_ns = ts_ns;
        self.stuck_told = false;
    }

    /// Notes that it is in a state that it was not seen to enter.
    pub(crate) fn is_found_in(&mut self, state: TcpState, ts_ns: u64) {
        if state != self.state() {
            self.spans.find(state);
            self.state_ns = ts_ns;
            self.stuck_told = false;
        }
    }

    /// Begins again in a state that it was not seen to enter.
    pub(crate) fn restart_in(&mut self, state: TcpState, ts_ns: u64) {
        if state != self.state() {
            self.state_ns = ts_ns;
        }
        self.spans = Spans::starting(state, None);
    }

    /// Takes over what a later input shows of the socket, but never less than is known.
    pub(crate) fn refresh(&mut self, shown: &Socket) {
        let known = &mut self.socket;
        let complete = known.local.port() != 0 && known.remote.port() != 0;
        known.sk = shown.sk;
        known.cookie = shown.cookie.or(known.cookie);
        known.netns = shown.netns.or(known.netns);
        known.cgroup_id = shown.cgroup_id.or(known.cgroup_id);
        known.uid = shown.uid;
        if !complete {
            if shown.local.port() != 0 || known.local.port() == 0 {
                known.local = shown.local;
            }
            if shown.remote.port() != 0 || known.remote.port() == 0 {
                known.remote = shown.remote;
            }
        }
        known.reuseaddr = shown.reuseaddr;
        known.reuseport = shown.reuseport;
    }

    /// Whether `transition` is this socket's next.
    pub(crate) fn continues(&self, transition: &Transition, losses: u32) -> Continues {
        let shown = &transition.socket;
        if !may_be_same(self.socket.netns, shown.netns) {
            return Continues::No;
        }
        let same_cookie = match (self.socket.cookie, shown.cookie) {
            (Some(known), Some(shown)) if known != shown => return Continues::No,
            (Some(_), Some(_)) => true,
            (None, _) | (_, None) => false,
        };
        let known = &self.socket;
        let same_tuple = if known.local == shown.local && known.remote == shown.remote {
            // As nearly always; it spares making tuples of them.
            known.local.port() != 0 && known.remote.port() != 0
        } else {
            match (self.tuple(), Tuple::of(shown.local, shown.remote)) {
                (Some(known), Some(shown)) if known != shown => return Continues::No,
                (Some(_), Some(_)) => true,
                (None, _) | (_, None) => false,
            }
        };
        if self.state() == transition.oldstate {
            Continues::Yes
        } else if same_cookie || same_tuple && self.losses_at_state != losses {
            Continues::AfterLoss
        } else {
            Continues::No
        }
    }

    /// Its addresses and ports; `None` when a port is not known.
    pub(crate) fn tuple(&self) -> Option<Tuple> {
        Tuple::of(self.socket.local, self.socket.remote)
    }

    /// What is doubtful now.
    pub(crate) fn doubts(&self, losses: u32) -> Doubts {
        if self.losses_at_birth == losses {
            self.doubts
        } else {
            self.doubts.with(Doubt::RecordsLost)
        }
    }

    /// Takes a process for the owner where a better source has not named one.
    pub(crate) fn offer_owner(&mut self, process: Process, source: OwnerSource) {
        let better = match self.owner.map(|owner| owner.source) {
            None => true,
            Some(OwnerSource::Listener) => source != OwnerSource::Listener,
            // Whoever accepted it has it, whoever else had it open or closed it.
            Some(OwnerSource::Proc | OwnerSource::Closer) => source == OwnerSource::Accept,
            // Whoever uses it has it, whoever bound it.
            Some(OwnerSource::Bind) => matches!(
                source,
                OwnerSource::Connect | OwnerSource::Listen | OwnerSource::Accept
            ),
            Some(OwnerSource::Connect | OwnerSource::Listen | OwnerSource::Accept) => false,
        };
        if better {
            self.owner = Some(Owner { process, source });
        }
    }

    /// This end for the other one to name.
    pub(crate) fn as_peer(&self) -> PeerEnd {
        PeerEnd {
            sk: self.socket.sk,
            netns: self.socket.netns,
            owner: self.owner,
        }
    }

    /// The states it went through until `end_ns`, at which it left the last of them.
    pub(crate) fn states(&self, end_ns: Option<u64>, losses: u32) -> Vec<StateSpan> {
        let spans = self.spans.all();
        spans
            .iter()
            .enumerate()
            .map(|(at, span)| {
                let entered_ns = span.entered_ns();
                let left_ns = match spans.get(at + 1) {
                    Some(next) if !next.after_gap => next.entered_ns(),
                    Some(_) => None,
                    None => end_ns.filter(|_| self.losses_at_state == losses),
                };
                StateSpan {
                    state: span.state,
                    entered_ns,
                    ns: entered_ns
                        .zip(left_ns)
                        .and_then(|(entered_ns, left_ns)| left_ns.checked_sub(entered_ns)),
                }
            })
            .collect()
    }
}

/// A state, compactly.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// `u64::MAX` for not seen.
    entered_ns: u64,
    state: TcpState,
    /// States before it may be missing.
    after_gap: bool,
}

impl Span {
    const fn new(state: TcpState, entered_ns: Option<u64>, after_gap: bool) -> Self {
        Self {
            entered_ns: match entered_ns {
                Some(entered_ns) => entered_ns,
                None => u64::MAX,
            },
            state,
            after_gap,
        }
    }

    const fn entered_ns(&self) -> Option<u64> {
        if self.entered_ns == u64::MAX {
            None
        } else {
            Some(self.entered_ns)
        }
    }
}

/// The states that an end went through, oldest first: at least one.
#[derive(Debug)]
struct Spans {
    spans: [Span; MOST_STATES],
    len: u8,
}

impl Spans {
    const fn starting(state: TcpState, entered_ns: Option<u64>) -> Self {
        Self {
            spans: [Span::new(state, entered_ns, false); MOST_STATES],
            len: 1,
        }
    }

    /// Adds a state; `false` when the first had to go for it.
    fn push(&mut self, state: TcpState, entered_ns: Option<u64>, after_gap: bool) -> bool {
        let fits = usize::from(self.len) < MOST_STATES;
        if fits {
            self.len += 1;
        } else {
            self.spans.rotate_left(1);
        }
        self.spans[usize::from(self.len) - 1] = Span::new(state, entered_ns, after_gap);
        fits
    }

    /// Notes a state that was not seen to be entered; the last one, if it was only found as well,
    /// was a mistake: what found it ran ahead.
    fn find(&mut self, state: TcpState) {
        if self.len > 1 && self.last().after_gap && self.last().entered_ns().is_none() {
            self.len -= 1;
        }
        if self.last().state != state {
            self.push(state, None, true);
        }
    }

    fn all(&self) -> &[Span] {
        &self.spans[..usize::from(self.len)]
    }

    fn last(&self) -> &Span {
        &self.spans[usize::from(self.len) - 1]
    }
}

impl Socket {
    /// Whether the cookies say that `other` is another socket.
    pub(crate) fn is_not(&self, other: &Self) -> bool {
        differ(self.cookie, other.cookie)
    }
}

/// Whether two cookies are both known and differ.
pub(crate) fn differ(one: Option<NonZeroU64>, other: Option<NonZeroU64>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}
