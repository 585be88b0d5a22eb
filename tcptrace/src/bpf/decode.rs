//! Owns the decoding of records: bytes of the ring buffer in, inputs out. Total: whatever the bytes
//! are, the result is an input or an error that says what is wrong with them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU64,
};

use bytes::Buf;
use tcptrace_common::{
    AF_INET, AF_INET6, RecordHeader, RecordKind, TASK_COMM_LEN, TransitionRecord, flag,
};
use tcptrace_model::{Comm, Socket, Task, TcpState, Transition};

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer or more bytes than a record of its kind has.
    Length {
        /// How many there are.
        got: usize,
        /// How many there should be.
        expected: usize,
    },
    /// No such [`RecordKind`].
    Kind(u16),
    /// No such TCP state.
    State(u8),
    /// An address family that is neither IPv4 nor IPv6.
    Family(u16),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { got, expected } => {
                write!(f, "a record has {got} bytes instead of {expected}")
            }
            Self::Kind(kind) => write!(f, "a record is of kind {kind}, which does not exist"),
            Self::State(state) => {
                write!(
                    f,
                    "the kernel reports TCP state {state}, which this version does not know"
                )
            }
            Self::Family(family) => {
                write!(
                    f,
                    "a TCP socket has address family {family}, neither IPv4 nor IPv6"
                )
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// A decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Records lost on all CPUs before this one was made (wraps around).
    pub lost_before: u32,
    /// Whether it belongs to the tracer's check of itself.
    pub self_check: bool,
    /// What it tells.
    pub transition: Transition,
}

/// Decodes one record.
///
/// # Errors
/// See [`DecodeError`].
pub fn record(mut bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let length = bytes.len();
    let wrong_length = |expected| DecodeError::Length {
        got: length,
        expected,
    };
    if length < size_of::<RecordHeader>() {
        return Err(wrong_length(size_of::<RecordHeader>()));
    }
    let ts_ns = bytes.get_u64_ne();
    let lost_before = bytes.get_u32_ne();
    let cpu = bytes.get_u16_ne();
    let kind = bytes.get_u16_ne();
    match RecordKind::from_number(kind).ok_or(DecodeError::Kind(kind))? {
        RecordKind::Transition => {
            if length != size_of::<TransitionRecord>() {
                return Err(wrong_length(size_of::<TransitionRecord>()));
            }
            transition(bytes, ts_ns, lost_before, cpu)
        }
    }
}

/// The rest of a [`TransitionRecord`], field by field in its order, which is asserted where it is
/// defined. The caller has checked the length.
fn transition(
    mut bytes: &[u8],
    ts_ns: u64,
    lost_before: u32,
    cpu: u16,
) -> Result<Decoded, DecodeError> {
    let sk = bytes.get_u64_ne();
    let cookie = bytes.get_u64_ne();
    let cgroup_id = bytes.get_u64_ne();
    let laddr = take::<16>(&mut bytes);
    let raddr = take::<16>(&mut bytes);
    let netns = bytes.get_u32_ne();
    let uid = bytes.get_u32_ne();
    let pid = bytes.get_u32_ne();
    let tid = bytes.get_u32_ne();
    let flags = bytes.get_u32_ne();
    let lport = bytes.get_u16_ne();
    let rport = bytes.get_u16_ne();
    let family = bytes.get_u16_ne();
    let oldstate = state(bytes.get_u8())?;
    let newstate = state(bytes.get_u8())?;
    let comm = Comm(take::<TASK_COMM_LEN>(&mut bytes));
    Ok(Decoded {
        lost_before,
        self_check: flags & flag::SELF_CHECK != 0,
        transition: Transition {
            ts_ns,
            socket: Socket {
                sk,
                cookie: NonZeroU64::new(cookie),
                netns: (netns != 0).then_some(netns),
                cgroup_id: (cgroup_id != 0).then_some(cgroup_id),
                uid,
                local: SocketAddr::new(address(family, laddr)?, lport),
                remote: SocketAddr::new(address(family, raddr)?, rport),
                reuseaddr: flags & flag::REUSEADDR != 0,
                reuseport: flags & flag::REUSEPORT != 0,
            },
            oldstate,
            newstate,
            current: Task { pid, tid, comm },
            cpu,
        },
    })
}

fn address(family: u16, bytes: [u8; 16]) -> Result<IpAddr, DecodeError> {
    match family {
        AF_INET => {
            let [a, b, c, d, ..] = bytes;
            Ok(Ipv4Addr::new(a, b, c, d).into())
        }
        AF_INET6 => Ok(Ipv6Addr::from(bytes).into()),
        other => Err(DecodeError::Family(other)),
    }
}

fn state(number: u8) -> Result<TcpState, DecodeError> {
    TcpState::from_kernel(number).ok_or(DecodeError::State(number))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    bytes.copy_to_slice(&mut taken);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a record, written down by offset, not by the code under test.
    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; size_of::<TransitionRecord>()];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &1_000_u64.to_ne_bytes());
        put(8, &3_u32.to_ne_bytes());
        put(12, &5_u16.to_ne_bytes());
        put(14, &1_u16.to_ne_bytes());
        put(16, &0xffff_8881_0000_1000_u64.to_ne_bytes());
        put(24, &77_u64.to_ne_bytes());
        put(32, &4242_u64.to_ne_bytes());
        put(40, &[127, 0, 0, 1]);
        put(56, &[10, 0, 0, 2]);
        put(72, &4_026_531_840_u32.to_ne_bytes());
        put(76, &1000_u32.to_ne_bytes());
        put(80, &200_u32.to_ne_bytes());
        put(84, &201_u32.to_ne_bytes());
        put(88, &(flag::REUSEADDR).to_ne_bytes());
        put(92, &8000_u16.to_ne_bytes());
        put(94, &40_000_u16.to_ne_bytes());
        put(96, &AF_INET.to_ne_bytes());
        put(
            98,
            &[TcpState::Established.number(), TcpState::CloseWait.number()],
        );
        put(100, b"nginx\0");
        bytes
    }

    #[test]
    fn every_field_arrives() {
        let Decoded {
            lost_before,
            self_check,
            transition,
        } = record(&sample()).unwrap();
        let Transition {
            ts_ns,
            socket,
            oldstate,
            newstate,
            current,
            cpu,
        } = transition;
        assert_eq!((ts_ns, lost_before, cpu, self_check), (1000, 3, 5, false));
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
    fn a_mapped_address_stays_an_ipv6_address() {
        let mut bytes = sample();
        bytes[96..98].copy_from_slice(&AF_INET6.to_ne_bytes());
        bytes[40..56].copy_from_slice(&Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
        bytes[56..72].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
        let socket = record(&bytes).unwrap().transition.socket;
        assert_eq!(socket.local.to_string(), "[::ffff:127.0.0.1]:8000");
        assert_eq!(socket.remote.to_string(), "[::1]:40000");
    }

    #[test]
    fn zero_is_unknown() {
        let mut bytes = sample();
        bytes[24..40].fill(0);
        bytes[72..76].fill(0);
        let socket = record(&bytes).unwrap().transition.socket;
        assert_eq!(
            (socket.cookie, socket.cgroup_id, socket.netns),
            (None, None, None)
        );
    }

    #[test]
    fn any_other_length_is_refused() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert!(
                matches!(record(&bytes[..length]), Err(DecodeError::Length { .. })),
                "{length}"
            );
        }
        let longer = [bytes, vec![0; 8]].concat();
        assert!(matches!(
            record(&longer),
            Err(DecodeError::Length {
                got: 128,
                expected: 120
            })
        ));
    }

    #[test]
    fn unknown_numbers_are_named() {
        let with = |at: usize, value: &[u8]| {
            let mut bytes = sample();
            bytes[at..at + value.len()].copy_from_slice(value);
            record(&bytes)
        };
        assert_eq!(with(14, &9_u16.to_ne_bytes()), Err(DecodeError::Kind(9)));
        assert_eq!(with(98, &[14]), Err(DecodeError::State(14)));
        assert_eq!(with(99, &[0]), Err(DecodeError::State(0)));
        assert_eq!(with(96, &1_u16.to_ne_bytes()), Err(DecodeError::Family(1)));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        // A small generator, so that a failure can be repeated.
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = sample();
        for _ in 0..100_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = usize::try_from(seed % 120).unwrap();
            bytes[at] = seed.to_ne_bytes()[7];
            let _ = record(&bytes);
        }
    }
}
