//! Owns the decoding of records about minisockets.

use std::{net::SocketAddr, num::NonZeroU64};

use bytes::Buf;
use tcptrace_common::{STACK_FRAMES, flag, time_wait, verdict};
use tcptrace_model::{
    Comm, EndedBy, Input, Minisocket, MinisocketEnded, MinisocketEntered, MinisocketRearmed, Phase,
    Task, TcpState,
};

use super::{DecodeError, Decoder, Header, address, take};

/// A stamp older than this, in ms, is not one: a TIME_WAIT lasts a minute, unless it is set anew.
const MAX_STAMP_AGE_MS: u32 = 86_400_000;

impl Decoder {
    /// The rest of a [`tcptrace_common::TimeWaitRecord`], field by field in its order, which is asserted
    /// where it is defined, and whether it belongs to the tracer's check of itself. The caller has checked
    /// the length.
    pub(super) fn time_wait(
        &self,
        bytes: &mut &[u8],
        header: Header,
    ) -> Result<(Input, bool), DecodeError> {
        let ts_ns = header.ts_ns;
        let tw = bytes.get_u64_ne();
        let sk = bytes.get_u64_ne();
        let cookie = bytes.get_u64_ne();
        let laddr = take::<16>(bytes);
        let raddr = take::<16>(bytes);
        let netns = bytes.get_u32_ne();
        let expires_in = i64::from(bytes.get_i32_ne());
        let entry_stamp = bytes.get_u32_ne();
        let flags = bytes.get_u32_ne();
        let pid = bytes.get_u32_ne();
        let tid = bytes.get_u32_ne();
        let lport = bytes.get_u16_ne();
        let rport = bytes.get_u16_ne();
        let family = bytes.get_u16_ne();
        let event = bytes.get_u8();
        let phase = phase(bytes.get_u8())?;
        let current = Task {
            pid,
            tid,
            comm: Comm(take(bytes)),
        };
        let minisocket = Minisocket {
            tw,
            cookie: NonZeroU64::new(cookie),
            netns: (netns != 0).then_some(netns),
            local: SocketAddr::new(address(family, laddr)?, lport),
            remote: SocketAddr::new(address(family, raddr)?, rport),
            reuseaddr: flags & flag::REUSEADDR != 0,
            reuseport: flags & flag::REUSEPORT != 0,
        };
        let ticks = |ticks: i64| ticks.unsigned_abs() * self.tick_ns;
        let timeout_ns = ticks(expires_in.max(0));
        let expires_ns = if expires_in < 0 {
            ts_ns.saturating_sub(ticks(expires_in))
        } else {
            ts_ns.saturating_add(ticks(expires_in))
        };
        let ended = |by| {
            Input::MinisocketEnded(MinisocketEnded {
                ts_ns,
                minisocket,
                phase,
                by,
                current,
                time_wait_since_ns: (flags & flag::ENTRY_STAMP != 0)
                    .then(|| self.stamped(entry_stamp, ts_ns))
                    .flatten(),
                expires_ns,
            })
        };
        let input = match event {
            time_wait::ENTERED => Input::MinisocketEntered(MinisocketEntered {
                ts_ns,
                minisocket,
                sk: (sk != 0).then_some(sk),
                phase,
                timeout_ns,
            }),
            time_wait::REARMED => Input::MinisocketRearmed(MinisocketRearmed {
                ts_ns,
                minisocket,
                phase,
                timeout_ns,
            }),
            time_wait::EXPIRED => ended(EndedBy::Expiry),
            // What it was that took it away stands behind.
            time_wait::DESCHEDULED => ended(EndedBy::Unknown),
            other => return Err(DecodeError::Event(other)),
        };
        Ok((input, flags & flag::SELF_CHECK != 0))
    }

    /// The rest of a [`tcptrace_common::DescheduledRecord`]. The caller has checked the length.
    pub(super) fn descheduled(
        &self,
        mut bytes: &[u8],
        header: Header,
    ) -> Result<(Input, bool), DecodeError> {
        let (mut input, is_check) = self.time_wait(&mut bytes, header)?;
        let verdict = bytes.get_u32_ne();
        let frames = bytes.get_u32_ne();
        let frames = usize::try_from(frames)
            .unwrap_or(STACK_FRAMES)
            .min(STACK_FRAMES);
        let mut stack = [0; STACK_FRAMES];
        for address in &mut stack[..frames] {
            *address = bytes.get_u64_ne();
        }
        if let Input::MinisocketEnded(ended) = &mut input {
            ended.by = match ((self.ended_by)(&stack[..frames]), verdict) {
                (EndedBy::SynOrData, verdict::SYN) => EndedBy::Syn,
                (EndedBy::SynOrData, verdict::RST) => EndedBy::Data,
                (by, _) => by,
            };
        }
        Ok((input, is_check))
    }

    /// CLOCK_BOOTTIME ns of a stamp, the low 32 bits of CLOCK_MONOTONIC in ms, that was set before
    /// `ts_ns`.
    fn stamped(&self, stamp: u32, ts_ns: u64) -> Option<u64> {
        let now_ms = ts_ns.checked_sub(self.boot_offset_ns)? / 1_000_000;
        // The low 32 bits are what the stamp has.
        #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are meant")]
        let age_ms = (now_ms as u32).wrapping_sub(stamp);
        (age_ms < MAX_STAMP_AGE_MS)
            .then(|| (now_ms - u64::from(age_ms)) * 1_000_000 + self.boot_offset_ns)
    }
}

fn phase(substate: u8) -> Result<Phase, DecodeError> {
    match TcpState::from_kernel(substate) {
        Some(TcpState::FinWait2) => Ok(Phase::FinWait2),
        Some(TcpState::TimeWait) => Ok(Phase::TimeWait),
        _ => Err(DecodeError::Substate(substate)),
    }
}
