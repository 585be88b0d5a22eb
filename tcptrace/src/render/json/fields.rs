//! Owns the parts that JSON lines of several kinds share: sockets, processes, durations, counts.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
};

use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeMap},
};
use tcptrace_model::{
    Direction, Doubt, Doubts, Durations, Minisocket, Owner, PeerEnd, Process, ResetReason,
    ResetSeen, Socket, StateSpan, Task,
};

use crate::render::escape::Escaped;

/// A word of this program's own, in which nothing needs escaping.
#[derive(Clone, Copy)]
pub(super) struct Word(pub(super) &'static str);

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // What any format writes as the name that it is, and ours without looking at it.
        serializer.serialize_unit_variant("Word", 0, self.0)
    }
}

/// What identifies a socket or a minisocket, and who owns it.
#[derive(Serialize)]
pub(super) struct SocketFields<'a> {
    netns: Option<u32>,
    family: Word,
    laddr: IpAddr,
    lport: u16,
    raddr: IpAddr,
    rport: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    skaddr: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    twaddr: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<NonZeroU64>,
    owner: Option<OwnerFields<'a>>,
}

impl<'a> SocketFields<'a> {
    pub(super) fn of_socket(socket: &Socket, owner: Option<&'a Owner>) -> Self {
        let Socket {
            sk,
            cookie,
            netns,
            cgroup_id: _,
            uid: _,
            local,
            remote,
            reuseaddr: _,
            reuseport: _,
        } = *socket;
        Self {
            skaddr: (sk != 0).then_some(Address(sk)),
            ..Self::of(netns, local, remote, cookie, owner)
        }
    }

    pub(super) fn of_minisocket(
        minisocket: &Minisocket,
        sk: Option<u64>,
        owner: Option<&'a Owner>,
    ) -> Self {
        let Minisocket {
            tw,
            cookie,
            netns,
            local,
            remote,
            reuseaddr: _,
            reuseport: _,
        } = *minisocket;
        Self {
            skaddr: sk.map(Address),
            twaddr: (tw != 0).then_some(Address(tw)),
            ..Self::of(netns, local, remote, cookie, owner)
        }
    }

    fn of(
        netns: Option<u32>,
        local: SocketAddr,
        remote: SocketAddr,
        cookie: Option<NonZeroU64>,
        owner: Option<&'a Owner>,
    ) -> Self {
        Self {
            netns,
            family: Word(if local.is_ipv4() { "ipv4" } else { "ipv6" }),
            laddr: local.ip(),
            lport: local.port(),
            raddr: remote.ip(),
            rport: remote.port(),
            skaddr: None,
            twaddr: None,
            cookie,
            owner: owner.map(OwnerFields::of),
        }
    }
}

/// What a full socket has beside that. Nothing of it is known of one that only a snapshot has shown.
#[derive(Serialize)]
pub(super) struct Options {
    uid: Option<u32>,
    cgroup_id: Option<u64>,
    reuseaddr: Option<bool>,
    reuseport: Option<bool>,
}

impl Options {
    pub(super) fn of(socket: &Socket) -> Self {
        let is_known = socket.sk != 0;
        Self {
            uid: is_known.then_some(socket.uid),
            cgroup_id: socket.cgroup_id,
            reuseaddr: is_known.then_some(socket.reuseaddr),
            reuseport: is_known.then_some(socket.reuseport),
        }
    }
}

#[derive(Serialize)]
pub(super) struct CurrentTask<'a> {
    pid: u32,
    tid: u32,
    comm: Escaped<'a>,
}

impl<'a> CurrentTask<'a> {
    pub(super) fn of(task: &'a Task) -> Self {
        Self {
            pid: task.pid,
            tid: task.tid,
            comm: Escaped(task.comm.as_bytes()),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ProcessFields<'a> {
    pid: u32,
    comm: Escaped<'a>,
}

impl<'a> ProcessFields<'a> {
    pub(super) fn of(process: &'a Process) -> Self {
        Self {
            pid: process.pid,
            comm: Escaped(process.comm.as_bytes()),
        }
    }
}

#[derive(Serialize)]
pub(super) struct OwnerFields<'a> {
    pid: u32,
    comm: Escaped<'a>,
    source: Word,
}

impl<'a> OwnerFields<'a> {
    pub(super) fn of(owner: &'a Owner) -> Self {
        Self {
            pid: owner.process.pid,
            comm: Escaped(owner.process.comm.as_bytes()),
            source: Word(owner.source.name()),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ResetFields {
    direction: &'static str,
    pub(super) reason: Option<&'static str>,
    ts_ns: u64,
}

impl ResetFields {
    pub(super) fn of(reset: &ResetSeen) -> Self {
        Self {
            direction: match reset.direction {
                Direction::Sent => "sent",
                Direction::Received => "received",
            },
            reason: reset.reason.map(ResetReason::name),
            ts_ns: reset.ts_ns,
        }
    }
}

#[derive(Serialize)]
pub(super) struct PeerFields<'a> {
    skaddr: Address,
    netns: Option<u32>,
    owner: Option<OwnerFields<'a>>,
}

impl<'a> PeerFields<'a> {
    pub(super) fn of(peer: &'a PeerEnd) -> Self {
        Self {
            skaddr: Address(peer.sk),
            netns: peer.netns,
            owner: peer.owner.as_ref().map(OwnerFields::of),
        }
    }
}

#[derive(Serialize)]
pub(super) struct DurationFields<'a> {
    count: u64,
    min_ns: u64,
    median_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    width_ns: u64,
    histogram: Histogram<'a>,
}

impl<'a> DurationFields<'a> {
    pub(super) fn of(durations: &'a Durations) -> Self {
        let Durations {
            count,
            min_ns,
            median_ns,
            p90_ns,
            p99_ns,
            max_ns,
            histogram,
            width_ns,
        } = durations;
        Self {
            count: *count,
            min_ns: *min_ns,
            median_ns: *median_ns,
            p90_ns: *p90_ns,
            p99_ns: *p99_ns,
            max_ns: *max_ns,
            width_ns: *width_ns,
            histogram: Histogram(histogram),
        }
    }
}

/// An address of the kernel, hexadecimal.
pub(super) struct Address(pub(super) u64);

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // By hand: there is one in each line, and what formats any number takes some ten times as long.
        let digit = |half: u8| b"0123456789abcdef"[usize::from(half & 15)];
        let mut text = [0; 18];
        let (pairs, _) = text[2..].as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(self.0.to_be_bytes()) {
            *pair = [digit(byte >> 4), digit(byte)];
        }
        let start = (self.0.leading_zeros() / 4).min(15) as usize;
        text[start..start + 2].copy_from_slice(b"0x");
        let text = str::from_utf8(&text[start..]).map_err(S::Error::custom)?;
        serializer.serialize_str(text)
    }
}

/// An array of names.
pub(super) struct DoubtNames(pub(super) Doubts);

impl Serialize for DoubtNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Doubt::name))
    }
}

/// An array of objects, one a state.
pub(super) struct Spans<'a>(pub(super) &'a [StateSpan]);

impl Serialize for Spans<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Span {
            state: Word,
            entered_ns: Option<u64>,
            ns: Option<u64>,
        }
        serializer.collect_seq(self.0.iter().map(|span| Span {
            state: Word(span.state.name()),
            entered_ns: span.entered_ns,
            ns: span.ns,
        }))
    }
}

/// An array of objects, one a range.
struct Histogram<'a>(&'a [(u64, u64)]);

impl Serialize for Histogram<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Range {
            from_ns: u64,
            count: u64,
        }
        serializer.collect_seq(
            self.0
                .iter()
                .map(|&(from_ns, count)| Range { from_ns, count }),
        )
    }
}

/// An object: name → count.
pub(super) struct Counts(Vec<(&'static str, u64)>);

impl Counts {
    pub(super) fn of(counts: impl Iterator<Item = (&'static str, u64)>) -> Self {
        Self(counts.collect())
    }
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, count) in &self.0 {
            map.serialize_entry(name, count)?;
        }
        map.end()
    }
}
