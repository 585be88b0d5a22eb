//! Findings for the tests of all renderers.

use std::num::NonZeroU64;

use tcptrace_model::{
    Certainty, CloseCause, CloseSequence, ClosedFirst, Comm, Connection, Direction, Doubt, Doubts,
    Durations, Finding, Loss, LossReason, Minisocket, Owner, OwnerSource, PeerEnd, Phase, Process,
    RecordKind, ResetReason, ResetSeen, Role, Socket, StateSpan, Story, Stuck, Summary, Task,
    TcpState, TimeWait, TimeWaitEnd, TimeWaitEntered, Transition, TransitionFinding,
    conflict::{Call, Rule},
};

use crate::render::End;

pub(in crate::render) mod calls;

pub(in crate::render) const CLIENT: &str = "127.0.0.1:40000";
pub(in crate::render) const SERVER: &str = "127.0.0.1:8000";

/// When the close of each sample begins, CLOCK_BOOTTIME ns.
const CLOSE_NS: u64 = 5_067_000_000;

pub(crate) fn transition(local: &str, remote: &str, in_state_ns: Option<u64>) -> Finding {
    Finding::Transition(Box::new(transition_finding(local, remote, in_state_ns)))
}

pub(in crate::render) fn transition_finding(
    local: &str,
    remote: &str,
    in_state_ns: Option<u64>,
) -> TransitionFinding {
    TransitionFinding {
        transition: Transition {
            ts_ns: CLOSE_NS,
            socket: socket(local, remote),
            oldstate: TcpState::Established,
            newstate: TcpState::FinWait1,
            current: Task {
                pid: 200,
                tid: 201,
                comm: comm("nginx"),
            },
            cpu: 1,
            evidence: None,
        },
        in_state_ns,
        owner: None,
        minisocket: None,
    }
}

/// FIN_WAIT2 → CLOSE, and what takes the socket's place.
pub(in crate::render) fn into_minisocket(phase: Phase) -> Finding {
    let mut found = transition_finding(CLIENT, SERVER, Some(1_170_000));
    found.transition.oldstate = TcpState::FinWait2;
    found.transition.newstate = TcpState::Close;
    found.minisocket = Some(phase);
    found.owner = Some(curl());
    Finding::Transition(Box::new(found))
}

pub(in crate::render) fn socket(local: &str, remote: &str) -> Socket {
    Socket {
        sk: 0xffff_8881_0000_1000,
        cookie: NonZeroU64::new(77),
        netns: Some(4_026_531_840),
        cgroup_id: Some(4242),
        uid: 1000,
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        reuseaddr: true,
        reuseport: false,
    }
}

pub(in crate::render) fn minisocket(local: &str, remote: &str) -> Minisocket {
    Minisocket {
        tw: 0xffff_8881_0000_2000,
        cookie: NonZeroU64::new(77),
        netns: Some(4_026_531_840),
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        reuseaddr: true,
        reuseport: false,
    }
}

pub(in crate::render) fn curl() -> Owner {
    owner(812, "curl", OwnerSource::Connect)
}

pub(in crate::render) fn nginx() -> Owner {
    owner(77, "nginx", OwnerSource::Accept)
}

pub(in crate::render) fn owner(pid: u32, name: &str, source: OwnerSource) -> Owner {
    Owner {
        process: process(pid, name),
        source,
    }
}

pub(in crate::render) fn process(pid: u32, name: &str) -> Process {
    Process {
        pid,
        comm: comm(name),
    }
}

fn comm(name: &str) -> Comm {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Comm(bytes)
}

/// An end that went through these states (each with the µs at which it was entered, from the
/// beginning of the close; `None` for not seen) and ended at `ended_us`.
pub(in crate::render) fn connection(
    role: Role,
    states: &[(TcpState, Option<i64>)],
    ended_us: i64,
) -> Connection {
    let at = |us: i64| CLOSE_NS.checked_add_signed(us * 1000).unwrap();
    let (local, remote, owner) = match role {
        Role::Client | Role::Unknown => (CLIENT, SERVER, curl()),
        Role::Server => (SERVER, CLIENT, nginx()),
    };
    let spans: Vec<StateSpan> = states
        .iter()
        .enumerate()
        .map(|(index, (state, entered_us))| {
            let left_us = match states.get(index + 1) {
                Some((_, next_us)) => *next_us,
                None => Some(ended_us),
            };
            let ns = entered_us
                .zip(left_us)
                .map(|(entered, left)| u64::try_from(left - entered).unwrap() * 1000);
            StateSpan {
                state: *state,
                entered_ns: entered_us.map(at),
                ns,
            }
        })
        .collect();
    let established_ns = spans
        .iter()
        .find(|span| span.state == TcpState::Established)
        .and_then(|span| span.ns);
    Connection {
        ts_ns: at(ended_us),
        socket: socket(local, remote),
        role,
        owner: Some(owner),
        closed_by: None,
        close: CloseSequence::Unknown,
        cause: CloseCause::Close,
        signal: None,
        exit_status: None,
        error: 0,
        closed_first: None,
        half_closed_ns: None,
        reset: None,
        states: spans,
        established_ns,
        minisocket: None,
        never_entered: false,
        peer: None,
        complete: true,
        certainty: Certainty::Exact,
        doubts: Doubts::NONE,
    }
}

/// The client's end where it closes first.
pub(in crate::render) fn client_first() -> Connection {
    Connection {
        close: CloseSequence::LocalFirst,
        closed_first: Some(ClosedFirst::Local),
        minisocket: Some(Phase::TimeWait),
        ..connection(
            Role::Client,
            &[
                (TcpState::SynSent, Some(-35_130)),
                (TcpState::Established, Some(-35_100)),
                (TcpState::FinWait1, Some(0)),
                (TcpState::FinWait2, Some(30)),
            ],
            1_230,
        )
    }
}

/// The server's end where the client closes first.
pub(in crate::render) fn server_second() -> Connection {
    Connection {
        close: CloseSequence::RemoteFirst,
        closed_first: Some(ClosedFirst::Remote),
        ..connection(
            Role::Server,
            &[
                (TcpState::SynRecv, Some(-35_111)),
                (TcpState::Established, Some(-35_110)),
                (TcpState::CloseWait, Some(21)),
                (TcpState::LastAck, Some(1_200)),
            ],
            1_241,
        )
    }
}

pub(in crate::render) fn story(first: Connection, second: Option<Connection>) -> Story {
    Story {
        first,
        second,
        open_peer: None,
    }
}

/// The server closes with data unread: the client gets a RST.
pub(in crate::render) fn reset() -> Story {
    let at_ns = CLOSE_NS + 12_000;
    let client = Connection {
        close: CloseSequence::ResetReceived,
        cause: CloseCause::Peer,
        error: 104,
        reset: Some(ResetSeen {
            ts_ns: at_ns - 3_000,
            direction: Direction::Received,
            reason: None,
        }),
        ..connection(
            Role::Client,
            &[(TcpState::Established, Some(-2_500_000))],
            10,
        )
    };
    let server = Connection {
        close: CloseSequence::ResetSent,
        cause: CloseCause::UnreadDataReset,
        reset: Some(ResetSeen {
            ts_ns: at_ns,
            direction: Direction::Sent,
            reason: Some(ResetReason::TcpAbortOnClose),
        }),
        ..connection(
            Role::Server,
            &[(TcpState::Established, Some(-2_499_990))],
            14,
        )
    };
    story(client, Some(server))
}

/// Both FINs cross.
pub(in crate::render) fn simultaneous() -> Story {
    let end = |role, offset| Connection {
        close: CloseSequence::Simultaneous,
        closed_first: Some(ClosedFirst::Both),
        minisocket: Some(Phase::TimeWait),
        ..connection(
            role,
            &[
                (TcpState::Established, Some(-1_000)),
                (TcpState::FinWait1, Some(offset)),
                (TcpState::Closing, Some(40 + offset)),
            ],
            95 + offset,
        )
    };
    story(end(Role::Client, 0), Some(end(Role::Server, 10)))
}

/// The client shuts down its direction, the server goes on for two seconds.
pub(in crate::render) fn half_closed() -> Story {
    let client = Connection {
        cause: CloseCause::Shutdown,
        half_closed_ns: Some(2_000_000_000),
        ..moved(client_first(), 2_000_000)
    };
    let server = Connection {
        half_closed_ns: Some(2_000_000_000),
        ..moved(server_second(), 2_000_000)
    };
    story(client, Some(server))
}

/// The same with the last state left so much later, in µs.
fn moved(mut end: Connection, us: u64) -> Connection {
    end.ts_ns += us * 1000;
    let last = end.states.len() - 1;
    let (moved, lengthened) = match end.role {
        // FIN_WAIT2 lasts longer.
        Role::Client | Role::Unknown => (None, last),
        // CLOSE_WAIT does, and LAST_ACK comes later.
        Role::Server => (Some(last), last - 1),
    };
    let longer = |ns: &mut Option<u64>| *ns = ns.map(|ns| ns + us * 1000);
    longer(&mut end.states[lengthened].ns);
    if let Some(moved) = moved {
        longer(&mut end.states[moved].entered_ns);
    }
    end
}

/// A connect() to a port where nobody listens.
pub(in crate::render) fn refused() -> Story {
    story(
        Connection {
            close: CloseSequence::Refused,
            cause: CloseCause::Peer,
            error: 111,
            established_ns: None,
            ..connection(Role::Client, &[(TcpState::SynSent, Some(0))], 25)
        },
        None,
    )
}

/// The client's process dies, and the server has not closed.
pub(in crate::render) fn killed() -> Story {
    let client = Connection {
        cause: CloseCause::Signal,
        signal: Some(9),
        minisocket: Some(Phase::FinWait2),
        ..client_first()
    };
    let peer = PeerEnd {
        sk: 0xffff_8881_0000_3000,
        netns: Some(4_026_531_840),
        owner: Some(owner(77, "nginx", OwnerSource::Listener)),
    };
    Story {
        first: Connection {
            peer: Some(peer),
            ..client
        },
        second: None,
        open_peer: Some((peer, TcpState::CloseWait)),
    }
}

pub(in crate::render) fn time_wait(end: TimeWaitEnd) -> TimeWait {
    TimeWait {
        ts_ns: CLOSE_NS + 60_013_000_000,
        minisocket: minisocket(CLIENT, SERVER),
        owner: Some(curl()),
        entered_ns: Some(CLOSE_NS + 30_000),
        fin_wait2_ns: Some(1_200_000),
        time_wait_ns: Some(60_012_000_000),
        rearmed: 0,
        rearmed_at_least: false,
        end,
        last_phase: Phase::TimeWait,
        by: None,
        certainty: Certainty::Exact,
        doubts: Doubts::NONE,
    }
}

pub(in crate::render) fn time_wait_entered() -> TimeWaitEntered {
    TimeWaitEntered {
        ts_ns: CLOSE_NS,
        minisocket: minisocket(CLIENT, SERVER),
        sk: Some(0xffff_8881_0000_1000),
        owner: Some(curl()),
        phase: Phase::TimeWait,
        timeout_ns: 60_000_000_000,
        certainty: Certainty::Exact,
        doubts: Doubts::NONE,
    }
}

pub(in crate::render) fn stuck(state: TcpState, role: Role) -> Stuck {
    let end = connection(role, &[], 0);
    Stuck {
        ts_ns: CLOSE_NS,
        socket: end.socket,
        state,
        for_ns: 61_000_000_000,
        role,
        owner: end.owner,
        certainty: Certainty::Exact,
        doubts: Doubts::NONE,
    }
}

pub(crate) fn lost(records: u64) -> Finding {
    Finding::Lost(Loss {
        ts_ns: 6_000_000_000,
        records,
        kind: RecordKind::Transition,
        cpu: Some(1),
        reason: LossReason::BufferFull,
    })
}

pub(in crate::render) fn end() -> End {
    End {
        ts_ns: 15_000_000_000,
        duration_ns: 10_000_000_000,
        shown: 10,
        summary: Summary {
            transitions: 12,
            lost: 7,
            ..Summary::default()
        },
    }
}

/// The end of a trace that has seen much.
pub(in crate::render) fn full_end() -> End {
    let ms = 1_000_000;
    End {
        ts_ns: 305_000_000_000,
        duration_ns: 300_000_000_000,
        shown: 1234,
        summary: Summary {
            transitions: 1234,
            lost: 0,
            evicted: 0,
            connections: 310,
            closes: vec![
                (CloseSequence::LocalFirst, 140),
                (CloseSequence::RemoteFirst, 141),
                (CloseSequence::ResetReceived, 28),
                (CloseSequence::TimedOut, 1),
            ],
            causes: vec![
                (CloseCause::Close, 250),
                (CloseCause::Exit, 31),
                (CloseCause::RetransmitTimeout, 1),
                (CloseCause::Peer, 28),
            ],
            time_waits_entered: 140,
            time_wait_ends: vec![
                (TimeWaitEnd::Expired, 120),
                (TimeWaitEnd::ReusedByConnect, 3),
                (TimeWaitEnd::NeverEntered, 2),
            ],
            time_wait: Some(Durations {
                count: 118,
                min_ns: 60_010 * ms,
                median_ns: 60_911 * ms,
                p90_ns: 61_800 * ms,
                p99_ns: 62_031 * ms,
                max_ns: 62_048_123_456,
                histogram: vec![
                    (60_000 * ms, 20),
                    (60_500 * ms, 61),
                    (61_000 * ms, 0),
                    (61_500 * ms, 36),
                    (62_000 * ms, 1),
                ],
                width_ns: 500 * ms,
            }),
            fin_wait2: Some(Durations {
                count: 2,
                min_ns: 60_100 * ms,
                median_ns: 60_100 * ms,
                p90_ns: 61_100 * ms,
                p99_ns: 61_100 * ms,
                max_ns: 61_100 * ms,
                histogram: vec![(60_000 * ms, 1), (61_000 * ms, 1)],
                width_ns: 1_000 * ms,
            }),
            stuck: 1,
            calls_failed: vec![
                ((Call::Bind, 98, Rule::PortHeld), 12),
                ((Call::Connect, 111, Rule::Refused), 30),
            ],
            open: 4,
            waiting: 17,
        },
    }
}

pub(in crate::render) fn doubts(all: &[Doubt]) -> Doubts {
    all.iter()
        .fold(Doubts::NONE, |doubts, one| doubts.with(*one))
}
