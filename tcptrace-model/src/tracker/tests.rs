//! Scenarios for the tracker with a virtual clock.

use alloc::{vec, vec::Vec};
use core::net::{Ipv4Addr, SocketAddr};

use TcpState::{
    Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
};

use super::*;
use crate::{Comm, Loss, LossReason, RecordKind, Socket, Task};

const MS: u64 = 1_000_000;

fn change(sk: u64, ts_ns: u64, oldstate: TcpState, newstate: TcpState) -> Input {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000));
    Input::Transition(Transition {
        ts_ns,
        socket: Socket {
            sk,
            cookie: None,
            netns: Some(4_026_531_840),
            cgroup_id: Some(1),
            uid: 0,
            local: address,
            remote: address,
            reuseaddr: false,
            reuseport: false,
        },
        oldstate,
        newstate,
        current: Task {
            pid: 1,
            tid: 1,
            comm: Comm(*b"test\0\0\0\0\0\0\0\0\0\0\0\0"),
        },
        cpu: 0,
    })
}

fn lost(ts_ns: u64, records: u64) -> Input {
    Input::Lost(Loss {
        ts_ns,
        records,
        kind: RecordKind::Transition,
        cpu: Some(0),
        reason: LossReason::BufferFull,
    })
}

/// Feeds the inputs and returns, for each transition told, the time in the old state.
fn times_in_state(tracker: &mut Tracker, inputs: Vec<Input>) -> Vec<Option<u64>> {
    let mut times = Vec::new();
    for input in inputs {
        tracker.handle(input);
        while let Some(finding) = tracker.poll() {
            match finding {
                Finding::Transition { in_state_ns, .. } => times.push(in_state_ns),
                Finding::Lost(_) => {}
            }
        }
    }
    times
}

#[test]
fn a_client_that_closes_first_has_every_time_but_the_first() {
    let times = times_in_state(
        &mut Tracker::new(),
        vec![
            change(1, 10 * MS, Close, SynSent),
            change(1, 11 * MS, SynSent, Established),
            change(1, 31 * MS, Established, FinWait1),
            change(1, 32 * MS, FinWait1, FinWait2),
            change(1, 35 * MS, FinWait2, Close),
        ],
    );
    assert_eq!(
        times,
        [None, Some(MS), Some(20 * MS), Some(MS), Some(3 * MS)]
    );
}

#[test]
fn a_child_was_never_in_listen_itself() {
    let times = times_in_state(
        &mut Tracker::new(),
        vec![
            change(1, MS, Close, Listen),
            change(2, 2 * MS, Listen, SynRecv),
            change(2, 3 * MS, SynRecv, Established),
            change(1, 9 * MS, Listen, Close),
        ],
    );
    assert_eq!(times, [None, None, Some(MS), Some(8 * MS)]);
}

#[test]
fn a_socket_older_than_the_trace_has_no_time_at_first() {
    let times = times_in_state(
        &mut Tracker::new(),
        vec![
            change(1, 10 * MS, Established, CloseWait),
            change(1, 15 * MS, CloseWait, LastAck),
        ],
    );
    assert_eq!(times, [None, Some(5 * MS)]);
}

#[test]
fn a_recycled_address_inherits_nothing() {
    let times = times_in_state(
        &mut Tracker::new(),
        vec![
            change(1, 10 * MS, Close, SynSent),
            change(1, 11 * MS, SynSent, Close),
            change(1, 90 * MS, Close, SynSent),
        ],
    );
    assert_eq!(times, [None, Some(MS), None]);
}

#[test]
fn a_state_set_to_itself_goes_on() {
    // close() after shutdown(): tcp_close_state() sets FIN_WAIT2 again.
    let times = times_in_state(
        &mut Tracker::new(),
        vec![
            change(1, 10 * MS, FinWait1, FinWait2),
            change(1, 14 * MS, FinWait2, FinWait2),
            change(1, 20 * MS, FinWait2, Close),
        ],
    );
    assert_eq!(times, [None, Some(4 * MS), Some(10 * MS)]);
}

#[test]
fn a_state_set_to_itself_by_an_older_socket_dates_nothing() {
    let times = times_in_state(
        &mut Tracker::new(),
        vec![
            change(1, 14 * MS, FinWait2, FinWait2),
            change(1, 20 * MS, FinWait2, Close),
        ],
    );
    assert_eq!(times, [None, None]);
}

#[test]
fn after_a_gap_nothing_is_known_any_more() {
    let mut tracker = Tracker::new();
    let times = times_in_state(
        &mut tracker,
        vec![
            change(1, 10 * MS, Close, SynSent),
            change(1, 11 * MS, SynSent, Established),
            Input::Gap { ts_ns: 30 * MS },
            change(1, 31 * MS, Established, FinWait1),
            change(1, 32 * MS, FinWait1, FinWait2),
            lost(33 * MS, 7),
            change(1, 34 * MS, FinWait2, Close),
        ],
    );
    assert_eq!(times, [None, Some(MS), None, Some(MS), None]);
    assert_eq!(tracker.summary().lost, 7);
    assert_eq!(tracker.summary().transitions, 5);
}

#[test]
fn an_event_that_does_not_fit_the_known_state_has_no_time() {
    let times = times_in_state(
        &mut Tracker::new(),
        vec![
            change(1, 10 * MS, SynSent, Established),
            change(1, 12 * MS, CloseWait, LastAck),
        ],
    );
    assert_eq!(times, [None, None]);
}

#[test]
fn time_that_runs_backwards_is_unknown() {
    // Two CPUs may hand in their records in the other order.
    let times = times_in_state(
        &mut Tracker::new(),
        vec![
            change(1, 10 * MS, SynSent, Established),
            change(1, 9 * MS, Established, FinWait1),
        ],
    );
    assert_eq!(times, [None, None]);
}

#[test]
fn a_full_table_says_so_and_keeps_what_it_has() {
    let mut tracker = Tracker::with_capacity_limit(1);
    let times = times_in_state(
        &mut tracker,
        vec![
            change(1, 10 * MS, Close, SynSent),
            change(2, 10 * MS, Close, SynSent),
            change(2, 11 * MS, SynSent, Close),
            change(1, 12 * MS, SynSent, Established),
        ],
    );
    assert_eq!(times, [None, None, None, Some(2 * MS)]);
    assert_eq!(tracker.summary().untracked, 1);
}
