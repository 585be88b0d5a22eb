//! Tests of reading the kernel's answers, byte by byte.

use super::*;

/// A `struct inet_diag_msg`.
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    local: [u8; 16],
    remote: [u8; 16],
    inode: u32,
    shutdown: bool,
}

impl Message {
    const fn established() -> Self {
        let mut local = [0; 16];
        [local[0], local[3]] = [127, 1];
        let mut remote = [0; 16];
        [remote[0], remote[3]] = [10, 2];
        Self {
            family: 2,
            state: 1,
            timer: 0,
            local,
            remote,
            inode: 77,
            shutdown: true,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.family, self.state, self.timer, 0];
        bytes.put_u16(8080);
        bytes.put_u16(40_000);
        bytes.put_slice(&self.local);
        bytes.put_slice(&self.remote);
        bytes.put_u32_ne(0);
        bytes.put_u64_ne(0);
        let cookie = bytes.len() - 8;
        bytes[cookie..cookie + 4].copy_from_slice(&5_u32.to_ne_bytes());
        bytes[cookie + 4..].copy_from_slice(&1_u32.to_ne_bytes());
        for number in [59_876, 3, 0, 1000, self.inode] {
            bytes.put_u32_ne(number);
        }
        assert_eq!(bytes.len(), MESSAGE);
        if self.shutdown {
            bytes.extend(attribute(INET_DIAG_SHUTDOWN, &[0]));
            bytes.extend(attribute(INET_DIAG_CGROUP_ID, &9_u64.to_ne_bytes()));
        }
        bytes
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u16_ne(u16::try_from(4 + value.len()).unwrap());
    bytes.put_u16_ne(kind);
    bytes.put_slice(value);
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

fn framed(kind: i32, flags: i32, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32_ne(u32::try_from(HEADER + payload.len()).unwrap());
    bytes.put_u16_ne(u16::try_from(kind).unwrap());
    bytes.put_u16_ne(u16::try_from(flags).unwrap());
    bytes.put_u32_ne(sequence);
    bytes.put_u32_ne(0);
    bytes.put_slice(payload);
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

fn socket(message: &Message) -> Vec<u8> {
    framed(SOCK_DIAG_BY_FAMILY.into(), 0, 1, &message.bytes())
}

fn read(datagram: &[u8]) -> Result<(Vec<Listed>, End), String> {
    let mut all = Vec::new();
    read_datagram(datagram, 1, 500, |listed| all.push(listed))
        .map(|end| (all, end))
        .map_err(|trouble| trouble.to_string())
}

#[test]
fn a_full_socket_is_read_field_by_field() {
    let (all, end) = read(&socket(&Message::established())).unwrap();
    let expected = Listed {
        ts_ns: 500,
        state: TcpState::Established,
        local: "127.0.0.1:8080".parse().unwrap(),
        remote: "10.0.0.2:40000".parse().unwrap(),
        cookie: NonZeroU64::new(0x1_0000_0005),
        minisocket_expires_in_ms: None,
        has_timer: false,
        unread: 3,
        uid: Some(1000),
        inode: NonZeroU32::new(77),
        cgroup_id: Some(9),
        device: 0,
    };
    assert_eq!(all, [expected]);
    assert_eq!(end, End::default());
}

#[test]
fn a_minisocket_has_the_time_of_its_timer_and_no_user() {
    for state in [TcpState::FinWait2, TcpState::TimeWait] {
        let (all, _) = read(&socket(&Message {
            state: state.number(),
            timer: TIMER_OF_MINISOCKET,
            inode: 0,
            shutdown: false,
            ..Message::established()
        }))
        .unwrap();
        assert_eq!(all[0].state, state);
        assert_eq!(all[0].minisocket_expires_in_ms, Some(59_876));
        assert!(all[0].has_timer);
        assert_eq!((all[0].uid, all[0].inode), (None, None));
    }
}

#[test]
fn the_keepalive_timer_makes_no_minisocket() {
    let (all, _) = read(&socket(&Message {
        state: TcpState::FinWait2.number(),
        timer: 2,
        ..Message::established()
    }))
    .unwrap();
    assert_eq!(all[0].minisocket_expires_in_ms, None);
    assert!(all[0].has_timer);
}

#[test]
fn mapped_addresses_stay_ipv6() {
    let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped();
    let (all, _) = read(&socket(&Message {
        family: 10,
        local: mapped.octets(),
        remote: Ipv6Addr::LOCALHOST.octets(),
        ..Message::established()
    }))
    .unwrap();
    assert_eq!(all[0].local, SocketAddr::new(mapped.into(), 8080));
    assert_eq!(all[0].remote, "[::1]:40000".parse().unwrap());
}

#[test]
fn a_request_socket_is_left_out_and_a_full_one_in_its_state_is_not() {
    let full = Message {
        state: TcpState::SynRecv.number(),
        timer: 1,
        inode: 0,
        ..Message::established()
    };
    assert_eq!(read(&socket(&full)).unwrap().0.len(), 1);
    let request = Message {
        shutdown: false,
        ..full
    };
    assert_eq!(read(&socket(&request)).unwrap().0, []);
}

#[test]
fn a_datagram_holds_many_messages_and_says_when_all_are_there() {
    let mut datagram = Vec::new();
    for _ in 0..3 {
        datagram.extend(socket(&Message::established()));
    }
    datagram.extend(framed(libc::NLMSG_NOOP, 0, 1, &[]));
    assert!(!read(&datagram).unwrap().1.done);
    datagram.extend(framed(libc::NLMSG_DONE, 0, 1, &0_i32.to_ne_bytes()));
    let (all, end) = read(&datagram).unwrap();
    assert_eq!(all.len(), 3);
    assert!(end.done && !end.interrupted);
    assert_eq!(read(&[]).unwrap(), (vec![], End::default()));
}

#[test]
fn an_interrupted_list_is_known_by_its_flag() {
    let done = framed(libc::NLMSG_DONE, libc::NLM_F_DUMP_INTR, 1, &[0; 4]);
    assert!(read(&done).unwrap().1.interrupted);
}

#[test]
fn an_interrupted_list_is_asked_for_again_three_times_at_most() {
    let mut into = vec!["before"];
    let mut outcomes = [Ok(false), Ok(true)].into_iter();
    let consistent = until_consistent(&mut into, |into| {
        into.push("a socket");
        outcomes.next().unwrap()
    });
    assert!(consistent.unwrap());
    assert_eq!(into, ["before", "a socket"]);

    let mut asked = 0;
    let consistent = until_consistent(&mut into, |into| {
        asked += 1;
        into.push("another");
        Ok(false)
    });
    assert!(!consistent.unwrap());
    assert_eq!((asked, into.len()), (3, 3));

    let mut outcomes = [Ok(false), Err(Trouble::NoSuchThing)].into_iter();
    let failed = until_consistent(&mut into, |into| {
        into.push("one too many");
        outcomes.next().unwrap()
    });
    assert!(failed.is_err());
    assert_eq!(into.len(), 3);
}

#[test]
fn answers_to_other_requests_are_skipped() {
    let mut datagram = framed(SOCK_DIAG_BY_FAMILY.into(), 0, 7, &[1, 2, 3]);
    datagram.extend(framed(libc::NLMSG_DONE, libc::NLM_F_DUMP_INTR, 7, &[]));
    assert_eq!(read(&datagram).unwrap(), (vec![], End::default()));
}

#[test]
fn a_missing_module_and_missing_privileges_are_told_apart() {
    for kind in [libc::NLMSG_ERROR, libc::NLMSG_DONE] {
        let missing = framed(kind, 0, 1, &(-libc::ENOENT).to_ne_bytes());
        assert!(read(&missing).unwrap_err().contains("modprobe tcp_diag"));
        let refused = framed(kind, 0, 1, &(-libc::EPERM).to_ne_bytes());
        assert!(read(&refused).unwrap_err().contains("not permitted"));
    }
    let acknowledged = framed(libc::NLMSG_ERROR, 0, 1, &[0; 4]);
    assert!(!read(&acknowledged).unwrap().1.done);
    let overrun = framed(libc::NLMSG_OVERRUN, 0, 1, &[]);
    assert!(read(&overrun).unwrap_err().contains("lost"));
}

#[test]
fn what_is_cut_off_or_odd_is_an_error_and_never_a_panic() {
    let whole = socket(&Message::established());
    for length in 1..whole.len() {
        assert!(read(&whole[..length]).is_err(), "{length} bytes");
    }
    for claimed in [0_u32, 1, 15, 16 + 71, u32::MAX] {
        let mut odd = whole.clone();
        odd[..4].copy_from_slice(&claimed.to_ne_bytes());
        assert!(read(&odd).is_err(), "claims {claimed} bytes");
    }
    for (at, byte) in [(0, 99), (1, 0), (1, 14)] {
        let mut odd = whole.clone();
        odd[HEADER + at] = byte;
        assert!(read(&odd).is_err(), "byte {at} is {byte}");
    }
    for claimed in [0_u16, 3, u16::MAX] {
        let mut odd = whole.clone();
        let at = HEADER + MESSAGE;
        odd[at..at + 2].copy_from_slice(&claimed.to_ne_bytes());
        assert!(read(&odd).is_err(), "attribute claims {claimed} bytes");
    }
    for kind in [libc::NLMSG_ERROR, libc::NLMSG_DONE] {
        assert!(read(&framed(kind, 0, 1, &[0; 3])).is_err());
    }
}

#[test]
fn the_request_has_the_size_that_its_header_says() {
    let bytes = request(Family::Ipv6, STATES, 80, 3);
    assert_eq!(bytes.len(), usize::from(REQUEST));
    assert_eq!(bytes[..4], 72_u32.to_ne_bytes());
    assert_eq!(bytes[HEADER..HEADER + 2], [10, 6]);
    // idiag_sport, in network byte order.
    assert_eq!(bytes[HEADER + 8..HEADER + 10], [0, 80]);
    assert_eq!(STATES, 0b1111_1111_1110);
}
