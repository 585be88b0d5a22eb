//! Owns what is in the frames: one kind for each step of a trace, each a CBOR array of fields.
//!
//! The rule of docs/recording.md: numbers are never given a second meaning; a kind gets new fields
//! only behind those that it has, and who reads a file without them must have a value for them.

mod calls;
mod inputs;
mod numbers;
mod opening;

use std::io;

use minicbor::{Decode, Decoder, Encode};
use tcptrace_model::{Input, Snapshot};

use self::{
    calls::{WireCall, WireListedHolder, WireSurroundings},
    inputs::{
        WireAccepted, WireEnded, WireEntered, WireExisting, WireGap, WireLoss, WireRearmed,
        WireReset, WireSnapshotBegin, WireSnapshotEnd, WireTransition,
    },
    opening::{WireEnding, WireOpening, WireTick},
};
use super::{Opening, Step, format::SKIPPABLE};

/// Defines the kinds of frames, each with its number in the file.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $number:literal,)+) => {
        /// What a frame holds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// Its number in the file.
            #[must_use]
            pub const fn number(self) -> u8 {
                match self {
                    $(Self::$kind => $number,)+
                }
            }

            /// The kind with this number; `None` for one that this version does not know.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$kind),)+
                    _ => None,
                }
            }
        }
    };
}

// Those without bit 7 may not be passed over: findings need them. Those with it are about calls, and
// whoever does not know them tells nothing wrong of the rest.
kinds! {
    /// What the recording begins with.
    Opening = 1,
    /// The model was told the time.
    Tick = 2,
    /// What the recording ends with.
    End = 3,
    /// [`Input::Transition`]
    Transition = 16,
    /// [`Input::MinisocketEntered`]
    MinisocketEntered = 17,
    /// [`Input::MinisocketRearmed`]
    MinisocketRearmed = 18,
    /// [`Input::MinisocketEnded`]
    MinisocketEnded = 19,
    /// [`Input::Reset`]
    Reset = 20,
    /// [`Input::Accepted`]
    Accepted = 21,
    /// [`Snapshot::Begin`]
    SnapshotBegin = 22,
    /// [`Snapshot::Socket`]
    SnapshotSocket = 23,
    /// [`Snapshot::End`]
    SnapshotEnd = 24,
    /// [`Input::Gap`]
    Gap = 25,
    /// [`Input::Lost`]
    Lost = 26,
    /// [`Input::Holder`]
    Holder = 155,
    /// [`Input::Surroundings`]
    Surroundings = 156,
    /// [`Input::Call`]
    Call = 157,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are steps")]
pub enum Content {
    /// What the recording begins with.
    Opening(Box<Opening>),
    /// What came then.
    Step(Step),
    /// Something that this version does not know, and that may be passed over.
    Skipped,
}

/// Why the content of a frame is not understood.
#[derive(Debug)]
pub enum NotUnderstood {
    /// It is of a kind that this version does not know and that must not be passed over.
    Kind,
    /// Its fields are not what they should be.
    Fields(String),
}

/// Appends `opening` to `out` and returns the kind of the frame.
///
/// # Errors
/// When it cannot be encoded.
pub fn encode_opening(opening: &Opening, out: &mut Vec<u8>) -> io::Result<Kind> {
    append(Kind::Opening, &WireOpening::from(opening), out)
}

/// Appends `step` to `out` and returns the kind of the frame.
///
/// # Errors
/// When it cannot be encoded.
pub fn encode(step: &Step, out: &mut Vec<u8>) -> io::Result<Kind> {
    match step {
        Step::Input(input) => encode_input(input, out),
        Step::Tick { now_ns } => append(Kind::Tick, &WireTick { now_ns: *now_ns }, out),
        Step::End(ending) => append(Kind::End, &WireEnding::from(*ending), out),
    }
}

/// Understands the content of a frame whose kind has the number `kind`.
///
/// # Errors
/// When this version does not know the kind, unless it is marked [`SKIPPABLE`], or a field of it.
pub fn decode(kind: u8, content: &[u8]) -> Result<Content, NotUnderstood> {
    let Some(known) = Kind::from_number(kind) else {
        return if kind & SKIPPABLE == 0 {
            Err(NotUnderstood::Kind)
        } else {
            Ok(Content::Skipped)
        };
    };
    let input = |input| Content::Step(Step::Input(input));
    let snapshot = |snapshot| Content::Step(Step::Input(Input::Snapshot(snapshot)));
    Ok(match known {
        Kind::Opening => {
            let opening: WireOpening = read(content)?;
            let opening = opening.try_into().map_err(NotUnderstood::Fields)?;
            Content::Opening(Box::new(opening))
        }
        Kind::Tick => {
            let WireTick { now_ns } = read(content)?;
            Content::Step(Step::Tick { now_ns })
        }
        Kind::End => Content::Step(Step::End(read::<WireEnding>(content)?.into())),
        Kind::Transition => input(Input::Transition(read::<WireTransition>(content)?.into())),
        Kind::MinisocketEntered => input(Input::MinisocketEntered(
            read::<WireEntered>(content)?.into(),
        )),
        Kind::MinisocketRearmed => input(Input::MinisocketRearmed(
            read::<WireRearmed>(content)?.into(),
        )),
        Kind::MinisocketEnded => input(Input::MinisocketEnded(read::<WireEnded>(content)?.into())),
        Kind::Reset => input(Input::Reset(read::<WireReset>(content)?.into())),
        Kind::Accepted => input(Input::Accepted(read::<WireAccepted>(content)?.into())),
        Kind::SnapshotBegin => {
            let WireSnapshotBegin { ts_ns } = read(content)?;
            snapshot(Snapshot::Begin { ts_ns })
        }
        Kind::SnapshotSocket => snapshot(Snapshot::Socket(read::<WireExisting>(content)?.into())),
        Kind::SnapshotEnd => {
            let WireSnapshotEnd { ts_ns, complete } = read(content)?;
            snapshot(Snapshot::End { ts_ns, complete })
        }
        Kind::Gap => {
            let WireGap { ts_ns } = read(content)?;
            input(Input::Gap { ts_ns })
        }
        Kind::Lost => input(Input::Lost(read::<WireLoss>(content)?.into())),
        Kind::Holder => input(Input::Holder(read::<WireListedHolder>(content)?.into())),
        Kind::Surroundings => input(Input::Surroundings(
            read::<WireSurroundings>(content)?.into(),
        )),
        Kind::Call => input(Input::Call(read::<WireCall>(content)?.into())),
    })
}

fn encode_input(input: &Input, out: &mut Vec<u8>) -> io::Result<Kind> {
    match input {
        Input::Transition(transition) => {
            append(Kind::Transition, &WireTransition::from(*transition), out)
        }
        Input::MinisocketEntered(entered) => {
            append(Kind::MinisocketEntered, &WireEntered::from(*entered), out)
        }
        Input::MinisocketRearmed(rearmed) => {
            append(Kind::MinisocketRearmed, &WireRearmed::from(*rearmed), out)
        }
        Input::MinisocketEnded(ended) => {
            append(Kind::MinisocketEnded, &WireEnded::from(*ended), out)
        }
        Input::Reset(reset) => append(Kind::Reset, &WireReset::from(*reset), out),
        Input::Accepted(accepted) => append(Kind::Accepted, &WireAccepted::from(*accepted), out),
        Input::Snapshot(Snapshot::Begin { ts_ns }) => append(
            Kind::SnapshotBegin,
            &WireSnapshotBegin { ts_ns: *ts_ns },
            out,
        ),
        Input::Snapshot(Snapshot::Socket(existing)) => {
            append(Kind::SnapshotSocket, &WireExisting::from(*existing), out)
        }
        Input::Snapshot(Snapshot::End { ts_ns, complete }) => append(
            Kind::SnapshotEnd,
            &WireSnapshotEnd {
                ts_ns: *ts_ns,
                complete: *complete,
            },
            out,
        ),
        Input::Holder(listed) => append(Kind::Holder, &WireListedHolder::from(*listed), out),
        Input::Surroundings(surroundings) => append(
            Kind::Surroundings,
            &WireSurroundings::from(*surroundings),
            out,
        ),
        Input::Call(call) => append(Kind::Call, &WireCall::from(*call), out),
        Input::Gap { ts_ns } => append(Kind::Gap, &WireGap { ts_ns: *ts_ns }, out),
        Input::Lost(loss) => append(Kind::Lost, &WireLoss::from(*loss), out),
    }
}

fn append(kind: Kind, fields: &impl Encode<()>, out: &mut Vec<u8>) -> io::Result<Kind> {
    minicbor::encode(fields, out).map_err(io::Error::other)?;
    Ok(kind)
}

fn read<'b, T: Decode<'b, ()>>(content: &'b [u8]) -> Result<T, NotUnderstood> {
    let mut decoder = Decoder::new(content);
    let fields = decoder
        .decode()
        .map_err(|error| NotUnderstood::Fields(error.to_string()))?;
    if decoder.position() == content.len() {
        Ok(fields)
    } else {
        Err(NotUnderstood::Fields(
            "there is something behind the fields".to_owned(),
        ))
    }
}
