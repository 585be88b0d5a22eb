//! Owns the story of a connection in sentences: who ended it, how, why, and what came of it.

use std::fmt::Write as _;

use tcptrace_model::{
    Certainty, CloseCause, CloseSequence, Connection, Doubt, Doubts, Phase, Role, Story, Stuck,
    TcpState, TimeWait,
};

use super::{
    prose::Mark,
    sides::{Closer, Place, Side, Sides},
    words,
};
use crate::render::{names, time};

/// How sure the story is as a whole.
pub(super) fn mark(story: &Story) -> Mark {
    match certainty(story) {
        Certainty::Exact => Mark::Plain,
        Certainty::Inferred | Certainty::Unknown => Mark::Uncertain,
    }
}

/// CLOCK_BOOTTIME in ns of the last of its ends.
pub(super) fn ts_ns(story: &Story) -> u64 {
    let second = story.second.as_ref().map_or(0, |second| second.ts_ns);
    story.first.ts_ns.max(second)
}

/// The whole of it, without the addresses.
pub(super) fn body(story: &Story, sides: &Sides<'_>) -> String {
    let mut sentences = vec![closing(sides)];
    sentences.extend(still_open(sides));
    sentences.extend(established(sides));
    sentences.extend(afterwards(sides));
    sentences.extend(doubtful(story));
    sentences.join(" ")
}

/// A connection that should not stay as it is: its addresses, and what the kernel waits for.
pub(super) fn stuck(found: &Stuck) -> (String, String) {
    let Stuck {
        ts_ns: _,
        socket,
        state,
        for_ns,
        role,
        owner,
        certainty: _,
        doubts,
    } = found;
    let side = Side {
        address: socket.local,
        role: *role,
        owner: owner.as_ref(),
        connection: None,
        open_in: Some(*state),
        told_before: false,
    };
    let least = if doubts.contains(Doubt::BeforeTrace) {
        "at least "
    } else {
        ""
    };
    let mut body = format!(
        "{} has been in {} for {least}{}",
        side.full_name(),
        state.name(),
        time::brief(*for_ns)
    );
    let waits_for = words::waits_for(*state);
    if !waits_for.is_empty() {
        body.push_str(": ");
        body.push_str(waits_for);
    }
    if !doubts.is_empty() {
        // Writing to a String cannot fail; so below.
        let _ = write!(body, " ({})", words::doubts(*doubts));
    }
    body.push('.');
    let (client, arrow, server) = match role {
        Role::Client => (socket.local, "->", socket.remote),
        Role::Server => (socket.remote, "->", socket.local),
        Role::Unknown => (socket.local, "--", socket.remote),
    };
    (format!("{client} {arrow} {server}"), body)
}

/// A minisocket that never came to be: its addresses, and why.
pub(super) fn never_entered(found: &TimeWait) -> (String, String) {
    let heading = format!("{} {}", found.minisocket.local, found.minisocket.remote);
    let owner = found.owner.as_ref().map_or_else(String::new, |owner| {
        format!(" (owner: {})", words::owner(owner))
    });
    let body = format!("no TIME_WAIT{owner}: {}.", words::NEVER_ENTERED);
    (heading, body)
}

/// What each end did, in order.
fn closing(sides: &Sides<'_>) -> String {
    let mut clauses = Vec::new();
    let closer = sides.closed_first();
    match closer {
        Some(Closer::One(place)) => {
            let side = sides.at(place);
            let cause = match side.connection {
                Some(connection) if connection.close == CloseSequence::LocalFirst => {
                    words::cause(connection)
                }
                Some(connection) => words::cause_of_fin(connection),
                None => String::new(),
            };
            clauses.push(joined(
                &[&side.full_name(), "closed first"].join(" "),
                &cause,
            ));
        }
        Some(Closer::Both) => clauses.push(crossed(sides)),
        None => {}
    }
    for place in in_order(sides) {
        if let Some(connection) = sides.at(place).connection {
            clauses.extend(part(sides, place, connection, closer));
        }
    }
    if let Some(clause) = fin_of_untraced(sides, closer) {
        clauses.push(clause);
    }
    let mut sentence = clauses.join("; ");
    sentence.push('.');
    sentence
}

/// Both closed at once, each in its way.
fn crossed(sides: &Sides<'_>) -> String {
    let each: Vec<String> = [&sides.left, &sides.right]
        .into_iter()
        .filter_map(|side| {
            let connection = side.connection?;
            let cause = match connection.close {
                CloseSequence::Simultaneous => words::cause(connection),
                CloseSequence::LocalFirst
                | CloseSequence::RemoteFirst
                | CloseSequence::ResetSent
                | CloseSequence::ResetReceived
                | CloseSequence::TimedOut
                | CloseSequence::Refused
                | CloseSequence::Aborted
                | CloseSequence::NeverEstablished
                | CloseSequence::Unknown => words::cause_of_fin(connection),
            };
            Some(joined(&side.full_name(), &cause))
        })
        .collect();
    format!(
        "both ends closed at once, their FINs crossed: {}",
        each.join(", ")
    )
}

/// The end that reset before the end that was reset, else the end that ended first before the other:
/// the kernel reports a RST that it sends after the RST has had its effect on the same machine.
fn in_order(sides: &Sides<'_>) -> [Place; 2] {
    let rank = |place: Place| {
        sides.at(place).connection.map(|connection| {
            let reset = connection.close != CloseSequence::ResetSent;
            (reset, connection.ts_ns)
        })
    };
    if rank(Place::Right) < rank(Place::Left) {
        [Place::Right, Place::Left]
    } else {
        [Place::Left, Place::Right]
    }
}

/// What this end did beside closing first; `None` when that has been all.
fn part(
    sides: &Sides<'_>,
    place: Place,
    connection: &Connection,
    closer: Option<Closer>,
) -> Option<String> {
    let side = sides.at(place);
    let is_closer = closer == Some(Closer::One(place));
    // Who has been named with its owner is not named so again.
    let name = if is_closer {
        side.name()
    } else {
        side.full_name()
    };
    let error = || names::error(connection.error).map_or_else(String::new, |e| format!(" ({e})"));
    let cause = || words::cause(connection);
    Some(match connection.close {
        CloseSequence::LocalFirst | CloseSequence::Simultaneous => return None,
        CloseSequence::RemoteFirst => match followed_after_ns(sides, place) {
            Some(ns) => format!("{name} followed {} later {}", time::brief(ns), cause()),
            None => format!("{name} followed {}", cause()),
        },
        CloseSequence::ResetSent => {
            let name = if is_closer { "then" } else { &name };
            format!("{name} reset it {}", words::reset(connection))
        }
        CloseSequence::ResetReceived if sides.at(place.other()).connection.is_some() => {
            format!("{name} got the RST{}", error())
        }
        CloseSequence::ResetReceived => {
            let peer = sides.at(place.other()).name();
            format!("{peer} reset it: {name} got a RST{}", error())
        }
        CloseSequence::TimedOut => format!(
            "{name} gave up {}{}",
            words::cause_of_end(connection),
            error()
        ),
        CloseSequence::Refused => {
            let peer = sides.at(place.other()).name();
            format!("{name} was refused: {peer} answered with a RST{}", error())
        }
        CloseSequence::Aborted => format!(
            "{name} was cut off {}{}",
            words::cause_of_end(connection),
            error()
        ),
        CloseSequence::NeverEstablished => {
            format!(
                "{name} ended it before the handshake was complete, {}{}",
                cause(),
                error()
            )
        }
        CloseSequence::Unknown => format!("how {name} ended is not known{}", error()),
    })
}

/// How long after the first FIN this end sent its own, in ns.
fn followed_after_ns(sides: &Sides<'_>, place: Place) -> Option<u64> {
    let own_ns = sides.at(place).entered_ns(TcpState::LastAck)?;
    let first_ns = sides
        .at(place.other())
        .entered_ns(TcpState::FinWait1)
        .or_else(|| sides.at(place).entered_ns(TcpState::CloseWait))?;
    own_ns.checked_sub(first_ns)
}

/// When the FIN of an end came that was not traced, if it answered the first one.
fn fin_of_untraced(sides: &Sides<'_>, closer: Option<Closer>) -> Option<String> {
    let Some(Closer::One(place)) = closer else {
        return None;
    };
    let (closer, other) = (sides.at(place), sides.at(place.other()));
    let connection = closer.connection?;
    let came = connection.minisocket == Some(Phase::TimeWait) || connection.never_entered;
    if other.is_traced() || !came {
        return None;
    }
    let name = other.full_name();
    let later = closer
        .entered_ns(TcpState::FinWait1)
        .and_then(|sent_ns| connection.ts_ns.checked_sub(sent_ns));
    Some(match later {
        Some(ns) => format!("{name} followed {} later", time::brief(ns)),
        None => format!("{name} followed"),
    })
}

fn still_open(sides: &Sides<'_>) -> Option<String> {
    [&sides.left, &sides.right].into_iter().find_map(|side| {
        let state = side.open_in?;
        Some(format!(
            "{} is still open: {}.",
            capitalised(&side.full_name()),
            state.name()
        ))
    })
}

fn established(sides: &Sides<'_>) -> Option<String> {
    let connections = || {
        [&sides.left, &sides.right]
            .into_iter()
            .filter_map(|side| side.connection)
    };
    let ns = connections().find_map(|connection| connection.established_ns)?;
    let half = connections()
        .filter(|connection| connection.cause == CloseCause::Shutdown)
        .find_map(|connection| connection.half_closed_ns);
    let established = time::brief(ns);
    Some(match half {
        Some(half) => format!(
            "ESTABLISHED {established}, then half-closed {}.",
            time::brief(half)
        ),
        None => format!("ESTABLISHED {established}."),
    })
}

/// What the kernel keeps of the connection.
fn afterwards(sides: &Sides<'_>) -> Vec<String> {
    let mut sentences = Vec::new();
    let waiting = [Place::Left, Place::Right].map(|place| sides.has_time_wait(place));
    match waiting {
        [true, true] => sentences.push("TIME_WAIT (60s) at both ends.".to_owned()),
        [true, false] => sentences.push(time_wait_at(&sides.left)),
        [false, true] => sentences.push(time_wait_at(&sides.right)),
        [false, false] => {}
    }
    for (side, waits) in [&sides.left, &sides.right].into_iter().zip(waiting) {
        let Some(connection) = side.connection else {
            continue;
        };
        if connection.never_entered {
            sentences.push(format!(
                "No TIME_WAIT at {} (tcp_max_tw_buckets).",
                side.place()
            ));
        }
        if connection.minisocket == Some(Phase::FinWait2) && !waits {
            sentences.push(format!(
                "At {}, the socket is gone and the kernel waits for the peer's FIN ({}).",
                side.place(),
                words::FIN_WAIT2_MINISOCKET
            ));
        }
    }
    sentences
}

/// 60 s is the kernel's TCP_TIMEWAIT_LEN (include/net/tcp.h, v6.18).
fn time_wait_at(side: &Side<'_>) -> String {
    format!("TIME_WAIT (60s) at {}.", side.place())
}

fn doubtful(story: &Story) -> Option<String> {
    let doubts = connections(story).fold(Doubts::NONE, |all, one| all.and(one.doubts));
    let because = if doubts.is_empty() {
        String::new()
    } else {
        format!(": {}", words::doubts(doubts))
    };
    match certainty(story) {
        Certainty::Exact if doubts.is_empty() => None,
        Certainty::Exact => Some(format!("Seen in part{because}.")),
        Certainty::Inferred => Some(format!("Probably so, not seen in full{because}.")),
        Certainty::Unknown => Some(format!("Not known for sure{because}.")),
    }
}

fn certainty(story: &Story) -> Certainty {
    // From exact to unknown, as the enum orders them.
    connections(story)
        .map(|one| one.certainty)
        .max()
        .unwrap_or(Certainty::Exact)
}

fn connections(story: &Story) -> impl Iterator<Item = &Connection> {
    [Some(&story.first), story.second.as_ref()]
        .into_iter()
        .flatten()
}

/// Both with a space between them, or the first alone.
fn joined(first: &str, second: &str) -> String {
    if second.is_empty() {
        first.to_owned()
    } else {
        [first, second].join(" ")
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}
