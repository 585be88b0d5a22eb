//! Owns the frame of a recording: its header, and the frames that follow, whatever they hold.
//!
//! All numbers are little-endian. See docs/recording.md.

use std::{
    fmt,
    io::{self, Read},
};

use crc32fast::Hasher;

/// What this version writes. It reads every file with the same `major`.
pub const VERSION: Version = Version { major: 1, minor: 1 };
/// Length of the header, in bytes: the same in all versions.
pub const HEADER_LENGTH: usize = 32;
/// In the kind of a frame: who does not know the kind may pass over it.
pub const SKIPPABLE: u8 = 0x80;
/// The longest content of a frame, in bytes: its length has three bytes.
pub const MAX_CONTENT: usize = (1 << 24) - 1;

/// A byte that no text has, and line ends that a transfer as text would change.
const MAGIC: [u8; 8] = *b"\x89TCPT\r\n\x1a";
const WRITER_LENGTH: usize = 16;
/// Kind, length, checksum.
const FRAME_HEADER_LENGTH: usize = 8;
/// How much is asked of the file at once, in bytes.
const CHUNK: usize = 1 << 18;

const _: () = assert!(
    env!("CARGO_PKG_VERSION").len() <= WRITER_LENGTH,
    "the version of tcptrace must fit the header"
);

/// Version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Who knows another one cannot read the file.
    pub major: u16,
    /// Who knows another one can read the file.
    pub minor: u16,
}

/// What stands at the very beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the format.
    pub version: Version,
    /// Version of the tcptrace that wrote the file; at most 16 bytes.
    pub writer: String,
}

impl Header {
    /// The header of files that this version writes.
    #[must_use]
    pub fn current() -> Self {
        Self {
            version: VERSION,
            writer: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// As it stands in the file. A `writer` that is too long is cut.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.major.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.version.minor.to_le_bytes());
        let writer = self.writer.as_bytes();
        let length = writer.len().min(WRITER_LENGTH);
        bytes[12..12 + length].copy_from_slice(&writer[..length]);
        let checksum = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_LENGTH]) -> Result<Self, Damage> {
        if bytes[..8] != MAGIC {
            return Err(Damage::NoRecording);
        }
        if crc32fast::hash(&bytes[..28]).to_le_bytes() != bytes[28..] {
            return Err(Damage::Header);
        }
        // It will be shown: nothing but what versions are made of.
        let writer: String = bytes[12..28]
            .iter()
            .map(|byte| char::from(*byte))
            .filter(|character| character.is_ascii_alphanumeric() || ".+-".contains(*character))
            .collect();
        let header = Self {
            version: Version {
                major: u16::from_le_bytes([bytes[8], bytes[9]]),
                minor: u16::from_le_bytes([bytes[10], bytes[11]]),
            },
            writer,
        };
        if header.version.major != VERSION.major {
            return Err(Damage::OtherFormat(header));
        }
        Ok(header)
    }
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The frame; the first one is 1.
    pub frame: u64,
    /// Its first byte, counted from the beginning of the file.
    pub byte: u64,
}

/// Why a recording cannot be read (further). What stands before that place is right.
#[derive(Debug)]
pub enum Damage {
    /// There is nothing.
    Empty,
    /// It is something else.
    NoRecording,
    /// Its header is damaged.
    Header,
    /// It has a format of which this version knows nothing.
    OtherFormat(Header),
    /// It ends in the middle of a frame. A length that is damaged looks the same.
    CutOff(Place),
    /// It ends without saying so. The place is that of the frame that does not come.
    NoEnd(Place),
    /// Something in it or before it is not as it was written.
    Checksum(Place),
    /// A frame that must not be passed over is of a kind that this version does not know.
    UnknownKind {
        /// Where.
        place: Place,
        /// The kind.
        kind: u8,
        /// Version of the tcptrace that wrote it.
        writer: String,
    },
    /// A frame is as it was written, but not understood.
    Unreadable {
        /// Where.
        place: Place,
        /// Why.
        reason: String,
        /// Version of the tcptrace that wrote it.
        writer: String,
    },
    /// It goes on after its end.
    AfterEnd(Place),
    /// The operating system cannot read it.
    Io {
        /// The byte that could not be read, counted from the beginning of the file.
        byte: u64,
        /// Why.
        error: io::Error,
    },
}

impl fmt::Display for Damage {
    /// What follows the name of the file in a sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = env!("CARGO_PKG_VERSION");
        match self {
            Self::Empty => {
                f.write_str("is empty: the recorder ended before it had begun to record")
            }
            Self::NoRecording => {
                f.write_str("is no recording; make one with: tcptrace record -o FILE")
            }
            Self::Header => f.write_str("is cut off or damaged in its first 32 bytes"),
            Self::OtherFormat(Header { version, writer }) => write!(
                f,
                "has format {}.{} of tcptrace {writer}, and this tcptrace {own} reads format {} only; replay it with tcptrace {writer}",
                version.major, version.minor, VERSION.major
            ),
            Self::CutOff(place) => {
                write!(f, "ends within {place}: it is cut off, or damaged there")
            }
            Self::NoEnd(place) => write!(
                f,
                "ends before {place} without saying so: the recorder was killed, or the file is cut off"
            ),
            Self::Checksum(place) => {
                write!(f, "is damaged in {place}: the checksum is another one")
            }
            Self::UnknownKind {
                place,
                kind,
                writer,
            } => write!(
                f,
                "has a frame of kind {kind}, of which this tcptrace {own} knows nothing, in {place}; replay all of it with tcptrace {writer} or later"
            ),
            Self::Unreadable {
                place,
                reason,
                writer,
            } => write!(
                f,
                "cannot be understood in {place} ({reason}); it was written by tcptrace {writer}, this is {own}"
            ),
            Self::AfterEnd(place) => {
                write!(f, "goes on after its end, with {place}")
            }
            Self::Io { byte, error } => write!(f, "cannot be read at byte {byte}: {error}"),
        }
    }
}

impl std::error::Error for Damage {}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {} at byte {}", self.frame, self.byte)
    }
}

/// Puts contents into frames.
#[derive(Clone, Debug, Default)]
pub struct Framer {
    checksum: Hasher,
}

impl Framer {
    /// Begins a frame at the end of `out`. Its content is to be appended there; then comes
    /// [`Framer::close`] with what this has returned.
    #[must_use]
    pub fn open(out: &mut Vec<u8>) -> usize {
        let at = out.len();
        out.extend([0; FRAME_HEADER_LENGTH]);
        at
    }

    /// Completes the frame that begins at `at` in `out` and reaches to its end.
    ///
    /// # Errors
    /// When the content is longer than [`MAX_CONTENT`].
    pub fn close(&mut self, out: &mut [u8], at: usize, kind: u8) -> io::Result<()> {
        let frame = &mut out[at..];
        let length = frame.len().saturating_sub(FRAME_HEADER_LENGTH);
        let length = u32::try_from(length)
            .ok()
            .filter(|length| *length as usize <= MAX_CONTENT)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{length} bytes are too much for one frame of a recording"),
                )
            })?;
        let [low, middle, high, _] = length.to_le_bytes();
        frame[..4].copy_from_slice(&[kind, low, middle, high]);
        self.checksum.update(&frame[..4]);
        self.checksum.update(&frame[FRAME_HEADER_LENGTH..]);
        let checksum = self.checksum.clone().finalize();
        frame[4..FRAME_HEADER_LENGTH].copy_from_slice(&checksum.to_le_bytes());
        Ok(())
    }
}

/// A frame as it stands in the file, its checksum verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Where it is.
    pub place: Place,
    /// What it holds: the number in the file, [`SKIPPABLE`] included.
    pub kind: u8,
    /// What it holds.
    pub content: &'a [u8],
}

/// Takes frames out of a stream of bytes. Call [`Deframer::header`] or [`Deframer::next_frame`]; when that
/// has nothing, [`Deframer::fill`]; and when that has nothing either, [`Deframer::rest`].
#[derive(Debug)]
pub struct Deframer {
    /// What has been read and not yet taken lies from `begin` to `end`.
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    /// Where the next frame begins.
    place: Place,
    checksum: Hasher,
}

impl Default for Deframer {
    fn default() -> Self {
        Self {
            buffer: vec![0; CHUNK],
            begin: 0,
            end: 0,
            place: Place { frame: 1, byte: 0 },
            checksum: Hasher::new(),
        }
    }
}

impl Deframer {
    /// The header of the file, to be taken first; `None` when it is not all there.
    ///
    /// # Errors
    /// When this is no recording, or one that this version cannot read.
    pub fn header(&mut self) -> Result<Option<Header>, Damage> {
        let waiting = &self.buffer[self.begin..self.end];
        let Some(bytes) = waiting.first_chunk::<HEADER_LENGTH>() else {
            // What cannot become a recording is not waited for.
            let begins_well = waiting.iter().zip(&MAGIC).all(|(found, due)| found == due);
            return if begins_well {
                Ok(None)
            } else {
                Err(Damage::NoRecording)
            };
        };
        let header = Header::from_bytes(bytes)?;
        self.take(HEADER_LENGTH);
        Ok(Some(header))
    }

    /// The next frame; `None` when it is not all there.
    ///
    /// # Errors
    /// When it is not as it was written. There is no sense in going on then.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Damage> {
        let waiting = &self.buffer[self.begin..self.end];
        let Some(&[kind, low, middle, high, c0, c1, c2, c3]) =
            waiting.first_chunk::<FRAME_HEADER_LENGTH>()
        else {
            return Ok(None);
        };
        let length = FRAME_HEADER_LENGTH + u32::from_le_bytes([low, middle, high, 0]) as usize;
        if waiting.len() < length {
            return Ok(None);
        }
        self.checksum.update(&waiting[..4]);
        self.checksum.update(&waiting[FRAME_HEADER_LENGTH..length]);
        let place = self.place;
        if self.checksum.clone().finalize() != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(Damage::Checksum(place));
        }
        let content = self.begin + FRAME_HEADER_LENGTH..self.begin + length;
        self.take(length);
        self.place.frame += 1;
        Ok(Some(Frame {
            place,
            kind,
            content: &self.buffer[content],
        }))
    }

    /// Reads more from `stream`, once; `false` when it has nothing more. An interrupted read is tried
    /// again.
    ///
    /// # Errors
    /// [`Damage::Io`] when it cannot be read.
    pub fn fill(&mut self, stream: &mut impl Read) -> Result<bool, Damage> {
        if self.begin > 0 {
            self.buffer.copy_within(self.begin..self.end, 0);
            self.end -= self.begin;
            self.begin = 0;
        }
        if self.end == self.buffer.len() {
            // A frame of more than that: its length is bounded, and so is this.
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match stream.read(&mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let byte = self.place.byte + (self.end - self.begin) as u64;
                    return Err(Damage::Io { byte, error });
                }
            }
        }
    }

    /// How many bytes have been read and belong to no frame that is all there.
    #[must_use]
    pub fn rest(&self) -> usize {
        self.end - self.begin
    }

    /// Where the next frame begins.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    fn take(&mut self, bytes: usize) {
        self.begin += bytes;
        self.place.byte += bytes as u64;
    }
}
