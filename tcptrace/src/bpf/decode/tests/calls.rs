//! Records of calls and of holders.

use tcptrace_common::socket_flag;
use tcptrace_model::{
    Listing,
    conflict::{Call, Family},
};

use super::*;

/// A bind() of 0.0.0.0:80 that failed.
pub(super) fn bind() -> Vec<u8> {
    let mut bytes = with_header(192, 6);
    put(&mut bytes, 16, &0xffff_8881_0000_1000_u64.to_ne_bytes());
    put(&mut bytes, 24, &77_u64.to_ne_bytes());
    put(&mut bytes, 32, &0xffff_8881_0000_2000_u64.to_ne_bytes());
    put(&mut bytes, 40, &69_000_000_000_u64.to_ne_bytes());
    put(&mut bytes, 48, &4242_u64.to_ne_bytes());
    put(&mut bytes, 56, &[127, 0, 0, 9]);
    put(&mut bytes, 72, &[127, 0, 0, 1]);
    put(&mut bytes, 88, &[10, 0, 0, 2]);
    put(&mut bytes, 104, &4_026_531_840_u32.to_ne_bytes());
    put(&mut bytes, 108, &1000_u32.to_ne_bytes());
    put(&mut bytes, 112, &200_u32.to_ne_bytes());
    put(&mut bytes, 116, &201_u32.to_ne_bytes());
    put(&mut bytes, 124, &(-98_i32).to_ne_bytes());
    put(&mut bytes, 128, &5_i32.to_ne_bytes());
    put(&mut bytes, 132, &3_u32.to_ne_bytes());
    put(&mut bytes, 136, &4_u32.to_ne_bytes());
    put(&mut bytes, 140, &16_u32.to_ne_bytes());
    put(&mut bytes, 144, &[0x51, 0xc3, 0x5a, 0xc3]);
    put(&mut bytes, 148, &AF_INET.to_ne_bytes());
    put(&mut bytes, 150, &80_u16.to_ne_bytes());
    put(&mut bytes, 152, &AF_INET.to_ne_bytes());
    put(&mut bytes, 154, &8000_u16.to_ne_bytes());
    put(&mut bytes, 156, &9000_u16.to_ne_bytes());
    put(&mut bytes, 158, &8001_u16.to_ne_bytes());
    let states = [TcpState::Close.number(), TcpState::Listen.number()];
    put(&mut bytes, 162, &[1]);
    put(&mut bytes, 163, &states);
    put(&mut bytes, 176, b"nginx\0");
    bytes
}

fn with_flags(flags: u32) -> Vec<u8> {
    let mut bytes = bind();
    put(&mut bytes, 120, &flags.to_ne_bytes());
    bytes
}

fn of_kind(kind: u8, result: i32, flags: u32) -> SocketCall {
    let mut bytes = with_flags(flags);
    put(&mut bytes, 124, &result.to_ne_bytes());
    put(&mut bytes, 162, &[kind]);
    call_of(&bytes)
}

fn call_of(bytes: &[u8]) -> SocketCall {
    match input(bytes).unwrap() {
        Input::Call(call) => call,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_is_read_from_its_places() {
    let call = call_of(&bind());
    assert_eq!(
        (call.ts_ns, call.began_ns),
        (70_000_000_000, Some(69_000_000_000))
    );
    assert_eq!((call.call, call.error), (Call::Bind, 98));
    assert_eq!(call.sk, 0xffff_8881_0000_1000);
    assert_eq!(call.guilty, Some(0xffff_8881_0000_2000));
    assert_eq!(call.cookie, NonZeroU64::new(77));
    assert_eq!(
        (call.netns, call.cgroup_id),
        (Some(4_026_531_840), Some(4242))
    );
    assert_eq!((call.task.pid, call.task.tid), (200, 201));
    assert_eq!(call.task.comm.as_bytes(), b"nginx");
    assert_eq!(call.backlog, 5);
    let asked = call.asked.unwrap();
    assert_eq!((asked.family, asked.len, asked.scope), (2, 16, 4));
    assert_eq!(asked.addr, "127.0.0.9:80".parse().unwrap());
    assert_eq!(call.local, "127.0.0.1:8000".parse().unwrap());
    assert_eq!(call.remote, "10.0.0.2:9000".parse().unwrap());
    let socket = call.asker;
    assert_eq!(
        (socket.family, socket.state),
        (Family::V4, TcpState::Listen)
    );
    assert_eq!(socket.local, "127.0.0.1:8001".parse().unwrap());
    assert_eq!((socket.uid, socket.device), (1000, 3));
    assert_eq!(socket.port_range, Some((50_001, 50_010)));
    assert_eq!(socket.may_bind_privileged, None);
    assert_eq!(call.listing, Listing::None);
}

#[test]
fn each_flag_is_one_fact() {
    let none = call_of(&bind());
    let facts = |call: &SocketCall| {
        let asker = &call.asker;
        [
            asker.reuseaddr,
            asker.reuseport,
            asker.v6only,
            asker.freebind,
            asker.transparent,
            asker.bind_address_no_port,
            asker.force_reuse,
            asker.reuseport_group,
            call.refused_by_lsm,
            call.nonblocking,
            call.asked.is_none(),
            asker.may_bind_privileged.is_some(),
            call.listing == Listing::Whole,
        ]
    };
    assert_eq!(facts(&none), [false; 13]);
    let flags = [
        socket_flag::REUSEADDR,
        socket_flag::REUSEPORT,
        socket_flag::V6ONLY,
        socket_flag::FREEBIND,
        socket_flag::TRANSPARENT,
        socket_flag::BIND_ADDRESS_NO_PORT,
        socket_flag::FORCE_REUSE,
        socket_flag::REUSEPORT_GROUP,
        socket_flag::REFUSED_BY_LSM,
        socket_flag::NONBLOCKING,
        socket_flag::ASKED_UNKNOWN,
        socket_flag::CREDENTIALS_KNOWN,
        socket_flag::HOLDERS_LISTED,
    ];
    for (index, flag) in flags.into_iter().enumerate() {
        let mut expected = [false; 13];
        expected[index] = true;
        assert_eq!(facts(&call_of(&with_flags(flag))), expected, "{index}");
    }
    let both = socket_flag::CREDENTIALS_KNOWN | socket_flag::MAY_BIND_PRIVILEGED;
    assert_eq!(
        call_of(&with_flags(both)).asker.may_bind_privileged,
        Some(true)
    );
    let unknown = call_of(&with_flags(socket_flag::MAY_BIND_PRIVILEGED));
    assert_eq!(unknown.asker.may_bind_privileged, None);
    let cut = socket_flag::HOLDERS_LISTED | socket_flag::HOLDERS_CUT;
    assert_eq!(call_of(&with_flags(cut)).listing, Listing::Cut);
}

#[test]
fn what_the_call_has_set_itself_was_not_there_before() {
    let any = "0.0.0.0:8001".parse().unwrap();
    let bound = "127.0.0.1:8001".parse().unwrap();
    assert_eq!(of_kind(1, 0, 0).asker.local, any);
    assert_eq!(of_kind(2, 0, 0).asker.local, bound);
    assert_eq!(of_kind(3, -99, 0).asker.local, any);
    assert_eq!(
        of_kind(3, -99, socket_flag::ADDRESS_BOUND).asker.local,
        bound
    );
    // What was in the way is told of a call that failed only.
    assert_eq!((of_kind(1, 0, 0).guilty, of_kind(1, 0, 0).error), (None, 0));
    assert_eq!(of_kind(2, -98, 0).asked, None);
    assert_eq!(of_kind(3, -111, 0).call, Call::Connect);
}

#[test]
fn an_ipv6_socket_may_ask_for_anything() {
    let mut bytes = bind();
    put(&mut bytes, 152, &AF_INET6.to_ne_bytes());
    let call = call_of(&bytes);
    assert!(call.local.is_ipv6() && call.remote.is_ipv6());
    assert!(call.asked.unwrap().addr.is_ipv4());
    put(&mut bytes, 148, &AF_INET6.to_ne_bytes());
    assert!(call_of(&bytes).asked.unwrap().addr.is_ipv6());
    put(&mut bytes, 148, &77_u16.to_ne_bytes());
    assert_eq!(call_of(&bytes).asked.unwrap().family, 77);
}

#[test]
fn what_is_wrong_with_a_call_is_said() {
    let wrong = |at: usize, value: u8| {
        let mut bytes = bind();
        put(&mut bytes, at, &[value]);
        input(&bytes).unwrap_err()
    };
    assert_eq!(wrong(162, 9), DecodeError::Call(9));
    assert_eq!(wrong(164, 99), DecodeError::State(99));
    assert_eq!(wrong(152, 7), DecodeError::Family(7));
    let short = input(&bind()[..191]).unwrap_err();
    assert_eq!(
        short,
        DecodeError::Length {
            got: 191,
            expected: 192
        }
    );
}

/// A minisocket in FIN_WAIT2, for 250 ticks more.
pub(super) fn holder() -> Vec<u8> {
    let mut bytes = with_header(104, 7);
    put(&mut bytes, 16, &0xffff_8881_0000_1000_u64.to_ne_bytes());
    put(&mut bytes, 24, &0xffff_8881_0000_3000_u64.to_ne_bytes());
    put(&mut bytes, 32, &78_u64.to_ne_bytes());
    put(&mut bytes, 40, &[127, 0, 0, 1]);
    put(&mut bytes, 56, &[10, 0, 0, 2]);
    put(&mut bytes, 72, &4_026_531_840_u32.to_ne_bytes());
    put(&mut bytes, 76, &1000_u32.to_ne_bytes());
    put(&mut bytes, 80, &3_u32.to_ne_bytes());
    put(&mut bytes, 84, &socket_flag::MINISOCKET.to_ne_bytes());
    put(&mut bytes, 88, &250_i32.to_ne_bytes());
    put(&mut bytes, 92, &8000_u16.to_ne_bytes());
    put(&mut bytes, 94, &9000_u16.to_ne_bytes());
    put(&mut bytes, 96, &AF_INET.to_ne_bytes());
    put(&mut bytes, 98, &[TcpState::FinWait2.number()]);
    bytes
}

fn holder_of(bytes: &[u8]) -> ListedHolder {
    match input(bytes).unwrap() {
        Input::Holder(holder) => holder,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_holder_is_read_from_its_places() {
    let listed = holder_of(&holder());
    assert_eq!(
        (listed.ts_ns, listed.asker),
        (70_000_000_000, 0xffff_8881_0000_1000)
    );
    assert_eq!(listed.netns, Some(4_026_531_840));
    assert_eq!(listed.expires_ns, Some(71_000_000_000));
    let one = listed.holder;
    assert_eq!(
        (one.sk, one.cookie),
        (0xffff_8881_0000_3000, NonZeroU64::new(78))
    );
    assert_eq!(
        (one.state, one.minisocket),
        (TcpState::FinWait2, Some(Phase::FinWait2))
    );
    assert_eq!(one.local, "127.0.0.1:8000".parse().unwrap());
    assert_eq!(one.remote, "10.0.0.2:9000".parse().unwrap());
    assert_eq!((one.uid, one.device), (None, 3));
    assert_eq!((one.port_bound, one.timestamps), (None, Some(false)));
    assert_eq!(
        (one.reuseaddr, one.reuseport, one.v6only),
        (Some(false), Some(false), Some(false))
    );

    let mut late = holder();
    put(&mut late, 88, &(-250_i32).to_ne_bytes());
    assert_eq!(holder_of(&late).expires_ns, Some(69_000_000_000));
}

#[test]
fn a_full_socket_has_a_user_and_no_end() {
    let mut bytes = holder();
    let flags = socket_flag::REUSEADDR
        | socket_flag::REUSEPORT
        | socket_flag::PORT_BOUND
        | socket_flag::V6ONLY;
    put(&mut bytes, 84, &flags.to_ne_bytes());
    let listed = holder_of(&bytes);
    assert_eq!(listed.expires_ns, None);
    let one = listed.holder;
    assert_eq!(
        (one.minisocket, one.uid, one.timestamps),
        (None, Some(1000), None)
    );
    assert_eq!(
        (one.reuseaddr, one.reuseport, one.v6only),
        (Some(true), Some(true), Some(true))
    );
    assert_eq!(one.port_bound, Some(true));
}

#[test]
fn a_minisocket_in_another_state_is_refused() {
    let mut bytes = holder();
    put(&mut bytes, 98, &[TcpState::Listen.number()]);
    let number = TcpState::Listen.number();
    assert_eq!(input(&bytes).unwrap_err(), DecodeError::Substate(number));
}
