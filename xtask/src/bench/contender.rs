//! Owns the contenders: what each is, and which of them are measured.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    peers::{self, Peer},
    work::{ALL_PORTS, Work},
};

/// What is measured.
#[derive(Debug)]
pub(super) struct Contender {
    /// As it is typed after `--contenders`.
    pub(super) name: &'static str,
    /// As the table has it.
    pub(super) shown: &'static str,
    pub(super) kind: Kind,
    /// For which workloads it is measured when nothing is typed.
    usual: Usual,
}

/// What a contender is.
#[derive(Debug)]
pub(super) enum Kind {
    Untraced,
    Empty,
    /// Empty programs on every hook that tcptrace has here.
    Everywhere,
    /// Nothing but the helper calls of a record.
    Bare,
    /// The same, on every hook where tcptrace makes one for a connection, and empty ones on the others.
    BareEverywhere,
    /// With these flags; `{ports}` stands for those of the workload, `{recording}` for a file.
    Tcptrace(&'static [&'static str]),
    Peer {
        find: fn() -> Result<Peer>,
        flags: &'static [&'static str],
        /// It has eBPF programs, and says so when it loses something.
        has_programs: bool,
    },
}

/// For which workloads a contender is measured when nothing is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usual {
    Always,
    /// Those of connections.
    Connections,
    /// Those of calls: failing binds, unrelated ones.
    Calls,
    /// With `--full` only.
    Never,
}

/// A contender that can be started.
#[derive(Debug)]
pub(super) struct Entrant {
    pub(super) contender: &'static Contender,
    /// Its program; none of our own.
    peer: Option<Peer>,
}

const fn tcptrace(
    name: &'static str,
    shown: &'static str,
    usual: Usual,
    flags: &'static [&'static str],
) -> Contender {
    Contender {
        name,
        shown,
        kind: Kind::Tcptrace(flags),
        usual,
    }
}

const fn peer(
    name: &'static str,
    shown: &'static str,
    find: fn() -> Result<Peer>,
    flags: &'static [&'static str],
    has_programs: bool,
) -> Contender {
    Contender {
        name,
        shown,
        kind: Kind::Peer {
            find,
            flags,
            has_programs,
        },
        usual: Usual::Connections,
    }
}

/// All, in the order of the table; the first is what the others are compared with.
pub(super) static ALL: &[Contender] = &[
    Contender {
        name: "untraced",
        shown: "untraced",
        kind: Kind::Untraced,
        usual: Usual::Always,
    },
    Contender {
        name: "empty",
        shown: "empty program",
        kind: Kind::Empty,
        usual: Usual::Always,
    },
    Contender {
        name: "everywhere",
        shown: "empty, on every hook",
        kind: Kind::Everywhere,
        usual: Usual::Connections,
    },
    Contender {
        name: "bare",
        shown: "a record and no more",
        kind: Kind::Bare,
        usual: Usual::Connections,
    },
    Contender {
        name: "bare-everywhere",
        shown: "records, on every hook",
        kind: Kind::BareEverywhere,
        usual: Usual::Connections,
    },
    tcptrace("json", "tcptrace --json", Usual::Always, &["--json"]),
    tcptrace("text", "tcptrace", Usual::Connections, &[]),
    tcptrace("ladder", "tcptrace --ladder", Usual::Never, &["--ladder"]),
    tcptrace(
        "record",
        "tcptrace record",
        Usual::Connections,
        &["record", "-o", "{recording}"],
    ),
    tcptrace(
        "json-record",
        "tcptrace --json --record",
        Usual::Never,
        &["--json", "--record", "{recording}"],
    ),
    tcptrace(
        "timer",
        "tcptrace --backend timer",
        Usual::Never,
        &["--json", "--backend", "timer"],
    ),
    tcptrace(
        "fentry",
        "tcptrace --backend fentry",
        Usual::Never,
        &["--json", "--backend", "fentry"],
    ),
    tcptrace(
        "calls-syscalls",
        "tcptrace --calls syscalls",
        Usual::Never,
        &["--json", "--calls", "syscalls"],
    ),
    tcptrace(
        "calls-fentry",
        "tcptrace --calls fentry",
        Usual::Never,
        &["--json", "--calls", "fentry"],
    ),
    tcptrace(
        "calls-off",
        "tcptrace --calls off",
        Usual::Calls,
        &["--json", "--calls", "off"],
    ),
    tcptrace(
        "port-match",
        "tcptrace --port (these)",
        Usual::Always,
        &["--json", "--port", "{ports}"],
    ),
    // The workloads use ports from 20000.
    tcptrace(
        "port-other",
        "tcptrace --port (other)",
        Usual::Always,
        &["--json", "--port", "7"],
    ),
    peer(
        "tcpstates",
        "tcpstates",
        || peers::libbpf_tool("tcpstates"),
        &[],
        true,
    ),
    peer(
        "tcplife",
        "tcplife",
        || peers::libbpf_tool("tcplife"),
        &[],
        true,
    ),
    peer(
        "bpftrace",
        "bpftrace tcplife.bt",
        peers::bpftrace_tcplife,
        &[],
        true,
    ),
    peer("ss", "ss -E", peers::ss, &["-E", "-n", "-t"], false),
];

/// The one whose programs are counted: by the backends that every kernel has, so that they are the same ones
/// everywhere.
pub(super) static COUNTED: Contender = tcptrace(
    "counted",
    "tcptrace --backend timer --calls syscalls",
    Usual::Never,
    &["--json", "--backend", "timer", "--calls", "syscalls"],
);

impl Contender {
    /// Whether it prints a line for a connection of the workloads.
    pub(super) fn shows_connections(&self) -> bool {
        match self.kind {
            Kind::Untraced | Kind::Empty | Kind::Everywhere | Kind::Bare | Kind::BareEverywhere => {
                false
            }
            Kind::Tcptrace(flags) => flags.first() != Some(&"record") && !flags.contains(&"7"),
            Kind::Peer { .. } => true,
        }
    }

    /// Whether it has eBPF programs, which the kernel times.
    pub(super) fn has_programs(&self) -> bool {
        match self.kind {
            Kind::Untraced => false,
            Kind::Empty
            | Kind::Everywhere
            | Kind::Bare
            | Kind::BareEverywhere
            | Kind::Tcptrace(_) => true,
            Kind::Peer { has_programs, .. } => has_programs,
        }
    }

    /// Why it has nothing to do with a workload; none if it has.
    pub(super) fn misses(&self, work: Work) -> Option<&'static str> {
        let is_peer = matches!(self.kind, Kind::Peer { .. });
        if matches!(
            self.kind,
            Kind::Bare | Kind::Everywhere | Kind::BareEverywhere
        ) && work.is_of_calls()
        {
            return Some("it is on the hooks of connections");
        }
        (is_peer && work == Work::FailingBinds).then_some("it shows no bind()")
    }

    fn is_usual(&self, work: Work) -> bool {
        match self.usual {
            Usual::Always => true,
            Usual::Connections => !work.is_of_calls(),
            Usual::Calls => work.is_of_calls(),
            Usual::Never => false,
        }
    }
}

/// The contenders for a workload: those that were typed, or all, or the usual ones. What the others are
/// compared with is always among them.
pub(super) fn selected(
    typed: &[String],
    full: bool,
    work: Work,
) -> Result<Vec<&'static Contender>> {
    let known = || {
        let names: Vec<&str> = ALL.iter().map(|contender| contender.name).collect();
        names.join(", ")
    };
    for name in typed {
        if !ALL.iter().any(|contender| contender.name == name) {
            bail!("there is no contender {name}; type some of: {}", known());
        }
    }
    let is_wanted = |contender: &&Contender| {
        if typed.is_empty() {
            full || contender.is_usual(work)
        } else {
            contender.name == ALL[0].name || typed.iter().any(|name| name == contender.name)
        }
    };
    Ok(ALL.iter().filter(is_wanted).collect())
}

impl Entrant {
    /// Finds its program. An error says why it is left out.
    pub(super) fn find(contender: &'static Contender) -> Result<Self> {
        let peer = match contender.kind {
            Kind::Untraced
            | Kind::Empty
            | Kind::Everywhere
            | Kind::Bare
            | Kind::BareEverywhere
            | Kind::Tcptrace(_) => None,
            Kind::Peer { find, .. } => Some(find()?),
        };
        Ok(Self { contender, peer })
    }

    /// As a plot colours it.
    pub(super) fn class(&self) -> &'static str {
        match self.contender.kind {
            Kind::Untraced | Kind::Empty | Kind::Everywhere | Kind::Bare | Kind::BareEverywhere => {
                "none"
            }
            Kind::Tcptrace(_) => "ours",
            Kind::Peer { .. } => "theirs",
        }
    }

    /// Whether it is ours.
    pub(super) fn is_tcptrace(&self) -> bool {
        matches!(self.contender.kind, Kind::Tcptrace(_))
    }

    /// What starts it; none if there is nothing to start.
    pub(super) fn command(&self, tcptrace: &Path, recording: &Path) -> Result<Option<Command>> {
        let flags = match self.contender.kind {
            Kind::Untraced | Kind::Empty | Kind::Everywhere | Kind::Bare | Kind::BareEverywhere => {
                return Ok(None);
            }
            Kind::Tcptrace(flags) | Kind::Peer { flags, .. } => flags,
        };
        let mut command = match &self.peer {
            Some(peer) => peer.command()?,
            None => Command::new(tcptrace),
        };
        for flag in flags {
            command.arg(match *flag {
                "{ports}" => PathBuf::from(ALL_PORTS),
                "{recording}" => recording.to_owned(),
                flag => PathBuf::from(flag),
            });
        }
        // Colours would stand between the words that are looked for.
        command.env("NO_COLOR", "1");
        Ok(Some(command))
    }

    /// How many records it lost, by what it wrote; none if it does not say.
    pub(super) fn lost(&self, stdout: &str, stderr: &str) -> Option<u64> {
        match self.contender.kind {
            Kind::Untraced | Kind::Empty | Kind::Everywhere | Kind::Bare | Kind::BareEverywhere => {
                None
            }
            Kind::Tcptrace(_) => lost_by_tcptrace(stdout).or_else(|| lost_by_tcptrace(stderr)),
            Kind::Peer { has_programs, .. } => has_programs.then(|| lost_by_peer(stderr)),
        }
    }
}

/// Of a JSON summary, of the summary of a text, or of the line at the end of a recording.
fn lost_by_tcptrace(text: &str) -> Option<u64> {
    let summary = text.lines().next_back()?;
    if let Ok(summary) = serde_json::from_str::<serde_json::Value>(summary) {
        return summary["lost"].as_u64();
    }
    text.lines()
        .rev()
        .flat_map(|line| line.split(", "))
        .find_map(|part| {
            if part.trim_end_matches('.') == "none lost" {
                return Some(0);
            }
            let (number, _) = part.split_once(' ')?;
            number.parse().ok().filter(|_| part.contains(" LOST: "))
        })
}

/// `lost 12 events on CPU #1!` of libbpf-tools, `Lost 12 events` of bpftrace, each time.
fn lost_by_peer(text: &str) -> u64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .windows(2)
        .filter(|pair| pair[0].eq_ignore_ascii_case("lost"))
        .filter_map(|pair| pair[1].parse::<u64>().ok())
        .sum()
}

/// The reason that a program gives when it does not start: the first line that says that something failed, or
/// else the last one.
pub(super) fn reason(stderr: &str) -> Result<String> {
    let mut lines = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let first = lines.clone().find(|line| {
        let line = line.to_lowercase();
        ["error", "fail", "cannot", "not "]
            .iter()
            .any(|word| line.contains(word))
    });
    first
        .or_else(|| lines.next_back())
        .map(str::to_owned)
        .context("it did not say why")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(typed: &[&str], full: bool, work: Work) -> Vec<&'static str> {
        let typed: Vec<String> = typed.iter().map(|name| (*name).to_owned()).collect();
        let selected = selected(&typed, full, work).unwrap();
        selected.iter().map(|contender| contender.name).collect()
    }

    #[test]
    fn what_is_typed_is_compared_with_untraced() {
        let chosen = names(&["ss", "json"], false, Work::Reset);
        assert_eq!(chosen, ["untraced", "json", "ss"]);
        let error = selected(&["tcptop".to_owned()], false, Work::Reset).unwrap_err();
        assert!(error.to_string().contains("tcpstates"), "{error}");
    }

    #[test]
    fn without_a_word_the_usual_ones_are_measured() {
        assert!(names(&[], false, Work::Reset).contains(&"tcpstates"));
        assert!(!names(&[], false, Work::FailingBinds).contains(&"tcpstates"));
        assert!(names(&[], false, Work::FailingBinds).contains(&"calls-off"));
        assert_eq!(names(&[], true, Work::Reset).len(), ALL.len());
    }

    #[test]
    fn losses_are_read_from_what_each_output_ends_with() {
        for (text, expected) in [
            (r#"{"kind":"summary","ts_ns":1,"lost":7}"#, Some(7)),
            (
                "1204 transitions in 2.312s, none lost.\nNot seen, and not counted as lost",
                Some(0),
            ),
            (
                "12 transitions, 30 records LOST: what is above has gaps",
                Some(30),
            ),
            (
                "tcptrace: recorded 9 inputs to x, 90 bytes, none lost",
                Some(0),
            ),
            (
                "recorded 9 inputs to x, 90 bytes, 4 LOST: the recording has gaps",
                Some(4),
            ),
            ("nothing of the kind", None),
            ("", None),
        ] {
            assert_eq!(lost_by_tcptrace(text), expected, "{text}");
        }
        let peers = "lost 12 events on CPU #1!\nLost 3 events\n";
        assert_eq!(lost_by_peer(peers), 15);
    }

    #[test]
    fn a_program_that_does_not_start_is_quoted() {
        let text = "Attaching 2 probes...\nERROR: Error attaching probe: kprobe:tcp\nbye\n";
        assert_eq!(
            reason(text).unwrap(),
            "ERROR: Error attaching probe: kprobe:tcp"
        );
        assert_eq!(reason("killed\n").unwrap(), "killed");
        assert!(reason("").is_err());
    }
}
