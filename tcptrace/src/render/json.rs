//! Owns JSON lines: one object a line, with the names that docs/events.md documents.

mod bytes;
mod calls;
mod fields;
mod lines;
mod memo;
mod writer;

use std::io::{self, Write};

use serde::Serialize;
use tcptrace_model::{CallFailed, Connection, Finding, HolderFound, SocketCall, TransitionFinding};

use self::{
    calls::{CallFailedLine, CallLine, WouldSucceedLine},
    fields::Word,
    lines::{
        ConnectionLine, LostLine, StartLine, StuckLine, SummaryLine, TimeWaitEnteredLine,
        TimeWaitLine, TransitionLine,
    },
    memo::{Sockets, Tasks, Written},
};
use super::{
    End, Render, Start,
    time::{Stamps, WallClock},
};

/// Writes JSON lines.
pub struct Json<W> {
    lines: Lines<W>,
    sockets: Sockets,
    tasks: Tasks,
}

/// Where they go.
struct Lines<W> {
    out: W,
    stamps: Stamps,
    /// Reused for each line, which is written in one piece.
    buffer: Vec<u8>,
}

/// What every line begins with.
#[derive(Serialize)]
struct Line<'a, T> {
    kind: Word,
    ts_ns: u64,
    time: &'a str,
    #[serde(rename = "")]
    rest: T,
}

/// A line some of whose members have been written before.
#[derive(Serialize)]
struct Between<'a, T> {
    #[serde(rename = "")]
    before: Written<'a>,
    #[serde(rename = "")]
    rest: T,
    #[serde(rename = "")]
    after: Option<Written<'a>>,
}

impl<W: Write> Lines<W> {
    fn write<T: Serialize>(&mut self, kind: &'static str, ts_ns: u64, rest: T) -> io::Result<()> {
        let time = self.stamps.rfc3339(ts_ns);
        self.buffer.clear();
        let line = Line {
            kind: Word(kind),
            ts_ns,
            time,
            rest,
        };
        writer::write(&mut self.buffer, &line).map_err(io::Error::other)?;
        self.buffer.push(b'\n');
        self.out.write_all(&self.buffer)
    }
}

impl<W: Write> Json<W> {
    /// Writes to `out`. `clock_offset_ns` is what to add to CLOCK_BOOTTIME ns to get ns since 1970.
    pub fn new(out: W, clock_offset_ns: i64) -> Self {
        Self {
            lines: Lines {
                out,
                stamps: Stamps::new(WallClock::new(clock_offset_ns)),
                buffer: Vec::new(),
            },
            sockets: Sockets::default(),
            tasks: Tasks::default(),
        }
    }

    /// Writes the line of a call that nobody made and that would fail now.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn would_fail(&mut self, found: &CallFailed) -> io::Result<()> {
        let line = CallFailedLine::of(found, false);
        self.lines.write("would_fail", found.call.ts_ns, line)
    }

    /// Writes the line of a call that nobody made and that would succeed now. `holders` hold the port
    /// and share it; `total` is how many there are, as far as known.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn would_succeed(
        &mut self,
        call: &SocketCall,
        holders: &[HolderFound],
        total: usize,
    ) -> io::Result<()> {
        let line = WouldSucceedLine::of(call, holders, total);
        self.lines.write("would_succeed", call.ts_ns, line)
    }

    fn transition(&mut self, found: &TransitionFinding) -> io::Result<()> {
        let transition = &found.transition;
        let socket = self
            .sockets
            .written(&transition.socket, found.owner.as_ref());
        let current = self.tasks.written(&transition.current);
        let line = Between {
            before: socket.map_err(io::Error::other)?,
            rest: TransitionLine::from(found),
            after: Some(current.map_err(io::Error::other)?),
        };
        self.lines.write("transition", transition.ts_ns, line)
    }

    fn connection(&mut self, found: &Connection) -> io::Result<()> {
        let socket = self.sockets.written(&found.socket, found.owner.as_ref());
        let line = Between {
            before: socket.map_err(io::Error::other)?,
            rest: ConnectionLine::from(found),
            after: None,
        };
        self.lines.write("connection", found.ts_ns, line)
    }
}

impl<W: Write> Render for Json<W> {
    fn start(&mut self, start: &Start) -> io::Result<()> {
        self.lines
            .write("start", start.ts_ns, StartLine::from(start))
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        match finding {
            Finding::Transition(found) => self.transition(found),
            Finding::TimeWaitEntered(found) => self.lines.write(
                "time_wait_entered",
                found.ts_ns,
                TimeWaitEnteredLine::from(&**found),
            ),
            Finding::TimeWait(found) => {
                self.lines
                    .write("time_wait", found.ts_ns, TimeWaitLine::from(&**found))
            }
            Finding::Connection(found) => self.connection(found),
            // Each of its ends has had a line of its own.
            Finding::Story(_) => Ok(()),
            Finding::Stuck(found) => {
                self.lines
                    .write("stuck", found.ts_ns, StuckLine::from(&**found))
            }
            Finding::CallFailed(found) => self.lines.write(
                "call_failed",
                found.call.ts_ns,
                CallFailedLine::of(found, true),
            ),
            Finding::CallSucceeded(found) => {
                self.lines
                    .write("call", found.call.ts_ns, CallLine::from(&**found))
            }
            Finding::Lost(loss) => self.lines.write("lost", loss.ts_ns, LostLine::from(loss)),
        }
    }

    fn end(&mut self, end: &End) -> io::Result<()> {
        self.lines
            .write("summary", end.ts_ns, SummaryLine::from(end))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lines.out.flush()
    }
}

#[cfg(test)]
mod tests;
