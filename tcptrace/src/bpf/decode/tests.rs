//! Tests of the decoding, from bytes written down by offset.

mod calls;

use tcptrace_common::{STACK_FRAMES, time_wait, verdict};
use tcptrace_model::{
    ListedHolder, MinisocketEnded, MinisocketEntered, MinisocketRearmed, Phase, SocketCall,
    Task as ModelTask,
};

use super::*;

/// HZ=250, suspended for 2 s in all, and a stack that says which end it was by its first address.
fn decoder() -> Decoder {
    Decoder {
        tick_ns: 4_000_000,
        boot_offset_ns: 2_000_000_000,
        reset_reasons: vec![ResetReason::NotSpecified, ResetReason::TcpState],
        ended_by: Box::new(|stack| match stack.first() {
            Some(1) => EndedBy::SynOrData,
            Some(2) => EndedBy::Connect,
            _ => EndedBy::Unknown,
        }),
    }
}

fn input(bytes: &[u8]) -> Result<Input, DecodeError> {
    decoder().record(bytes).map(|decoded| decoded.input)
}

fn transition_of(bytes: &[u8]) -> Transition {
    match input(bytes).unwrap() {
        Input::Transition(transition) => transition,
        other => panic!("{other:?}"),
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn with_header(length: usize, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0; length];
    put(&mut bytes, 0, &70_000_000_000_u64.to_ne_bytes());
    put(&mut bytes, 8, &3_u32.to_ne_bytes());
    put(&mut bytes, 12, &5_u16.to_ne_bytes());
    put(&mut bytes, 14, &kind.to_ne_bytes());
    bytes
}

/// A transition.
fn sample() -> Vec<u8> {
    let mut bytes = with_header(128, 1);
    put(&mut bytes, 16, &0xffff_8881_0000_1000_u64.to_ne_bytes());
    put(&mut bytes, 24, &77_u64.to_ne_bytes());
    put(&mut bytes, 32, &4242_u64.to_ne_bytes());
    put(&mut bytes, 40, &[127, 0, 0, 1]);
    put(&mut bytes, 56, &[10, 0, 0, 2]);
    put(&mut bytes, 72, &4_026_531_840_u32.to_ne_bytes());
    put(&mut bytes, 76, &1000_u32.to_ne_bytes());
    put(&mut bytes, 80, &200_u32.to_ne_bytes());
    put(&mut bytes, 84, &201_u32.to_ne_bytes());
    put(&mut bytes, 88, &(flag::REUSEADDR).to_ne_bytes());
    put(&mut bytes, 92, &8000_u16.to_ne_bytes());
    put(&mut bytes, 94, &40_000_u16.to_ne_bytes());
    put(&mut bytes, 96, &AF_INET.to_ne_bytes());
    let states = [TcpState::Established.number(), TcpState::CloseWait.number()];
    put(&mut bytes, 98, &states);
    put(&mut bytes, 100, b"nginx\0");
    put(&mut bytes, 116, &110_u16.to_ne_bytes());
    put(&mut bytes, 118, &[2, file::RELEASED]);
    put(&mut bytes, 120, &5000_u32.to_ne_bytes());
    put(&mut bytes, 124, &9_u32.to_ne_bytes());
    bytes
}

/// A minisocket; descheduled if `length` is that of such a record.
fn minisocket(length: usize, event: u8) -> Vec<u8> {
    let kind = if length == 256 { 3 } else { 2 };
    let mut bytes = with_header(length, kind);
    put(&mut bytes, 16, &0xffff_8881_0000_2000_u64.to_ne_bytes());
    put(&mut bytes, 24, &0xffff_8881_0000_1000_u64.to_ne_bytes());
    put(&mut bytes, 32, &77_u64.to_ne_bytes());
    put(&mut bytes, 40, &[127, 0, 0, 1]);
    put(&mut bytes, 56, &[10, 0, 0, 2]);
    put(&mut bytes, 72, &4_026_531_840_u32.to_ne_bytes());
    put(&mut bytes, 76, &15_000_i32.to_ne_bytes());
    // 68 s of CLOCK_MONOTONIC now; 8.5 s ago.
    put(&mut bytes, 80, &59_500_u32.to_ne_bytes());
    put(&mut bytes, 84, &(flag::REUSEPORT).to_ne_bytes());
    put(&mut bytes, 88, &200_u32.to_ne_bytes());
    put(&mut bytes, 92, &201_u32.to_ne_bytes());
    put(&mut bytes, 96, &8000_u16.to_ne_bytes());
    put(&mut bytes, 98, &40_000_u16.to_ne_bytes());
    put(&mut bytes, 100, &AF_INET.to_ne_bytes());
    put(&mut bytes, 102, &[event, TcpState::TimeWait.number()]);
    put(&mut bytes, 104, b"curl\0");
    bytes
}

fn ended(bytes: &[u8]) -> MinisocketEnded {
    match input(bytes).unwrap() {
        Input::MinisocketEnded(ended) => ended,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_field_of_a_transition_arrives() {
    let Decoded {
        lost_before,
        ts_ns,
        self_check,
        input: _,
    } = decoder().record(&sample()).unwrap();
    assert_eq!((ts_ns, lost_before, self_check), (70_000_000_000, 3, false));
    let Transition {
        ts_ns,
        socket,
        oldstate,
        newstate,
        current,
        cpu,
        evidence,
    } = transition_of(&sample());
    assert_eq!((ts_ns, cpu, evidence), (70_000_000_000, 5, None));
    assert_eq!(socket.sk, 0xffff_8881_0000_1000);
    assert_eq!(socket.cookie, NonZeroU64::new(77));
    assert_eq!(socket.cgroup_id, Some(4242));
    assert_eq!(socket.local.to_string(), "127.0.0.1:8000");
    assert_eq!(socket.remote.to_string(), "10.0.0.2:40000");
    assert_eq!((socket.netns, socket.uid), (Some(4_026_531_840), 1000));
    assert_eq!((socket.reuseaddr, socket.reuseport), (true, false));
    assert_eq!(
        (oldstate, newstate),
        (TcpState::Established, TcpState::CloseWait)
    );
    assert_eq!((current.pid, current.tid), (200, 201));
    assert_eq!(current.comm.as_bytes(), b"nginx");
}

#[test]
fn evidence_is_there_when_its_flag_is_set() {
    let with = |flags: u32| {
        let mut bytes = sample();
        put(&mut bytes, 88, &(flags | flag::EVIDENCE).to_ne_bytes());
        transition_of(&bytes).evidence.unwrap()
    };
    let plain = with(0);
    assert_eq!(
        plain,
        Evidence {
            error: 110,
            receive_shutdown: false,
            send_shutdown: true,
            orphan: false,
            file: File::Released,
            linger_zero: false,
            no_fin_wait2: false,
            user_timeout_ms: 5000,
            exiting: false,
            kernel_thread: false,
            exit_code: 9,
        }
    );
    assert!(with(flag::ORPHAN).orphan);
    assert!(with(flag::LINGER_ZERO).linger_zero);
    assert!(with(flag::NO_FIN_WAIT2).no_fin_wait2);
    assert!(with(flag::EXITING).exiting);
    assert!(with(flag::KERNEL_THREAD).kernel_thread);
    for (number, expected) in [
        (file::NONE, File::None),
        (file::OPEN, File::Open),
        (file::UNKNOWN, File::Unknown),
        (77, File::Unknown),
    ] {
        let mut bytes = sample();
        put(&mut bytes, 88, &flag::EVIDENCE.to_ne_bytes());
        bytes[119] = number;
        assert_eq!(transition_of(&bytes).evidence.unwrap().file, expected);
    }
}

#[test]
fn a_mapped_address_stays_an_ipv6_address() {
    let mut bytes = sample();
    put(&mut bytes, 96, &AF_INET6.to_ne_bytes());
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
    put(&mut bytes, 40, &mapped);
    put(&mut bytes, 56, &Ipv6Addr::LOCALHOST.octets());
    let socket = transition_of(&bytes).socket;
    assert_eq!(socket.local.to_string(), "[::ffff:127.0.0.1]:8000");
    assert_eq!(socket.remote.to_string(), "[::1]:40000");
}

#[test]
fn zero_is_unknown() {
    let mut bytes = sample();
    bytes[24..40].fill(0);
    bytes[72..76].fill(0);
    let socket = transition_of(&bytes).socket;
    assert_eq!(
        (socket.cookie, socket.cgroup_id, socket.netns),
        (None, None, None)
    );
}

#[test]
fn a_minisocket_is_entered_and_set_anew() {
    let Input::MinisocketEntered(MinisocketEntered {
        ts_ns,
        minisocket: seen,
        sk,
        phase,
        timeout_ns,
    }) = input(&minisocket(120, time_wait::ENTERED)).unwrap()
    else {
        panic!("not entered")
    };
    assert_eq!((ts_ns, timeout_ns), (70_000_000_000, 60_000_000_000));
    assert_eq!((phase, sk), (Phase::TimeWait, Some(0xffff_8881_0000_1000)));
    assert_eq!(seen.tw, 0xffff_8881_0000_2000);
    assert_eq!(seen.cookie, NonZeroU64::new(77));
    assert_eq!(seen.netns, Some(4_026_531_840));
    assert_eq!(seen.local.to_string(), "127.0.0.1:8000");
    assert_eq!(seen.remote.to_string(), "10.0.0.2:40000");
    assert_eq!((seen.reuseaddr, seen.reuseport), (false, true));

    let mut bytes = minisocket(120, time_wait::REARMED);
    bytes[103] = TcpState::FinWait2.number();
    put(&mut bytes, 76, &250_i32.to_ne_bytes());
    let Input::MinisocketRearmed(MinisocketRearmed {
        phase, timeout_ns, ..
    }) = input(&bytes).unwrap()
    else {
        panic!("not rearmed")
    };
    assert_eq!((phase, timeout_ns), (Phase::FinWait2, 1_000_000_000));
}

#[test]
fn an_expired_minisocket_tells_when_its_timer_ran_out() {
    let mut bytes = minisocket(120, time_wait::EXPIRED);
    put(&mut bytes, 76, &(-25_i32).to_ne_bytes());
    let MinisocketEnded {
        by,
        expires_ns,
        time_wait_since_ns,
        current,
        ..
    } = ended(&bytes);
    assert_eq!((by, expires_ns), (EndedBy::Expiry, 69_900_000_000));
    assert_eq!(time_wait_since_ns, None);
    let ModelTask { pid, tid, comm } = current;
    assert_eq!((pid, tid, comm.as_bytes()), (200, 201, &b"curl"[..]));
}

#[test]
fn the_stamp_of_the_real_time_wait_is_a_date_of_the_boot_clock() {
    let stamped = |stamp: u32| {
        let mut bytes = minisocket(120, time_wait::EXPIRED);
        put(&mut bytes, 84, &flag::ENTRY_STAMP.to_ne_bytes());
        put(&mut bytes, 80, &stamp.to_ne_bytes());
        ended(&bytes).time_wait_since_ns
    };
    assert_eq!(stamped(59_500), Some(61_500_000_000));
    // One that would lie in the future is none.
    assert_eq!(stamped(68_001), None);
}

#[test]
fn who_took_a_minisocket_away_is_told_by_stack_and_verdict() {
    let by = |first: u64, verdict: u32, frames: u32| {
        let mut bytes = minisocket(256, time_wait::DESCHEDULED);
        put(&mut bytes, 120, &verdict.to_ne_bytes());
        put(&mut bytes, 124, &frames.to_ne_bytes());
        put(&mut bytes, 128, &first.to_ne_bytes());
        ended(&bytes).by
    };
    assert_eq!(by(1, verdict::SYN, 4), EndedBy::Syn);
    assert_eq!(by(1, verdict::RST, 4), EndedBy::Data);
    assert_eq!(by(1, verdict::NONE, 4), EndedBy::SynOrData);
    // A verdict on another segment says nothing of a connect().
    assert_eq!(by(2, verdict::SYN, 4), EndedBy::Connect);
    assert_eq!(by(1, verdict::SYN, 0), EndedBy::Unknown);
    // More frames than there can be are those that there are.
    assert_eq!(by(2, verdict::NONE, u32::MAX), EndedBy::Connect);
    assert_eq!(STACK_FRAMES, 16);
}

#[test]
fn a_reset_has_the_reason_that_this_kernel_numbers_so() {
    let reset = |reason: u32, received: u8| {
        let mut bytes = with_header(32, 4);
        put(&mut bytes, 16, &7_u64.to_ne_bytes());
        put(&mut bytes, 24, &reason.to_ne_bytes());
        put(&mut bytes, 28, &[received, TcpState::Close.number()]);
        match input(&bytes).unwrap() {
            Input::Reset(reset) => reset,
            other => panic!("{other:?}"),
        }
    };
    let sent = reset(1, 0);
    assert_eq!((sent.sk, sent.state), (7, TcpState::Close));
    assert_eq!(
        (sent.direction, sent.reason),
        (Direction::Sent, Some(ResetReason::TcpState))
    );
    assert_eq!(reset(99, 0).reason, Some(ResetReason::Other));
    let received = reset(u32::MAX, 1);
    assert_eq!(
        (received.direction, received.reason),
        (Direction::Received, None)
    );
}

#[test]
fn an_accepted_connection_tells_by_whom() {
    let mut bytes = with_header(48, 5);
    put(&mut bytes, 16, &7_u64.to_ne_bytes());
    put(&mut bytes, 24, &200_u32.to_ne_bytes());
    put(&mut bytes, 28, &201_u32.to_ne_bytes());
    put(&mut bytes, 32, b"nginx\0");
    let Input::Accepted(Accepted { ts_ns, sk, task }) = input(&bytes).unwrap() else {
        panic!("not accepted")
    };
    assert_eq!((ts_ns, sk), (70_000_000_000, 7));
    assert_eq!((task.pid, task.tid), (200, 201));
    assert_eq!(task.comm.as_bytes(), b"nginx");
}

#[test]
fn any_other_length_is_refused() {
    for bytes in [
        sample(),
        minisocket(120, time_wait::ENTERED),
        minisocket(256, time_wait::DESCHEDULED),
        with_header(32, 4),
        with_header(48, 5),
        with_header(192, 6),
        with_header(104, 7),
    ] {
        let expected = bytes.len();
        for length in (0..expected).chain([expected + 8]) {
            let mut other = bytes.clone();
            other.resize(length, 0);
            assert!(
                matches!(input(&other), Err(DecodeError::Length { got, .. }) if got == length),
                "{length} of {expected}"
            );
        }
    }
}

#[test]
fn unknown_numbers_are_named() {
    let with = |at: usize, value: &[u8]| {
        let mut bytes = sample();
        put(&mut bytes, at, value);
        input(&bytes)
    };
    assert_eq!(with(14, &9_u16.to_ne_bytes()), Err(DecodeError::Kind(9)));
    assert_eq!(with(98, &[14]), Err(DecodeError::State(14)));
    assert_eq!(with(99, &[0]), Err(DecodeError::State(0)));
    assert_eq!(with(96, &1_u16.to_ne_bytes()), Err(DecodeError::Family(1)));
    assert_eq!(input(&minisocket(120, 9)), Err(DecodeError::Event(9)));
    let mut bytes = minisocket(120, time_wait::ENTERED);
    bytes[103] = TcpState::Close.number();
    assert_eq!(input(&bytes), Err(DecodeError::Substate(7)));
}

#[test]
fn no_bytes_make_it_panic() {
    // A small generator, so that a failure can be repeated.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let decoder = decoder();
    for mut bytes in [
        sample(),
        minisocket(120, time_wait::EXPIRED),
        minisocket(256, time_wait::DESCHEDULED),
        with_header(32, 4),
        with_header(48, 5),
        calls::bind(),
        calls::holder(),
    ] {
        for _ in 0..50_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = usize::try_from(seed % bytes.len() as u64).unwrap();
            // The kind stays, or most would be refused at once.
            if !(14..16).contains(&at) {
                bytes[at] = seed.to_ne_bytes()[7];
            }
            let _ = decoder.record(&bytes);
        }
    }
}
