//! Owns the decoding of records: bytes of the ring buffer in, inputs out. Total: whatever the bytes
//! are, the result is an input or an error that says what is wrong with them.

mod call;
mod minisocket;

use std::{
    fmt,
    mem::offset_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU64,
};

use bytes::Buf;
use tcptrace_common::{
    AF_INET, AF_INET6, AcceptRecord, CallRecord, DescheduledRecord, HolderRecord, RecordHeader,
    RecordKind, ResetRecord, TASK_COMM_LEN, TimeWaitRecord, TransitionRecord, file, flag,
};
use tcptrace_model::{
    Accepted, Comm, Direction, EndedBy, Evidence, File, Input, Reset, ResetReason, Socket, Task,
    TcpState, Transition,
};

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
    /// No such event of a minisocket.
    Event(u8),
    /// A minisocket that is neither in FIN_WAIT2 nor in TIME_WAIT.
    Substate(u8),
    /// No such call.
    Call(u8),
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
                    "the kernel reports TCP state {state}, which this version does not know (skc_state)"
                )
            }
            Self::Event(event) => {
                write!(
                    f,
                    "a record tells event {event} of a minisocket, which does not exist"
                )
            }
            Self::Substate(state) => {
                write!(
                    f,
                    "a minisocket is in state {state}, neither FIN_WAIT2 nor TIME_WAIT (tw_substate)"
                )
            }
            Self::Call(call) => write!(f, "a record tells of call {call}, which does not exist"),
            Self::Family(family) => {
                write!(
                    f,
                    "a TCP socket has address family {family}, neither IPv4 nor IPv6 (skc_family)"
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
    /// CLOCK_BOOTTIME ns at which it was made.
    pub ts_ns: u64,
    /// Whether it belongs to the tracer's check of itself.
    pub self_check: bool,
    /// What it tells.
    pub input: Input,
}

/// Tells from a kernel stack, innermost frame first, what ended a minisocket.
pub type EndReason = Box<dyn Fn(&[u64]) -> EndedBy + Send>;

/// Decodes records; knows of the running kernel what the records do not say.
pub struct Decoder {
    /// One tick of the kernel (jiffy) in ns.
    pub tick_ns: u64,
    /// What to add to CLOCK_MONOTONIC ns to get CLOCK_BOOTTIME ns.
    pub boot_offset_ns: u64,
    /// `enum sk_rst_reason` of the running kernel, by its numbers.
    pub reset_reasons: Vec<ResetReason>,
    /// What a kernel stack with `inet_twsk_deschedule_put` on it, innermost frame first, tells of the
    /// end of a minisocket.
    pub ended_by: EndReason,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

/// [`HolderRecord::inode`] of such a record, which no input has; `None` when there is no file.
#[must_use]
pub fn inode_of(holder: &[u8]) -> Option<u32> {
    let bytes = holder
        .get(offset_of!(HolderRecord, inode)..)?
        .first_chunk()?;
    Some(u32::from_ne_bytes(*bytes)).filter(|inode| *inode != 0)
}

/// What every record begins with.
#[derive(Clone, Copy)]
struct Header {
    ts_ns: u64,
    cpu: u16,
}

impl Decoder {
    /// Decodes one record.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn record(&self, mut bytes: &[u8]) -> Result<Decoded, DecodeError> {
        let length = bytes.len();
        let demand = |expected| {
            if length == expected {
                Ok(())
            } else {
                Err(DecodeError::Length {
                    got: length,
                    expected,
                })
            }
        };
        if length < size_of::<RecordHeader>() {
            demand(size_of::<RecordHeader>())?;
        }
        let ts_ns = bytes.get_u64_ne();
        let lost_before = bytes.get_u32_ne();
        let cpu = bytes.get_u16_ne();
        let kind = bytes.get_u16_ne();
        let header = Header { ts_ns, cpu };
        let mut self_check = false;
        let input = match RecordKind::from_number(kind).ok_or(DecodeError::Kind(kind))? {
            RecordKind::Transition => {
                demand(size_of::<TransitionRecord>())?;
                let (transition, is_check) = transition(bytes, header)?;
                self_check = is_check;
                Input::Transition(transition)
            }
            RecordKind::TimeWait => {
                demand(size_of::<TimeWaitRecord>())?;
                let (input, is_check) = self.time_wait(&mut bytes, header)?;
                self_check = is_check;
                input
            }
            RecordKind::Descheduled => {
                demand(size_of::<DescheduledRecord>())?;
                let (input, is_check) = self.descheduled(bytes, header)?;
                self_check = is_check;
                input
            }
            RecordKind::Reset => {
                demand(size_of::<ResetRecord>())?;
                Input::Reset(self.reset(bytes, header)?)
            }
            RecordKind::Call => {
                demand(size_of::<CallRecord>())?;
                Input::Call(call::call(bytes, header)?)
            }
            RecordKind::Holder => {
                demand(size_of::<HolderRecord>())?;
                Input::Holder(self.holder(bytes, header)?)
            }
            RecordKind::Accept => {
                demand(size_of::<AcceptRecord>())?;
                Input::Accepted(accepted(bytes, header))
            }
        };
        Ok(Decoded {
            lost_before,
            ts_ns,
            self_check,
            input,
        })
    }

    /// The rest of a [`ResetRecord`].
    fn reset(&self, mut bytes: &[u8], header: Header) -> Result<Reset, DecodeError> {
        let sk = bytes.get_u64_ne();
        let reason = bytes.get_u32_ne();
        let received = bytes.get_u8();
        let state = state(bytes.get_u8())?;
        let direction = if received == 0 {
            Direction::Sent
        } else {
            Direction::Received
        };
        Ok(Reset {
            ts_ns: header.ts_ns,
            direction,
            sk,
            state,
            reason: (reason != ResetRecord::NO_REASON).then(|| {
                let known = usize::try_from(reason).ok();
                known
                    .and_then(|number| self.reset_reasons.get(number).copied())
                    .unwrap_or(ResetReason::Other)
            }),
        })
    }
}

/// The rest of an [`AcceptRecord`].
fn accepted(mut bytes: &[u8], header: Header) -> Accepted {
    Accepted {
        ts_ns: header.ts_ns,
        sk: bytes.get_u64_ne(),
        task: task(&mut bytes),
    }
}

/// A task as records hold it: pid, tid, name.
fn task(bytes: &mut &[u8]) -> Task {
    Task {
        pid: bytes.get_u32_ne(),
        tid: bytes.get_u32_ne(),
        comm: Comm(take::<TASK_COMM_LEN>(bytes)),
    }
}

/// The rest of a [`TransitionRecord`], field by field in its order, which is asserted where it is
/// defined. The caller has checked the length.
fn transition(mut bytes: &[u8], header: Header) -> Result<(Transition, bool), DecodeError> {
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
    let evidence = (flags & flag::EVIDENCE != 0).then(|| evidence(bytes, flags));
    let transition = Transition {
        ts_ns: header.ts_ns,
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
        cpu: header.cpu,
        evidence,
    };
    Ok((transition, flags & flag::SELF_CHECK != 0))
}

/// The end of a [`TransitionRecord`] with [`flag::EVIDENCE`].
fn evidence(mut bytes: &[u8], flags: u32) -> Evidence {
    /// `RCV_SHUTDOWN` and `SEND_SHUTDOWN` of include/net/sock.h (v6.18).
    const RCV_SHUTDOWN: u8 = 1;
    const SEND_SHUTDOWN: u8 = 2;
    let error = bytes.get_u16_ne();
    let shutdown = bytes.get_u8();
    let file = match bytes.get_u8() {
        file::NONE => File::None,
        file::OPEN => File::Open,
        file::RELEASED => File::Released,
        _ => File::Unknown,
    };
    Evidence {
        error,
        receive_shutdown: shutdown & RCV_SHUTDOWN != 0,
        send_shutdown: shutdown & SEND_SHUTDOWN != 0,
        orphan: flags & flag::ORPHAN != 0,
        file,
        linger_zero: flags & flag::LINGER_ZERO != 0,
        no_fin_wait2: flags & flag::NO_FIN_WAIT2 != 0,
        user_timeout_ms: bytes.get_u32_ne(),
        exiting: flags & flag::EXITING != 0,
        kernel_thread: flags & flag::KERNEL_THREAD != 0,
        exit_code: bytes.get_u32_ne(),
    }
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
mod tests;
