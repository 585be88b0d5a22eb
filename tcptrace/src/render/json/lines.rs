//! Owns the objects of the JSON lines: which fields a finding has, under which names, in which order.

use std::collections::BTreeMap;

use serde::Serialize;
use tcptrace_model::{
    ClosedFirst, Connection, Loss, LossReason, Phase, Stuck, Summary, TimeWait, TimeWaitEnd,
    TimeWaitEntered, Transition, TransitionFinding,
};

use super::{
    calls::FailedCounts,
    fields::{
        Counts, DoubtNames, DurationFields, Options, PeerFields, ProcessFields, ResetFields,
        SocketFields, Spans, Word,
    },
};
use crate::render::{End, Start, names};

#[derive(Serialize)]
pub(super) struct StartLine<'a> {
    version: &'a str,
    kernel: &'a str,
    hz: Option<u32>,
    backends: &'a BTreeMap<String, String>,
    degraded: &'a [String],
    netns: Option<u32>,
    sysctls: &'a BTreeMap<String, String>,
    clock_offset_ns: i64,
}

impl<'a> From<&'a Start> for StartLine<'a> {
    fn from(start: &'a Start) -> Self {
        let Start {
            version,
            ts_ns: _,
            kernel,
            hz,
            backends,
            degraded,
            netns,
            sysctls,
            clock_offset_ns,
        } = start;
        Self {
            version,
            kernel,
            hz: *hz,
            backends,
            degraded,
            netns: *netns,
            sysctls,
            clock_offset_ns: *clock_offset_ns,
        }
    }
}

#[derive(Serialize)]
pub(super) struct TransitionLine {
    oldstate: Word,
    newstate: Word,
    in_state_ns: Option<u64>,
    cpu: u16,
}

/// The rest of its line has been written before.
impl From<&TransitionFinding> for TransitionLine {
    fn from(finding: &TransitionFinding) -> Self {
        let TransitionFinding {
            transition,
            in_state_ns,
            owner: _,
            minisocket: _,
        } = finding;
        let Transition {
            ts_ns: _,
            socket: _,
            oldstate,
            newstate,
            current: _,
            cpu,
            evidence: _,
        } = transition;
        Self {
            oldstate: Word(oldstate.name()),
            newstate: Word(newstate.name()),
            in_state_ns: *in_state_ns,
            cpu: *cpu,
        }
    }
}

#[derive(Serialize)]
pub(super) struct TimeWaitEnteredLine<'a> {
    #[serde(rename = "")]
    socket: SocketFields<'a>,
    fin_wait2: bool,
    timeout_ms: u64,
    reuseaddr: Option<bool>,
    reuseport: Option<bool>,
    certainty: Word,
    doubts: DoubtNames,
}

impl<'a> From<&'a TimeWaitEntered> for TimeWaitEnteredLine<'a> {
    fn from(entered: &'a TimeWaitEntered) -> Self {
        let TimeWaitEntered {
            ts_ns: _,
            minisocket,
            sk,
            owner,
            phase,
            timeout_ns,
            certainty,
            doubts,
        } = entered;
        Self {
            socket: SocketFields::of_minisocket(minisocket, *sk, owner.as_ref()),
            fin_wait2: *phase == Phase::FinWait2,
            timeout_ms: timeout_ns / 1_000_000,
            reuseaddr: Some(minisocket.reuseaddr),
            reuseport: Some(minisocket.reuseport),
            certainty: Word(certainty.name()),
            doubts: DoubtNames(*doubts),
        }
    }
}

#[derive(Serialize)]
pub(super) struct TimeWaitLine<'a> {
    #[serde(rename = "")]
    socket: SocketFields<'a>,
    entered_ns: Option<u64>,
    fin_wait2_ns: Option<u64>,
    time_wait_ns: Option<u64>,
    rearmed: u32,
    rearmed_at_least: bool,
    last_phase: Word,
    end: Word,
    by: Option<ProcessFields<'a>>,
    reuseaddr: Option<bool>,
    reuseport: Option<bool>,
    certainty: Word,
    doubts: DoubtNames,
}

impl<'a> From<&'a TimeWait> for TimeWaitLine<'a> {
    fn from(time_wait: &'a TimeWait) -> Self {
        let TimeWait {
            ts_ns: _,
            minisocket,
            owner,
            entered_ns,
            fin_wait2_ns,
            time_wait_ns,
            rearmed,
            rearmed_at_least,
            end,
            last_phase,
            by,
            certainty,
            doubts,
        } = time_wait;
        // sock_diag does not tell them of one that only a snapshot has shown.
        let is_known = minisocket.tw != 0 || *end == TimeWaitEnd::NeverEntered;
        Self {
            socket: SocketFields::of_minisocket(minisocket, None, owner.as_ref()),
            entered_ns: *entered_ns,
            fin_wait2_ns: *fin_wait2_ns,
            time_wait_ns: *time_wait_ns,
            rearmed: *rearmed,
            rearmed_at_least: *rearmed_at_least,
            last_phase: Word(last_phase.name()),
            end: Word(end.name()),
            by: by.as_ref().map(ProcessFields::of),
            reuseaddr: is_known.then_some(minisocket.reuseaddr),
            reuseport: is_known.then_some(minisocket.reuseport),
            certainty: Word(certainty.name()),
            doubts: DoubtNames(*doubts),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ConnectionLine<'a> {
    role: Word,
    close: Word,
    cause: Word,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<u8>,
    error: Option<String>,
    reset: Option<ResetFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reset_reason: Option<&'static str>,
    closed_first: Option<&'static str>,
    closed_by: Option<ProcessFields<'a>>,
    half_closed_ns: Option<u64>,
    states: Spans<'a>,
    established_ns: Option<u64>,
    minisocket: Option<&'static str>,
    never_entered: bool,
    peer: Option<PeerFields<'a>>,
    complete: bool,
    certainty: Word,
    doubts: DoubtNames,
}

/// The rest of its line has been written before.
impl<'a> From<&'a Connection> for ConnectionLine<'a> {
    fn from(connection: &'a Connection) -> Self {
        let Connection {
            ts_ns: _,
            socket: _,
            role,
            owner: _,
            closed_by,
            close,
            cause,
            signal,
            exit_status,
            error,
            closed_first,
            half_closed_ns,
            reset,
            states,
            established_ns,
            minisocket,
            never_entered,
            peer,
            complete,
            certainty,
            doubts,
        } = connection;
        let reset = reset.as_ref().map(ResetFields::of);
        Self {
            role: Word(role.name()),
            close: Word(close.name()),
            cause: Word(cause.name()),
            signal: *signal,
            exit_status: *exit_status,
            error: names::error(*error),
            reset_reason: reset.as_ref().and_then(|reset| reset.reason),
            reset,
            closed_first: closed_first.map(|first| match first {
                ClosedFirst::Local => "local",
                ClosedFirst::Remote => "remote",
                ClosedFirst::Both => "both",
            }),
            closed_by: closed_by.as_ref().map(ProcessFields::of),
            half_closed_ns: *half_closed_ns,
            states: Spans(states),
            established_ns: *established_ns,
            minisocket: minisocket.map(Phase::name),
            never_entered: *never_entered,
            peer: peer.as_ref().map(PeerFields::of),
            complete: *complete,
            certainty: Word(certainty.name()),
            doubts: DoubtNames(*doubts),
        }
    }
}

#[derive(Serialize)]
pub(super) struct StuckLine<'a> {
    #[serde(rename = "")]
    socket: SocketFields<'a>,
    #[serde(rename = "")]
    options: Options,
    state: &'static str,
    for_ns: u64,
    role: Word,
    certainty: Word,
    doubts: DoubtNames,
}

impl<'a> From<&'a Stuck> for StuckLine<'a> {
    fn from(stuck: &'a Stuck) -> Self {
        let Stuck {
            ts_ns: _,
            socket,
            state,
            for_ns,
            role,
            owner,
            certainty,
            doubts,
        } = stuck;
        Self {
            socket: SocketFields::of_socket(socket, owner.as_ref()),
            options: Options::of(socket),
            state: state.name(),
            for_ns: *for_ns,
            role: Word(role.name()),
            certainty: Word(certainty.name()),
            doubts: DoubtNames(*doubts),
        }
    }
}

#[derive(Serialize)]
pub(super) struct LostLine {
    records: u64,
    record_kind: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<u32>,
}

impl From<&Loss> for LostLine {
    fn from(loss: &Loss) -> Self {
        let Loss {
            ts_ns: _,
            records,
            kind,
            cpu,
            reason,
        } = *loss;
        Self {
            records,
            record_kind: kind.name(),
            reason: match reason {
                LossReason::BufferFull => "buffer_full",
                LossReason::Recursion => "recursion",
            },
            cpu,
        }
    }
}

#[derive(Serialize)]
pub(super) struct SummaryLine<'a> {
    duration_ns: u64,
    transitions: u64,
    shown: u64,
    lost: u64,
    evicted: u64,
    connections: u64,
    closes: Counts,
    causes: Counts,
    stuck: u64,
    calls_failed: FailedCounts<'a>,
    open: u64,
    time_waits_entered: u64,
    time_wait_ends: Counts,
    time_wait: Option<DurationFields<'a>>,
    fin_wait2: Option<DurationFields<'a>>,
    waiting: u64,
}

impl<'a> From<&'a End> for SummaryLine<'a> {
    fn from(end: &'a End) -> Self {
        let End {
            ts_ns: _,
            duration_ns,
            shown,
            summary,
        } = end;
        let Summary {
            transitions,
            lost,
            evicted,
            connections,
            closes,
            causes,
            time_waits_entered,
            time_wait_ends,
            time_wait,
            fin_wait2,
            stuck,
            calls_failed,
            open,
            waiting,
        } = summary;
        Self {
            duration_ns: *duration_ns,
            transitions: *transitions,
            shown: *shown,
            lost: *lost,
            evicted: *evicted,
            connections: *connections,
            closes: Counts::of(closes.iter().map(|(close, count)| (close.name(), *count))),
            causes: Counts::of(causes.iter().map(|(cause, count)| (cause.name(), *count))),
            stuck: *stuck,
            calls_failed: FailedCounts(calls_failed),
            open: *open,
            time_waits_entered: *time_waits_entered,
            time_wait_ends: Counts::of(time_wait_ends.iter().map(|(end, n)| (end.name(), *n))),
            time_wait: time_wait.as_ref().map(DurationFields::of),
            fin_wait2: fin_wait2.as_ref().map(DurationFields::of),
            waiting: *waiting,
        }
    }
}
