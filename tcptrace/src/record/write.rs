//! Owns the writing of recordings.

use std::io::{self, Write};

use super::{
    Opening, Step,
    format::{Framer, Header},
    wire,
};

/// Writes a recording to `W`, frame by frame. What has been handed over by [`Recorder::flush`] can be
/// read, whatever becomes of the recorder.
#[derive(Debug)]
pub struct Recorder<W> {
    out: W,
    framer: Framer,
    /// Frames that have not been written yet.
    waiting: Vec<u8>,
    bytes: u64,
}

/// So many bytes are written at once.
const ENOUGH: usize = 1 << 16;

impl<W: Write> Recorder<W> {
    /// Begins a recording. `out` needs no buffer of its own.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(out: W, opening: &Opening) -> io::Result<Self> {
        let mut recorder = Self {
            out,
            framer: Framer::default(),
            waiting: Header::current().to_bytes().to_vec(),
            bytes: 0,
        };
        let at = Framer::open(&mut recorder.waiting);
        let kind = wire::encode_opening(opening, &mut recorder.waiting)?;
        recorder
            .framer
            .close(&mut recorder.waiting, at, kind.number())?;
        recorder.flush()?;
        Ok(recorder)
    }

    /// Adds a step; the last one is [`Step::End`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn step(&mut self, step: &Step) -> io::Result<()> {
        let at = Framer::open(&mut self.waiting);
        let kind = wire::encode(step, &mut self.waiting)?;
        self.framer.close(&mut self.waiting, at, kind.number())?;
        if self.waiting.len() >= ENOUGH {
            self.write()?;
        }
        Ok(())
    }

    /// Hands everything so far to the operating system.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.write()?;
        self.out.flush()
    }

    /// How long the recording is so far, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes + self.waiting.len() as u64
    }

    fn write(&mut self) -> io::Result<()> {
        self.out.write_all(&self.waiting)?;
        self.bytes += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }
}
