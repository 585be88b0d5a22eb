//! Owns the recorded source: what an earlier trace took in, from its recording.

use std::io::Read;

use tcptrace_model::{Input, Snapshot};

use crate::record::{
    Ending, Opening, Step,
    format::{Damage, Deframer, Header, Place},
    wire::{self, Content, NotUnderstood},
};

/// A recording that is being read.
///
/// [`Replay::next_step`] waits for the stream. Who must not wait calls [`Replay::step_at_hand`], and
/// [`Replay::fill`] where waiting is possible.
#[derive(Debug)]
pub struct Replay<R> {
    stream: R,
    deframer: Deframer,
    header: Header,
    opening: Opening,
    /// The latest moment that has been told, in ns of CLOCK_BOOTTIME.
    latest_ns: u64,
    has_ended: bool,
    skipped: u64,
}

impl<R: Read> Replay<R> {
    /// Reads `stream` as far as the first step.
    ///
    /// # Errors
    /// When it is no recording, or one that this version cannot read, or damaged so early.
    pub fn open(mut stream: R) -> Result<Self, Damage> {
        let mut deframer = Deframer::default();
        let header = loop {
            if let Some(header) = deframer.header()? {
                break header;
            }
            if !deframer.fill(&mut stream)? {
                return Err(if deframer.rest() == 0 {
                    Damage::Empty
                } else {
                    Damage::Header
                });
            }
        };
        let mut skipped = 0;
        loop {
            match content(&mut deframer, &header)? {
                Some((_, Content::Opening(opening))) => {
                    return Ok(Self {
                        stream,
                        deframer,
                        header,
                        latest_ns: opening.start.ts_ns,
                        opening: *opening,
                        has_ended: false,
                        skipped,
                    });
                }
                Some((_, Content::Skipped)) => skipped += 1,
                Some((place, Content::Step(_))) => {
                    return Err(Damage::Unreadable {
                        place,
                        reason: "a recording begins with what the trace started with".to_owned(),
                        writer: header.writer,
                    });
                }
                None => {
                    if !deframer.fill(&mut stream)? {
                        return Err(end_of(&deframer));
                    }
                }
            }
        }
    }

    /// What the recording begins with.
    #[must_use]
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// The next step; `None` after [`Step::End`]. Waits for the stream.
    ///
    /// # Errors
    /// When the recording is damaged, or ends without a [`Step::End`]. All steps before that place
    /// have been returned, and none comes after it.
    pub fn next_step(&mut self) -> Result<Option<Step>, Damage> {
        loop {
            if let Some(step) = self.step_at_hand()? {
                return Ok(Some(step));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// The next step, if it has been read from the stream already.
    ///
    /// # Errors
    /// As [`Replay::next_step`].
    pub fn step_at_hand(&mut self) -> Result<Option<Step>, Damage> {
        loop {
            if self.has_ended {
                return if self.deframer.rest() == 0 {
                    Ok(None)
                } else {
                    Err(Damage::AfterEnd(self.deframer.place()))
                };
            }
            match content(&mut self.deframer, &self.header)? {
                None => return Ok(None),
                Some((_, Content::Skipped)) => self.skipped += 1,
                Some((_, Content::Step(step))) => {
                    self.has_ended = matches!(step, Step::End(_));
                    self.latest_ns = self.latest_ns.max(moment(&step));
                    return Ok(Some(step));
                }
                Some((place, Content::Opening(_))) => {
                    return Err(Damage::Unreadable {
                        place,
                        reason: "a recording begins only once".to_owned(),
                        writer: self.header.writer.clone(),
                    });
                }
            }
        }
    }

    /// Reads more from the stream, once, and waits for it; `false` when the recording is over.
    ///
    /// # Errors
    /// When it cannot be read, or is over without a [`Step::End`].
    pub fn fill(&mut self) -> Result<bool, Damage> {
        if self.deframer.fill(&mut self.stream)? {
            return Ok(true);
        }
        if self.has_ended && self.deframer.rest() == 0 {
            return Ok(false);
        }
        Err(end_of(&self.deframer))
    }

    /// The end that a recording has whose own is missing: the latest moment in what has been read.
    #[must_use]
    pub fn end_so_far(&self) -> Ending {
        Ending {
            ts_ns: self.latest_ns,
            duration_ns: self.latest_ns.saturating_sub(self.opening.start.ts_ns),
        }
    }

    /// Frames that were passed over, because this version does not know them and need not.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// What the next frame says; `None` when it has not been read yet.
fn content(deframer: &mut Deframer, header: &Header) -> Result<Option<(Place, Content)>, Damage> {
    let Some(frame) = deframer.next_frame()? else {
        return Ok(None);
    };
    let place = frame.place;
    let content =
        wire::decode(frame.kind, frame.content).map_err(|not_understood| match not_understood {
            NotUnderstood::Kind => Damage::UnknownKind {
                place,
                kind: frame.kind,
                writer: header.writer.clone(),
            },
            NotUnderstood::Fields(reason) => Damage::Unreadable {
                place,
                reason,
                writer: header.writer.clone(),
            },
        })?;
    Ok(Some((place, content)))
}

/// How a stream ends that ends too early.
fn end_of(deframer: &Deframer) -> Damage {
    let place = deframer.place();
    if deframer.rest() == 0 {
        Damage::NoEnd(place)
    } else {
        Damage::CutOff(place)
    }
}

/// When it happened, CLOCK_BOOTTIME ns.
fn moment(step: &Step) -> u64 {
    match step {
        Step::Tick { now_ns } => *now_ns,
        Step::End(ending) => ending.ts_ns,
        Step::Input(input) => match input {
            Input::Transition(transition) => transition.ts_ns,
            Input::MinisocketEntered(entered) => entered.ts_ns,
            Input::MinisocketRearmed(rearmed) => rearmed.ts_ns,
            Input::MinisocketEnded(ended) => ended.ts_ns,
            Input::Reset(reset) => reset.ts_ns,
            Input::Accepted(accepted) => accepted.ts_ns,
            Input::Holder(holder) => holder.ts_ns,
            Input::Surroundings(surroundings) => surroundings.ts_ns,
            Input::Call(call) => call.ts_ns,
            Input::Snapshot(Snapshot::Socket(existing)) => existing.ts_ns,
            Input::Snapshot(Snapshot::Begin { ts_ns } | Snapshot::End { ts_ns, complete: _ })
            | Input::Gap { ts_ns } => *ts_ns,
            Input::Lost(loss) => loss.ts_ns,
        },
    }
}
