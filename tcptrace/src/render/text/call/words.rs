//! Owns the phrases of calls: what rules and the sockets in the way are called.

use tcptrace_model::{
    Phase, TcpState,
    conflict::{Call, Rule},
};

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Subject {
    /// What answered from outside, or the course of the call, and not who holds which port: then one line
    /// says it all.
    Network,
    /// Other sockets, which are in the way of this one port.
    Holders,
    /// The call itself, this host's settings, or its ports as a whole.
    Call,
}

/// What `rule` is about.
pub(in super::super) fn subject(rule: Rule) -> Subject {
    match rule {
        Rule::Refused
        | Rule::Unreachable
        | Rule::TimedOut
        | Rule::AlreadyConnected
        | Rule::AlreadyConnecting
        | Rule::Interrupted => Subject::Network,
        Rule::PortHeld
        | Rule::PortListening
        | Rule::ReuseportOtherUser
        | Rule::TupleInUse
        | Rule::TupleInTimeWait => Subject::Holders,
        Rule::SecurityModule
        | Rule::CgroupProgram
        | Rule::AddressLength
        | Rule::AddressFamily
        | Rule::Multicast
        | Rule::MappedOnV6only
        | Rule::LinkLocalWithoutScope
        | Rule::NoSuchDevice
        | Rule::AddressNotLocal
        | Rule::PrivilegedPort
        | Rule::AlreadyBound
        | Rule::NoFreePort
        | Rule::CannotListen
        | Rule::PortsExhausted
        | Rule::NoSourceAddress
        | Rule::Broadcast
        | Rule::NotPermitted
        | Rule::NoMemory
        | Rule::Unknown => Subject::Call,
    }
}

/// A row of the summary.
pub(in super::super) fn rule(rule: Rule) -> &'static str {
    match rule {
        Rule::SecurityModule => "refused by a security module",
        Rule::CgroupProgram => "refused by an eBPF program",
        Rule::AddressLength => "address too short",
        Rule::AddressFamily => "wrong address family",
        Rule::Multicast => "multicast address",
        Rule::MappedOnV6only => "IPv4 address with IPV6_V6ONLY",
        Rule::LinkLocalWithoutScope => "link-local address without interface",
        Rule::NoSuchDevice => "no such interface",
        Rule::AddressNotLocal => "address not of this host",
        Rule::PrivilegedPort => "privileged port",
        Rule::AlreadyBound => "socket bound already",
        Rule::PortHeld => "port held",
        Rule::PortListening => "port has a listener",
        Rule::ReuseportOtherUser => "SO_REUSEPORT of another user",
        Rule::NoFreePort => "no free port",
        Rule::CannotListen => "socket cannot listen",
        Rule::PortsExhausted => "ports exhausted",
        Rule::TupleInUse => "connection exists",
        Rule::TupleInTimeWait => "connection in TIME_WAIT",
        Rule::NoSourceAddress => "no source address",
        Rule::Refused => "refused by the peer",
        Rule::Unreachable => "unreachable",
        Rule::TimedOut => "no answer",
        Rule::AlreadyConnected => "connected already",
        Rule::AlreadyConnecting => "connecting already",
        Rule::Broadcast => "broadcast address",
        Rule::NotPermitted => "not permitted",
        Rule::Interrupted => "interrupted by a signal",
        Rule::NoMemory => "no memory",
        Rule::Unknown => "not known why",
    }
}

/// Sockets in a state: `a listener`, `3 connections in TIME_WAIT`.
pub(super) fn sockets(state: TcpState, phase: Option<Phase>, count: usize) -> String {
    let connections = |kind: &str| match count {
        1 => format!("{kind}connection in {}", state.name()),
        _ => format!("{kind}connections in {}", state.name()),
    };
    let noun = match (state, phase) {
        (TcpState::Listen, _) if count == 1 => "listener".to_owned(),
        (TcpState::Listen, _) => "listeners".to_owned(),
        (TcpState::Close | TcpState::BoundInactive, _) if count == 1 => {
            "socket that is only bound".to_owned()
        }
        (TcpState::Close | TcpState::BoundInactive, _) => "sockets that are only bound".to_owned(),
        (TcpState::FinWait2, Some(_)) => connections("orphaned "),
        (
            TcpState::Established
            | TcpState::SynSent
            | TcpState::SynRecv
            | TcpState::NewSynRecv
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::TimeWait
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing,
            _,
        ) => connections(""),
    };
    match count {
        1 if noun.starts_with('o') => format!("an {noun}"),
        1 => format!("a {noun}"),
        _ => format!("{count} {noun}"),
    }
}

/// Whether a socket in this state has a peer.
pub(super) fn is_connection(state: TcpState) -> bool {
    match state {
        TcpState::Established
        | TcpState::SynSent
        | TcpState::SynRecv
        | TcpState::NewSynRecv
        | TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::TimeWait
        | TcpState::CloseWait
        | TcpState::LastAck
        | TcpState::Closing => true,
        TcpState::Listen | TcpState::Close | TcpState::BoundInactive => false,
    }
}

/// What a count of sockets by state calls a state.
pub(super) fn counted(state: TcpState) -> &'static str {
    match state {
        TcpState::Close | TcpState::BoundInactive => "only bound",
        TcpState::Established
        | TcpState::SynSent
        | TcpState::SynRecv
        | TcpState::NewSynRecv
        | TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::TimeWait
        | TcpState::CloseWait
        | TcpState::LastAck
        | TcpState::Closing
        | TcpState::Listen => state.name(),
    }
}

/// `bind()`
pub(super) fn function(call: Call) -> &'static str {
    match call {
        Call::Bind => "bind()",
        Call::Listen => "listen()",
        Call::Connect => "connect()",
    }
}
