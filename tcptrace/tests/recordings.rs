//! Recordings of real kernels, replayed: what is told of them is what was done when they were made.
//!
//! The expectations are written by hand. tests/recordings/README.md says how to make recordings of
//! another kernel; each folder there is tested.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tcptrace::record::Step;
use tcptrace::source::replay::Replay;
use tcptrace_model::{Finding, Tracker};

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

/// How one end must be told.
struct End {
    role: &'static str,
    close: &'static str,
    cause: &'static str,
    /// Name of its owner.
    owner: &'static str,
    /// Name of who closed it.
    closed_by: Option<&'static str>,
    minisocket: bool,
    certainty: &'static str,
    /// Before 6.12 the kernel gives no reason for a RST, without which this is only inferred.
    by_reason: bool,
    doubts: &'static [&'static str],
}

/// How the end of a minisocket must be told.
struct Wait {
    end: &'static str,
    owner: &'static str,
    fin_wait2_ns: [u64; 2],
    time_wait_ns: [u64; 2],
    certainty: &'static [&'static str],
}

const fn end(role: &'static str, close: &'static str, cause: &'static str) -> End {
    End {
        role,
        close,
        cause,
        owner: role,
        closed_by: Some(role),
        minisocket: false,
        certainty: "exact",
        by_reason: false,
        doubts: &[],
    }
}

impl End {
    const fn owned_by(self, owner: &'static str) -> Self {
        Self { owner, ..self }
    }

    const fn closed_by(self, closed_by: Option<&'static str>) -> Self {
        Self { closed_by, ..self }
    }

    const fn with_minisocket(self) -> Self {
        Self {
            minisocket: true,
            ..self
        }
    }

    const fn by_reason(self) -> Self {
        Self {
            by_reason: true,
            ..self
        }
    }

    const fn doubted(self, doubts: &'static [&'static str]) -> Self {
        Self {
            certainty: "inferred",
            doubts,
            ..self
        }
    }
}

/// What was done, and what is told of it.
struct Expected {
    name: &'static str,
    /// The ends, in any order.
    ends: &'static [End],
    /// The minisockets that ended.
    waits: &'static [Wait],
    /// How many there are still.
    waiting: u64,
}

/// An ordinary recording of which everything is told; [`with_losses`] has the other one.
const EXPECTED: &[Expected] = &[
    Expected {
        name: "server_first",
        ends: &[
            end("server", "local_first", "close").with_minisocket(),
            end("client", "remote_first", "close"),
        ],
        // The wheel of HZ=250 adds up to 2.05 s to the 60 s, that of HZ=100 up to 5.12 s, and an
        // emulated machine is slow.
        waits: &[Wait {
            end: "expired",
            owner: "server",
            fin_wait2_ns: [0, S],
            time_wait_ns: [60 * S - 10 * MS, 66 * S],
            certainty: &["exact", "inferred"],
        }],
        waiting: 0,
    },
    Expected {
        name: "client_first",
        ends: &[
            end("client", "local_first", "close").with_minisocket(),
            end("server", "remote_first", "close"),
        ],
        waits: &[],
        waiting: 1,
    },
    Expected {
        name: "simultaneous",
        ends: &[end("client", "simultaneous", "close").with_minisocket()],
        waits: &[],
        waiting: 1,
    },
    Expected {
        name: "linger_zero",
        ends: &[
            end("client", "reset_sent", "linger_reset").by_reason(),
            end("server", "reset_received", "peer").closed_by(None),
        ],
        waits: &[],
        waiting: 0,
    },
    Expected {
        name: "unread_data",
        ends: &[
            end("client", "reset_sent", "unread_data_reset"),
            end("server", "reset_received", "peer").closed_by(None),
        ],
        waits: &[],
        waiting: 0,
    },
    Expected {
        name: "killed",
        ends: &[
            end("client", "local_first", "signal")
                .owned_by("victim")
                .closed_by(Some("victim"))
                .with_minisocket(),
            end("server", "remote_first", "close"),
        ],
        waits: &[],
        waiting: 1,
    },
    Expected {
        name: "half_close",
        ends: &[
            // The server's thread held both and called shutdown().
            end("client", "local_first", "shutdown")
                .closed_by(Some("server"))
                .with_minisocket(),
            end("server", "remote_first", "close"),
        ],
        waits: &[],
        waiting: 1,
    },
    Expected {
        name: "refused",
        ends: &[end("client", "refused", "peer").closed_by(None)],
        waits: &[],
        waiting: 0,
    },
    Expected {
        name: "reused_by_connect",
        ends: &[
            end("client", "local_first", "close").with_minisocket(),
            end("server", "remote_first", "close"),
            end("client", "reset_sent", "linger_reset").by_reason(),
            end("server", "reset_received", "peer").closed_by(None),
        ],
        waits: &[Wait {
            end: "reused_by_connect",
            owner: "client",
            fin_wait2_ns: [0, S],
            time_wait_ns: [0, S],
            certainty: &["exact", "inferred"],
        }],
        waiting: 0,
    },
    Expected {
        name: "orphan_expired",
        ends: &[
            end("client", "local_first", "close").with_minisocket(),
            // Its FIN found nobody any more.
            end("server", "reset_received", "close"),
        ],
        waits: &[Wait {
            end: "expired",
            owner: "client",
            fin_wait2_ns: [S - 10 * MS, 2 * S],
            time_wait_ns: [0, 0],
            certainty: &["exact"],
        }],
        waiting: 0,
    },
    Expected {
        name: "started_in_the_middle",
        ends: &[
            // Which end connected was not seen; that somebody listens at the other's port was.
            end("unknown", "local_first", "close")
                .owned_by("main")
                .closed_by(Some("client"))
                .with_minisocket()
                .doubted(&["before_trace"]),
            end("server", "remote_first", "close")
                .owned_by("main")
                .doubted(&["before_trace"]),
        ],
        waits: &[],
        waiting: 2,
    },
];

#[test]
fn what_is_told_of_each_recording_is_what_was_done() {
    for folder in folders() {
        for expected in EXPECTED {
            let recording = folder.join(expected.name).with_extension("rec");
            check(&recording, expected);
        }
    }
}

#[test]
fn lost_records_leave_no_certainty_and_what_comes_after_them_is_certain() {
    for folder in folders() {
        let recording = folder.join("lost_records.rec");
        let lines = replayed(&recording);
        let place = recording.display();
        let lost = lines.iter().filter(|line| line["kind"] == "lost").count();
        assert!(lost > 0, "{place}");
        let ends: Vec<&Value> = of_kind(&lines, "connection").collect();
        // The last connection, of which nothing was lost.
        for (role, close) in [("server", "local_first"), ("client", "remote_first")] {
            let told: Vec<_> = ends
                .iter()
                .filter(|told| told["role"] == role && told["close"] == close)
                .collect();
            assert_eq!(told.len(), 1, "{place}: {role}");
            assert_eq!(told[0]["certainty"], "exact", "{place}: {}", told[0]);
            assert_eq!(told[0]["complete"], true, "{place}: {}", told[0]);
        }
        // The one that was open all the time.
        for (role, close) in [("client", "local_first"), ("server", "remote_first")] {
            let told: Vec<_> = ends
                .iter()
                .filter(|told| told["role"] == role && told["close"] == close)
                .collect();
            assert_eq!(told.len(), 1, "{place}: {role}");
            assert_eq!(told[0]["certainty"], "inferred", "{place}: {}", told[0]);
            assert_eq!(told[0]["complete"], false, "{place}: {}", told[0]);
            assert_eq!(told[0]["cause"], "close", "{place}: {}", told[0]);
        }
        // Those between were all reset by the client; what is not known is not told.
        for told in ends {
            let close = text(&told["close"]);
            let known = matches!(
                close,
                "reset_sent" | "reset_received" | "local_first" | "remote_first"
            );
            assert!(known || told["certainty"] == "unknown", "{place}: {told}");
            assert!(
                told["certainty"] != "unknown"
                    || told["doubts"] == serde_json::json!(["records_lost"]),
                "{place}: {told}"
            );
        }
    }
}

#[test]
fn the_library_tells_as_much_as_the_program() {
    for folder in folders() {
        for expected in EXPECTED {
            let recording = folder.join(expected.name).with_extension("rec");
            let bytes = fs::read(&recording).expect("a recording");
            let mut replay = Replay::open(&bytes[..]).expect("the beginning of a recording");
            let mut tracker = Tracker::new(replay.opening().settings);
            let mut ends = 0;
            while let Some(step) = replay.next_step().expect("a whole recording") {
                match step {
                    Step::Input(input) => tracker.handle(&input),
                    Step::Tick { now_ns } => tracker.advance(now_ns),
                    Step::End(ending) => tracker.finish(ending.ts_ns),
                }
                while let Some(finding) = tracker.poll() {
                    ends += usize::from(matches!(finding, Finding::Connection(_)));
                }
            }
            assert_eq!(ends, expected.ends.len(), "{}", recording.display());
        }
    }
}

fn check(recording: &Path, expected: &Expected) {
    let lines = replayed(recording);
    let place = recording.display();
    let reasons = release(&lines) >= (6, 12);
    let told: Vec<&Value> = of_kind(&lines, "connection").collect();
    assert_eq!(told.len(), expected.ends.len(), "{place}: {told:?}");
    for end in expected.ends {
        let matching = told
            .iter()
            .filter(|told| is_told(told, end, reasons))
            .count();
        assert_eq!(
            matching, 1,
            "{place}: {} {} {} in {told:?}",
            end.role, end.close, end.cause
        );
    }
    let entered = of_kind(&lines, "time_wait_entered").count();
    let minisockets = expected.ends.iter().filter(|end| end.minisocket).count();
    assert_eq!(entered, minisockets, "{place}");
    let told: Vec<&Value> = of_kind(&lines, "time_wait").collect();
    assert_eq!(told.len(), expected.waits.len(), "{place}: {told:?}");
    for (told, wait) in told.iter().zip(expected.waits) {
        assert_eq!(told["end"], wait.end, "{place}: {told}");
        assert_eq!(told["owner"]["comm"], wait.owner, "{place}: {told}");
        assert!(
            wait.certainty.contains(&text(&told["certainty"])),
            "{place}: {told}"
        );
        for (field, [least, most]) in [
            ("fin_wait2_ns", wait.fin_wait2_ns),
            ("time_wait_ns", wait.time_wait_ns),
        ] {
            let ns = told[field].as_u64().unwrap_or_default();
            assert!((least..=most).contains(&ns), "{place}: {field} of {told}");
        }
    }
    let summary = of_kind(&lines, "summary").next().expect("a summary");
    assert_eq!(summary["lost"], 0, "{place}");
    assert_eq!(summary["open"], 0, "{place}");
    assert_eq!(summary["waiting"], expected.waiting, "{place}");
}

fn is_told(told: &Value, end: &End, reasons: bool) -> bool {
    let closed_by = told["closed_by"]["comm"].as_str();
    let certainty = if end.by_reason && !reasons {
        "inferred"
    } else {
        end.certainty
    };
    let signal = (end.cause == "signal").then_some(9);
    told["role"] == end.role
        && told["close"] == end.close
        && told["cause"] == end.cause
        && told["signal"].as_u64() == signal
        && told["owner"]["comm"] == end.owner
        && closed_by == end.closed_by
        && told["minisocket"].is_string() == end.minisocket
        && told["certainty"] == certainty
        && told["doubts"] == serde_json::json!(end.doubts)
        && told["complete"] == end.doubts.is_empty()
}

/// Major and minor number of the kernel's release.
fn release(lines: &[Value]) -> (u32, u32) {
    let start = of_kind(lines, "start").next().expect("a start line");
    let mut numbers = text(&start["kernel"])
        .split(['.', '-'])
        .map(|number| number.parse().expect("a release begins with numbers"));
    let mut next = || numbers.next().expect("a release has two numbers");
    (next(), next())
}

/// The JSON lines that the program prints of a recording.
fn replayed(recording: &Path) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_tcptrace"))
        .args(["replay", "--json"])
        .arg(recording)
        .output()
        .expect("the program runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", recording.display());
    let lines = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect()
}

fn of_kind<'a>(lines: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["kind"] == kind)
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// Each kernel and backend of which there are recordings.
fn folders() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let mut folders: Vec<PathBuf> = fs::read_dir(&all)
        .expect("tests/recordings")
        .map(|entry| entry.expect("an entry of it").path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "{}", all.display());
    folders
}
