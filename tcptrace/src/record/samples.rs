//! A recording for tests: every kind of step, in an order that a kernel could have given.

use std::{collections::BTreeMap, num::NonZeroU64};

use tcptrace_model::{
    Accepted, Comm, Direction, EndedBy, Evidence, Existing, File, Input, ListedHolder, Listing,
    Loss, LossReason, Minisocket, MinisocketEnded, MinisocketEntered, MinisocketRearmed, Phase,
    Process, RecordKind, Reset, ResetReason, Settings, Snapshot, Socket, SocketCall, Surroundings,
    Task, TcpState, Transition,
    conflict::{Asked, Asker, BindSysctls, Call, Family, Holder, PortUse},
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
    let mut steps = steps_of_format_1_0();
    // Before the last time that the time was told.
    let end = steps.len() - 2;
    let at = BEGIN + 1990 * MS;
    let calls = [
        Input::Holder(listed(at)),
        Input::Surroundings(surroundings(at + MS)),
        Input::Call(call(at + 1)),
    ];
    steps.splice(end..end, calls.map(Step::Input));
    steps
}

/// Every kind of step that format 1.0 has.
pub(crate) fn steps_of_format_1_0() -> Vec<Step> {
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

fn listed(ts_ns: u64) -> ListedHolder {
    ListedHolder {
        ts_ns,
        asker: 0xffff_8881_0000_4000,
        holder: Holder {
            sk: 0xffff_8881_0000_3000,
            cookie: NonZeroU64::new(77),
            state: TcpState::TimeWait,
            minisocket: Some(Phase::TimeWait),
            local: ([127, 0, 0, 1], 8000).into(),
            remote: ([127, 0, 0, 1], 40_000).into(),
            reuseaddr: Some(false),
            reuseport: Some(true),
            force_reuse: false,
            v6only: Some(false),
            uid: None,
            device: 0,
            port_bound: None,
            timestamps: Some(true),
        },
        netns: Some(4_026_531_840),
        expires_ns: Some(ts_ns + 40_000 * MS),
    }
}

fn surroundings(ts_ns: u64) -> Surroundings {
    let mut by_state = [0; 14];
    by_state[TcpState::TimeWait as usize] = 28_231;
    Surroundings {
        ts_ns,
        netns: 4_026_531_840,
        sk: 0xffff_8881_0000_4000,
        sysctls: BindSysctls::default(),
        ports: Some(PortUse {
            ts_ns,
            range: (32_768, 60_999),
            reserved: 1,
            held: 28_231,
            by_state,
            to_destination: by_state,
            destination: Some(([127, 0, 0, 1], 8000).into()),
        }),
    }
}

fn call(ts_ns: u64) -> SocketCall {
    SocketCall {
        ts_ns,
        began_ns: Some(ts_ns - MS),
        call: Call::Bind,
        error: 98,
        sk: 0xffff_8881_0000_4000,
        cookie: None,
        netns: Some(4_026_531_840),
        cgroup_id: Some(4242),
        task: task(),
        asker: Asker {
            family: Family::V4,
            state: TcpState::Close,
            local: ([0, 0, 0, 0], 0).into(),
            reuseaddr: true,
            force_reuse: false,
            reuseport: false,
            reuseport_group: false,
            v6only: false,
            freebind: false,
            transparent: false,
            bind_address_no_port: false,
            device: 0,
            uid: 1000,
            port_range: Some((40_000, 40_010)),
            may_bind_privileged: Some(false),
        },
        asked: Some(Asked {
            family: 2,
            len: 16,
            addr: ([127, 0, 0, 1], 8000).into(),
            scope: 0,
        }),
        backlog: 0,
        local: ([0, 0, 0, 0], 0).into(),
        remote: ([0, 0, 0, 0], 0).into(),
        nonblocking: false,
        refused_by_lsm: false,
        guilty: None,
        listing: Listing::Whole,
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
