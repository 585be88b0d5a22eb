//! One change of state of one socket, in the same shape whoever reported it, kernel or tracer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// The kernel's TCP states by number (`include/net/tcp_states.h`, v6.18), in the kernel's spelling.
const NAMES: [&str; 12] = [
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
];

/// A TCP state, by the kernel's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct State(u8);

impl State {
    pub(crate) const ESTABLISHED: Self = Self(1);
    pub(crate) const SYN_SENT: Self = Self(2);
    pub(crate) const SYN_RECV: Self = Self(3);
    pub(crate) const FIN_WAIT1: Self = Self(4);
    pub(crate) const FIN_WAIT2: Self = Self(5);
    pub(crate) const TIME_WAIT: Self = Self(6);
    pub(crate) const CLOSE: Self = Self(7);
    pub(crate) const CLOSE_WAIT: Self = Self(8);
    pub(crate) const LAST_ACK: Self = Self(9);
    pub(crate) const LISTEN: Self = Self(10);
    pub(crate) const CLOSING: Self = Self(11);

    /// The state with this number, if the kernel has one.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        (1..=12).contains(&number).then_some(Self(number))
    }

    /// The state with exactly this name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let index = NAMES.iter().position(|known| *known == name)?;
        Some(Self(u8::try_from(index).ok()? + 1))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(NAMES[usize::from(self.0) - 1])
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What both sides must agree on about a change of state, to the last bit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Step {
    /// The address of the kernel's socket.
    pub(crate) skaddr: u64,
    /// Whether the socket is `AF_INET6`; a v4-mapped one is.
    pub(crate) ipv6: bool,
    pub(crate) laddr: IpAddr,
    pub(crate) lport: u16,
    pub(crate) raddr: IpAddr,
    pub(crate) rport: u16,
    pub(crate) old: State,
    pub(crate) new: State,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:#x} {} [{}]:{} -> [{}]:{} {} -> {}",
            self.skaddr,
            if self.ipv6 { "ipv6" } else { "ipv4" },
            self.laddr,
            self.lport,
            self.raddr,
            self.rport,
            self.old,
            self.new
        )
    }
}

/// A change of state and when it happened, on `CLOCK_BOOTTIME`.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) ts_ns: u64,
    /// The thread on the CPU, where the kernel's own trace tells; 0 in the tracer's lines.
    pub(crate) tid: u32,
    pub(crate) step: Step,
}

/// Everything that one socket went through, in order.
pub(crate) type Life = Vec<Event>;

/// Splits events into the lives of sockets.
///
/// The kernel reuses the memory of a socket within milliseconds; a life begins where a socket leaves
/// CLOSE, or where a listener's child appears (LISTEN to SYN_RECV is the child's own first event).
pub(crate) fn lives(events: &[Event]) -> Vec<Life> {
    let mut ordered: Vec<&Event> = events.iter().collect();
    ordered.sort_by_key(|event| event.ts_ns);
    let mut current: BTreeMap<u64, Life> = BTreeMap::new();
    let mut finished = Vec::new();
    for event in ordered {
        let step = &event.step;
        let begins =
            step.old == State::CLOSE || (step.old == State::LISTEN && step.new == State::SYN_RECV);
        let life = current.entry(step.skaddr).or_default();
        if begins && !life.is_empty() {
            finished.push(std::mem::take(life));
        }
        life.push(event.clone());
    }
    finished.extend(current.into_values());
    finished.sort_by_key(|life| life.first().map(|event| event.ts_ns));
    finished
}

/// Whether any event of the life has one of these ports on either side.
pub(crate) fn touches(life: &Life, ports: &[u16]) -> bool {
    has_local(life, ports) || has_remote(life, ports)
}

/// Whether any event of the life has one of these ports as its own.
pub(crate) fn has_local(life: &Life, ports: &[u16]) -> bool {
    life.iter().any(|event| ports.contains(&event.step.lport))
}

/// Whether any event of the life has one of these ports as its peer's.
pub(crate) fn has_remote(life: &Life, ports: &[u16]) -> bool {
    life.iter().any(|event| ports.contains(&event.step.rport))
}

/// Whether the socket of this life has come to its end.
pub(crate) fn is_over(life: &Life) -> bool {
    life.last()
        .is_some_and(|event| event.step.new == State::CLOSE)
}
