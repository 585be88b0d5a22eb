//! Owns the ladder: a drawing of a close sequence, with the segments that the state changes prove.
//!
//! A segment is drawn once, where it is first proven: a FIN at the end that sends it (ESTABLISHED →
//! FIN_WAIT1, CLOSE_WAIT → LAST_ACK) if that end was traced, else where it arrives; an ACK where it
//! arrives (FIN_WAIT1 → FIN_WAIT2, CLOSING → TIME_WAIT, LAST_ACK → CLOSE). What no state change
//! proves, such as data, is not drawn.

use std::fmt::Write as _;

use anstyle::Style;
use tcptrace_model::{
    Certainty, CloseSequence, Connection, Direction, Phase, Role, StateSpan, TcpState,
};

use super::{
    Layout,
    columns::{phase_name, style_of},
    sides::{Place, Side, Sides},
    words,
};
use crate::render::time;

/// `9999999.999`: ms with µs.
const TIME_WIDTH: usize = 11;
/// `ESTABLISHED 35.1ms`
const STATE_WIDTH: usize = 19;
/// Between the two sides, with their lines.
const LANE_WIDTHS: std::ops::RangeInclusive<usize> = 15..=25;
/// Where the left side begins.
const INDENT: usize = TIME_WIDTH + 2;
/// The ACK of our FIN and the peer's FIN that came so close to each other (in ns) may have been one
/// segment: net/ipv4/tcp_input.c `tcp_rcv_state_process` (v6.18) does both steps for it.
const ONE_SEGMENT_NS: u64 = 50_000;

/// What a state change proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Sent(Segment),
    Received(Segment),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment {
    Fin,
    Ack,
    Rst,
    /// One that follows from what else was seen.
    InferredRst,
}

impl Segment {
    fn label(self) -> &'static str {
        match self {
            Self::Fin => "FIN",
            Self::Ack => "ACK",
            Self::Rst => "RST",
            Self::InferredRst => "RST?",
        }
    }
}

/// A side enters a state.
#[derive(Clone, Copy, Debug)]
struct Step {
    place: Place,
    at_ns: Option<u64>,
    name: &'static str,
    colour: TcpState,
    lasted_ns: Option<u64>,
    proof: Option<Proof>,
    /// What stands in the lane where there is no segment.
    note: &'static str,
}

/// Adds the drawing to `out`.
pub(super) fn draw(out: &mut String, layout: &Layout, sides: &Sides<'_>) {
    let lane = layout
        .width
        .map_or(*LANE_WIDTHS.end(), |width| {
            width.saturating_sub(INDENT + STATE_WIDTH + 1 + 2 + STATE_WIDTH + 1)
        })
        .clamp(*LANE_WIDTHS.start(), *LANE_WIDTHS.end());
    let mut drawing = Drawing {
        out,
        colour: layout.colour,
        lane,
        drawn: Vec::new(),
    };
    drawing.heading(sides);
    drawing.beginning(sides);
    let steps = in_time(steps(sides, Place::Left), steps(sides, Place::Right));
    let first_ns = steps.iter().find_map(|step| step.at_ns);
    for step in &steps {
        drawing.step(step, first_ns);
    }
    drawing.still_open(sides);
    drawing.ending(sides);
}

struct Drawing<'a> {
    out: &'a mut String,
    colour: bool,
    lane: usize,
    /// FINs and RSTs that have an arrow already, by the side that they go to.
    drawn: Vec<(Place, &'static str)>,
}

impl Drawing<'_> {
    fn width(&self) -> usize {
        INDENT + STATE_WIDTH + 1 + self.lane + 2 + STATE_WIDTH
    }

    /// Who is on which side.
    fn heading(&mut self, sides: &Sides<'_>) {
        let who = |side: &Side<'_>| {
            let name = match side.role {
                Role::Client | Role::Server => side.role.name(),
                Role::Unknown if side.is_traced() => "this end",
                Role::Unknown => "peer",
            };
            match side.owner {
                Some(owner) if side.is_traced() => {
                    format!("{name} {}", words::process(&owner.process))
                }
                None if side.is_traced() => name.to_owned(),
                Some(_) | None if side.told_before => format!("{name} (told before)"),
                Some(_) | None => format!("{name} (not traced)"),
            }
        };
        let times = format!("{:>TIME_WIDTH$}", "ms");
        self.both(&times, &who(&sides.left), &who(&sides.right));
        let (left, right) = (sides.left.address, sides.right.address);
        self.both("", &left.to_string(), &right.to_string());
    }

    /// A line with a text on each side, or two lines if they would meet.
    fn both(&mut self, times: &str, left: &str, right: &str) {
        let (left_width, right_width) = (left.chars().count(), right.chars().count());
        let width = self.width();
        let column = (width - STATE_WIDTH).min(width.saturating_sub(right_width));
        // Writing to a String cannot fail; so below.
        let _ = write!(self.out, "{times:TIME_WIDTH$}  {left}");
        let mut end = INDENT + left_width;
        if !left.is_empty() && !right.is_empty() && end >= column {
            self.end_line();
            end = 0;
        }
        self.spaces(column.saturating_sub(end));
        self.out.push_str(right);
        self.end_line();
    }

    /// The state in which the sides were before the close began.
    fn beginning(&mut self, sides: &Sides<'_>) {
        let established = |side: &Side<'_>| {
            let span = *closing_states(side.connection?).0?;
            Some((span.state, span.ns))
        };
        let (left, right) = (established(&sides.left), established(&sides.right));
        if left.is_none() && right.is_none() {
            return;
        }
        self.spaces(INDENT);
        self.state(left.map(|(state, ns)| (state.name(), state, ns)), true);
        self.lane("", None);
        self.state(right.map(|(state, ns)| (state.name(), state, ns)), false);
        self.end_line();
    }

    fn step(&mut self, step: &Step, first_ns: Option<u64>) {
        let since_ns = step
            .at_ns
            .zip(first_ns)
            .and_then(|(at_ns, first_ns)| at_ns.checked_sub(first_ns));
        match since_ns {
            Some(ns) => {
                let ms = format!("{}.{:03}", ns / 1_000_000, ns / 1000 % 1000);
                let _ = write!(self.out, "{ms:>TIME_WIDTH$}  ");
            }
            None => {
                let _ = write!(self.out, "{:>TIME_WIDTH$}  ", "?");
            }
        }
        let arrow = step.proof.and_then(|proof| {
            let (segment, to) = match proof {
                Proof::Sent(segment) => (segment, step.place.other()),
                Proof::Received(segment) => (segment, step.place),
            };
            self.is_new(segment, to).then_some((segment.label(), to))
        });
        let state = Some((step.name, step.colour, step.lasted_ns));
        let on = |place| if step.place == place { state } else { None };
        self.state(on(Place::Left), true);
        match arrow {
            Some((label, to)) => self.lane(label, Some(to)),
            None => self.lane(step.note, None),
        }
        self.state(on(Place::Right), false);
        self.end_line();
    }

    /// Notes that a segment is drawn; `false` if it has been before, for the other side.
    fn is_new(&mut self, segment: Segment, to: Place) -> bool {
        let kind = match segment {
            // Only the side that it goes to proves one: it cannot come twice.
            Segment::Ack => return true,
            Segment::Fin => "FIN",
            Segment::Rst | Segment::InferredRst => "RST",
        };
        let is_new = !self.drawn.contains(&(to, kind));
        self.drawn.push((to, kind));
        is_new
    }

    fn still_open(&mut self, sides: &Sides<'_>) {
        for (side, is_left) in [(&sides.left, true), (&sides.right, false)] {
            let Some(state) = side.open_in else {
                continue;
            };
            let text = format!("{} (open)", state.name());
            let (left, right) = if is_left {
                (text.as_str(), "")
            } else {
                ("", text.as_str())
            };
            self.spaces(INDENT);
            let _ = write!(self.out, "{left:STATE_WIDTH$} ");
            self.lane("", None);
            self.out.push_str(right);
            self.end_line();
        }
    }

    /// What comes of it.
    fn ending(&mut self, sides: &Sides<'_>) {
        // TCP_TIMEWAIT_LEN, include/net/tcp.h (v6.18).
        let box_of = |place| {
            if sides.has_time_wait(place) {
                "[TIME_WAIT begins (60s)]"
            } else {
                ""
            }
        };
        let (left, right) = (box_of(Place::Left), box_of(Place::Right));
        if !left.is_empty() || !right.is_empty() {
            self.both("", left, right);
        }
        for place in [Place::Left, Place::Right] {
            let side = sides.at(place);
            let Some(connection) = side.connection else {
                continue;
            };
            if connection.never_entered {
                self.remark(&format!("No TIME_WAIT at {}.", side.place()));
            }
            if connection.minisocket == Some(Phase::FinWait2) {
                self.remark("* A minisocket in place of the socket, to wait for the peer's FIN.");
            }
            if is_maybe_one_segment(side, connection) {
                self.remark("ACK and FIN came within 50us: one segment (FIN+ACK) or two.");
            }
        }
    }

    fn remark(&mut self, text: &str) {
        self.spaces(INDENT);
        self.out.push_str(text);
        self.end_line();
    }

    /// A state and how long it lasted; the left one padded up to the lane.
    fn state(&mut self, state: Option<(&str, TcpState, Option<u64>)>, is_left: bool) {
        let mut width = 0;
        if let Some((name, colour, lasted_ns)) = state {
            let style = if self.colour {
                style_of(colour)
            } else {
                Style::new()
            };
            let _ = write!(self.out, "{style}{name}{style:#}");
            width = name.len();
            if let Some(ns) = lasted_ns {
                let lasted = time::brief(ns);
                let _ = write!(self.out, " {lasted}");
                width += 1 + lasted.len();
            }
        }
        if is_left {
            self.spaces((STATE_WIDTH + 1).saturating_sub(width));
        }
    }

    /// What is between the sides: an arrow to one of them, or a word.
    fn lane(&mut self, label: &str, to: Option<Place>) {
        let inner = self.lane - 2;
        let text = if to.is_some() {
            format!(" {label} ")
        } else {
            label.to_owned()
        };
        let body = match to {
            None => format!("{text:^inner$}"),
            Some(Place::Right) => format!("{text:-^width$}>", width = inner - 1),
            Some(Place::Left) => format!("<{text:-^width$}", width = inner - 1),
        };
        let _ = write!(self.out, "|{body}|  ");
    }

    fn spaces(&mut self, count: usize) {
        self.out.extend(std::iter::repeat_n(' ', count));
    }

    fn end_line(&mut self) {
        self.out.truncate(self.out.trim_end_matches(' ').len());
        self.out.push('\n');
    }
}

/// The last ESTABLISHED, and the states after it; all if it never was.
fn closing_states(connection: &Connection) -> (Option<&StateSpan>, &[StateSpan]) {
    let states = &connection.states[..];
    match states
        .iter()
        .rposition(|span| span.state == TcpState::Established)
    {
        Some(at) => (Some(&states[at]), &states[at + 1..]),
        None => (None, states),
    }
}

fn steps(sides: &Sides<'_>, place: Place) -> Vec<Step> {
    let Some(connection) = sides.at(place).connection else {
        return Vec::new();
    };
    let (established, spans) = closing_states(connection);
    let mut before = established.map(|span| span.state);
    let mut steps = Vec::new();
    for span in spans.iter().filter(|span| span.state != TcpState::Close) {
        steps.push(Step {
            place,
            at_ns: span.entered_ns,
            name: span.state.name(),
            colour: span.state,
            lasted_ns: span.ns,
            proof: before.and_then(|before| entering(before, span.state)),
            note: "",
        });
        before = Some(span.state);
    }
    let (name, colour) = connection
        .minisocket
        .map_or((TcpState::Close.name(), TcpState::Close), phase_name);
    steps.push(Step {
        place,
        at_ns: Some(connection.ts_ns),
        name,
        colour,
        lasted_ns: None,
        proof: leaving(sides, place, connection, before),
        note: match connection.close {
            CloseSequence::TimedOut => "gave up",
            CloseSequence::Aborted => "cut off",
            CloseSequence::LocalFirst
            | CloseSequence::RemoteFirst
            | CloseSequence::Simultaneous
            | CloseSequence::ResetSent
            | CloseSequence::ResetReceived
            | CloseSequence::Refused
            | CloseSequence::NeverEstablished
            | CloseSequence::Unknown => "",
        },
    });
    steps
}

/// What a change between two states proves that have a socket: RFC 9293 3.3.2, and
/// net/ipv4/tcp.c `tcp_close_state`, net/ipv4/tcp_input.c `tcp_fin`, `tcp_rcv_state_process` (v6.18).
fn entering(before: TcpState, state: TcpState) -> Option<Proof> {
    match (before, state) {
        (TcpState::Established | TcpState::SynRecv, TcpState::FinWait1)
        | (TcpState::CloseWait, TcpState::LastAck) => Some(Proof::Sent(Segment::Fin)),
        (TcpState::Established | TcpState::SynRecv, TcpState::CloseWait)
        | (TcpState::FinWait1, TcpState::Closing) => Some(Proof::Received(Segment::Fin)),
        (TcpState::FinWait1, TcpState::FinWait2) => Some(Proof::Received(Segment::Ack)),
        // All others: no segment of a close, or one between them was not seen.
        (_, _) => None,
    }
}

/// What the socket's end proves.
fn leaving(
    sides: &Sides<'_>,
    place: Place,
    connection: &Connection,
    before: Option<TcpState>,
) -> Option<Proof> {
    if let Some(reset) = connection.reset {
        return Some(match reset.direction {
            Direction::Sent => Proof::Sent(Segment::Rst),
            Direction::Received => Proof::Received(Segment::Rst),
        });
    }
    let rst = match connection.certainty {
        Certainty::Exact => Segment::Rst,
        Certainty::Inferred | Certainty::Unknown => Segment::InferredRst,
    };
    match connection.close {
        CloseSequence::ResetSent => return Some(Proof::Sent(rst)),
        CloseSequence::ResetReceived | CloseSequence::Refused => {
            return Some(Proof::Received(rst));
        }
        CloseSequence::LocalFirst
        | CloseSequence::RemoteFirst
        | CloseSequence::Simultaneous
        | CloseSequence::TimedOut
        | CloseSequence::Aborted
        | CloseSequence::NeverEstablished
        | CloseSequence::Unknown => {}
    }
    let time_wait = connection.minisocket == Some(Phase::TimeWait) || connection.never_entered;
    let before = before?;
    if time_wait && before == TcpState::FinWait2 {
        Some(Proof::Received(Segment::Fin))
    } else if time_wait && before == TcpState::Closing
        || before == TcpState::LastAck && sides.fin_was_acknowledged(place)
    {
        Some(Proof::Received(Segment::Ack))
    } else {
        None
    }
}

/// Whether the ACK of this side's FIN and the peer's FIN may have been one segment.
fn is_maybe_one_segment(side: &Side<'_>, connection: &Connection) -> bool {
    connection.minisocket == Some(Phase::TimeWait)
        && side
            .entered_ns(TcpState::FinWait2)
            .and_then(|entered_ns| connection.ts_ns.checked_sub(entered_ns))
            .is_some_and(|ns| ns <= ONE_SEGMENT_NS)
}

/// The steps of both sides in the order of time; each side's in their own order. One without a date
/// stands behind the one before it.
fn in_time(left: Vec<Step>, right: Vec<Step>) -> Vec<Step> {
    let dated = |steps: Vec<Step>| {
        let mut last_ns = 0;
        steps
            .into_iter()
            .map(move |step| {
                last_ns = step.at_ns.unwrap_or(last_ns).max(last_ns);
                (last_ns, step)
            })
            .collect::<Vec<_>>()
    };
    let mut all = dated(left);
    all.extend(dated(right));
    // Stable: equal dates keep the order above.
    all.sort_by_key(|(at_ns, _)| *at_ns);
    all.into_iter().map(|(_, step)| step).collect()
}
