//! `record` and `replay`: what is refused, and what becomes of recordings that are whole, cut off,
//! damaged, or none.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use tcptrace::record::{Ending, Opening, Step, write::Recorder};
use tcptrace::render::Start;
use tcptrace_model::{Input, Loss, LossReason, RecordKind, Settings};

use crate::{Run, WRONG_USAGE, program, refused, run_with, tcptrace, unprivileged};

#[test]
fn record_and_replay_take_only_flags_that_mean_something_there() {
    refused(&["record"], WRONG_USAGE, &["--output"]);
    refused(&["record", "-o", "x", "--json"], WRONG_USAGE, &["--json"]);
    refused(&["replay"], WRONG_USAGE, &["FILE"]);
    refused(&["replay", "x", "--port", "80"], WRONG_USAGE, &["--port"]);
    refused(&["replay", "x", "-s", "open"], WRONG_USAGE, &["open"]);
    refused(&["--record", "-"], WRONG_USAGE, &["record -o -"]);
}

#[test]
fn a_recording_that_does_not_come_about_leaves_no_file() {
    let path = scratch("nothing.rec");
    let file = path.to_str().expect("a path in UTF-8");
    for words in [&["record", "-o", file][..], &["--record", file, "-d", "1"]] {
        let run = unprivileged(words);
        assert_ne!(run.status, Some(0), "{words:?}");
        assert!(!path.exists(), "{words:?} left {file}");
    }
    let run = tcptrace(&["record", "-o", "/no/such/directory/x.rec"]);
    run.assert_status(1);
    run.assert_sentence(&["/no/such/directory/x.rec", "No such file"]);
}

#[test]
fn a_recording_is_replayed_from_a_file_and_from_stdin() {
    let (path, bytes) = recording("whole.rec");
    let file = path.to_str().expect("a path in UTF-8");
    let run = tcptrace(&["replay", file, "--json"]);
    run.assert_status(0);
    assert_eq!(run.stderr, "");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(
        lines[0].contains(r#""kind":"start""#) && lines[0].contains(r#""version":"7.8.9""#),
        "the version is the recorder's: {}",
        lines[0]
    );
    assert!(
        lines[lines.len() - 1].contains(r#""duration_ns":2000000000,"#),
        "the duration is the recorded one: {}",
        lines[lines.len() - 1]
    );
    assert!(run.stdout.contains(r#""kind":"lost""#), "{}", run.stdout);

    let piped = replayed(&bytes, &["--json"]);
    piped.assert_status(0);
    assert_eq!(piped.stdout, run.stdout);

    let text = tcptrace(&["replay", file, "-H"]);
    text.assert_status(0);
    text.assert_words(&["3 transition records lost"]);
    assert!(text.stdout.contains("in 2.000s"), "{}", text.stdout);
    fs::remove_file(path).expect("our own file");
}

#[test]
fn a_recording_that_is_cut_off_or_damaged_is_shown_as_far_as_it_goes() {
    let (path, bytes) = recording("damaged.rec");
    fs::remove_file(path).expect("our own file");
    let last = bytes.len() - 1;
    let mut damaged = bytes.clone();
    damaged[last] ^= 1;
    for (bytes, words) in [
        (&bytes[..last], ["ends within frame 3", "cut off"]),
        (&damaged, ["damaged in frame 3", "checksum"]),
    ] {
        let run = replayed(bytes, &["--json"]);
        run.assert_status(1);
        run.assert_sentence(&words);
        for kind in ["start", "lost", "summary"] {
            let kind = format!(r#""kind":"{kind}""#);
            assert!(run.stdout.contains(&kind), "no {kind} in {}", run.stdout);
        }
    }
}

#[test]
fn what_is_no_recording_is_named() {
    let run = tcptrace(&["replay", "/no/such/file.rec"]);
    run.assert_status(1);
    run.assert_sentence(&["/no/such/file.rec", "No such file"]);
    let run = tcptrace(&["replay", "/"]);
    run.assert_status(1);
    run.assert_sentence(&["directory"]);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let run = tcptrace(&["replay", source]);
    run.assert_status(1);
    run.assert_sentence(&["Cargo.toml", "no recording", "tcptrace record"]);
    // Stdin is /dev/null.
    let run = tcptrace(&["replay", "-"]);
    run.assert_status(1);
    run.assert_sentence(&["stdin", "empty"]);
    assert_eq!(run.stdout, "");
}

/// A path of this process's own for a temporary file.
fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tcptrace-cli-{}-{name}", std::process::id()))
}

/// A small recording: three frames, that is what it began with, a loss, and its end.
fn recording(name: &str) -> (PathBuf, Vec<u8>) {
    let opening = Opening {
        start: Start {
            version: "7.8.9".to_owned(),
            ts_ns: 1_000_000_000,
            kernel: "6.18.0".to_owned(),
            hz: Some(250),
            backends: BTreeMap::new(),
            degraded: Vec::new(),
            netns: None,
            sysctls: BTreeMap::new(),
            clock_offset_ns: 0,
        },
        settings: Settings::default(),
        arguments: Vec::new(),
    };
    let lost = Input::Lost(Loss {
        ts_ns: 2_000_000_000,
        records: 3,
        kind: RecordKind::Transition,
        cpu: None,
        reason: LossReason::BufferFull,
    });
    let end = Ending {
        ts_ns: 3_000_000_000,
        duration_ns: 2_000_000_000,
    };
    let path = scratch(name);
    let file = fs::File::create(&path).expect("a temporary file");
    let mut recorder = Recorder::begin(file, &opening).expect("a recording");
    for step in [Step::Input(lost), Step::End(end)] {
        recorder.step(&step).expect("a step");
    }
    recorder.flush().expect("a recording");
    let bytes = fs::read(&path).expect("our own file");
    (path, bytes)
}

/// Replays a recording that comes through a pipe.
fn replayed(recording: &[u8], flags: &[&str]) -> Run {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer
        .write_all(recording)
        .expect("a pipe has room for this");
    drop(writer);
    let mut command = Command::new(program());
    command.args(["replay", "-"]).args(flags);
    run_with(&mut command, reader.into())
}
