//! Owns the fields of inputs in recordings.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    num::NonZeroU64,
};

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use tcptrace_common::TASK_COMM_LEN;
use tcptrace_model::{
    Accepted, Comm, Direction, EndedBy, Evidence, Existing, File, Listing, Loss, LossReason,
    Minisocket, MinisocketEnded, MinisocketEntered, MinisocketRearmed, Phase, Process, RecordKind,
    Reset, ResetReason, Socket, Task, TcpState, Transition,
    conflict::{Call, Family},
};

use super::numbers::Number;

/// Defines the fields of an input, each with its number, and both ways between them and the model's
/// own struct, where all fields have the same names.
macro_rules! fields {
    ($($(#[$about:meta])* $wire:ident for $model:ident {
        $($number:literal $field:ident: $type:ty,)+
    })+) => {
        $(
            $(#[$about])*
            #[derive(Clone, Copy, Debug, Encode, Decode)]
            pub(super) struct $wire {
                $(#[n($number)] $field: $type,)+
            }

            impl From<$model> for $wire {
                fn from(model: $model) -> Self {
                    // Every field is named: one that is new in the model is missed here.
                    let $model { $($field,)+ } = model;
                    Self { $($field: $field.wired(),)+ }
                }
            }

            impl From<$wire> for $model {
                fn from(wire: $wire) -> Self {
                    let $wire { $($field,)+ } = wire;
                    Self { $($field: $field.wired(),)+ }
                }
            }

            impl Wired<$wire> for $model {
                fn wired(self) -> $wire {
                    self.into()
                }
            }

            impl Wired<$model> for $wire {
                fn wired(self) -> $model {
                    self.into()
                }
            }
        )+
    };
}
pub(super) use fields;

fields! {
    WireTransition for Transition {
        0 ts_ns: u64,
        1 socket: WireSocket,
        2 oldstate: Number<TcpState>,
        3 newstate: Number<TcpState>,
        4 current: WireTask,
        5 cpu: u16,
        6 evidence: Option<WireEvidence>,
    }
    WireEntered for MinisocketEntered {
        0 ts_ns: u64,
        1 minisocket: WireMinisocket,
        2 sk: Option<u64>,
        3 phase: Number<Phase>,
        4 timeout_ns: u64,
    }
    WireRearmed for MinisocketRearmed {
        0 ts_ns: u64,
        1 minisocket: WireMinisocket,
        2 phase: Number<Phase>,
        3 timeout_ns: u64,
    }
    WireEnded for MinisocketEnded {
        0 ts_ns: u64,
        1 minisocket: WireMinisocket,
        2 phase: Number<Phase>,
        3 by: Number<EndedBy>,
        4 current: WireTask,
        5 time_wait_since_ns: Option<u64>,
        6 expires_ns: u64,
    }
    WireReset for Reset {
        0 ts_ns: u64,
        1 direction: Number<Direction>,
        2 sk: u64,
        3 state: Number<TcpState>,
        4 reason: Option<Number<ResetReason>>,
    }
    WireAccepted for Accepted {
        0 ts_ns: u64,
        1 sk: u64,
        2 task: WireTask,
    }
    WireExisting for Existing {
        0 ts_ns: u64,
        1 cookie: Option<NonZeroU64>,
        2 netns: u32,
        3 local: Address,
        4 remote: Address,
        5 state: Number<TcpState>,
        6 minisocket_expires_in_ns: Option<u64>,
        7 process: Option<WireProcess>,
    }
    WireLoss for Loss {
        0 ts_ns: u64,
        1 records: u64,
        2 kind: Number<RecordKind>,
        3 cpu: Option<u32>,
        4 reason: Number<LossReason>,
    }
    WireSocket for Socket {
        0 sk: u64,
        1 cookie: Option<NonZeroU64>,
        2 netns: Option<u32>,
        3 cgroup_id: Option<u64>,
        4 uid: u32,
        5 local: Address,
        6 remote: Address,
        7 reuseaddr: bool,
        8 reuseport: bool,
    }
    WireMinisocket for Minisocket {
        0 tw: u64,
        1 cookie: Option<NonZeroU64>,
        2 netns: Option<u32>,
        3 local: Address,
        4 remote: Address,
        5 reuseaddr: bool,
        6 reuseport: bool,
    }
    WireEvidence for Evidence {
        0 error: u16,
        1 receive_shutdown: bool,
        2 send_shutdown: bool,
        3 orphan: bool,
        4 file: Number<File>,
        5 linger_zero: bool,
        6 no_fin_wait2: bool,
        7 user_timeout_ms: u32,
        8 exiting: bool,
        9 kernel_thread: bool,
        10 exit_code: u32,
    }
    WireTask for Task {
        0 pid: u32,
        1 tid: u32,
        2 comm: Name,
    }
    WireProcess for Process {
        0 pid: u32,
        1 comm: Name,
    }
}

/// [`tcptrace_model::Snapshot::Begin`]
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub(super) struct WireSnapshotBegin {
    #[n(0)]
    pub(super) ts_ns: u64,
}

/// [`tcptrace_model::Snapshot::End`]
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub(super) struct WireSnapshotEnd {
    #[n(0)]
    pub(super) ts_ns: u64,
    #[n(1)]
    pub(super) complete: bool,
}

/// [`tcptrace_model::Input::Gap`]
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub(super) struct WireGap {
    #[n(0)]
    pub(super) ts_ns: u64,
}

/// An address and a port: 4 or 16 bytes and 2, in network byte order. Where an IPv6 address has a
/// flow or a scope, 4 bytes each follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address(SocketAddr);

/// A task's name without the NULs at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name(Comm);

/// From a type of the model to that of recordings, and back.
pub(super) trait Wired<T> {
    fn wired(self) -> T;
}

macro_rules! wired_as_they_are {
    ($($type:ty),+) => {
        $(impl Wired<$type> for $type {
            fn wired(self) -> $type {
                self
            }
        })+
    };
}

wired_as_they_are!(
    bool,
    u8,
    u16,
    u32,
    u64,
    i32,
    NonZeroU64,
    (u16, u16),
    [u32; 14]
);

macro_rules! wired_in_a_wrapper {
    ($($wrapper:ident($type:ty)),+) => {
        $(impl Wired<$wrapper> for $type {
            fn wired(self) -> $wrapper {
                $wrapper(self)
            }
        }

        impl Wired<$type> for $wrapper {
            fn wired(self) -> $type {
                self.0
            }
        })+
    };
}

wired_in_a_wrapper!(Address(SocketAddr), Name(Comm));

macro_rules! wired_as_numbers {
    ($($type:ty),+) => {
        $(impl Wired<Number<$type>> for $type {
            fn wired(self) -> Number<$type> {
                Number(self)
            }
        }

        impl Wired<$type> for Number<$type> {
            fn wired(self) -> $type {
                self.0
            }
        })+
    };
}

wired_as_numbers!(
    TcpState,
    Phase,
    EndedBy,
    File,
    Direction,
    LossReason,
    ResetReason,
    RecordKind,
    Call,
    Family,
    Listing
);

impl<T, U: Wired<T>> Wired<Option<T>> for Option<U> {
    fn wired(self) -> Option<T> {
        self.map(U::wired)
    }
}

impl<C> Encode<C> for Address {
    fn encode<W: encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
        _context: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        let mut bytes = [0; 26];
        let port = self.0.port().to_be_bytes();
        let length = match self.0 {
            SocketAddr::V4(address) => {
                bytes[..4].copy_from_slice(&address.ip().octets());
                bytes[4..6].copy_from_slice(&port);
                6
            }
            SocketAddr::V6(address) => {
                bytes[..16].copy_from_slice(&address.ip().octets());
                bytes[16..18].copy_from_slice(&port);
                bytes[18..22].copy_from_slice(&address.flowinfo().to_be_bytes());
                bytes[22..].copy_from_slice(&address.scope_id().to_be_bytes());
                if (address.flowinfo(), address.scope_id()) == (0, 0) {
                    18
                } else {
                    26
                }
            }
        };
        encoder.bytes(&bytes[..length])?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Address {
    fn decode(decoder: &mut Decoder<'b>, _context: &mut C) -> Result<Self, decode::Error> {
        let bytes = decoder.bytes()?;
        let wrong = || decode::Error::message("an address has 6, 18 or 26 bytes");
        let number = |bytes: &[u8; 4]| u32::from_be_bytes(*bytes);
        if let Ok([a, b, c, d, high, low]) = <[u8; 6]>::try_from(bytes) {
            let ip = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
            let port = u16::from_be_bytes([high, low]);
            return Ok(Self(SocketAddr::new(ip, port)));
        }
        let (ip, rest) = bytes.split_first_chunk::<16>().ok_or_else(wrong)?;
        let (port, rest) = rest.split_first_chunk::<2>().ok_or_else(wrong)?;
        let (flow, scope) = match rest.split_first_chunk::<4>() {
            None if rest.is_empty() => (0, 0),
            Some((flow, scope)) => {
                let scope = scope.try_into().map_err(|_| wrong())?;
                (number(flow), number(scope))
            }
            None => return Err(wrong()),
        };
        let port = u16::from_be_bytes(*port);
        Ok(Self(SocketAddr::V6(SocketAddrV6::new(
            Ipv6Addr::from(*ip),
            port,
            flow,
            scope,
        ))))
    }
}

impl<C> Encode<C> for Name {
    fn encode<W: encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
        _context: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        let bytes = &self.0.0;
        let length = bytes.iter().rposition(|byte| *byte != 0);
        encoder
            .bytes(&bytes[..length.map_or(0, |last| last + 1)])?
            .ok()
    }
}

impl<'b, C> Decode<'b, C> for Name {
    fn decode(decoder: &mut Decoder<'b>, _context: &mut C) -> Result<Self, decode::Error> {
        let bytes = decoder.bytes()?;
        let mut name = [0; TASK_COMM_LEN];
        name.get_mut(..bytes.len())
            .ok_or_else(|| decode::Error::message("a task's name has at most 16 bytes"))?
            .copy_from_slice(bytes);
        Ok(Self(Comm(name)))
    }
}
