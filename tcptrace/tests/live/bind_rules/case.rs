//! Owns what a case is: sockets that hold a port, and one that asks for it, in words.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcptrace_model::{Phase, TcpState};

/// Of loopback, beside ::1; `fd00::1` has global scope, so an interface does not matter to bind().
pub(super) const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// A user that is not root.
pub(super) const OTHER_USER: u32 = 1234;

/// A local address, with the family of the socket that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    V4Any,
    V4One,
    V4Two,
    MappedAny,
    MappedOne,
    MappedTwo,
    V6Any,
    V6One,
    V6Two,
}

impl Place {
    pub(super) const ALL: [Self; 9] = [
        Self::V4Any,
        Self::V4One,
        Self::V4Two,
        Self::MappedAny,
        Self::MappedOne,
        Self::MappedTwo,
        Self::V6Any,
        Self::V6One,
        Self::V6Two,
    ];

    pub(super) fn ip(self) -> IpAddr {
        let two = Ipv4Addr::new(127, 0, 0, 2);
        match self {
            Self::V4Any => Ipv4Addr::UNSPECIFIED.into(),
            Self::V4One => Ipv4Addr::LOCALHOST.into(),
            Self::V4Two => two.into(),
            Self::MappedAny => Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(),
            Self::MappedOne => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
            Self::MappedTwo => two.to_ipv6_mapped().into(),
            Self::V6Any => Ipv6Addr::UNSPECIFIED.into(),
            Self::V6One => Ipv6Addr::LOCALHOST.into(),
            Self::V6Two => OTHER_V6.into(),
        }
    }

    pub(super) fn is_ipv6_socket(self) -> bool {
        self.ip().is_ipv6()
    }

    pub(super) fn is_mapped(self) -> bool {
        matches!(self, Self::MappedAny | Self::MappedOne | Self::MappedTwo)
    }

    /// The addresses that a connection of a socket bound here can have: as the other end sees them.
    pub(super) fn reached_by(self, v6only: bool) -> &'static [Self] {
        match self {
            Self::V4Any | Self::MappedAny => &[Self::V4One, Self::V4Two],
            Self::V4One | Self::MappedOne => &[Self::V4One],
            Self::V4Two | Self::MappedTwo => &[Self::V4Two],
            Self::V6Any if v6only => &[Self::V6One, Self::V6Two],
            Self::V6Any => &[Self::V6One, Self::V4One, Self::V4Two, Self::V6Two],
            Self::V6One => &[Self::V6One],
            Self::V6Two => &[Self::V6Two],
        }
    }
}

/// `SO_BINDTODEVICE`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Device {
    None,
    Loopback,
    /// A second interface, on which nothing ever connects.
    Other,
}

/// What a socket has from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Traits {
    pub(super) place: Place,
    pub(super) v6only: bool,
    pub(super) reuseaddr: bool,
    pub(super) reuseport: bool,
    pub(super) other_user: bool,
    pub(super) device: Device,
}

impl Traits {
    pub(super) const fn at(place: Place) -> Self {
        Self {
            place,
            v6only: false,
            reuseaddr: false,
            reuseport: false,
            other_user: false,
            device: Device::None,
        }
    }
}

/// How a holder came to its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// bind(), and no connection.
    Bind,
    /// accept(); its listener is closed.
    Accept,
    /// bind() and then connect().
    BoundConnect,
    /// connect() alone.
    Connect,
}

/// The state in which a holder is when the port is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Status {
    Bound,
    Listen,
    /// It is only bound at the bind() of the other one, and listens before that one's listen().
    ListenInBetween,
    /// It listens, and a connection waits in its queue.
    ListenWithQueued,
    SynSent,
    Established,
    FinWait1,
    FinWait1Orphan,
    FinWait2,
    /// No descriptor, but still a full socket.
    FinWait2Orphan,
    FinWait2Minisocket,
    CloseWait,
    LastAck,
    LastAckOrphan,
    Closing,
    ClosingOrphan,
    TimeWait,
    /// The peer has reset it: what was bound keeps its port.
    Reset,
}

impl Status {
    /// Those of a connection.
    const CONNECTED: [Self; 12] = [
        Self::Established,
        Self::FinWait1,
        Self::FinWait1Orphan,
        Self::FinWait2,
        Self::FinWait2Orphan,
        Self::FinWait2Minisocket,
        Self::CloseWait,
        Self::LastAck,
        Self::LastAckOrphan,
        Self::Closing,
        Self::ClosingOrphan,
        Self::TimeWait,
    ];

    /// The kernel's state.
    pub(super) fn state(self) -> TcpState {
        match self {
            Self::Bound | Self::ListenInBetween | Self::Reset => TcpState::Close,
            Self::Listen | Self::ListenWithQueued => TcpState::Listen,
            Self::SynSent => TcpState::SynSent,
            Self::Established => TcpState::Established,
            Self::FinWait1 | Self::FinWait1Orphan => TcpState::FinWait1,
            Self::FinWait2 | Self::FinWait2Orphan | Self::FinWait2Minisocket => TcpState::FinWait2,
            Self::CloseWait => TcpState::CloseWait,
            Self::LastAck | Self::LastAckOrphan => TcpState::LastAck,
            Self::Closing | Self::ClosingOrphan => TcpState::Closing,
            Self::TimeWait => TcpState::TimeWait,
        }
    }

    /// Whether no descriptor is left of it.
    pub(super) fn is_closed(self) -> bool {
        match self {
            Self::FinWait1Orphan
            | Self::FinWait2Orphan
            | Self::FinWait2Minisocket
            | Self::LastAckOrphan
            | Self::ClosingOrphan
            | Self::TimeWait => true,
            Self::Bound
            | Self::Listen
            | Self::ListenInBetween
            | Self::ListenWithQueued
            | Self::SynSent
            | Self::Established
            | Self::FinWait1
            | Self::FinWait2
            | Self::CloseWait
            | Self::LastAck
            | Self::Closing
            | Self::Reset => false,
        }
    }

    pub(super) fn is_minisocket(self) -> bool {
        self.phase().is_some()
    }

    /// The phase of a minisocket.
    pub(super) fn phase(self) -> Option<Phase> {
        if self == Self::FinWait2Minisocket {
            Some(Phase::FinWait2)
        } else {
            (self == Self::TimeWait).then_some(Phase::TimeWait)
        }
    }

    pub(super) fn listens(self) -> bool {
        self.state() == TcpState::Listen
    }
}

/// A way to hold a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) origin: Origin,
    pub(super) status: Status,
}

impl Kind {
    /// All that there are.
    pub(super) fn all() -> Vec<Self> {
        let mut kinds = Vec::new();
        let mut add = |origin, statuses: &[Status]| {
            kinds.extend(statuses.iter().map(|&status| Self { origin, status }));
        };
        add(
            Origin::Bind,
            &[
                Status::Bound,
                Status::Listen,
                Status::ListenInBetween,
                Status::ListenWithQueued,
            ],
        );
        add(Origin::Accept, &Status::CONNECTED);
        add(Origin::BoundConnect, &Status::CONNECTED);
        add(Origin::BoundConnect, &[Status::SynSent, Status::Reset]);
        add(Origin::Connect, &Status::CONNECTED);
        add(Origin::Connect, &[Status::SynSent]);
        kinds
    }
}

/// An option changed after bind(), accept() or connect(), before the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Change {
    Reuseaddr(bool),
    Reuseport(bool),
}

/// A socket that holds the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Old {
    pub(super) traits: Traits,
    pub(super) kind: Kind,
    /// The address of this end of its connection, where there is a choice: an index.
    pub(super) via: usize,
    pub(super) late: Option<Change>,
}

impl Old {
    /// The address of this end of its connection.
    pub(super) fn local(&self) -> Place {
        let all = self.traits.place.reached_by(self.traits.v6only);
        all[self.via % all.len()]
    }
}

/// Which port is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wish {
    /// bind() to the port of the holders.
    ThatPort,
    /// bind() to port 0, when that port is the only one that the kernel may choose.
    AnyPort { autobind_reuse: bool },
    /// bind() to port 0, when that port is reserved and the only one of the range.
    ReservedPort,
    /// listen() without a bind(), when that port is the only one that the kernel may choose.
    ListenOnly,
}

/// A case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Case {
    pub(super) old: Vec<Old>,
    pub(super) new: Traits,
    pub(super) wish: Wish,
}

impl fmt::Display for Traits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |set: bool, name: &'static str| if set { name } else { "" };
        write!(
            f,
            "{}{}{}{}{}{}",
            self.place.ip(),
            flag(self.v6only, " v6only"),
            flag(self.reuseaddr, " REUSEADDR"),
            flag(self.reuseport, " REUSEPORT"),
            flag(self.other_user, " other-user"),
            match self.device {
                Device::None => "",
                Device::Loopback => " device=lo",
                Device::Other => " device=other",
            }
        )
    }
}

impl fmt::Display for Old {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kind { origin, status } = self.kind;
        write!(f, "{origin:?} {status:?} {}", self.traits)?;
        if origin != Origin::Bind || status == Status::ListenWithQueued {
            write!(f, " via {}", self.local().ip())?;
        }
        match self.late {
            None => Ok(()),
            Some(change) => write!(f, " then {change:?}"),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let old: Vec<_> = self.old.iter().map(ToString::to_string).collect();
        write!(
            f,
            "held by [{}]; {:?} wanted by {}",
            old.join(" | "),
            self.wish,
            self.new
        )
    }
}
