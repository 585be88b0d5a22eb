//! Owns text for people: which finding becomes which lines, and where they go.

pub mod call;
mod columns;
mod ladder;
mod prose;
mod sides;
mod story;
mod summary;
mod words;

use std::io::{self, Write};

use tcptrace_model::{
    Doubt, Finding, Loss, LossReason, Story, Stuck, TimeWait, TimeWaitEnd, TimeWaitEntered,
};

use self::{
    call::{Mode, Telling},
    columns::Columns,
    prose::{Mark, Paragraph},
    sides::Sides,
    summary::{Context, plural},
};
use super::{End, Render, Start, time::WallClock};

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
    /// A drawing of the close sequence below each story.
    pub ladder: bool,
}

/// Writes text: findings to `out`, losses to `notices`.
pub struct Text<W, N> {
    out: W,
    notices: N,
    columns: Columns,
    context: Context,
    /// Reused for each finding.
    line: String,
}

impl<W: Write, N: Write> Text<W, N> {
    /// `clock_offset_ns` is what to add to CLOCK_BOOTTIME ns to get ns since 1970.
    pub fn new(out: W, notices: N, layout: Layout, clock_offset_ns: i64) -> Self {
        Self {
            out,
            notices,
            columns: Columns::new(layout, WallClock::new(clock_offset_ns)),
            context: Context::default(),
            line: String::new(),
        }
    }

    fn write(&mut self, fill: impl FnOnce(&Self, &mut String)) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        fill(self, &mut line);
        let result = self.out.write_all(line.as_bytes());
        self.line = line;
        result
    }

    fn story(&self, line: &mut String, told: &Story) {
        let layout = &self.columns.layout;
        let sides = Sides::of(told);
        self.columns.times(line, story::ts_ns(told));
        let body = story::body(told, &sides);
        prose::paragraph(line, layout, story::mark(told), &sides.heading(), &body);
        if layout.ladder {
            ladder::draw(line, layout, &sides);
            line.push('\n');
        }
    }

    fn stuck(&self, line: &mut String, found: &Stuck) {
        let (heading, body) = story::stuck(found);
        self.columns.times(line, found.ts_ns);
        prose::paragraph(line, &self.columns.layout, Mark::Attention, &heading, &body);
    }

    fn call(&self, line: &mut String, ts_ns: u64, told: &Paragraph) {
        self.columns.times(line, ts_ns);
        prose::sections(line, &self.columns.layout, told);
    }

    fn time_wait(&self, line: &mut String, found: &TimeWait) {
        if found.end == TimeWaitEnd::NeverEntered {
            let (heading, body) = story::never_entered(found);
            self.columns.times(line, found.ts_ns);
            prose::paragraph(line, &self.columns.layout, Mark::Attention, &heading, &body);
        } else {
            self.columns.time_wait(line, found);
        }
    }
}

impl<W: Write, N: Write> Render for Text<W, N> {
    fn start(&mut self, start: &Start) -> io::Result<()> {
        let Start {
            version: _,
            ts_ns,
            kernel: _,
            hz,
            backends: _,
            degraded,
            netns: _,
            sysctls,
            clock_offset_ns: _,
        } = start;
        self.columns.start_ns = *ts_ns;
        self.context.degraded.clone_from(degraded);
        self.context.sysctls.clone_from(sysctls);
        self.context.hz = *hz;
        if self.columns.layout.no_header {
            return Ok(());
        }
        self.write(|text, line| text.columns.header(line))
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.context.count(finding);
        match finding {
            Finding::Transition(found) => {
                self.write(|text, line| text.columns.transition(line, found))
            }
            Finding::TimeWaitEntered(found) => {
                if came_with_a_transition(found) && !self.columns.layout.wide {
                    return Ok(());
                }
                self.write(|text, line| text.columns.time_wait_entered(line, found))
            }
            Finding::TimeWait(found) => self.write(|text, line| text.time_wait(line, found)),
            // The story tells it, with the other end.
            Finding::Connection(_) => Ok(()),
            Finding::CallFailed(found) => {
                let telling = Telling {
                    mode: Mode::Failed,
                    wide: self.columns.layout.wide,
                    hz: self.context.hz,
                };
                let told = call::failed(found, telling);
                self.write(|text, line| text.call(line, found.call.ts_ns, &told))
            }
            Finding::CallSucceeded(found) => {
                let told = call::succeeded(found);
                self.write(|text, line| text.call(line, found.call.ts_ns, &told))
            }
            Finding::Story(told) => self.write(|text, line| text.story(line, told)),
            Finding::Stuck(found) => self.write(|text, line| text.stuck(line, found)),
            Finding::Lost(loss) => {
                // What stands before it comes before it on a terminal, too.
                self.out.flush()?;
                writeln!(self.notices, "tcptrace: warning: {}", loss_sentence(loss))
            }
        }
    }

    fn end(&mut self, end: &End) -> io::Result<()> {
        self.write(|text, line| {
            summary::write(line, &text.columns.layout, end, &text.context);
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Adds `text` to `out`, whose last line has `column` columns, broken between words as `layout` wants it;
/// further lines are indented by `indent`.
pub fn wrapped(out: &mut String, layout: &Layout, column: usize, indent: usize, text: &str) {
    prose::wrap(out, layout, column, indent, text);
}

/// Whether the line of a transition has shown it already.
fn came_with_a_transition(found: &TimeWaitEntered) -> bool {
    [Doubt::RecordsLost, Doubt::BeforeTrace, Doubt::Evicted]
        .into_iter()
        .all(|doubt| !found.doubts.contains(doubt))
}

/// What was lost, in one sentence.
#[must_use]
pub fn loss_sentence(loss: &Loss) -> String {
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
            "{what} lost{place}: the buffer was full; enlarge it with: --buffer-size 256M, or filter"
        ),
        LossReason::Recursion => format!(
            "{what} lost{place}: the kernel skipped the program where it was running already (which sockets they were about is unknown)"
        ),
    }
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
