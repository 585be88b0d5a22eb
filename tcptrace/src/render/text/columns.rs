//! Owns the columns: one line an event, aligned, 80 characters wide for IPv4; where IPv6 does not fit
//! a terminal, addresses stand below each other.

use std::{
    fmt::{Display, Write as _},
    net::SocketAddr,
};

use anstyle::{AnsiColor, Style};
use tcptrace_model::{
    Certainty, Minisocket, Phase, Socket, Task, TcpState, TimeWait, TimeWaitEntered, Transition,
    TransitionFinding,
};

use super::{Layout, prose, words};
use crate::render::{
    endpoint::Endpoint,
    escape::Escaped,
    time::{self, WallClock},
};

/// `255.255.255.255:65535`
const ENDPOINT_WIDTH: usize = 21;
/// `ESTABLISHED`, the longest state that the tracepoint shows.
const STATE_WIDTH: usize = 11;
/// `999.999ms`
const IN_STATE_WIDTH: usize = 9;
/// `TASK_COMM_LEN` without the closing NUL.
const COMM_WIDTH: usize = 15;
/// As many as a column is wide, and the space behind it.
const SPACES: &str = "                      ";
/// A gap narrower than this is not worth wrapping for.
const MIN_WRAP_WIDTH: usize = 40;

/// Writes lines in columns.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) layout: Layout,
    clock: WallClock,
    /// What `--timestamp` counts from, CLOCK_BOOTTIME ns.
    pub(super) start_ns: u64,
}

/// What a line shows.
struct Row<'a> {
    ts_ns: u64,
    /// How long in the old state, and whether that is exact.
    in_state: Option<(u64, Certainty)>,
    oldstate: &'static str,
    newstate: &'static str,
    /// What the new state is coloured as.
    colour: TcpState,
    local: SocketAddr,
    remote: SocketAddr,
    wide: Wide<'a>,
    /// What else there is to say.
    why: &'a str,
}

/// What only long lines show.
struct Wide<'a> {
    current: Option<&'a Task>,
    cpu: Option<u16>,
    uid: Option<u32>,
    reuseaddr: bool,
    reuseport: bool,
    netns: Option<u32>,
    cgroup_id: Option<u64>,
    address: u64,
    cookie: Option<u64>,
}

impl Columns {
    pub(super) fn new(layout: Layout, clock: WallClock) -> Self {
        Self {
            layout,
            clock,
            start_ns: 0,
        }
    }

    pub(super) fn header(&self, line: &mut String) {
        if self.layout.time {
            push(line, "TIME", 12);
        }
        if self.layout.timestamp {
            push_right(line, "TIME(s)", 11);
        }
        push_right(line, "IN-STATE", IN_STATE_WIDTH);
        push(line, "OLDSTATE", STATE_WIDTH);
        line.push_str("-> ");
        push(line, "NEWSTATE", STATE_WIDTH);
        push(line, "LOCAL", ENDPOINT_WIDTH);
        push(line, "REMOTE", ENDPOINT_WIDTH);
        if self.layout.wide {
            push_right(line, "C-PID", 7);
            push(line, "C-COMM", COMM_WIDTH);
            push_right(line, "UID", 6);
            push(line, "OPT", 3);
            push_right(line, "NETNS", 10);
            push_right(line, "CGROUP", 8);
            push_right(line, "CPU", 3);
            push(line, "SKADDR", 18);
            push(line, "COOKIE", 6);
        }
        end_line(line);
    }

    /// What stands before every line.
    pub(super) fn times(&self, line: &mut String, ts_ns: u64) {
        if self.layout.time {
            push_value(line, self.clock.time_of_day(ts_ns), 12);
        }
        if self.layout.timestamp {
            let since_start_ns = ts_ns.saturating_sub(self.start_ns);
            push_value_right(line, Seconds(since_start_ns), 11);
        }
    }

    pub(super) fn transition(&self, line: &mut String, found: &TransitionFinding) {
        let TransitionFinding {
            transition,
            in_state_ns,
            owner: _,
            minisocket,
        } = found;
        let Transition {
            ts_ns,
            socket,
            oldstate,
            newstate,
            current,
            cpu,
            evidence: _,
        } = transition;
        let Socket {
            sk,
            cookie,
            netns,
            cgroup_id,
            uid,
            local,
            remote,
            reuseaddr,
            reuseport,
        } = socket;
        let (name, colour) = match minisocket {
            Some(phase) => phase_name(*phase),
            None => (newstate.name(), *newstate),
        };
        self.row(
            line,
            &Row {
                ts_ns: *ts_ns,
                in_state: in_state_ns.map(|ns| (ns, Certainty::Exact)),
                oldstate: oldstate.name(),
                newstate: name,
                colour,
                local: *local,
                remote: *remote,
                wide: Wide {
                    current: Some(current),
                    cpu: Some(*cpu),
                    uid: Some(*uid),
                    reuseaddr: *reuseaddr,
                    reuseport: *reuseport,
                    netns: *netns,
                    cgroup_id: *cgroup_id,
                    address: *sk,
                    cookie: cookie.map(u64::from),
                },
                why: "",
            },
        );
    }

    /// A minisocket that did not come with a transition, or with `wide` any one.
    pub(super) fn time_wait_entered(&self, line: &mut String, found: &TimeWaitEntered) {
        let (newstate, colour) = phase_name(found.phase);
        let mut why = format!("timer {}", time::brief(found.timeout_ns));
        if !found.doubts.is_empty() {
            // Writing to a String cannot fail; so below.
            let _ = write!(why, " ({})", words::doubts(found.doubts));
        }
        self.row(
            line,
            &Row {
                ts_ns: found.ts_ns,
                in_state: None,
                oldstate: "-",
                newstate,
                colour,
                local: found.minisocket.local,
                remote: found.minisocket.remote,
                wide: Wide::of(&found.minisocket),
                why: &why,
            },
        );
    }

    pub(super) fn time_wait(&self, line: &mut String, found: &TimeWait) {
        let (oldstate, _) = phase_name(found.last_phase);
        let lasted_ns = match found.last_phase {
            Phase::FinWait2 => found.fin_wait2_ns,
            Phase::TimeWait => found.time_wait_ns,
        };
        self.row(
            line,
            &Row {
                ts_ns: found.ts_ns,
                in_state: lasted_ns.map(|ns| (ns, found.certainty)),
                oldstate,
                newstate: TcpState::Close.name(),
                colour: TcpState::Close,
                local: found.minisocket.local,
                remote: found.minisocket.remote,
                wide: Wide::of(&found.minisocket),
                why: &words::time_wait(found),
            },
        );
    }

    fn row(&self, line: &mut String, row: &Row<'_>) {
        self.times(line, row.ts_ns);
        push_in_state(line, row.in_state);
        self.push_state(line, row.oldstate, Style::new().dimmed());
        line.push_str("-> ");
        self.push_state(line, row.newstate, style_of(row.colour));
        if self.layout.wide {
            push_endpoint(line, Endpoint(row.local));
            push_endpoint(line, Endpoint(row.remote));
            row.wide.push_to(line);
            line.push_str(row.why);
        } else {
            self.push_endpoints(line, row.local, row.remote, row.why);
        }
        end_line(line);
    }

    fn push_state(&self, line: &mut String, state: &str, style: Style) {
        let padding = STATE_WIDTH.saturating_sub(state.len()) + 1;
        if self.layout.colour {
            // Writing to a String cannot fail.
            let _ = write!(line, "{style}{state}{style:#}");
        } else {
            line.push_str(state);
        }
        pad(line, padding);
    }

    /// Both addresses and what there is to say: beside each other where they fit the terminal, else
    /// closer together; else the words below the addresses; else one address below the other; and
    /// where not even one fits beside the states, both below them.
    fn push_endpoints(&self, line: &mut String, local: SocketAddr, remote: SocketAddr, why: &str) {
        let indent = self.width_before_endpoints();
        let width = self.layout.width.filter(|width| *width >= MIN_WRAP_WIDTH);
        let fits = |columns: usize| width.is_none_or(|width| indent + columns <= width);
        let begin = line.len();
        let (local, remote) = (Endpoint(local), Endpoint(remote));
        push_endpoint(line, local);
        if why.is_empty() {
            // The common case, without a String of its own.
            remote.push_to(line);
            if fits(line.len() - begin) {
                return;
            }
        } else {
            push_endpoint(line, remote);
            if fits(line.len() - begin + why.len()) {
                line.push_str(why);
                return;
            }
        }
        line.truncate(begin);
        let (local, remote) = (local.to_string(), remote.to_string());
        let longest = local.len().max(remote.len());
        if !why.is_empty() && fits(local.len() + 1 + remote.len() + 1 + why.len()) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{local} {remote} {why}");
            return;
        }
        if fits(local.len().max(ENDPOINT_WIDTH) + 1 + remote.len()) {
            push(line, &local, ENDPOINT_WIDTH);
        } else if fits(longest) {
            line.push_str(&local);
            new_line(line, indent);
        } else {
            let indent = width.unwrap_or(indent).saturating_sub(longest).min(indent);
            new_line(line, indent);
            line.push_str(&local);
            new_line(line, indent);
        }
        line.push_str(&remote);
        if !why.is_empty() {
            let indent = self.width_of_times() + IN_STATE_WIDTH + 1;
            new_line(line, indent);
            prose::wrap(line, &self.layout, indent, indent, why);
        }
    }

    /// Colours take no columns: the width of what stands before the addresses is known.
    fn width_before_endpoints(&self) -> usize {
        self.width_of_times() + IN_STATE_WIDTH + 1 + STATE_WIDTH + 4 + STATE_WIDTH + 1
    }

    fn width_of_times(&self) -> usize {
        let time = if self.layout.time { 13 } else { 0 };
        let timestamp = if self.layout.timestamp { 12 } else { 0 };
        time + timestamp
    }
}

impl Wide<'_> {
    fn of(minisocket: &Minisocket) -> Self {
        let Minisocket {
            tw,
            cookie,
            netns,
            local: _,
            remote: _,
            reuseaddr,
            reuseport,
        } = *minisocket;
        Self {
            current: None,
            cpu: None,
            uid: None,
            reuseaddr,
            reuseport,
            netns,
            cgroup_id: None,
            address: tw,
            cookie: cookie.map(u64::from),
        }
    }

    fn push_to(&self, line: &mut String) {
        let options = match (self.reuseaddr, self.reuseport) {
            (false, false) => "-",
            (true, false) => "R",
            (false, true) => "P",
            (true, true) => "RP",
        };
        push_value_right(line, OrDash(self.current.map(|task| task.pid)), 7);
        push_value(
            line,
            OrDash(self.current.map(|task| Escaped(task.comm.as_bytes()))),
            COMM_WIDTH,
        );
        push_value_right(line, OrDash(self.uid), 6);
        push(line, options, 3);
        push_value_right(line, OrDash(self.netns), 10);
        push_value_right(line, OrDash(self.cgroup_id), 8);
        push_value_right(line, OrDash(self.cpu), 3);
        push_value(line, format_args!("{:#x}", self.address), 18);
        push_value(line, OrDash(self.cookie), 6);
    }
}

/// What a phase of a minisocket is called, and the state that it is coloured as.
pub(super) fn phase_name(phase: Phase) -> (&'static str, TcpState) {
    match phase {
        Phase::FinWait2 => (words::FIN_WAIT2_MINISOCKET, TcpState::FinWait2),
        Phase::TimeWait => (TcpState::TimeWait.name(), TcpState::TimeWait),
    }
}

pub(super) fn style_of(state: TcpState) -> Style {
    let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    match state {
        TcpState::Established => colour(AnsiColor::Green),
        TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv => colour(AnsiColor::Cyan),
        TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing | TcpState::LastAck => {
            colour(AnsiColor::Yellow)
        }
        TcpState::CloseWait => colour(AnsiColor::Magenta),
        TcpState::TimeWait => colour(AnsiColor::Blue),
        TcpState::Close => Style::new().dimmed(),
        TcpState::Listen | TcpState::BoundInactive => Style::new().bold(),
    }
}

/// What is inferred has a `~` before it.
fn push_in_state(line: &mut String, in_state: Option<(u64, Certainty)>) {
    match in_state {
        None => push_right(line, "-", IN_STATE_WIDTH),
        Some((ns, Certainty::Exact)) => push_right(line, &time::duration(ns), IN_STATE_WIDTH),
        Some((ns, Certainty::Inferred | Certainty::Unknown)) => {
            let full = time::duration(ns);
            let text = if full.len() < IN_STATE_WIDTH {
                full
            } else {
                time::brief(ns)
            };
            push_right(line, &format!("~{text}"), IN_STATE_WIDTH);
        }
    }
}

/// A value, or a dash for none.
struct OrDash<T>(Option<T>);

impl<T: Display> Display for OrDash<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// Seconds with microseconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ns = self.0;
        write!(f, "{}.{:06}", ns / 1_000_000_000, ns % 1_000_000_000 / 1000)
    }
}

/// Ends the line and begins another one, indented.
fn new_line(line: &mut String, indent: usize) {
    end_line(line);
    line.extend(std::iter::repeat_n(' ', indent));
}

fn end_line(line: &mut String) {
    line.truncate(line.trim_end_matches(' ').len());
    line.push('\n');
}

/// `text` and a space, padded to `width`. Longer text stays whole: nothing is cut.
fn push(line: &mut String, text: &str, width: usize) {
    let begin = line.len();
    line.push_str(text);
    pad_from(line, begin, width);
}

/// The same with what is to be formatted.
fn push_value(line: &mut String, value: impl Display, width: usize) {
    let begin = line.len();
    // Writing to a String cannot fail.
    let _ = write!(line, "{value}");
    pad_from(line, begin, width);
}

fn push_endpoint(line: &mut String, endpoint: Endpoint) {
    let begin = line.len();
    endpoint.push_to(line);
    pad_from(line, begin, ENDPOINT_WIDTH);
}

/// Pads what was written from `begin` on.
fn pad_from(line: &mut String, begin: usize, width: usize) {
    let written = line[begin..].chars().count();
    pad(line, width.saturating_sub(written) + 1);
}

fn pad(line: &mut String, spaces: usize) {
    line.push_str(&SPACES[..spaces.min(SPACES.len())]);
    // No column is so wide.
    line.extend(std::iter::repeat_n(
        ' ',
        spaces.saturating_sub(SPACES.len()),
    ));
}

/// `text` and a space, aligned to the right.
fn push_right(line: &mut String, text: &str, width: usize) {
    pad(line, width.saturating_sub(text.chars().count()));
    push(line, text, 0);
}

/// The same with what is to be formatted.
fn push_value_right(line: &mut String, value: impl Display, width: usize) {
    push_right(line, &value.to_string(), width);
}
