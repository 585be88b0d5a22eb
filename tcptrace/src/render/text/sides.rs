//! Owns the two sides of a story: the client left, the server right, whichever ended first.

use std::net::SocketAddr;

use tcptrace_model::{CloseSequence, ClosedFirst, Connection, Owner, Phase, Role, Story, TcpState};

use super::words;
use crate::render::endpoint::Endpoint;

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side<'a> {
    /// Its address and port.
    pub(super) address: SocketAddr,
    /// What it was in the handshake; where only the other end's role is known, the other role.
    pub(super) role: Role,
    /// Who owns it.
    pub(super) owner: Option<&'a Owner>,
    /// What is known of it; `None` when it was not traced, or is open still.
    pub(super) connection: Option<&'a Connection>,
    /// The state in which it is open still.
    pub(super) open_in: Option<TcpState>,
    /// It is on this host, and had a story of its own: the other one ended much later.
    pub(super) told_before: bool,
}

impl Side<'_> {
    /// Whether anything was seen of it.
    pub(super) fn is_traced(&self) -> bool {
        self.connection.is_some() || self.open_in.is_some()
    }

    /// `client`, `server`, or where that is not known the address.
    pub(super) fn name(&self) -> String {
        match self.role {
            Role::Client | Role::Server => self.role.name().to_owned(),
            Role::Unknown if self.is_traced() => self.address.to_string(),
            Role::Unknown => "the peer".to_owned(),
        }
    }

    /// The name with the owner: `client curl[812]`.
    pub(super) fn full_name(&self) -> String {
        match self.owner {
            Some(owner) => [self.name(), words::owner(owner)].join(" "),
            None => self.name(),
        }
    }

    /// Where it is: `the client, 127.0.0.1:40000`.
    pub(super) fn place(&self) -> String {
        match self.role {
            Role::Client | Role::Server => {
                format!("the {}, {}", self.role.name(), Endpoint(self.address))
            }
            Role::Unknown => self.address.to_string(),
        }
    }

    /// When it entered this state, the last time.
    pub(super) fn entered_ns(&self, state: TcpState) -> Option<u64> {
        self.connection?
            .states
            .iter()
            .rev()
            .find(|span| span.state == state)
            .and_then(|span| span.entered_ns)
    }
}

/// Both ends, by their place on the screen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides<'a> {
    /// The client, if it is known which end is.
    pub(super) left: Side<'a>,
    /// The other one.
    pub(super) right: Side<'a>,
}

/// Which of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Left,
    Right,
}

impl Place {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

impl<'a> Sides<'a> {
    pub(super) fn of(story: &'a Story) -> Self {
        let Story {
            first,
            second,
            open_peer,
        } = story;
        let second = second.as_ref();
        let open_peer = open_peer.as_ref();
        let second_role = second.map_or(Role::Unknown, |second| second.role);
        let one = Side {
            address: first.socket.local,
            role: known_or_opposite(first.role, second_role),
            owner: first.owner.as_ref(),
            connection: Some(first),
            open_in: None,
            told_before: false,
        };
        let peer_owner = open_peer
            .and_then(|(peer, _)| peer.owner.as_ref())
            .or_else(|| first.peer.as_ref().and_then(|peer| peer.owner.as_ref()));
        let other = Side {
            address: second.map_or(first.socket.remote, |second| second.socket.local),
            role: known_or_opposite(second_role, first.role),
            owner: second
                .and_then(|second| second.owner.as_ref())
                .or(peer_owner),
            connection: second,
            open_in: open_peer.map(|(_, state)| *state),
            told_before: second.is_none() && open_peer.is_none() && first.peer.is_some(),
        };
        match one.role {
            Role::Client | Role::Unknown => Self {
                left: one,
                right: other,
            },
            Role::Server => Self {
                left: other,
                right: one,
            },
        }
    }

    pub(super) fn at(&self, place: Place) -> &Side<'a> {
        match place {
            Place::Left => &self.left,
            Place::Right => &self.right,
        }
    }

    /// `127.0.0.1:40000 -> 127.0.0.1:8000`: from the client to the server.
    pub(super) fn heading(&self) -> String {
        let arrow = match self.left.role {
            Role::Client | Role::Server => "->",
            Role::Unknown => "--",
        };
        let (left, right) = (Endpoint(self.left.address), Endpoint(self.right.address));
        format!("{left} {arrow} {right}")
    }

    /// Whose FIN came first, by what either end knows.
    pub(super) fn closed_first(&self) -> Option<Closer> {
        let by = |place: Place| {
            let connection = self.at(place).connection?;
            let first = match connection.close {
                CloseSequence::LocalFirst => Some(ClosedFirst::Local),
                CloseSequence::RemoteFirst => Some(ClosedFirst::Remote),
                CloseSequence::Simultaneous => Some(ClosedFirst::Both),
                CloseSequence::ResetSent
                | CloseSequence::ResetReceived
                | CloseSequence::TimedOut
                | CloseSequence::Refused
                | CloseSequence::Aborted
                | CloseSequence::NeverEstablished
                | CloseSequence::Unknown => connection.closed_first,
            };
            first.map(|first| match first {
                ClosedFirst::Local => Closer::One(place),
                ClosedFirst::Remote => Closer::One(place.other()),
                ClosedFirst::Both => Closer::Both,
            })
        };
        by(Place::Left).or_else(|| by(Place::Right))
    }

    /// Whether that end is in TIME_WAIT after its socket's end: it said so itself, or its minisocket
    /// waited for the other end's FIN, and has acknowledged it.
    pub(super) fn has_time_wait(&self, place: Place) -> bool {
        match self.at(place).connection.and_then(|end| end.minisocket) {
            Some(Phase::TimeWait) => true,
            Some(Phase::FinWait2) => self.fin_was_acknowledged(place.other()),
            None => false,
        }
    }

    /// Whether this end's FIN, the second one, was acknowledged.
    pub(super) fn fin_was_acknowledged(&self, place: Place) -> bool {
        self.at(place).connection.is_some_and(|end| {
            end.close == CloseSequence::RemoteFirst
                && end.error == 0
                && end
                    .states
                    .iter()
                    .rfind(|span| span.state != TcpState::Close)
                    .is_some_and(|span| span.state == TcpState::LastAck)
        })
    }
}

/// Whose FIN came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closer {
    One(Place),
    Both,
}

fn known_or_opposite(own: Role, other: Role) -> Role {
    match (own, other) {
        (Role::Client | Role::Server, _) => own,
        (Role::Unknown, Role::Client) => Role::Server,
        (Role::Unknown, Role::Server) => Role::Client,
        (Role::Unknown, Role::Unknown) => Role::Unknown,
    }
}
