//! Findings for the tests of all renderers.

use std::num::NonZeroU64;

use tcptrace_model::{
    Comm, Finding, Loss, LossReason, RecordKind, Socket, Summary, Task, TcpState, Transition,
};

use crate::render::End;

pub(in crate::render) fn transition(
    local: &str,
    remote: &str,
    in_state_ns: Option<u64>,
) -> Finding {
    Finding::Transition {
        transition: Transition {
            ts_ns: 5_067_000_000,
            socket: Socket {
                sk: 0xffff_8881_0000_1000,
                cookie: NonZeroU64::new(77),
                netns: Some(4_026_531_840),
                cgroup_id: Some(4242),
                uid: 1000,
                local: local.parse().unwrap(),
                remote: remote.parse().unwrap(),
                reuseaddr: true,
                reuseport: false,
            },
            oldstate: TcpState::Established,
            newstate: TcpState::FinWait1,
            current: Task {
                pid: 200,
                tid: 201,
                comm: Comm(*b"nginx\0\0\0\0\0\0\0\0\0\0\0"),
            },
            cpu: 1,
        },
        in_state_ns,
    }
}

pub(in crate::render) fn lost(records: u64) -> Finding {
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
            untracked: 0,
        },
    }
}
