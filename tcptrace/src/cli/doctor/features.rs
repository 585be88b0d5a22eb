//! Owns the list of what tcptrace can show, and how much of it the running kernel allows. The same list
//! is in docs/kernel-support.md.

use std::{net::Ipv4Addr, path::Path};

use serde::Serialize;
use socket2::{Domain, Socket, Type};
use tcptrace_common::TcpState;

use crate::{
    bpf::{calls::CallsBackend, holders::Lister, hooks::TimeWaitBackend, offsets::KernelTypes},
    host::{clock, port_sockets},
    source::abilities::Abilities,
};

/// How much of a feature there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Support {
    /// All of it.
    Full,
    /// Some of it, as `why` says.
    Partial,
    /// None of it.
    None,
}

/// Something that tcptrace can show.
#[derive(Debug, Serialize)]
pub(super) struct Feature {
    pub(super) name: &'static str,
    /// What it shows.
    pub(super) shows: &'static str,
    /// The first version of Linux that can have all of it.
    pub(super) since: &'static str,
    /// What that version brought.
    pub(super) because: &'static str,
    /// What is missing without it.
    pub(super) without: &'static str,
}

/// A feature on the running kernel.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    #[serde(flatten)]
    pub(super) feature: &'static Feature,
    pub(super) support: Support,
    /// What it is seen by.
    pub(super) by: Option<&'static str>,
    /// Why there is not all of it.
    pub(super) why: Option<String>,
}

const RING_BUFFER: &str = "the eBPF ring buffer (kernel/bpf/ringbuf.c)";

const TRANSITIONS: Feature = Feature {
    name: "transitions",
    shows: "every change of state of a TCP socket, with its cause where it closes",
    since: "5.8",
    because: RING_BUFFER,
    without: "nothing can be traced",
};
const TIME_WAIT: Feature = Feature {
    name: "time_wait",
    shows: "TIME_WAIT and orphaned FIN_WAIT2: when it began, how long it lasted",
    since: "5.8",
    because: RING_BUFFER,
    without: "neither its beginning nor its end is seen",
};
const FIN_DATE: Feature = Feature {
    name: "fin_date",
    shows: "when the peer's FIN turned an orphaned FIN_WAIT2 into TIME_WAIT",
    since: "5.8",
    because: "fexit on __inet_twsk_schedule; by timers it takes tw_entry_stamp (6.14, include/net/inet_timewait_sock.h)",
    without: "the date is inferred, and marked so",
};
const TIME_WAIT_END: Feature = Feature {
    name: "time_wait_end",
    shows: "what ended a TIME_WAIT before its time",
    since: "5.8",
    because: "the kernel's stack and /proc/kallsyms; by timers it takes the RSTs of minisockets (6.10)",
    without: "a new SYN and data after the close are not told apart, and the end is unknown",
};
const RESETS: Feature = Feature {
    name: "resets",
    shows: "RSTs, and who sent them",
    since: "5.8",
    because: RING_BUFFER,
    without: "a reset by the peer is not told from other errors",
};
const RESET_REASONS: Feature = Feature {
    name: "reset_reasons",
    shows: "the kernel's reason for a RST, and RSTs of minisockets",
    since: "6.10",
    because: "the tracepoint tcp_send_reset has a reason (include/trace/events/tcp.h)",
    without: "SO_LINGER 0 and unread data at once are not told apart: the cause is inferred",
};
const CALLS: Feature = Feature {
    name: "calls",
    shows: "bind(), listen() and connect() that fail, and the rule by which they do",
    since: "5.8",
    because: RING_BUFFER,
    without: "no call that fails is shown or explained",
};
const SECURITY_MODULES: Feature = Feature {
    name: "security_modules",
    shows: "that it was a security module which refused a call",
    since: "5.8",
    because: "fexit on security_socket_bind, _listen and _connect",
    without: "its refusal is told as any other with the same errno",
};
const FIRST_HOLDER: Feature = Feature {
    name: "first_holder",
    shows: "which holder of a port the kernel met first",
    since: "5.8",
    because: "fexit on inet_bind_conflict (6.1) or inet_rcv_saddr_equal, where the compiler has left one of them",
    without: "all holders are listed, without saying which came first",
};
const HOLDERS: Feature = Feature {
    name: "holders",
    shows: "who holds a port, in which state and with which options, from the kernel's own table",
    since: "5.8",
    because: "the walk of tcp_hashinfo.bhash fits the verifier",
    without: "holders are those that the trace has seen; options of older ones are unknown",
};
const EXPLAIN: Feature = Feature {
    name: "explain",
    shows: "`tcptrace explain`: the same without a trace",
    since: "5.10",
    because: "raw tracepoint programs can be run by BPF_PROG_TEST_RUN (net/bpf/test_run.c)",
    without: "holders come from sock_diag, which does not tell SO_REUSEADDR and SO_REUSEPORT",
};
const ACCEPT: Feature = Feature {
    name: "accept",
    shows: "which process accepted a connection",
    since: "5.8",
    because: RING_BUFFER,
    without: "the owner is that of the listener, until somebody closes it",
};
const SNAPSHOT: Feature = Feature {
    name: "snapshot",
    shows: "sockets that are older than the trace, and their processes",
    since: "5.8",
    because: "sock_diag (net/ipv4/inet_diag.c), a module on many kernels",
    without: "a socket is known from its first event on",
};
const ONLY_BOUND: Feature = Feature {
    name: "only_bound",
    shows: "sockets that are only bound, among the ports in use",
    since: "6.8",
    because: "sock_diag lists them (TCPF_BOUND_INACTIVE, include/net/tcp_states.h)",
    without: "counts of ports in use lack them",
};

/// Every feature, on a kernel that can be traced: `abilities`; or on one that cannot. `btf`: the user's file of
/// the kernel's types, if there is one.
pub(super) fn all(abilities: Option<&Abilities>, btf: Option<&Path>) -> Vec<Found> {
    match abilities {
        Some(abilities) => of_trace(abilities, btf),
        None => [
            &TRANSITIONS,
            &TIME_WAIT,
            &FIN_DATE,
            &TIME_WAIT_END,
            &RESETS,
            &RESET_REASONS,
            &CALLS,
            &SECURITY_MODULES,
            &FIRST_HOLDER,
            &HOLDERS,
            &EXPLAIN,
            &ACCEPT,
        ]
        .into_iter()
        .map(|feature| none(feature, "this machine cannot trace"))
        .chain(of_sock_diag())
        .collect(),
    }
}

fn of_trace(can: &Abilities, btf: Option<&Path>) -> Vec<Found> {
    let mut all = vec![full(&TRANSITIONS, Some("raw_tracepoint"))];
    all.extend(of_minisockets(can));
    all.push(match &can.no_resets {
        None => full(&RESETS, Some("raw_tracepoint")),
        Some(why) => none(&RESETS, why),
    });
    all.push(if can.reset_reasons {
        full(&RESET_REASONS, Some("raw_tracepoint"))
    } else {
        none(&RESET_REASONS, "this kernel's tcp_send_reset has no reason")
    });
    all.extend(of_calls(can));
    all.push(explain(btf));
    all.push(match can.accepts {
        Some(backend) => full(&ACCEPT, Some(backend.name())),
        None => none(
            &ACCEPT,
            "neither inet_csk_accept nor accept() can be watched",
        ),
    });
    all.extend(of_sock_diag());
    all
}

fn of_minisockets(can: &Abilities) -> [Found; 3] {
    let backend = match &can.time_wait {
        Ok(backend) => *backend,
        Err(why) => {
            return [&TIME_WAIT, &FIN_DATE, &TIME_WAIT_END].map(|feature| none(feature, why));
        }
    };
    let by = Some(backend.name());
    let fin_date = match backend {
        TimeWaitBackend::Fentry => full(&FIN_DATE, by),
        TimeWaitBackend::Timer if can.entry_stamp => partial(
            &FIN_DATE,
            by,
            "the timers do not show it; tw_entry_stamp has it in whole milliseconds, if the connection has timestamps",
        ),
        TimeWaitBackend::Timer => partial(
            &FIN_DATE,
            by,
            "the timers do not show it; when they run out is known within a tick",
        ),
    };
    let end = match (&can.no_symbols, backend) {
        (Some(why), _) => none(&TIME_WAIT_END, why),
        (None, TimeWaitBackend::Timer) if !can.reset_reasons => partial(
            &TIME_WAIT_END,
            by,
            "the timers do not show it, and this kernel does not report the RSTs of minisockets",
        ),
        (None, _) => full(&TIME_WAIT_END, by),
    };
    [full(&TIME_WAIT, by), fin_date, end]
}

fn of_calls(can: &Abilities) -> [Found; 4] {
    let backend = match &can.calls {
        Ok(backend) => *backend,
        Err(why) => {
            return [&CALLS, &SECURITY_MODULES, &FIRST_HOLDER, &HOLDERS]
                .map(|feature| none(feature, why));
        }
    };
    let [security_modules, first_holder] = match (backend, can.in_the_way) {
        (CallsBackend::Syscalls, _) => [&SECURITY_MODULES, &FIRST_HOLDER]
            .map(|feature| none(feature, "the tracepoints of system calls do not show it")),
        (CallsBackend::Fentry, Some(function)) => [
            full(&SECURITY_MODULES, Some(backend.name())),
            full(&FIRST_HOLDER, Some(function)),
        ],
        (CallsBackend::Fentry, None) => [
            full(&SECURITY_MODULES, Some(backend.name())),
            none(
                &FIRST_HOLDER,
                "the compiler has left nothing of inet_bind_conflict and inet_rcv_saddr_equal to attach to",
            ),
        ],
    };
    let holders = match &can.no_lists {
        None => full(&HOLDERS, Some(backend.name())),
        Some(why) => none(&HOLDERS, why),
    };
    [
        full(&CALLS, Some(backend.name())),
        security_modules,
        first_holder,
        holders,
    ]
}

/// Runs the program once, on a port that nobody has.
fn explain(btf: Option<&Path>) -> Found {
    let listed = KernelTypes::of(btf)
        .and_then(|types| Lister::load(&types))
        .and_then(|mut lister| lister.list(1, 0, |_| true));
    match listed {
        Ok(_) => full(&EXPLAIN, Some("raw_tracepoint")),
        Err(error) => partial(&EXPLAIN, Some("sock_diag"), format!("{error:#}")),
    }
}

/// Lists a socket of our own that is only bound: neither it nor anything else changes by that.
fn of_sock_diag() -> [Found; 2] {
    let listed = bound().and_then(|(socket, port)| {
        let listed = port_sockets::list_here(port, &clock::boottime_ns);
        drop(socket);
        listed
    });
    match listed {
        Err(why) => [&SNAPSHOT, &ONLY_BOUND].map(|feature| none(feature, &why)),
        Ok(listed) => {
            let snapshot = full(&SNAPSHOT, Some("sock_diag"));
            let only_bound = if listed.iter().any(|one| one.state == TcpState::Close) {
                full(&ONLY_BOUND, Some("sock_diag"))
            } else {
                none(&ONLY_BOUND, "this kernel's sock_diag does not list them")
            };
            [snapshot, only_bound]
        }
    }
}

/// A socket that is only bound, and its port.
fn bound() -> Result<(Socket, u16), String> {
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let port = socket
            .local_addr()?
            .as_socket()
            .map_or(0, |address| address.port());
        Ok((socket, port))
    };
    open().map_err(|error: std::io::Error| format!("no port of 127.0.0.1 could be bound: {error}"))
}

fn full(feature: &'static Feature, by: Option<&'static str>) -> Found {
    Found {
        feature,
        support: Support::Full,
        by,
        why: None,
    }
}

fn partial(feature: &'static Feature, by: Option<&'static str>, why: impl Into<String>) -> Found {
    Found {
        feature,
        support: Support::Partial,
        by,
        why: Some(why.into()),
    }
}

fn none(feature: &'static Feature, why: &str) -> Found {
    Found {
        feature,
        support: Support::None,
        by: None,
        why: Some(why.to_owned()),
    }
}
