//! Owns the decoding of records about bind(), listen() and connect(), and about the sockets that hold a
//! port.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU64,
};

use bytes::Buf;
use tcptrace_common::{AF_INET, AF_INET6, call, socket_flag};
use tcptrace_model::{
    Comm, ListedHolder, Listing, Phase, SocketCall, Task, TcpState,
    conflict::{Asked, Asker, Call, Family, Holder},
};

use super::{DecodeError, Decoder, Header, address, state, take};

/// The rest of a [`tcptrace_common::CallRecord`], field by field in its order, which is asserted where it is
/// defined. The caller has checked the length.
pub(super) fn call(mut bytes: &[u8], header: Header) -> Result<SocketCall, DecodeError> {
    let sk = bytes.get_u64_ne();
    let cookie = bytes.get_u64_ne();
    let guilty = bytes.get_u64_ne();
    let began_ns = bytes.get_u64_ne();
    let cgroup_id = bytes.get_u64_ne();
    let asked_addr = take::<16>(&mut bytes);
    let laddr = take::<16>(&mut bytes);
    let raddr = take::<16>(&mut bytes);
    let netns = bytes.get_u32_ne();
    let uid = bytes.get_u32_ne();
    let pid = bytes.get_u32_ne();
    let tid = bytes.get_u32_ne();
    let flags = bytes.get_u32_ne();
    let result = bytes.get_i32_ne();
    let backlog = bytes.get_i32_ne();
    let device = bytes.get_u32_ne();
    let asked_scope = bytes.get_u32_ne();
    let asked_len = bytes.get_u32_ne();
    let port_range = bytes.get_u32_ne();
    let asked_family = bytes.get_u16_ne();
    let asked_port = bytes.get_u16_ne();
    let family_number = bytes.get_u16_ne();
    let lport = bytes.get_u16_ne();
    let rport = bytes.get_u16_ne();
    let lport_before = bytes.get_u16_ne();
    let _holders = bytes.get_u16_ne();
    let number = bytes.get_u8();
    let _state = state(bytes.get_u8())?;
    let state_before = state(bytes.get_u8())?;
    let _padding = take::<11>(&mut bytes);
    let comm = Comm(take(&mut bytes));

    let has = |flag: u32| flags & flag != 0;
    let call = match number {
        call::BIND => Call::Bind,
        call::LISTEN => Call::Listen,
        call::CONNECT => Call::Connect,
        other => return Err(DecodeError::Call(other)),
    };
    let family = family(family_number)?;
    let local = address(family_number, laddr)?;
    // A success is 0 or more; an errno is below 4096 (include/linux/err.h `MAX_ERRNO`, v6.18).
    let error = u16::try_from(result.saturating_neg().max(0)).unwrap_or(u16::MAX);
    let asked = Asked {
        family: asked_family,
        len: asked_len,
        addr: SocketAddr::new(asked_address(asked_family, asked_addr), asked_port),
        scope: asked_scope,
    };
    let is_asked = call != Call::Listen && !has(socket_flag::ASKED_UNKNOWN);
    // What the call itself has set was not there before it. What connect() chose stays in the socket after
    // a failure on kernels up to 6.0: net/ipv4/tcp_ipv4.c `tcp_v4_connect` (v5.10).
    let is_own = match call {
        Call::Bind => error == 0,
        Call::Connect => !has(socket_flag::ADDRESS_BOUND),
        Call::Listen => false,
    };
    let local_before = if is_own { unspecified(family) } else { local };
    Ok(SocketCall {
        ts_ns: header.ts_ns,
        began_ns: (began_ns != 0).then_some(began_ns),
        call,
        error,
        sk,
        cookie: NonZeroU64::new(cookie),
        netns: (netns != 0).then_some(netns),
        cgroup_id: (cgroup_id != 0).then_some(cgroup_id),
        task: Task { pid, tid, comm },
        asker: Asker {
            family,
            state: state_before,
            local: SocketAddr::new(local_before, lport_before),
            reuseaddr: has(socket_flag::REUSEADDR),
            force_reuse: has(socket_flag::FORCE_REUSE),
            reuseport: has(socket_flag::REUSEPORT),
            reuseport_group: has(socket_flag::REUSEPORT_GROUP),
            v6only: has(socket_flag::V6ONLY),
            freebind: has(socket_flag::FREEBIND),
            transparent: has(socket_flag::TRANSPARENT),
            bind_address_no_port: has(socket_flag::BIND_ADDRESS_NO_PORT),
            device,
            uid,
            port_range: ports(port_range),
            may_bind_privileged: has(socket_flag::CREDENTIALS_KNOWN)
                .then(|| has(socket_flag::MAY_BIND_PRIVILEGED)),
        },
        asked: is_asked.then_some(asked),
        backlog,
        local: SocketAddr::new(local, lport),
        remote: SocketAddr::new(address(family_number, raddr)?, rport),
        nonblocking: has(socket_flag::NONBLOCKING),
        refused_by_lsm: has(socket_flag::REFUSED_BY_LSM),
        guilty: (guilty != 0 && error != 0).then_some(guilty),
        listing: listing(flags),
    })
}

fn listing(flags: u32) -> Listing {
    let has = |flag: u32| flags & flag != 0;
    match (
        has(socket_flag::HOLDERS_LISTED),
        has(socket_flag::HOLDERS_CUT),
    ) {
        (false, _) => Listing::None,
        (true, false) => Listing::Whole,
        (true, true) => Listing::Cut,
    }
}

impl Decoder {
    /// The rest of a [`tcptrace_common::HolderRecord`], likewise.
    pub(super) fn holder(
        &self,
        mut bytes: &[u8],
        header: Header,
    ) -> Result<ListedHolder, DecodeError> {
        let asker = bytes.get_u64_ne();
        let sk = bytes.get_u64_ne();
        let cookie = bytes.get_u64_ne();
        let laddr = take::<16>(&mut bytes);
        let raddr = take::<16>(&mut bytes);
        let netns = bytes.get_u32_ne();
        let uid = bytes.get_u32_ne();
        let device = bytes.get_u32_ne();
        let flags = bytes.get_u32_ne();
        let expires_in = bytes.get_i32_ne();
        let lport = bytes.get_u16_ne();
        let rport = bytes.get_u16_ne();
        let family = bytes.get_u16_ne();
        let number = bytes.get_u8();

        let has = |flag: u32| flags & flag != 0;
        let state = state(number)?;
        let minisocket = match (has(socket_flag::MINISOCKET), state) {
            (false, _) => None,
            (true, TcpState::FinWait2) => Some(Phase::FinWait2),
            (true, TcpState::TimeWait) => Some(Phase::TimeWait),
            (true, _) => return Err(DecodeError::Substate(number)),
        };
        let is_full = minisocket.is_none();
        let ticks = u64::from(expires_in.unsigned_abs()) * self.tick_ns;
        let expires_ns = if expires_in < 0 {
            header.ts_ns.saturating_sub(ticks)
        } else {
            header.ts_ns.saturating_add(ticks)
        };
        Ok(ListedHolder {
            ts_ns: header.ts_ns,
            asker,
            holder: Holder {
                sk,
                cookie: NonZeroU64::new(cookie),
                state,
                minisocket,
                local: SocketAddr::new(address(family, laddr)?, lport),
                remote: SocketAddr::new(address(family, raddr)?, rport),
                reuseaddr: Some(has(socket_flag::REUSEADDR)),
                reuseport: Some(has(socket_flag::REUSEPORT)),
                force_reuse: has(socket_flag::FORCE_REUSE),
                v6only: Some(has(socket_flag::V6ONLY)),
                uid: is_full.then_some(uid),
                device,
                port_bound: is_full.then(|| has(socket_flag::PORT_BOUND)),
                timestamps: (!is_full).then(|| has(socket_flag::TIMESTAMPS)),
            },
            netns: (netns != 0).then_some(netns),
            expires_ns: (!is_full).then_some(expires_ns),
        })
    }
}

fn family(number: u16) -> Result<Family, DecodeError> {
    match number {
        AF_INET => Ok(Family::V4),
        AF_INET6 => Ok(Family::V6),
        other => Err(DecodeError::Family(other)),
    }
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// An address as an application gives it: of any family, which may be none that there is.
fn asked_address(family: u16, bytes: [u8; 16]) -> IpAddr {
    let [a, b, c, d, ..] = bytes;
    match family {
        AF_INET6 => Ipv6Addr::from(bytes).into(),
        _ => Ipv4Addr::new(a, b, c, d).into(),
    }
}

/// `IP_LOCAL_PORT_RANGE`: a half that is 0 is that of the namespace.
fn ports(range: u32) -> Option<(u16, u16)> {
    let [a, b, c, d] = range.to_le_bytes();
    let (low, high) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    (range != 0).then_some((low, high))
}
