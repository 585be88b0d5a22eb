//! Recordings that are whole, cut off, damaged, and of other versions.

use std::io;

use minicbor::{Decode, Encode};
use tcptrace_model::Input;

use super::{
    Opening, Step,
    format::{Damage, Framer, HEADER_LENGTH, Header, Place, SKIPPABLE, VERSION, Version},
    samples,
    wire::{self, Kind},
    write::Recorder,
};
use crate::source::replay::Replay;

mod round_trip;

fn recording(opening: &Opening, steps: &[Step]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut recorder = Recorder::begin(&mut file, opening).unwrap();
    for step in steps {
        recorder.step(step).unwrap();
    }
    recorder.flush().unwrap();
    assert_eq!(recorder.bytes(), file.len() as u64);
    file
}

/// All steps up to what is wrong.
fn steps_of(file: &[u8]) -> (Vec<Step>, Result<(), Damage>) {
    let mut steps = Vec::new();
    let mut replay = match Replay::open(file) {
        Ok(replay) => replay,
        Err(damage) => return (steps, Err(damage)),
    };
    loop {
        match replay.next_step() {
            Ok(Some(step)) => steps.push(step),
            Ok(None) => return (steps, Ok(())),
            Err(damage) => return (steps, Err(damage)),
        }
    }
}

/// A file of frames with any kind and content.
struct Forged {
    bytes: Vec<u8>,
    framer: Framer,
}

impl Forged {
    fn new(version: Version) -> Self {
        let header = Header {
            version,
            writer: "7.8.9".to_owned(),
        };
        Self {
            bytes: header.to_bytes().to_vec(),
            framer: Framer::default(),
        }
    }

    fn frame(mut self, kind: u8, content: &[u8]) -> Self {
        let at = Framer::open(&mut self.bytes);
        self.bytes.extend(content);
        self.framer.close(&mut self.bytes, at, kind).unwrap();
        self
    }

    fn opening(self) -> Self {
        let mut content = Vec::new();
        let kind = wire::encode_opening(&samples::opening(), &mut content).unwrap();
        self.frame(kind.number(), &content)
    }

    fn step(self, step: &Step) -> Self {
        let mut content = Vec::new();
        let kind = wire::encode(step, &mut content).unwrap();
        self.frame(kind.number(), &content)
    }
}

/// Where each frame of a whole recording begins, and the end.
fn frames_of(file: &[u8]) -> Vec<usize> {
    let mut begins = vec![HEADER_LENGTH];
    while let Some(frame) = file
        .get(begins[begins.len() - 1]..)
        .filter(|rest| !rest.is_empty())
    {
        let length = u32::from_le_bytes([frame[1], frame[2], frame[3], 0]) as usize;
        begins.push(begins[begins.len() - 1] + 8 + length);
    }
    begins
}

#[test]
fn a_recording_gives_back_what_was_recorded() {
    let file = recording(&samples::opening(), &samples::steps());
    let mut replay = Replay::open(&file[..]).unwrap();
    assert_eq!(*replay.opening(), samples::opening());
    let (steps, outcome) = steps_of(&file);
    assert_eq!(steps, samples::steps());
    outcome.unwrap();
    while replay.next_step().unwrap().is_some() {}
    assert_eq!(replay.next_step().unwrap(), None);
    assert_eq!(replay.skipped(), 0);
}

/// The file was written by tcptrace 0.1.0 in format 1.0. It is never written again: whatever becomes
/// of the format, as long as its major version is 1, this is what such files say.
#[test]
fn a_file_of_format_1_0_is_read_by_all_versions_of_major_1() {
    let file = include_bytes!("tests/format-1.0.rec");
    let mut opening = samples::opening();
    opening.start.version = "0.1.0".to_owned();
    // No calls were recorded then; which kernel it was, its release says.
    opening.settings.calls = false;
    assert_eq!(opening.start.kernel, "6.18.0-test");
    assert_eq!(
        (opening.settings.kernel.major, opening.settings.kernel.minor),
        (6, 18)
    );
    assert_eq!(*Replay::open(&file[..]).unwrap().opening(), opening);
    let (steps, outcome) = steps_of(file);
    assert_eq!(steps, samples::steps_of_format_1_0());
    outcome.unwrap();
}

#[test]
fn the_samples_have_every_kind_of_frame() {
    let file = recording(&samples::opening(), &samples::steps());
    let begins = frames_of(&file);
    let kinds: Vec<u8> = begins[..begins.len() - 1]
        .iter()
        .map(|begin| file[*begin])
        .collect();
    for kind in Kind::ALL {
        assert!(kinds.contains(&kind.number()), "{kind:?}");
        assert_eq!(Kind::from_number(kind.number()), Some(*kind));
        let about_calls = matches!(kind, Kind::Holder | Kind::Surroundings | Kind::Call);
        assert_eq!(kind.number() & SKIPPABLE != 0, about_calls);
    }
}

#[test]
fn a_recording_is_small() {
    let transition = samples::steps()
        .into_iter()
        .find(|step| matches!(step, Step::Input(Input::Transition(_))))
        .unwrap();
    let file = recording(&samples::opening(), &vec![transition; 64]);
    assert!(file.len() < 8 * 1024, "{} bytes", file.len());
}

#[test]
fn cut_off_anywhere_it_gives_all_that_is_before() {
    let file = recording(&samples::opening(), &samples::steps());
    let begins = frames_of(&file);
    for length in 0..file.len() {
        let (steps, outcome) = steps_of(&file[..length]);
        let whole = begins.iter().filter(|begin| **begin <= length).count();
        // One for the end of the last frame, and the first one holds no step.
        let expected = whole.saturating_sub(2);
        assert_eq!(steps, samples::steps()[..expected], "{length} bytes");
        let place = |begin: usize| Place {
            frame: whole as u64,
            byte: begin as u64,
        };
        match outcome.unwrap_err() {
            Damage::Empty => assert_eq!(length, 0),
            Damage::Header => assert!((1..HEADER_LENGTH).contains(&length)),
            Damage::NoEnd(at) => {
                assert!(begins.contains(&length), "{length} bytes");
                assert_eq!(at, place(length));
            }
            Damage::CutOff(at) => {
                assert!(!begins.contains(&length), "{length} bytes");
                assert_eq!(at, place(begins[whole - 1]));
            }
            damage => panic!("{length} bytes: {damage}"),
        }
    }
}

#[test]
fn a_bit_that_is_wrong_is_found_where_it_is() {
    let file = recording(&samples::opening(), &samples::steps());
    let begins = frames_of(&file);
    for bit in 0..file.len() * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let (steps, outcome) = steps_of(&damaged);
        let frame = begins.iter().filter(|begin| **begin <= bit / 8).count();
        let expected = frame.saturating_sub(2);
        assert_eq!(steps, samples::steps()[..expected], "bit {bit}");
        match outcome.unwrap_err() {
            Damage::NoRecording => assert!(bit < 8 * 8, "bit {bit}"),
            Damage::Header => assert!((8..HEADER_LENGTH).contains(&(bit / 8)), "bit {bit}"),
            // A length that is too great reaches beyond the end.
            Damage::Checksum(at) | Damage::CutOff(at) => {
                assert_eq!(at.frame, frame as u64, "bit {bit}");
                assert_eq!(at.byte, begins[frame - 1] as u64, "bit {bit}");
            }
            damage => panic!("bit {bit}: {damage}"),
        }
    }
}

#[test]
fn a_frame_that_is_missing_or_twice_there_is_found() {
    let file = recording(&samples::opening(), &samples::steps());
    let begins = frames_of(&file);
    let (begin, end) = (begins[4], begins[5]);
    let missing = [&file[..begin], &file[end..]].concat();
    let twice = [&file[..end], &file[begin..]].concat();
    for (damaged, frame) in [(missing, 5), (twice, 6)] {
        let (steps, outcome) = steps_of(&damaged);
        assert_eq!(steps, samples::steps()[..frame - 2]);
        assert!(
            matches!(outcome, Err(Damage::Checksum(at)) if at.frame == frame as u64),
            "{outcome:?}"
        );
    }
}

#[test]
fn what_follows_the_end_is_not_passed_over_in_silence() {
    let mut file = recording(&samples::opening(), &samples::steps());
    let length = file.len() as u64;
    file.push(0);
    let (steps, outcome) = steps_of(&file);
    assert_eq!(steps, samples::steps());
    assert!(
        matches!(outcome, Err(Damage::AfterEnd(at)) if at.byte == length),
        "{outcome:?}"
    );
}

#[test]
fn what_is_no_recording_is_not_waited_for() {
    /// A stream that never ends.
    struct Yes;

    impl io::Read for Yes {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer[..2].copy_from_slice(b"y\n");
            Ok(2)
        }
    }

    assert!(matches!(Replay::open(Yes), Err(Damage::NoRecording)));
    assert!(matches!(
        Replay::open(&b"{\"kind\":\"start\"}"[..]),
        Err(Damage::NoRecording)
    ));
    assert!(matches!(Replay::open(&b""[..]), Err(Damage::Empty)));
}

#[test]
fn bytes_may_come_one_by_one() {
    /// A slow pipe, with interruptions.
    struct Drops<'a>(&'a [u8], bool);

    impl io::Read for Drops<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let Some((first, rest)) = self.0.split_first() else {
                return Ok(0);
            };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    let file = recording(&samples::opening(), &samples::steps());
    let mut replay = Replay::open(Drops(&file, false)).unwrap();
    for step in samples::steps() {
        assert_eq!(replay.next_step().unwrap(), Some(step));
    }
    assert_eq!(replay.next_step().unwrap(), None);
}

#[test]
fn the_end_of_a_recording_without_one_is_its_latest_moment() {
    let steps = samples::steps();
    let file = recording(&samples::opening(), &steps[..steps.len() - 1]);
    let mut replay = Replay::open(&file[..]).unwrap();
    while replay.next_step().is_ok() {}
    let ending = replay.end_so_far();
    assert_eq!(ending.duration_ns, 2_000_000_000);
    assert_eq!(
        ending.ts_ns,
        samples::opening().start.ts_ns + ending.duration_ns
    );
}

#[test]
fn a_later_minor_version_is_read() {
    let steps = samples::steps();
    let mut file = Forged::new(Version {
        minor: VERSION.minor + 1,
        ..VERSION
    })
    .frame(SKIPPABLE | 0x64, b"before the opening")
    .opening()
    .step(&steps[0])
    .frame(SKIPPABLE | 0x10, b"\xff no CBOR");
    for step in &steps[1..] {
        file = file.step(step);
    }
    let mut replay = Replay::open(&file.bytes[..]).unwrap();
    let mut found = Vec::new();
    while let Some(step) = replay.next_step().unwrap() {
        found.push(step);
    }
    assert_eq!(found, steps);
    assert_eq!(replay.skipped(), 2);
}

#[test]
fn a_frame_that_must_be_known_says_which_tcptrace_knows_it() {
    let steps = samples::steps();
    let file = Forged::new(VERSION)
        .opening()
        .step(&steps[0])
        .frame(99, b"")
        .step(&steps[1]);
    let (found, outcome) = steps_of(&file.bytes);
    assert_eq!(found, steps[..1]);
    let damage = outcome.unwrap_err();
    assert!(
        matches!(&damage, Damage::UnknownKind { place, kind: 99, writer } if place.frame == 3 && writer == "7.8.9"),
        "{damage:?}"
    );
    assert!(
        damage.to_string().contains("tcptrace 7.8.9 or later"),
        "{damage}"
    );
}

#[test]
fn another_major_version_is_refused_with_the_tcptrace_that_reads_it() {
    for major in [0, VERSION.major + 1, u16::MAX] {
        let file = Forged::new(Version { major, minor: 5 }).frame(1, b"whatever it is then");
        let (steps, outcome) = steps_of(&file.bytes);
        assert!(steps.is_empty());
        let sentence = outcome.unwrap_err().to_string();
        assert!(
            sentence.contains(&format!("format {major}.5 of tcptrace 7.8.9")),
            "{sentence}"
        );
        assert!(
            sentence.ends_with("replay it with tcptrace 7.8.9"),
            "{sentence}"
        );
    }
}

#[test]
fn the_writers_name_cannot_reach_the_terminal() {
    let header = Header {
        version: Version { major: 2, minor: 0 },
        writer: "1\x1b[2J.\n0".to_owned(),
    };
    let (_, outcome) = steps_of(&header.to_bytes());
    assert!(
        matches!(&outcome, Err(Damage::OtherFormat(header)) if header.writer == "12J.0"),
        "{outcome:?}"
    );
}

#[test]
fn steps_before_the_opening_and_a_second_opening_are_refused() {
    let steps = samples::steps();
    let early = Forged::new(VERSION).step(&steps[0]).opening();
    let twice = Forged::new(VERSION).opening().step(&steps[0]).opening();
    for (file, count, frame) in [(early, 0, 1), (twice, 1, 3)] {
        let (found, outcome) = steps_of(&file.bytes);
        assert_eq!(found, steps[..count]);
        assert!(
            matches!(&outcome, Err(Damage::Unreadable { place, .. }) if place.frame == frame),
            "{outcome:?}"
        );
    }
}

/// A tick of a later version, with a field more, and of one that lacks what it must have.
#[test]
fn new_fields_are_passed_over_and_missing_ones_are_told() {
    #[derive(Encode, Decode)]
    struct LaterTick {
        #[n(0)]
        now_ns: u64,
        #[n(1)]
        mood: Option<String>,
        #[n(3)]
        more: Vec<u8>,
    }

    let later = LaterTick {
        now_ns: 5,
        mood: Some("good".to_owned()),
        more: vec![1, 2, 3],
    };
    let content = minicbor::to_vec(&later).unwrap();
    let file = Forged::new(VERSION).opening().frame(2, &content);
    assert_eq!(steps_of(&file.bytes).0, [Step::Tick { now_ns: 5 }]);

    // An empty array; a text; a number; nothing; an array that is longer than its frame.
    for content in [
        &b"\x80"[..],
        b"\x61x",
        b"\x05",
        b"",
        b"\x82\x05",
        b"\x81\x05\x00",
    ] {
        let file = Forged::new(VERSION).opening().frame(2, content);
        let (steps, outcome) = steps_of(&file.bytes);
        assert!(steps.is_empty(), "{content:?}");
        assert!(
            matches!(&outcome, Err(Damage::Unreadable { .. })),
            "{content:?}: {outcome:?}"
        );
    }
}

#[test]
fn a_frame_that_is_too_long_is_not_written() {
    let mut opening = samples::opening();
    opening.arguments = vec!["x".repeat(1 << 24)];
    let error = Recorder::begin(Vec::new(), &opening).unwrap_err();
    assert!(error.to_string().contains("too much"), "{error}");

    opening.arguments = vec!["x".repeat(1 << 22)];
    let file = recording(&opening, &samples::steps());
    assert_eq!(*Replay::open(&file[..]).unwrap().opening(), opening);
    assert_eq!(steps_of(&file).0, samples::steps());
}
