//! The command line through the real binary: what a user types wrong, and what comes back.
//!
//! None of these needs privileges. As root they give them up first, where they matter.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

mod recordings;

/// Nothing here traces, so nothing takes long, but the machine may be an emulated one.
const PATIENCE: Duration = Duration::from_secs(60);
/// The user "nobody", on every distribution.
const NOBODY: u32 = 65_534;

const WRONG_USAGE: i32 = 2;
const NOT_ALLOWED: i32 = 3;

/// What one run of the binary gave.
struct Run {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

#[test]
fn version_is_the_packages() {
    let run = tcptrace(&["--version"]);
    run.assert_status(0);
    assert_eq!(
        run.stdout.trim(),
        format!("tcptrace {}", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn what_explain_cannot_bind_is_wrong_usage() {
    for (arguments, said) in [
        (&["explain"][..], "PORT"),
        (&["explain", "65536"], "goes from 0 to 65535"),
        (&["explain", "localhost:80"], "names are not looked up"),
        (&["explain", "::1:80"], "[::1]:8000"),
        (&["explain", "80", "--netns", "no-such-name"], "ip netns"),
        (&["explain", "80", "--device", "no-such-if"], "ip link"),
    ] {
        let run = tcptrace(arguments);
        run.assert_status(WRONG_USAGE);
        assert!(run.stderr.contains(said), "{arguments:?}: {}", run.stderr);
        assert!(run.stdout.is_empty(), "{arguments:?}: {}", run.stdout);
    }
}

#[test]
fn the_lab_is_listed_without_privileges() {
    let text = tcptrace(&["lab", "list"]);
    text.assert_status(0);
    assert!(
        text.stdout.lines().any(|line| line.starts_with("A1 ")),
        "{}",
        text.stdout
    );
    let json = tcptrace(&["lab", "list", "--json"]);
    json.assert_status(0);
    assert_eq!(json.stdout.lines().count(), text.stdout.lines().count());
    for line in json.stdout.lines() {
        let listed: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            listed["claims"]
                .as_array()
                .is_some_and(|all| !all.is_empty()),
            "{line}"
        );
    }
}

#[test]
fn what_the_lab_cannot_play_is_wrong_usage() {
    for (arguments, said) in [
        (&["lab"][..], "Usage"),
        (&["lab", "run"], "ID|NAME|FILE"),
        (&["lab", "run", "A99"], "tcptrace lab list"),
        (&["lab", "run", "no-such-file.toml"], "no-such-file.toml"),
        (&["lab", "run", "--all", "A1"], "--all"),
        (&["lab", "run", "A1", "--calls", "off"], "--calls off"),
        (&["lab", "run", "A1", "-j", "0"], "0"),
    ] {
        let run = tcptrace(arguments);
        run.assert_status(WRONG_USAGE);
        assert!(run.stderr.contains(said), "{arguments:?}: {}", run.stderr);
        assert!(run.stdout.is_empty(), "{arguments:?}: {}", run.stdout);
    }
}

#[test]
fn the_lab_needs_privileges() {
    let run = unprivileged(&["lab", "run", "A1"]);
    run.assert_status(NOT_ALLOWED);
    assert!(run.stderr.contains("sudo"), "{}", run.stderr);
}

#[test]
fn explain_answers_without_privileges_and_says_what_to_type() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let place = listener.local_addr().expect("it is bound").to_string();
    let run = unprivileged(&["explain", &place]);
    run.assert_status(0);
    assert!(run.stdout.contains("EADDRINUSE"), "{}", run.stdout);
    let typed = format!("sudo tcptrace explain {place}");
    assert!(run.stderr.contains(&typed), "{}", run.stderr);
}

#[test]
fn help_explains_every_flag_and_gives_examples() {
    let run = tcptrace(&["--help"]);
    run.assert_status(0);
    let flags = [
        "--port",
        "--lport",
        "--rport",
        "--pid",
        "--uid",
        "--netns",
        "--cgroup",
        "--state",
        "--time",
        "--timestamp",
        "--wide",
        "--output",
        "--json",
        "--no-header",
        "--count",
        "--duration",
        "--stuck-after",
        "--backend",
        "--ladder",
        "--record",
        "--color",
        "-P",
        "-L",
        "-D",
        "-p",
        "-u",
        "-4",
        "-6",
        "-N",
        "-s",
        "-T",
        "-t",
        "-w",
        "-o",
        "-H",
        "-n",
        "-d",
        "-v",
        "record",
        "replay",
        "doctor",
    ];
    for flag in flags {
        assert!(
            run.stdout.contains(flag),
            "--help does not mention {flag}:\n{}",
            run.stdout
        );
    }
    let examples = run
        .stdout
        .find("Examples")
        .or_else(|| run.stdout.find("EXAMPLES"));
    let examples = &run.stdout[examples.expect("--help has no examples")..];
    assert!(
        examples.matches("tcptrace ").count() >= 2,
        "the examples must show how to call tcptrace:\n{examples}"
    );
    assert!(
        !run.stdout.contains("TCPTRACE_TEST"),
        "the tests' own switch is no business of users:\n{}",
        run.stdout
    );
}

#[test]
fn short_help_fits_a_narrow_terminal() {
    for words in [&["-h"][..], &["record", "-h"], &["replay", "-h"]] {
        let run = tcptrace(words);
        run.assert_status(0);
        for line in run.stdout.lines() {
            assert!(
                line.chars().count() <= 100,
                "a line of more than 100 columns: {line}"
            );
        }
    }
}

#[test]
fn unknown_flag_is_named() {
    refused(&["--prot", "80"], WRONG_USAGE, &["--prot", "--port"]);
}

#[test]
fn unknown_command_is_named() {
    refused(&["docter"], WRONG_USAGE, &["docter"]);
}

#[test]
fn port_out_of_range_is_named_with_the_range() {
    for flag in ["--port", "-P", "--lport", "-L", "--rport", "-D"] {
        refused(&[flag, "99999"], WRONG_USAGE, &["99999", "65535"]);
    }
    refused(&["--port", "65536"], WRONG_USAGE, &["65536", "1", "65535"]);
}

#[test]
fn port_zero_is_no_port() {
    refused(&["--port", "0"], WRONG_USAGE, &["0", "65535"]);
}

#[test]
fn port_that_is_no_number_is_named() {
    refused(&["--port", "abc"], WRONG_USAGE, &["abc"]);
    refused(&["--port=-1"], WRONG_USAGE, &["-1"]);
    refused(&["--port", "80,x"], WRONG_USAGE, &["x"]);
    refused(&["--port", ""], WRONG_USAGE, &["port"]);
}

#[test]
fn limits_that_are_no_numbers_are_named() {
    refused(&["-d", "x"], WRONG_USAGE, &["x"]);
    refused(&["--duration=-1"], WRONG_USAGE, &["-1"]);
    refused(&["-n", "many"], WRONG_USAGE, &["many"]);
    refused(&["--stuck-after", "long"], WRONG_USAGE, &["long", "never"]);
}

#[test]
fn unknown_state_is_named_with_the_known_ones() {
    refused(&["--state", "OPEN"], WRONG_USAGE, &["OPEN"]);
    let run = tcptrace(&["--state", "OPEN"]);
    let all = run.stderr.to_uppercase().replace('-', "_");
    for state in ["ESTABLISHED", "FIN_WAIT1", "CLOSE_WAIT", "LISTEN"] {
        assert!(
            all.contains(state),
            "the states that there are must be listed: {}",
            run.stderr
        );
    }
}

#[test]
fn unknown_output_format_is_named_with_the_known_ones() {
    refused(&["-o", "xml"], WRONG_USAGE, &["xml", "text", "json"]);
    refused(
        &["--color", "sometimes"],
        WRONG_USAGE,
        &["sometimes", "always", "never"],
    );
    refused(
        &["--backend", "kprobe"],
        WRONG_USAGE,
        &["kprobe", "auto", "fentry", "timer"],
    );
}

#[test]
fn families_exclude_each_other() {
    refused(&["-4", "-6"], WRONG_USAGE, &["v4", "v6"]);
}

#[test]
fn buffer_size_that_cannot_be_is_named() {
    refused(
        &["--buffer-size", "5000"],
        WRONG_USAGE,
        &["5000", "power of two"],
    );
    refused(&["--buffer-size", "big"], WRONG_USAGE, &["big"]);
}

#[test]
fn unknown_network_namespace_is_named() {
    for word in ["no-such-name", "/no/such/path", "/proc/self/ns/mnt", "1"] {
        unknown(&["-N", word], word);
        unknown(&["-N", &format!("/proc/self/ns/net,{word}")], word);
    }
}

#[test]
fn unknown_cgroup_is_named() {
    for word in ["/no/such/cgroup", "no-such-cgroup"] {
        unknown(&["--cgroup", word], word);
    }
}

#[test]
fn unknown_process_is_named() {
    // One more than the largest pid that any Linux can have (PID_MAX_LIMIT is 2^22).
    unknown(&["--pid", "4194305"], "4194305");
    refused(&["--pid", "me"], WRONG_USAGE, &["me"]);
    refused(&["--uid", "root-ish"], WRONG_USAGE, &["root-ish"]);
}

#[test]
fn without_privileges_the_missing_capability_is_named() {
    let run = unprivileged(&["--port", "8000", "-d", "1"]);
    run.assert_status(NOT_ALLOWED);
    run.assert_sentence(&["CAP_", "sudo"]);
    assert!(
        run.stdout.is_empty(),
        "nothing was traced, but: {}",
        run.stdout
    );
}

#[test]
fn a_wrong_port_is_told_before_missing_privileges() {
    let run = unprivileged(&["--port", "99999"]);
    run.assert_status(WRONG_USAGE);
    run.assert_words(&["99999"]);
}

#[test]
fn doctor_speaks_without_privileges() {
    let run = unprivileged(&["doctor"]);
    assert!(
        run.stdout.lines().count() >= 5,
        "the doctor has a table, also for users without privileges: {}{}",
        run.stdout,
        run.stderr
    );
    assert!(
        run.stdout.contains("CAP_"),
        "what is missing is named:\n{}",
        run.stdout
    );
    assert!(
        !run.stdout.contains('\u{1b}'),
        "no colour in a pipe: {:?}",
        run.stdout
    );
}

#[test]
fn doctor_json_is_json_with_and_without_privileges() {
    for run in [
        tcptrace(&["doctor", "--json"]),
        unprivileged(&["doctor", "--json"]),
    ] {
        let values = serde_json::Deserializer::from_str(&run.stdout)
            .into_iter::<serde_json::Value>()
            .collect::<Result<Vec<_>, _>>();
        let values = values.unwrap_or_else(|error| panic!("{error} in {}", run.stdout));
        assert!(
            values
                .iter()
                .all(|value| value.is_object() || value.is_array())
                && !values.is_empty(),
            "the doctor's findings are objects, not {}",
            run.stdout
        );
    }
}

/// What cannot be seen is listed as well, with what it takes, whoever asks.
#[test]
fn the_doctor_lists_every_feature_with_what_it_takes() {
    let names = |run: &Run| -> Vec<String> {
        let report: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
        let features = report["features"].as_array().expect("a list").clone();
        for feature in &features {
            for field in ["shows", "since", "because", "without"] {
                let has = feature[field].as_str().is_some_and(|text| !text.is_empty());
                assert!(has, "no {field} in {feature}");
            }
            let reason_where_due = match feature["support"].as_str() {
                Some("full") => feature["why"].is_null(),
                Some("partial" | "none") => feature["why"].is_string(),
                _ => false,
            };
            assert!(reason_where_due, "{feature}");
        }
        let name = |feature: &serde_json::Value| feature["name"].to_string();
        features.iter().map(name).collect()
    };
    let all = names(&tcptrace(&["doctor", "--json"]));
    assert!(all.len() >= 10, "{all:?}");
    assert_eq!(names(&unprivileged(&["doctor", "--json"])), all);
}

#[test]
fn help_into_a_closed_pipe_is_no_failure() {
    let mut child = Command::new(program())
        .arg("--help")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the binary ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !said.contains("panicked"),
        "a reader that goes away is no reason to panic: {said}"
    );
}

/// Fails unless the arguments are refused with this status and one sentence with all these words.
fn refused(arguments: &[&str], status: i32, words: &[&str]) {
    let run = tcptrace(arguments);
    run.assert_status(status);
    run.assert_words(words);
    assert!(
        run.stdout.is_empty(),
        "{arguments:?} printed: {}",
        run.stdout
    );
}

/// Fails unless a filter for something that is not there is refused, with a sentence that names it.
fn unknown(arguments: &[&str], word: &str) {
    for run in [tcptrace(arguments), unprivileged(arguments)] {
        assert!(
            matches!(run.status, Some(1 | WRONG_USAGE)),
            "{arguments:?} must end with 1 or 2, not {:?}: {}",
            run.status,
            run.stderr
        );
        run.assert_sentence(&[word]);
        assert!(
            run.stdout.is_empty(),
            "{arguments:?} printed: {}",
            run.stdout
        );
    }
}

impl Run {
    fn assert_status(&self, wanted: i32) {
        assert_eq!(
            self.status,
            Some(wanted),
            "stderr: {}stdout: {}",
            self.stderr,
            self.stdout
        );
    }

    /// The whole of stderr is one line that begins with our name and has all these words.
    fn assert_sentence(&self, words: &[&str]) {
        self.assert_words(words);
        assert!(
            self.stderr.starts_with("tcptrace: "),
            "it must say who speaks: {}",
            self.stderr
        );
        assert_eq!(
            self.stderr.trim_end().lines().count(),
            1,
            "one sentence: {}",
            self.stderr
        );
    }

    fn assert_words(&self, words: &[&str]) {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{word:?} is not in: {}",
                self.stderr
            );
        }
        assert!(
            !self.stderr.contains("panicked"),
            "a panic: {}",
            self.stderr
        );
    }
}

fn program() -> PathBuf {
    std::env::var_os("TCPTRACE_BIN").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_tcptrace")),
        PathBuf::from,
    )
}

/// Runs the binary as who runs the tests.
fn tcptrace(arguments: &[&str]) -> Run {
    run(Command::new(program()).args(arguments))
}

/// Runs the binary as a user without privileges.
fn unprivileged(arguments: &[&str]) -> Run {
    // SAFETY: geteuid takes nothing, touches nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return tcptrace(arguments);
    }
    run(Command::new(readable_program())
        .args(arguments)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/"))
}

/// A copy of the binary where every user can run it; the build may lie in root's home.
fn readable_program() -> PathBuf {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let directory = std::env::temp_dir().join("tcptrace-test-cli");
        fs::create_dir_all(&directory).expect("a directory for temporary files");
        let copy = directory.join(format!("tcptrace-{}", std::process::id()));
        remove_abandoned(&directory);
        fs::copy(program(), &copy).expect("a copy of the binary");
        for path in [&directory, &copy] {
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(path, mode).expect("permissions for others");
        }
        copy
    })
    .clone()
}

/// Removes copies that earlier runs have left; a test process has no place to do it at its end.
fn remove_abandoned(directory: &std::path::Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("tcptrace-").unwrap_or_default();
        if !std::path::Path::new("/proc").join(owner).exists() {
            // Another run may be removing it at the same time.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn run(command: &mut Command) -> Run {
    run_with(command, Stdio::null())
}

fn run_with(command: &mut Command, stdin: Stdio) -> Run {
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let readers = [
        thread::spawn(move || read(stdout.as_mut().map(|pipe| pipe as &mut dyn Read))),
        thread::spawn(move || read(stderr.as_mut().map(|pipe| pipe as &mut dyn Read))),
    ];
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
            panic!("{command:?} did not end within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let [stdout, stderr] = readers.map(|reader| reader.join().expect("reading does not panic"));
    let output = Output {
        status,
        stdout,
        stderr,
    };
    Run {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8 on stderr"),
    }
}

fn read(pipe: Option<&mut dyn Read>) -> Vec<u8> {
    let mut all = Vec::new();
    pipe.expect("stdout and stderr are pipes")
        .read_to_end(&mut all)
        .expect("a readable pipe");
    all
}
