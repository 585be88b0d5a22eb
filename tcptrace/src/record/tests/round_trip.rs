//! Any input, with any value in each field, comes back as it was; and any bytes are read without a
//! panic.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    num::NonZeroU64,
};

use proptest::{
    option,
    prelude::{
        Arbitrary, BoxedStrategy, Just, Strategy, any, prop_assert_eq, prop_oneof, proptest,
    },
    sample::select,
};
use tcptrace_model::{
    Accepted, Comm, Direction, EndedBy, Evidence, Existing, File, Loss, LossReason, Minisocket,
    MinisocketEnded, MinisocketEntered, MinisocketRearmed, Phase, Process, RecordKind, Reset,
    ResetReason, Settings, Snapshot, Socket, Task, TcpState, Transition, conflict::KernelVersion,
};

use super::*;
use crate::record::{Ending, format::HEADER_LENGTH};

mod calls;

proptest! {
    #[test]
    fn any_steps_come_back(steps in proptest::collection::vec(step(), 0..20), opening in opening()) {
        let file = recording(&opening, &steps);
        let mut replay = Replay::open(&file[..]).unwrap();
        prop_assert_eq!(replay.opening(), &opening);
        for step in steps {
            prop_assert_eq!(replay.next_step().unwrap(), Some(step));
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(
        kind in any::<u8>(),
        content in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let file = Forged::new(VERSION).opening().frame(kind, &content);
        let _ = steps_of(&file.bytes);
        let mut file = Forged::new(VERSION).bytes;
        file.extend(&content);
        let _ = steps_of(&file);
        let _ = steps_of(&content);
    }

    #[test]
    fn damaged_fields_with_a_right_checksum_are_read_without_a_panic(
        step in step(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut content = Vec::new();
        let kind = wire::encode(&step, &mut content).unwrap();
        let at = at.index(content.len());
        content[at] = byte;
        let file = Forged::new(VERSION).opening().frame(kind.number(), &content);
        let _ = steps_of(&file.bytes);
    }

    #[test]
    fn no_part_of_a_recording_can_be_changed_unnoticed(
        at in any::<proptest::sample::Index>(),
        bytes in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let file = recording(&samples::opening(), &samples::steps());
        let at = HEADER_LENGTH + at.index(file.len() - HEADER_LENGTH);
        let mut damaged = file.clone();
        let end = (at + bytes.len()).min(file.len());
        damaged[at..end].copy_from_slice(&bytes[..end - at]);
        let (steps, outcome) = steps_of(&damaged);
        prop_assert_eq!(&steps[..], &samples::steps()[..steps.len()]);
        prop_assert_eq!(outcome.is_ok(), damaged == file);
    }
}

// Boxed: unboxed, the type of all of them together takes more than the stack of a test in a debug build.

fn step() -> BoxedStrategy<Step> {
    prop_oneof![
        10 => input().prop_map(Step::Input),
        1 => any::<u64>().prop_map(|now_ns| Step::Tick { now_ns }),
    ]
    .boxed()
}

fn opening() -> BoxedStrategy<Opening> {
    let settings = (
        any::<(u32, u32)>(),
        any::<Option<u64>>(),
        any::<(bool, bool, bool, bool)>(),
        any::<(u16, u16, u16, bool)>(),
    );
    let start = (
        any::<(u64, i64, Option<u32>, Option<u32>)>(),
        any::<(String, String)>(),
        proptest::collection::btree_map(any::<String>(), any::<String>(), 0..5),
        proptest::collection::vec(any::<String>(), 0..3),
    );
    (settings, start)
        .prop_map(|(settings, start)| {
            let (most, stuck_after_ns, flags, (major, minor, patch, calls)) = settings;
            let (max_connections, max_minisockets) = most;
            let ((ts_ns, clock_offset_ns, hz, netns), (version, kernel), pairs, words) = start;
            let mut opening = samples::opening();
            opening.settings = Settings {
                max_connections: max_connections as usize,
                max_minisockets: max_minisockets as usize,
                stuck_after_ns,
                minisockets: flags.0,
                minisocket_resets: flags.1,
                known_minisockets_only: flags.2,
                rearms_exact: flags.3,
                kernel: KernelVersion {
                    major,
                    minor,
                    patch,
                },
                calls,
            };
            opening.start.ts_ns = ts_ns;
            opening.start.clock_offset_ns = clock_offset_ns;
            opening.start.hz = hz;
            opening.start.netns = netns;
            opening.start.version = version;
            opening.start.kernel = kernel;
            opening.start.sysctls.clone_from(&pairs);
            opening.start.backends = pairs;
            opening.start.degraded.clone_from(&words);
            opening.arguments = words;
            opening
        })
        .boxed()
}

fn input() -> BoxedStrategy<Input> {
    let ns = any::<u64>;
    prop_oneof![
        (
            ns(),
            socket(),
            state(),
            state(),
            task(),
            any::<u16>(),
            option::of(evidence())
        )
            .prop_map(
                |(ts_ns, socket, oldstate, newstate, current, cpu, evidence)| {
                    Input::Transition(Transition {
                        ts_ns,
                        socket,
                        oldstate,
                        newstate,
                        current,
                        cpu,
                        evidence,
                    })
                }
            ),
        minisocket_input(),
        (
            ns(),
            select(&[Direction::Sent, Direction::Received][..]),
            ns(),
            state(),
            option::of(select(ResetReason::ALL))
        )
            .prop_map(|(ts_ns, direction, sk, state, reason)| Input::Reset(Reset {
                ts_ns,
                direction,
                sk,
                state,
                reason,
            })),
        (ns(), ns(), task()).prop_map(|(ts_ns, sk, task)| Input::Accepted(Accepted {
            ts_ns,
            sk,
            task
        })),
        snapshot().prop_map(Input::Snapshot),
        calls::input(),
        ns().prop_map(|ts_ns| Input::Gap { ts_ns }),
        (
            ns(),
            ns(),
            select(&RecordKind::ALL[..]),
            any::<Option<u32>>(),
            select(&[LossReason::BufferFull, LossReason::Recursion][..])
        )
            .prop_map(|(ts_ns, records, kind, cpu, reason)| Input::Lost(Loss {
                ts_ns,
                records,
                kind,
                cpu,
                reason,
            })),
    ]
    .boxed()
}

fn minisocket_input() -> BoxedStrategy<Input> {
    let ns = any::<u64>;
    prop_oneof![
        (ns(), minisocket(), any::<Option<u64>>(), phase(), ns()).prop_map(
            |(ts_ns, minisocket, sk, phase, timeout_ns)| {
                Input::MinisocketEntered(MinisocketEntered {
                    ts_ns,
                    minisocket,
                    sk,
                    phase,
                    timeout_ns,
                })
            }
        ),
        (ns(), minisocket(), phase(), ns()).prop_map(|(ts_ns, minisocket, phase, timeout_ns)| {
            Input::MinisocketRearmed(MinisocketRearmed {
                ts_ns,
                minisocket,
                phase,
                timeout_ns,
            })
        }),
        (
            ns(),
            minisocket(),
            phase(),
            select(EndedBy::ALL),
            task(),
            any::<Option<u64>>(),
            ns()
        )
            .prop_map(
                |(ts_ns, minisocket, phase, by, current, time_wait_since_ns, expires_ns)| {
                    Input::MinisocketEnded(MinisocketEnded {
                        ts_ns,
                        minisocket,
                        phase,
                        by,
                        current,
                        time_wait_since_ns,
                        expires_ns,
                    })
                }
            ),
    ]
    .boxed()
}

fn snapshot() -> BoxedStrategy<Snapshot> {
    let process = (any::<u32>(), comm()).prop_map(|(pid, comm)| Process { pid, comm });
    prop_oneof![
        any::<u64>().prop_map(|ts_ns| Snapshot::Begin { ts_ns }),
        any::<(u64, bool)>().prop_map(|(ts_ns, complete)| Snapshot::End { ts_ns, complete }),
        (
            any::<(u64, Option<NonZeroU64>, u32)>(),
            address(),
            address(),
            state(),
            any::<Option<u64>>(),
            option::of(process)
        )
            .prop_map(
                |((ts_ns, cookie, netns), local, remote, state, expires_in_ns, process)| {
                    Snapshot::Socket(Existing {
                        ts_ns,
                        cookie,
                        netns,
                        local,
                        remote,
                        state,
                        minisocket_expires_in_ns: expires_in_ns,
                        process,
                    })
                }
            ),
    ]
    .boxed()
}

fn socket() -> BoxedStrategy<Socket> {
    (
        any::<(u64, Option<NonZeroU64>, Option<u32>, Option<u64>, u32)>(),
        address(),
        address(),
        any::<(bool, bool)>(),
    )
        .prop_map(
            |((sk, cookie, netns, cgroup_id, uid), local, remote, (reuseaddr, reuseport))| Socket {
                sk,
                cookie,
                netns,
                cgroup_id,
                uid,
                local,
                remote,
                reuseaddr,
                reuseport,
            },
        )
        .boxed()
}

fn minisocket() -> BoxedStrategy<Minisocket> {
    socket()
        .prop_map(|socket| Minisocket {
            tw: socket.sk,
            cookie: socket.cookie,
            netns: socket.netns,
            local: socket.local,
            remote: socket.remote,
            reuseaddr: socket.reuseaddr,
            reuseport: socket.reuseport,
        })
        .boxed()
}

fn evidence() -> BoxedStrategy<Evidence> {
    let file = select(&[File::None, File::Open, File::Released, File::Unknown][..]);
    (any::<[bool; 7]>(), file, any::<(u16, u32, u32)>())
        .prop_map(|(flags, file, numbers)| Evidence {
            error: numbers.0,
            receive_shutdown: flags[0],
            send_shutdown: flags[1],
            orphan: flags[2],
            file,
            linger_zero: flags[3],
            no_fin_wait2: flags[4],
            user_timeout_ms: numbers.1,
            exiting: flags[5],
            kernel_thread: flags[6],
            exit_code: numbers.2,
        })
        .boxed()
}

fn address() -> BoxedStrategy<SocketAddr> {
    let rest = prop_oneof![Just((0, 0)), <(u32, u32)>::arbitrary()];
    prop_oneof![
        any::<(Ipv4Addr, u16)>().prop_map(|(ip, port)| SocketAddrV4::new(ip, port).into()),
        (any::<(Ipv6Addr, u16)>(), rest).prop_map(|((ip, port), (flow, scope))| {
            SocketAddrV6::new(ip, port, flow, scope).into()
        }),
    ]
    .boxed()
}

fn task() -> BoxedStrategy<Task> {
    (any::<(u32, u32)>(), comm())
        .prop_map(|((pid, tid), comm)| Task { pid, tid, comm })
        .boxed()
}

/// Also names with a NUL in their midst.
fn comm() -> BoxedStrategy<Comm> {
    (any::<[u8; 16]>(), 0..=16_usize)
        .prop_map(|(mut bytes, length)| {
            bytes[length..].fill(0);
            Comm(bytes)
        })
        .boxed()
}

fn state() -> impl Strategy<Value = TcpState> {
    select(&TcpState::ALL[..])
}

fn phase() -> impl Strategy<Value = Phase> {
    select(Phase::ALL)
}

/// The end comes back too; it is a step that nothing may follow.
#[test]
fn an_end_comes_back() {
    let end = Step::End(Ending {
        ts_ns: u64::MAX,
        duration_ns: 0,
    });
    let (steps, outcome) = steps_of(&recording(&samples::opening(), &[end]));
    assert_eq!(steps, [end]);
    outcome.unwrap();
}
