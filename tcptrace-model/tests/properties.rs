//! What holds for any inputs in any order, however little sense they make.

mod call_inputs;

use std::net::SocketAddr;

use proptest::{collection::vec, option, prelude::*, sample::select};
use tcptrace_model::{
    Accepted, Certainty, CloseCause, CloseSequence, Comm, Connection, Direction, Doubt, EndedBy,
    Evidence, Existing, File, Finding, Input, Loss, LossReason, Minisocket, MinisocketEnded,
    MinisocketEntered, MinisocketRearmed, Phase, Process, RecordKind, Reset, ResetReason, Settings,
    Snapshot, Socket, Surroundings, Task, TcpState, TimeWait, TimeWaitEnd, Tracker, Transition,
    conflict::KernelVersion,
};

use call_inputs::{calls, cookies, holders, is_an_honest_failure, surroundings};

const MOST_CONNECTIONS: usize = 4;
const MOST_MINISOCKETS: usize = 3;

/// A step: an input, or the time that is told.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are inputs")]
enum Step {
    Handle(Input),
    Advance(u64),
}

fn addresses() -> impl Strategy<Value = SocketAddr> {
    select(vec![
        "127.0.0.1:80",
        "127.0.0.1:4000",
        "10.0.0.1:80",
        "10.0.0.2:4000",
        "10.0.0.1:0",
        "0.0.0.0:80",
        "[::ffff:10.0.0.1]:80",
        "[::1]:80",
    ])
    .prop_map(|text| text.parse().unwrap())
}

fn netns() -> impl Strategy<Value = Option<u32>> {
    select(vec![None, Some(1), Some(2)])
}

fn task() -> impl Strategy<Value = Task> {
    (1..4_u32).prop_map(|pid| Task {
        pid,
        tid: pid,
        comm: Comm([b'x'; 16]),
    })
}

fn sockets() -> impl Strategy<Value = Socket> {
    (0..6_u64, cookies(), netns(), addresses(), addresses()).prop_map(
        |(sk, cookie, netns, local, remote)| Socket {
            sk,
            cookie,
            netns,
            cgroup_id: None,
            uid: 0,
            local,
            remote,
            reuseaddr: false,
            reuseport: false,
        },
    )
}

fn minisockets() -> impl Strategy<Value = Minisocket> {
    sockets().prop_map(|socket| Minisocket {
        tw: socket.sk,
        cookie: socket.cookie,
        netns: socket.netns,
        local: socket.local,
        remote: socket.remote,
        reuseaddr: false,
        reuseport: false,
    })
}

fn states() -> impl Strategy<Value = TcpState> {
    select(TcpState::ALL.to_vec())
}

fn phases() -> impl Strategy<Value = Phase> {
    select(Phase::ALL.to_vec())
}

fn evidence() -> impl Strategy<Value = Evidence> {
    let error = select(vec![0, 0, 0, 32, 103, 104, 110, 111, 113]);
    let file = select(vec![File::None, File::Open, File::Released, File::Unknown]);
    let flags = any::<[bool; 7]>();
    (error, file, flags, select(vec![0, 1, 500]), any::<u32>()).prop_map(
        |(error, file, flags, user_timeout_ms, exit_code)| {
            let [
                receive_shutdown,
                send_shutdown,
                orphan,
                linger_zero,
                no_fin_wait2,
                exiting,
                kernel_thread,
            ] = flags;
            Evidence {
                error,
                receive_shutdown,
                send_shutdown,
                orphan,
                file,
                linger_zero,
                no_fin_wait2,
                user_timeout_ms,
                exiting,
                kernel_thread,
                exit_code,
            }
        },
    )
}

/// Pairs of states: those that the kernel makes, and now and then any.
fn changes() -> impl Strategy<Value = (TcpState, TcpState)> {
    let real = [
        (7, 2),
        (7, 10),
        (10, 7),
        (10, 3),
        (2, 1),
        (2, 7),
        (3, 1),
        (1, 4),
        (1, 8),
        (1, 7),
        (4, 5),
        (4, 11),
        (4, 7),
        (5, 5),
        (5, 7),
        (11, 7),
        (8, 9),
        (8, 7),
        (9, 7),
    ]
    .map(|(old, new)| {
        let state = |number| TcpState::from_kernel(number).unwrap();
        (state(old), state(new))
    });
    prop_oneof![9 => select(real.to_vec()), 1 => (states(), states())]
}

fn transitions() -> impl Strategy<Value = Input> {
    (sockets(), changes(), task(), option::of(evidence())).prop_map(
        |(socket, (oldstate, newstate), current, evidence)| {
            Input::Transition(Transition {
                ts_ns: 0,
                socket,
                oldstate,
                newstate,
                current,
                cpu: 0,
                evidence,
            })
        },
    )
}

fn minisocket_inputs() -> impl Strategy<Value = Input> {
    let entered =
        (minisockets(), option::of(0..6_u64), phases()).prop_map(|(minisocket, sk, phase)| {
            Input::MinisocketEntered(MinisocketEntered {
                ts_ns: 0,
                minisocket,
                sk,
                phase,
                timeout_ns: 60_000_000_000,
            })
        });
    let rearmed = (minisockets(), phases()).prop_map(|(minisocket, phase)| {
        Input::MinisocketRearmed(MinisocketRearmed {
            ts_ns: 0,
            minisocket,
            phase,
            timeout_ns: 60_000_000_000,
        })
    });
    let by = select(EndedBy::ALL.to_vec());
    let ended = (
        minisockets(),
        phases(),
        by,
        task(),
        option::of(any::<u64>()),
        any::<u64>(),
    )
        .prop_map(
            |(minisocket, phase, by, current, time_wait_since_ns, expires_ns)| {
                Input::MinisocketEnded(MinisocketEnded {
                    ts_ns: 0,
                    minisocket,
                    phase,
                    by,
                    current,
                    time_wait_since_ns,
                    expires_ns,
                })
            },
        );
    prop_oneof![2 => entered, 1 => rearmed, 2 => ended]
}

fn snapshots() -> impl Strategy<Value = Input> {
    let existing = (
        sockets(),
        1..3_u32,
        states(),
        option::of(any::<u64>()),
        any::<bool>(),
    )
        .prop_map(|(socket, netns, state, minisocket_expires_in_ns, owned)| {
            Input::Snapshot(Snapshot::Socket(Existing {
                ts_ns: 0,
                cookie: socket.cookie,
                netns,
                local: socket.local,
                remote: socket.remote,
                state,
                minisocket_expires_in_ns,
                process: owned.then_some(Process {
                    pid: 9,
                    comm: Comm([b'y'; 16]),
                }),
            }))
        });
    prop_oneof![
        3 => existing,
        1 => Just(Input::Snapshot(Snapshot::Begin { ts_ns: 0 })),
        1 => any::<bool>().prop_map(|complete| {
            Input::Snapshot(Snapshot::End { ts_ns: 0, complete })
        }),
    ]
}

/// An input, its time still to be filled in.
fn inputs() -> impl Strategy<Value = Input> {
    let direction = select(vec![Direction::Sent, Direction::Received]);
    let reason = option::of(select(ResetReason::ALL.to_vec()));
    let reset =
        (0..6_u64, direction, states(), reason).prop_map(|(sk, direction, state, reason)| {
            Input::Reset(Reset {
                ts_ns: 0,
                direction,
                sk,
                state,
                reason,
            })
        });
    let accepted =
        (0..6_u64, task()).prop_map(|(sk, task)| Input::Accepted(Accepted { ts_ns: 0, sk, task }));
    prop_oneof![
        20 => transitions(),
        10 => minisocket_inputs(),
        4 => reset,
        1 => accepted,
        5 => snapshots(),
        12 => calls(),
        8 => holders(),
        2 => surroundings(),
        1 => Just(Input::Gap { ts_ns: 0 }),
        1 => Just(Input::Lost(Loss {
            ts_ns: 0,
            records: 3,
            kind: RecordKind::Transition,
            cpu: None,
            reason: LossReason::BufferFull,
        })),
    ]
}

fn dated(mut input: Input, now_ns: u64) -> Input {
    match &mut input {
        Input::Transition(Transition { ts_ns, .. })
        | Input::MinisocketEntered(MinisocketEntered { ts_ns, .. })
        | Input::MinisocketRearmed(MinisocketRearmed { ts_ns, .. })
        | Input::MinisocketEnded(MinisocketEnded { ts_ns, .. })
        | Input::Reset(Reset { ts_ns, .. })
        | Input::Accepted(Accepted { ts_ns, .. })
        | Input::Surroundings(Surroundings { ts_ns, .. })
        | Input::Snapshot(
            Snapshot::Begin { ts_ns }
            | Snapshot::Socket(Existing { ts_ns, .. })
            | Snapshot::End { ts_ns, .. },
        )
        | Input::Gap { ts_ns }
        | Input::Lost(Loss { ts_ns, .. }) => *ts_ns = now_ns,
        Input::Holder(listed) => listed.ts_ns = now_ns,
        Input::Call(call) => {
            call.ts_ns = now_ns;
            call.began_ns = call.began_ns.map(|_| now_ns.saturating_sub(1_000));
        }
    }
    input
}

/// Steps with a clock that mostly runs forward, sometimes far, and once in a while back.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![
        20 => 0..1_000_000_i64,
        4 => 0..20_000_000_i64,
        1 => 0..100_000_000_000_i64,
        1 => -10_000_000..0_i64,
        1 => Just(i64::MIN / 2),
    ];
    let step = prop_oneof![9 => inputs().prop_map(Some), 1 => Just(None)];
    vec((pause, step), 0..120).prop_map(|steps| {
        let mut now_ns = 1_000_000_000_u64;
        steps
            .into_iter()
            .map(|(pause, input)| {
                now_ns = now_ns.saturating_add_signed(pause);
                match input {
                    Some(input) => Step::Handle(dated(input, now_ns)),
                    None => Step::Advance(now_ns),
                }
            })
            .collect()
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    (any::<[bool; 5]>(), 0..20_u16).prop_map(|(flags, minor)| {
        let [
            minisockets,
            minisocket_resets,
            known_minisockets_only,
            rearms_exact,
            stuck,
        ] = flags;
        Settings {
            max_connections: MOST_CONNECTIONS,
            max_minisockets: MOST_MINISOCKETS,
            stuck_after_ns: stuck.then_some(1_000_000_000),
            minisockets,
            minisocket_resets,
            known_minisockets_only,
            rearms_exact,
            kernel: KernelVersion::of(6, minor),
            calls: true,
        }
    })
}

fn run(settings: Settings, steps: &[Step], mut look: impl FnMut(&Tracker)) -> Vec<Finding> {
    let mut tracker = Tracker::new(settings);
    let mut told = Vec::new();
    for step in steps {
        match step {
            Step::Handle(input) => tracker.handle(input),
            Step::Advance(now_ns) => tracker.advance(*now_ns),
        }
        told.extend(std::iter::from_fn(|| tracker.poll()));
        look(&tracker);
    }
    tracker.finish(u64::MAX);
    told.extend(std::iter::from_fn(|| tracker.poll()));
    look(&tracker);
    told
}

/// Whether the last moment of a connection can prove this, whatever came before.
fn proves_itself(close: CloseSequence, cause: CloseCause) -> bool {
    match close {
        CloseSequence::NeverEstablished => cause != CloseCause::Unknown,
        CloseSequence::Refused | CloseSequence::ResetReceived => cause == CloseCause::Peer,
        CloseSequence::Aborted => cause == CloseCause::SocketDestroyed,
        CloseSequence::TimedOut => {
            matches!(cause, CloseCause::UserTimeout | CloseCause::Keepalive)
        }
        CloseSequence::ResetSent => matches!(
            cause,
            CloseCause::UnreadDataReset
                | CloseCause::LingerReset
                | CloseCause::ListenerClosed
                | CloseCause::Disconnect
        ),
        CloseSequence::LocalFirst
        | CloseSequence::RemoteFirst
        | CloseSequence::Simultaneous
        | CloseSequence::Unknown => false,
    }
}

fn is_honest(told: &Connection) -> Result<(), TestCaseError> {
    let lost = told.doubts.contains(Doubt::RecordsLost);
    prop_assert!(!(lost && told.complete), "{told:?}");
    if told.complete {
        prop_assert!(!told.doubts.contains(Doubt::BeforeTrace));
        prop_assert!(!told.doubts.contains(Doubt::Evicted));
    }
    if told.close == CloseSequence::Unknown {
        prop_assert_eq!(told.certainty, Certainty::Unknown);
    }
    if told.certainty == Certainty::Exact && !told.doubts.is_empty() {
        prop_assert!(proves_itself(told.close, told.cause), "{told:?}");
        prop_assert!(!told.never_entered, "{told:?}");
    }
    prop_assert_eq!(told.signal.is_some(), told.cause == CloseCause::Signal);
    prop_assert_eq!(told.exit_status.is_some(), told.cause == CloseCause::Exit);
    prop_assert!(!(told.never_entered && told.minisocket.is_some()));
    prop_assert!((1..=16).contains(&told.states.len()));
    Ok(())
}

fn is_an_honest_end(told: &TimeWait) -> Result<(), TestCaseError> {
    if told.certainty == Certainty::Exact {
        prop_assert!(told.doubts.is_empty(), "{told:?}");
    }
    if told.end == TimeWaitEnd::Unknown {
        prop_assert_eq!(told.certainty, Certainty::Unknown);
    }
    if let (Some(entered_ns), Some(fin_wait2_ns), Some(time_wait_ns)) =
        (told.entered_ns, told.fin_wait2_ns, told.time_wait_ns)
    {
        let lasted_ns = told.ts_ns.saturating_sub(entered_ns);
        prop_assert_eq!(fin_wait2_ns + time_wait_ns, lasted_ns);
    }
    Ok(())
}

proptest! {
    #[test]
    fn anything_may_come_and_nothing_grows(settings in settings(), steps in steps()) {
        run(settings, &steps, |tracker| {
            let summary = tracker.summary();
            assert!(summary.open <= MOST_CONNECTIONS as u64);
            assert!(summary.waiting <= MOST_MINISOCKETS as u64);
        });
    }

    #[test]
    fn the_same_inputs_give_the_same_findings(settings in settings(), steps in steps()) {
        let once = run(settings, &steps, |_| {});
        prop_assert_eq!(once, run(settings, &steps, |_| {}));
    }

    #[test]
    fn nothing_is_more_certain_than_what_it_rests_on(
        settings in settings(),
        steps in steps(),
    ) {
        for finding in run(settings, &steps, |_| {}) {
            match finding {
                Finding::Connection(told) => is_honest(&told)?,
                Finding::TimeWait(told) => is_an_honest_end(&told)?,
                Finding::TimeWaitEntered(told) => {
                    prop_assert_eq!(told.certainty == Certainty::Exact, told.doubts.is_empty());
                }
                Finding::Stuck(told) => {
                    prop_assert_eq!(told.certainty == Certainty::Exact, told.doubts.is_empty());
                }
                Finding::CallFailed(told) => is_an_honest_failure(&told)?,
                Finding::Story(_)
                | Finding::Transition(_)
                | Finding::CallSucceeded(_)
                | Finding::Lost(_) => {}
            }
        }
    }

    #[test]
    fn every_call_that_failed_is_told_and_counted(settings in settings(), steps in steps()) {
        let handled = steps
            .iter()
            .filter(|step| match step {
                Step::Handle(Input::Call(call)) => !matches!(call.error, 0 | 115 | 512),
                Step::Handle(_) | Step::Advance(_) => false,
            })
            .count();
        let mut counted = 0;
        let told = run(settings, &steps, |tracker| {
            let by_rule = tracker.summary().calls_failed;
            counted = by_rule.iter().map(|(_, count)| count).sum();
        });
        let told = told
            .iter()
            .filter(|finding| matches!(finding, Finding::CallFailed(_)))
            .count();
        prop_assert_eq!(told, handled);
        prop_assert_eq!(counted, handled as u64);
    }

    #[test]
    fn every_transition_is_told_and_every_end_has_one_story(
        settings in settings(),
        steps in steps(),
    ) {
        let handled = steps
            .iter()
            .filter(|step| matches!(step, Step::Handle(Input::Transition(_))))
            .count();
        let (mut transitions, mut ends, mut in_stories) = (0, Vec::new(), Vec::new());
        for finding in run(settings, &steps, |_| {}) {
            match finding {
                Finding::Transition(_) => transitions += 1,
                Finding::Connection(told) => ends.push(*told),
                Finding::Story(story) => {
                    in_stories.push(story.first);
                    in_stories.extend(story.second);
                }
                Finding::TimeWaitEntered(_)
                | Finding::TimeWait(_)
                | Finding::Stuck(_)
                | Finding::CallFailed(_)
                | Finding::CallSucceeded(_)
                | Finding::Lost(_) => {}
            }
        }
        prop_assert_eq!(transitions, handled);
        prop_assert_eq!(ends.len(), in_stories.len());
        for end in in_stories {
            prop_assert!(ends.contains(&end));
        }
    }

    #[test]
    fn a_loss_before_every_input_leaves_nothing_complete(
        settings in settings(),
        steps in steps(),
    ) {
        let steps: Vec<_> = steps
            .iter()
            .flat_map(|step| [Step::Handle(Input::Gap { ts_ns: 0 }), step.clone()])
            .collect();
        for finding in run(settings, &steps, |_| {}) {
            if let Finding::Connection(told) = finding {
                prop_assert!(told.doubts.contains(Doubt::RecordsLost), "{told:?}");
                prop_assert!(!told.complete);
                prop_assert!(!told.never_entered);
            }
        }
    }
}
