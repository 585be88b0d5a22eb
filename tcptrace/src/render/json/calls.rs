//! Owns the objects of the JSON lines about calls: `call_failed`, `call`, `would_fail`,
//! `would_succeed`.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
};

use serde::{Serialize, Serializer, ser::SerializeMap};
use tcptrace_model::{
    CallFailed, CallSucceeded, FailedBind, HolderFound, Phase, SocketCall, TcpState,
    conflict::{Asker, Call, Family, PortUse, Remedy, Rule},
};

use super::fields::{Address, DoubtNames, OwnerFields};
use crate::render::{escape::Escaped, names};

/// What was asked, by which socket.
#[derive(Serialize)]
struct CallFields<'a> {
    call: &'static str,
    errno: Option<String>,
    netns: Option<u32>,
    family: &'static str,
    addr: Option<IpAddr>,
    port: Option<u16>,
    laddr: Option<IpAddr>,
    lport: Option<u16>,
    raddr: Option<IpAddr>,
    rport: Option<u16>,
    #[serde(rename = "")]
    caller: Option<Caller<'a>>,
    uid: u32,
    reuseaddr: bool,
    reuseport: bool,
    v6only: bool,
    device: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog: Option<i32>,
}

/// Who asked, where somebody did.
#[derive(Serialize)]
struct Caller<'a> {
    pid: u32,
    tid: u32,
    comm: Escaped<'a>,
    skaddr: Address,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<NonZeroU64>,
    began_ns: Option<u64>,
}

impl<'a> CallFields<'a> {
    fn of(call: &'a SocketCall, is_made: bool) -> Self {
        let SocketCall {
            ts_ns: _,
            began_ns,
            call: name,
            error,
            sk,
            cookie,
            netns,
            cgroup_id: _,
            task,
            asker,
            asked,
            backlog,
            local,
            remote,
            nonblocking: _,
            refused_by_lsm: _,
            guilty: _,
            listing: _,
        } = call;
        let Asker {
            family,
            reuseaddr,
            reuseport,
            v6only,
            device,
            uid,
            ..
        } = *asker;
        let asked = asked
            .filter(|asked| [libc::AF_INET, libc::AF_INET6].contains(&asked.family.into()))
            .map(|asked| asked.addr);
        let has_port = |address: &SocketAddr| (address.port() != 0).then_some(*address);
        let (local, remote) = (has_port(local), has_port(remote));
        Self {
            call: name.name(),
            errno: names::error(*error),
            netns: *netns,
            family: match family {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            },
            addr: asked.map(|asked| asked.ip()),
            port: asked.map(|asked| asked.port()),
            laddr: local.map(|local| local.ip()),
            lport: local.map(|local| local.port()),
            raddr: remote.map(|remote| remote.ip()),
            rport: remote.map(|remote| remote.port()),
            caller: is_made.then(|| Caller {
                pid: task.pid,
                tid: task.tid,
                comm: Escaped(task.comm.as_bytes()),
                skaddr: Address(*sk),
                cookie: *cookie,
                began_ns: *began_ns,
            }),
            uid,
            reuseaddr,
            reuseport,
            v6only,
            device: (device != 0).then_some(device),
            backlog: (*name == Call::Listen).then_some(*backlog),
        }
    }
}

#[derive(Serialize)]
pub(super) struct CallFailedLine<'a> {
    #[serde(rename = "")]
    call: CallFields<'a>,
    rule: &'static str,
    holders: Holders<'a>,
    holders_total: usize,
    blocking_total: usize,
    ports: Option<PortFields>,
    remedies: Remedies<'a>,
    free_in_ns: Option<u64>,
    after_failed_bind: Option<FailedBindFields>,
    certainty: &'static str,
    doubts: DoubtNames,
}

impl<'a> CallFailedLine<'a> {
    /// `is_made` is false for a call that nobody made.
    pub(super) fn of(found: &'a CallFailed, is_made: bool) -> Self {
        let CallFailed {
            call,
            rule,
            holders,
            holders_total,
            blocking_total,
            ports,
            remedies,
            free_at_ns,
            after_failed_bind,
            certainty,
            doubts,
        } = found;
        let free_in_ns = free_at_ns.map(|at_ns| at_ns.saturating_sub(call.ts_ns));
        Self {
            call: CallFields::of(call, is_made),
            rule: rule.name(),
            holders: Holders {
                all: holders,
                now_ns: call.ts_ns,
            },
            holders_total: *holders_total,
            blocking_total: *blocking_total,
            ports: ports.as_ref().map(PortFields::of),
            remedies: Remedies {
                all: remedies,
                free_in_ns,
            },
            free_in_ns,
            after_failed_bind: after_failed_bind.as_ref().map(FailedBindFields::of),
            certainty: certainty.name(),
            doubts: DoubtNames(*doubts),
        }
    }
}

#[derive(Serialize)]
pub(super) struct CallLine<'a> {
    #[serde(rename = "")]
    call: CallFields<'a>,
    autobound: bool,
    after_failed_bind: Option<FailedBindFields>,
}

impl<'a> From<&'a CallSucceeded> for CallLine<'a> {
    fn from(found: &'a CallSucceeded) -> Self {
        let CallSucceeded {
            call,
            autobound,
            after_failed_bind,
        } = found;
        Self {
            call: CallFields::of(call, true),
            autobound: *autobound,
            after_failed_bind: after_failed_bind.as_ref().map(FailedBindFields::of),
        }
    }
}

#[derive(Serialize)]
pub(super) struct WouldSucceedLine<'a> {
    #[serde(rename = "")]
    call: CallFields<'a>,
    holders: Holders<'a>,
    holders_total: usize,
}

impl<'a> WouldSucceedLine<'a> {
    pub(super) fn of(call: &'a SocketCall, holders: &'a [HolderFound], total: usize) -> Self {
        Self {
            call: CallFields::of(call, false),
            holders: Holders {
                all: holders,
                now_ns: call.ts_ns,
            },
            holders_total: total,
        }
    }
}

#[derive(Serialize)]
struct FailedBindFields {
    ts_ns: u64,
    errno: Option<String>,
    addr: Option<IpAddr>,
    port: Option<u16>,
}

impl FailedBindFields {
    fn of(bind: &FailedBind) -> Self {
        let FailedBind {
            ts_ns,
            error,
            asked,
        } = *bind;
        Self {
            ts_ns,
            errno: names::error(error),
            addr: asked.map(|asked| asked.ip()),
            port: asked.map(|asked| asked.port()),
        }
    }
}

/// An array of objects, one a socket.
struct Holders<'a> {
    all: &'a [HolderFound],
    /// CLOCK_BOOTTIME in ns that durations count from.
    now_ns: u64,
}

impl Serialize for Holders<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.all
                .iter()
                .map(|one| HolderFields::of(one, self.now_ns)),
        )
    }
}

#[derive(Serialize)]
struct HolderFields<'a> {
    state: &'static str,
    minisocket: Option<&'static str>,
    laddr: IpAddr,
    lport: u16,
    raddr: Option<IpAddr>,
    rport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skaddr: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<NonZeroU64>,
    blocks: bool,
    rule: Option<&'static str>,
    named_by_kernel: bool,
    owner: Option<OwnerFields<'a>>,
    uid: Option<u32>,
    reuseaddr: Option<bool>,
    reuseport: Option<bool>,
    v6only: Option<bool>,
    device: Option<u32>,
    options: &'static str,
    since_ns: Option<u64>,
    frees_in_ns: Option<u64>,
}

impl<'a> HolderFields<'a> {
    fn of(found: &'a HolderFound, now_ns: u64) -> Self {
        let HolderFound {
            holder,
            blocks,
            named_by_kernel,
            rule,
            owner,
            since_ns,
            frees_at_ns,
            options,
        } = found;
        let remote = (holder.remote.port() != 0).then_some(holder.remote);
        Self {
            state: holder.state.name(),
            minisocket: holder.minisocket.map(Phase::name),
            laddr: holder.local.ip(),
            lport: holder.local.port(),
            raddr: remote.map(|remote| remote.ip()),
            rport: remote.map(|remote| remote.port()),
            skaddr: (holder.sk != 0).then_some(Address(holder.sk)),
            cookie: holder.cookie,
            blocks: *blocks,
            rule: rule.map(Rule::name),
            named_by_kernel: *named_by_kernel,
            owner: owner.as_ref().map(OwnerFields::of),
            uid: holder.uid,
            reuseaddr: holder.reuseaddr,
            reuseport: holder.reuseport,
            v6only: holder.v6only,
            device: (holder.device != 0).then_some(holder.device),
            options: options.name(),
            since_ns: *since_ns,
            frees_in_ns: frees_at_ns.map(|at_ns| at_ns.saturating_sub(now_ns)),
        }
    }
}

#[derive(Serialize)]
struct PortFields {
    counted_ns: u64,
    low: u16,
    high: u16,
    reserved: u32,
    held: u32,
    by_state: ByState,
    destination: Option<SocketAddr>,
    to_destination: Option<ByState>,
}

impl PortFields {
    fn of(ports: &PortUse) -> Self {
        let PortUse {
            ts_ns,
            range: (low, high),
            reserved,
            held,
            by_state,
            to_destination,
            destination,
        } = *ports;
        Self {
            counted_ns: ts_ns,
            low,
            high,
            reserved,
            held,
            by_state: ByState(by_state),
            destination,
            to_destination: destination.map(|_| ByState(to_destination)),
        }
    }
}

/// An object: state → count, only those that occur.
struct ByState([u32; 14]);

impl Serialize for ByState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for state in TcpState::ALL {
            match self.0.get(usize::from(state.number())) {
                None | Some(0) => {}
                Some(count) => map.serialize_entry(state.name(), count)?,
            }
        }
        map.end()
    }
}

/// An array of objects, one a remedy.
struct Remedies<'a> {
    all: &'a [Remedy],
    free_in_ns: Option<u64>,
}

impl Serialize for Remedies<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.all
                .iter()
                .map(|remedy| RemedyFields::of(remedy, self.free_in_ns)),
        )
    }
}

/// A remedy, and what belongs to it.
#[derive(Serialize)]
struct RemedyFields<'a> {
    remedy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holders: Option<&'a [usize]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    for_ns: Option<u64>,
}

impl<'a> RemedyFields<'a> {
    fn of(remedy: &'a Remedy, free_in_ns: Option<u64>) -> Self {
        let name = Self {
            remedy: remedy.name(),
            addr: None,
            holders: None,
            value: None,
            for_ns: None,
        };
        match remedy {
            Remedy::OtherAddress(address) => Self {
                addr: Some(*address),
                ..name
            },
            Remedy::CloseHolders(indices) => Self {
                holders: Some(indices),
                ..name
            },
            Remedy::UnprivilegedPortStart(port) => Self {
                value: Some(*port),
                ..name
            },
            Remedy::Wait => Self {
                for_ns: free_in_ns,
                ..name
            },
            Remedy::ReuseaddrOnNew
            | Remedy::ReuseaddrOnBoth
            | Remedy::ReuseportOnNew
            | Remedy::ReuseportOnBoth
            | Remedy::V6onlyOnNew
            | Remedy::Freebind
            | Remedy::NonlocalBind
            | Remedy::Capability
            | Remedy::WiderPortRange
            | Remedy::OtherDestination
            | Remedy::TcpTwReuse
            | Remedy::AutobindReuse
            | Remedy::NewSocket
            | Remedy::ClearV6only => name,
        }
    }
}

/// An array of objects: how many calls failed in which way.
pub(super) struct FailedCounts<'a>(pub(super) &'a [((Call, u16, Rule), u64)]);

impl Serialize for FailedCounts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Failures {
            call: &'static str,
            errno: Option<String>,
            rule: &'static str,
            count: u64,
        }
        serializer.collect_seq(self.0.iter().map(|((call, error, rule), count)| Failures {
            call: call.name(),
            errno: names::error(*error),
            rule: rule.name(),
            count: *count,
        }))
    }
}
