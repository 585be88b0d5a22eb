//! Owns text for people: aligned columns that fit 80 characters for IPv4, and wrap before the remote
//! address where IPv6 does not fit.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use anstyle::{AnsiColor, Style};
use tcptrace_model::{Finding, Loss, LossReason, Socket, Task, TcpState, Transition};

use super::{
    End, Render, Start,
    escape::escaped,
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
/// A gap narrower than this is not worth wrapping for.
const MIN_WRAP_WIDTH: usize = 40;

/// How the text is to look.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct Layout {
    /// Columns that the terminal has; `None` for no limit, as in a pipe: one line an event.
    pub width: Option<usize>,
    /// Colour by state.
    pub colour: bool,
    /// No header.
    pub no_header: bool,
    /// The local time of day before each line.
    pub time: bool,
    /// Seconds since the start before each line.
    pub timestamp: bool,
    /// Everything that is known of the socket, on one long line.
    pub wide: bool,
}

/// Writes text: findings to `out`, losses to `notices`.
pub struct Text<W, N> {
    out: W,
    notices: N,
    layout: Layout,
    clock: WallClock,
    start_ns: u64,
    /// Reused for each line.
    line: String,
}

impl<W: Write, N: Write> Text<W, N> {
    /// `clock_offset_ns` is what to add to CLOCK_BOOTTIME ns to get ns since 1970.
    pub fn new(out: W, notices: N, layout: Layout, clock_offset_ns: i64) -> Self {
        Self {
            out,
            notices,
            layout,
            clock: WallClock::new(clock_offset_ns),
            start_ns: 0,
            line: String::new(),
        }
    }

    fn header(&mut self) -> io::Result<()> {
        let mut line = String::new();
        if self.layout.time {
            push(&mut line, "TIME", 12);
        }
        if self.layout.timestamp {
            push_right(&mut line, "TIME(s)", 11);
        }
        push_right(&mut line, "IN-STATE", IN_STATE_WIDTH);
        push(&mut line, "OLDSTATE", STATE_WIDTH);
        line.push_str("-> ");
        push(&mut line, "NEWSTATE", STATE_WIDTH);
        push(&mut line, "LOCAL", ENDPOINT_WIDTH);
        push(&mut line, "REMOTE", ENDPOINT_WIDTH);
        if self.layout.wide {
            push_right(&mut line, "C-PID", 7);
            push(&mut line, "C-COMM", COMM_WIDTH);
            push_right(&mut line, "UID", 6);
            push(&mut line, "OPT", 3);
            push_right(&mut line, "NETNS", 10);
            push_right(&mut line, "CGROUP", 8);
            push_right(&mut line, "CPU", 3);
            push(&mut line, "SKADDR", 18);
            push(&mut line, "COOKIE", 6);
        }
        writeln!(self.out, "{}", line.trim_end())
    }

    fn transition(&mut self, transition: &Transition, in_state_ns: Option<u64>) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let &Transition {
            ts_ns,
            socket,
            oldstate,
            newstate,
            current,
            cpu,
        } = transition;
        if self.layout.time {
            push(&mut line, &self.clock.time_of_day(ts_ns), 12);
        }
        if self.layout.timestamp {
            push_right(&mut line, &seconds(ts_ns.saturating_sub(self.start_ns)), 11);
        }
        let in_state = in_state_ns.map_or_else(|| "-".to_owned(), time::duration);
        push_right(&mut line, &in_state, IN_STATE_WIDTH);
        self.push_state(&mut line, oldstate, Style::new().dimmed());
        line.push_str("-> ");
        self.push_state(&mut line, newstate, style_of(newstate));
        self.push_endpoints(
            &mut line,
            &socket.local.to_string(),
            &socket.remote.to_string(),
        );
        if self.layout.wide {
            push_wide(&mut line, &socket, &current, cpu);
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        let result = self.out.write_all(line.as_bytes());
        self.line = line;
        result
    }

    fn push_state(&self, line: &mut String, state: TcpState, style: Style) {
        let padding = STATE_WIDTH.saturating_sub(state.name().len()) + 1;
        if self.layout.colour {
            // Writing to a String cannot fail.
            let _ = write!(line, "{style}{}{style:#}", state.name());
        } else {
            line.push_str(state.name());
        }
        line.extend(std::iter::repeat_n(' ', padding));
    }

    /// Both addresses: beside each other where they fit the terminal; else one below the other; and
    /// where not even one fits beside the states, both below them.
    fn push_endpoints(&self, line: &mut String, local: &str, remote: &str) {
        let indent = self.width_before_endpoints();
        let width = self
            .layout
            .width
            .filter(|width| *width >= MIN_WRAP_WIDTH && !self.layout.wide);
        let fits = |columns: usize| width.is_none_or(|width| indent + columns <= width);
        let longest = local.len().max(remote.len());
        if fits(local.len().max(ENDPOINT_WIDTH) + 1 + remote.len()) {
            push(line, local, ENDPOINT_WIDTH);
        } else if fits(longest) {
            line.push_str(local);
            new_line(line, indent);
        } else {
            let indent = width.unwrap_or(indent).saturating_sub(longest).min(indent);
            new_line(line, indent);
            line.push_str(local);
            new_line(line, indent);
        }
        push(line, remote, ENDPOINT_WIDTH);
    }

    /// Colours take no columns: the width of what stands before the addresses is known.
    fn width_before_endpoints(&self) -> usize {
        let time = if self.layout.time { 13 } else { 0 };
        let timestamp = if self.layout.timestamp { 12 } else { 0 };
        time + timestamp + IN_STATE_WIDTH + 1 + STATE_WIDTH + 4 + STATE_WIDTH + 1
    }
}

impl<W: Write, N: Write> Render for Text<W, N> {
    fn start(&mut self, start: &Start) -> io::Result<()> {
        self.start_ns = start.ts_ns;
        if self.layout.no_header {
            return Ok(());
        }
        self.header()
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        match finding {
            Finding::Transition {
                transition,
                in_state_ns,
            } => self.transition(transition, *in_state_ns),
            Finding::Lost(loss) => {
                // What stands before it comes before it on a terminal, too.
                self.out.flush()?;
                writeln!(self.notices, "tcptrace: warning: {}", loss_sentence(loss))
            }
        }
    }

    fn end(&mut self, end: &End) -> io::Result<()> {
        let &End {
            ts_ns: _,
            duration_ns,
            shown,
            summary,
        } = end;
        let transitions = summary.transitions;
        write!(
            self.out,
            "\n{transitions} {} in {}",
            plural(transitions, "transition"),
            time::duration(duration_ns)
        )?;
        if shown != transitions {
            write!(self.out, ", {shown} of them shown")?;
        }
        match summary.lost {
            0 => write!(self.out, ", none lost")?,
            lost => write!(
                self.out,
                ", {lost} {} LOST: what is above has gaps",
                plural(lost, "record")
            )?,
        }
        if summary.untracked > 0 {
            let untracked = summary.untracked;
            write!(
                self.out,
                ", {untracked} {} not remembered (table full)",
                plural(untracked, "socket")
            )?;
        }
        writeln!(self.out, ".")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn push_wide(line: &mut String, socket: &Socket, current: &Task, cpu: u16) {
    let or_unknown =
        |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let options = match (socket.reuseaddr, socket.reuseport) {
        (false, false) => "-",
        (true, false) => "R",
        (false, true) => "P",
        (true, true) => "RP",
    };
    push_right(line, &current.pid.to_string(), 7);
    push(line, &escaped(current.comm.as_bytes()), COMM_WIDTH);
    push_right(line, &socket.uid.to_string(), 6);
    push(line, options, 3);
    push_right(line, &or_unknown(socket.netns.map(u64::from)), 10);
    push_right(line, &or_unknown(socket.cgroup_id), 8);
    push_right(line, &cpu.to_string(), 3);
    push(line, &format!("{:#x}", socket.sk), 18);
    push(line, &or_unknown(socket.cookie.map(u64::from)), 6);
}

fn loss_sentence(loss: &Loss) -> String {
    let &Loss {
        ts_ns: _,
        records,
        kind,
        cpu,
        reason,
    } = loss;
    let what = format!("{records} {} {}", kind.name(), plural(records, "record"));
    let place = cpu.map_or_else(String::new, |cpu| format!(" on CPU {cpu}"));
    match reason {
        LossReason::BufferFull => format!(
            "{what} lost{place}: the buffer was full; enlarge it with: --buffer-size 64M, or filter"
        ),
        LossReason::Recursion => format!(
            "{what} lost{place}: the kernel skipped the program where it was running already (which sockets they were about is unknown)"
        ),
    }
}

/// Ends the line and begins another one, indented.
fn new_line(line: &mut String, indent: usize) {
    line.truncate(line.trim_end().len());
    line.push('\n');
    line.extend(std::iter::repeat_n(' ', indent));
}

/// `text` and a space, padded to `width`. Longer text stays whole: nothing is cut.
fn push(line: &mut String, text: &str, width: usize) {
    // Writing to a String cannot fail.
    let _ = write!(line, "{text:width$} ");
}

fn push_right(line: &mut String, text: &str, width: usize) {
    // Writing to a String cannot fail.
    let _ = write!(line, "{text:>width$} ");
}

/// Seconds with microseconds.
fn seconds(ns: u64) -> String {
    format!("{}.{:06}", ns / 1_000_000_000, ns % 1_000_000_000 / 1000)
}

fn plural(count: u64, word: &str) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

fn style_of(state: TcpState) -> Style {
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

#[cfg(test)]
pub(super) mod samples;
#[cfg(test)]
mod tests;
