//! A recording for tests: every kind of step, in an order that a kernel could have given.

use std::{collections::BTreeMap, num::NonZeroU64};

use tcptrace_model::{
    Accepted, Comm, Direction, EndedBy, Evidence, Existing, File, Input, Loss, LossReason,
    Minisocket, MinisocketEnded, MinisocketEntered, MinisocketRearmed, Phase, Process, RecordKind,
    Reset, ResetReason, Settings, Snapshot, Socket, Task, TcpState, Transition,
};

use super::{Ending, Opening, Step};
use crate::render::{Start, text::Layout};

const MS: u64 = 1_000_000;
const BEGIN: u64 = 5_000_000_000;

/// What the sample recording begins with.
pub(crate) fn opening() -> Opening {
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    Opening {
        start: Start {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ts_ns: BEGIN,
            kernel: "6.18.0-test".to_owned(),
            hz: Some(250),
            backends: pairs(&[("time_wait", "timer"), ("transitions", "raw_tracepoint")]),
            degraded: vec!["something cannot be seen on this kernel".to_owned()],
            netns: Some(4_026_531_840),
            sysctls: pairs(&[
                ("net.ipv4.ip_local_port_range", "32768 60999"),
                ("net.ipv4.tcp_fin_timeout", "60"),
            ]),
            clock_offset_ns: 1_000_000_000_000_000_000,
        },
        settings: Settings {
            stuck_after_ns: Some(30_000 * MS),
            minisocket_resets: false,
            ..Settings::default()
        },
        arguments: vec!["record".to_owned(), "-o".to_owned(), "x".to_owned()],
    }
}

/// Every kind of step, once at least; the last one is the end.
pub(crate) fn steps() -> Vec<Step> {
    let at = |ms: u64| BEGIN + ms * MS;
    let inputs = |inputs: Vec<Input>| inputs.into_iter().map(Step::Input);
    let mut steps = Vec::new();
    steps.extend(inputs(vec![
        Input::Snapshot(Snapshot::Begin { ts_ns: at(1) }),
        Input::Snapshot(Snapshot::Socket(existing(at(2)))),
        Input::Snapshot(Snapshot::End {
            ts_ns: at(3),
            complete: true,
        }),
        transition(at(10), TcpState::Close, TcpState::SynSent, None),
        transition(at(11), TcpState::SynSent, TcpState::Established, None),
        Input::Accepted(Accepted {
            ts_ns: at(12),
            sk: 0xffff_8881_0000_2000,
            task: task(),
        }),
    ]));
    steps.push(Step::Tick { now_ns: at(1000) });
    steps.extend(inputs(vec![
        transition(
            at(1010),
            TcpState::Established,
            TcpState::FinWait1,
            Some(evidence()),
        ),
        transition(at(1011), TcpState::FinWait1, TcpState::FinWait2, None),
        Input::MinisocketEntered(MinisocketEntered {
            ts_ns: at(1012),
            minisocket: minisocket(),
            sk: Some(0xffff_8881_0000_1000),
            phase: Phase::FinWait2,
            timeout_ns: 60_000 * MS,
        }),
        transition(at(1012), TcpState::FinWait2, TcpState::Close, None),
        Input::MinisocketRearmed(MinisocketRearmed {
            ts_ns: at(1020),
            minisocket: minisocket(),
            phase: Phase::TimeWait,
            timeout_ns: 60_000 * MS,
        }),
        Input::Reset(Reset {
            ts_ns: at(1030),
            direction: Direction::Sent,
            sk: 0xffff_8881_0000_3000,
            state: TcpState::TimeWait,
            reason: Some(ResetReason::TcpTimewaitSocket),
        }),
        Input::Gap { ts_ns: at(1040) },
        Input::Lost(Loss {
            ts_ns: at(1041),
            records: 7,
            kind: RecordKind::Transition,
            cpu: Some(1),
            reason: LossReason::BufferFull,
        }),
        Input::MinisocketEnded(MinisocketEnded {
            ts_ns: at(1050),
            minisocket: minisocket(),
            phase: Phase::TimeWait,
            by: EndedBy::Connect,
            current: task(),
            time_wait_since_ns: Some(at(1020)),
            expires_ns: at(61_020),
        }),
    ]));
    steps.push(Step::Tick { now_ns: at(2000) });
    steps.push(Step::End(Ending {
        ts_ns: at(2100),
        duration_ns: 2100 * MS,
    }));
    steps
}

/// A layout with all columns.
pub(crate) fn layout() -> Layout {
    Layout {
        time: true,
        timestamp: true,
        wide: true,
        ..Layout::default()
    }
}

fn transition(
    ts_ns: u64,
    oldstate: TcpState,
    newstate: TcpState,
    evidence: Option<Evidence>,
) -> Input {
    Input::Transition(Transition {
        ts_ns,
        socket: Socket {
            sk: 0xffff_8881_0000_1000,
            cookie: NonZeroU64::new(77),
            netns: Some(4_026_531_840),
            cgroup_id: Some(4242),
            uid: 1000,
            local: ([127, 0, 0, 1], 40_000).into(),
            remote: ([127, 0, 0, 1], 8000).into(),
            reuseaddr: true,
            reuseport: false,
        },
        oldstate,
        newstate,
        current: task(),
        cpu: 1,
        evidence,
    })
}

fn evidence() -> Evidence {
    Evidence {
        error: 0,
        receive_shutdown: false,
        send_shutdown: true,
        orphan: true,
        file: File::Released,
        linger_zero: false,
        no_fin_wait2: false,
        user_timeout_ms: 0,
        exiting: true,
        kernel_thread: false,
        exit_code: 9,
    }
}

fn minisocket() -> Minisocket {
    Minisocket {
        tw: 0xffff_8881_0000_3000,
        cookie: NonZeroU64::new(77),
        netns: Some(4_026_531_840),
        local: ([127, 0, 0, 1], 40_000).into(),
        remote: ([127, 0, 0, 1], 8000).into(),
        reuseaddr: true,
        reuseport: false,
    }
}

fn existing(ts_ns: u64) -> Existing {
    Existing {
        ts_ns,
        cookie: NonZeroU64::new(76),
        netns: 4_026_531_840,
        local: "[::1]:8000".parse().unwrap(),
        remote: "[::1]:0".parse().unwrap(),
        state: TcpState::Listen,
        minisocket_expires_in_ns: None,
        process: Some(Process {
            pid: 100,
            comm: name(b"nginx"),
        }),
    }
}

fn task() -> Task {
    Task {
        pid: 200,
        tid: 201,
        comm: name(b"curl"),
    }
}

fn name(text: &[u8]) -> Comm {
    let mut comm = [0; 16];
    comm[..text.len()].copy_from_slice(text);
    Comm(comm)
}
