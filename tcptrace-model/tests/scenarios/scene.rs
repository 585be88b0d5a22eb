//! Owns `Scene`: a host with a virtual clock that does to its sockets what the kernel does.

use std::net::{Ipv4Addr, SocketAddr};

use tcptrace_model::{
    Accepted, Certainty, CloseCause, CloseSequence, Comm, Connection, Direction, EndedBy, Evidence,
    File, Finding, Input, Loss, LossReason, Minisocket, MinisocketEnded, MinisocketEntered,
    MinisocketRearmed, Phase, Process, RecordKind, Reset, ResetReason, Settings, Socket, Story,
    Task,
    TcpState::{self, Close, Established, Listen, SynRecv, SynSent, TimeWait},
    TimeWait as TimeWaitTold, Tracker, Transition, TransitionFinding,
};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const S: u64 = 1000 * MS;
pub(crate) const MINUTE: u64 = 60 * S;

/// Between one step of a scene and the next.
const STEP: u64 = MS / 10;

/// The application that most scenes are about.
pub(crate) const APP: Task = task(100, b"app");
/// Another one.
pub(crate) const OTHER: Task = task(200, b"other");
/// Whoever happens to be on the CPU in softirq: never to be blamed.
pub(crate) const BYSTANDER: Task = task(666, b"bystander");

pub(crate) const HOST: u32 = 4_026_531_840;
pub(crate) const CONTAINER: u32 = 4_026_532_000;

const fn task(pid: u32, name: &[u8]) -> Task {
    let mut comm = [0; 16];
    let mut at = 0;
    while at < name.len() {
        comm[at] = name[at];
        at += 1;
    }
    Task {
        pid,
        tid: pid,
        comm: Comm(comm),
    }
}

pub(crate) const fn process(task: Task) -> Process {
    Process {
        pid: task.pid,
        comm: task.comm,
    }
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A socket of this host, connected to another one.
pub(crate) fn socket(sk: u64) -> Socket {
    let port = 40_000 + u16::try_from(sk % 10_000).unwrap();
    Socket {
        sk,
        cookie: None,
        netns: Some(HOST),
        cgroup_id: Some(1),
        uid: 0,
        local: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), port)),
        remote: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 2), 80)),
        reuseaddr: false,
        reuseport: false,
    }
}

/// The socket at the other end, on this host too.
pub(crate) fn opposite(socket: &Socket, sk: u64) -> Socket {
    Socket {
        sk,
        local: socket.remote,
        remote: socket.local,
        ..*socket
    }
}

/// A listener.
pub(crate) fn listener(sk: u64, local: &str) -> Socket {
    Socket {
        local: address(local),
        remote: address("0.0.0.0:0"),
        ..socket(sk)
    }
}

pub(crate) const OPEN: Evidence = Evidence::OPEN;
pub(crate) const RELEASED: Evidence = Evidence::RELEASED;
pub(crate) const ORPHAN: Evidence = Evidence::ORPHAN;

/// A child that nobody has accepted.
pub(crate) const UNACCEPTED: Evidence = Evidence {
    file: File::None,
    ..OPEN
};

/// `evidence` with an error.
pub(crate) const fn error(error: u16, evidence: Evidence) -> Evidence {
    Evidence { error, ..evidence }
}

/// A scene: steps follow each other by a fraction of a ms.
pub(crate) struct Scene {
    pub(crate) tracker: Tracker,
    pub(crate) now_ns: u64,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        Self {
            tracker: Tracker::new(settings),
            now_ns: 1000 * S,
        }
    }

    /// Time passes, and nothing happens.
    pub(crate) fn wait(&mut self, ns: u64) {
        self.now_ns += ns;
    }

    /// Time passes, and the tracker is told.
    pub(crate) fn advance(&mut self, ns: u64) {
        self.now_ns += ns;
        self.tracker.advance(self.now_ns);
    }

    fn step(&mut self) -> u64 {
        self.now_ns += STEP;
        self.now_ns
    }

    /// A transition with nothing that tells why.
    pub(crate) fn goes(&mut self, socket: &Socket, old: TcpState, new: TcpState) {
        self.change(socket, old, new, BYSTANDER, None);
    }

    /// A transition in the process of `task`.
    pub(crate) fn goes_by(&mut self, task: Task, socket: &Socket, old: TcpState, new: TcpState) {
        self.change(socket, old, new, task, None);
    }

    /// A transition that closes in the process of `task`.
    pub(crate) fn closes_by(
        &mut self,
        task: Task,
        socket: &Socket,
        old: TcpState,
        new: TcpState,
        evidence: Evidence,
    ) {
        self.change(socket, old, new, task, Some(evidence));
    }

    /// A transition that closes in softirq.
    pub(crate) fn closes(
        &mut self,
        socket: &Socket,
        old: TcpState,
        new: TcpState,
        evidence: Evidence,
    ) {
        self.change(socket, old, new, BYSTANDER, Some(evidence));
    }

    fn change(
        &mut self,
        socket: &Socket,
        oldstate: TcpState,
        newstate: TcpState,
        current: Task,
        evidence: Option<Evidence>,
    ) {
        let ts_ns = self.step();
        self.tracker.handle(&Input::Transition(Transition {
            ts_ns,
            socket: *socket,
            oldstate,
            newstate,
            current,
            cpu: 0,
            evidence,
        }));
    }

    /// `APP` connects.
    pub(crate) fn connects(&mut self, socket: &Socket) {
        let mut unbound = *socket;
        unbound.local.set_port(0);
        self.goes_by(APP, &unbound, Close, SynSent);
        self.goes(socket, SynSent, Established);
    }

    /// A child of a listener is established; nobody has accepted it.
    pub(crate) fn arrives(&mut self, socket: &Socket) {
        self.goes(socket, Listen, SynRecv);
        self.goes(socket, SynRecv, Established);
    }

    /// `APP` accepts a new child.
    pub(crate) fn accepts(&mut self, socket: &Socket) {
        self.arrives(socket);
        self.accepted(socket.sk, APP);
    }

    pub(crate) fn accepted(&mut self, sk: u64, task: Task) {
        let ts_ns = self.step();
        self.tracker
            .handle(&Input::Accepted(Accepted { ts_ns, sk, task }));
    }

    pub(crate) fn listens(&mut self, task: Task, socket: &Socket) {
        self.goes_by(task, socket, Close, Listen);
    }

    /// A minisocket takes the place of `socket`, whose transition comes next.
    pub(crate) fn enters(&mut self, socket: &Socket, tw: u64, phase: Phase) {
        self.enters_for(socket, tw, phase, MINUTE);
    }

    pub(crate) fn enters_for(&mut self, socket: &Socket, tw: u64, phase: Phase, timeout_ns: u64) {
        let ts_ns = self.step();
        self.tracker
            .handle(&Input::MinisocketEntered(MinisocketEntered {
                ts_ns,
                minisocket: minisocket(socket, tw),
                sk: Some(socket.sk),
                phase,
                timeout_ns,
            }));
    }

    pub(crate) fn rearms(&mut self, socket: &Socket, tw: u64, phase: Phase) {
        let ts_ns = self.step();
        self.tracker
            .handle(&Input::MinisocketRearmed(MinisocketRearmed {
                ts_ns,
                minisocket: minisocket(socket, tw),
                phase,
                timeout_ns: MINUTE,
            }));
    }

    pub(crate) fn ends(&mut self, socket: &Socket, tw: u64, phase: Phase, by: EndedBy) {
        let expires_ns = self.now_ns;
        self.ends_at(socket, tw, phase, by, None, expires_ns);
    }

    pub(crate) fn ends_at(
        &mut self,
        socket: &Socket,
        tw: u64,
        phase: Phase,
        by: EndedBy,
        time_wait_since_ns: Option<u64>,
        expires_ns: u64,
    ) {
        let ts_ns = self.step();
        self.tracker
            .handle(&Input::MinisocketEnded(MinisocketEnded {
                ts_ns,
                minisocket: minisocket(socket, tw),
                phase,
                by,
                current: OTHER,
                time_wait_since_ns,
                expires_ns,
            }));
    }

    pub(crate) fn receives_reset(&mut self, sk: u64, state: TcpState) {
        self.reset(sk, Direction::Received, state, None);
    }

    pub(crate) fn sends_reset(&mut self, sk: u64, state: TcpState, reason: ResetReason) {
        self.reset(sk, Direction::Sent, state, Some(reason));
    }

    pub(crate) fn minisocket_sends_reset(&mut self, tw: u64) {
        self.reset(tw, Direction::Sent, TimeWait, None);
    }

    pub(crate) fn reset(
        &mut self,
        sk: u64,
        direction: Direction,
        state: TcpState,
        reason: Option<ResetReason>,
    ) {
        let ts_ns = self.step();
        self.tracker.handle(&Input::Reset(Reset {
            ts_ns,
            direction,
            sk,
            state,
            reason,
        }));
    }

    pub(crate) fn gap(&mut self) {
        let ts_ns = self.step();
        self.tracker.handle(&Input::Gap { ts_ns });
    }

    pub(crate) fn loses(&mut self, records: u64) {
        let ts_ns = self.step();
        self.tracker.handle(&Input::Lost(Loss {
            ts_ns,
            records,
            kind: RecordKind::Transition,
            cpu: Some(0),
            reason: LossReason::BufferFull,
        }));
    }

    pub(crate) fn finish(&mut self) {
        let now_ns = self.step();
        self.tracker.finish(now_ns);
    }

    /// Everything told since the last time.
    pub(crate) fn told(&mut self) -> Vec<Finding> {
        std::iter::from_fn(|| self.tracker.poll()).collect()
    }

    /// The transitions told since the last time.
    pub(crate) fn transitions(&mut self) -> Vec<TransitionFinding> {
        self.told()
            .into_iter()
            .filter_map(|finding| match finding {
                Finding::Transition(told) => Some(*told),
                _ => None,
            })
            .collect()
    }

    /// The ends of connections told since the last time, after a moment in which nothing followed.
    pub(crate) fn connections(&mut self) -> Vec<Connection> {
        self.advance(100 * MS);
        self.told()
            .into_iter()
            .filter_map(|finding| match finding {
                Finding::Connection(told) => Some(*told),
                _ => None,
            })
            .collect()
    }

    /// The only end of a connection told since the last time.
    pub(crate) fn connection(&mut self) -> Connection {
        let [connection] = <[_; 1]>::try_from(self.connections()).unwrap();
        connection
    }

    /// The ends of minisockets told since the last time.
    pub(crate) fn time_waits(&mut self) -> Vec<TimeWaitTold> {
        self.told()
            .into_iter()
            .filter_map(|finding| match finding {
                Finding::TimeWait(told) => Some(*told),
                _ => None,
            })
            .collect()
    }

    /// The only end of a minisocket told since the last time.
    pub(crate) fn time_wait(&mut self) -> TimeWaitTold {
        let [time_wait] = <[_; 1]>::try_from(self.time_waits()).unwrap();
        time_wait
    }

    /// The stories told since the last time.
    pub(crate) fn stories(&mut self) -> Vec<Story> {
        self.told()
            .into_iter()
            .filter_map(|finding| match finding {
                Finding::Story(told) => Some(*told),
                _ => None,
            })
            .collect()
    }
}

pub(crate) fn minisocket(socket: &Socket, tw: u64) -> Minisocket {
    Minisocket {
        tw,
        cookie: socket.cookie,
        netns: socket.netns,
        local: socket.local,
        remote: socket.remote,
        reuseaddr: socket.reuseaddr,
        reuseport: socket.reuseport,
    }
}

/// Asserts close sequence and cause, that they are exact, and that all was seen.
#[track_caller]
pub(crate) fn is_exactly(told: &Connection, close: CloseSequence, cause: CloseCause) {
    assert_eq!((told.close, told.cause), (close, cause), "{told:?}");
    assert_eq!(told.certainty, Certainty::Exact, "{told:?}");
    assert!(told.doubts.is_empty());
    assert!(told.complete);
}
