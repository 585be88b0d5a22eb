//! Owns the list of checks: what each runs in its guest, for how long, and who judges what comes out.
//!
//! Each check has a guest of its own, so that one that hangs or crashes takes no other with it; a boot costs
//! two or three seconds.

use std::time::Duration;

use super::{
    hindrances::{self, Hindrance},
    types,
};
use crate::vm::kernels::{Backend, Pinned};

/// The live tests under the kernels of the default matrix, unless every one is asked for: each feature once, by
/// one of the tests that need most of the kernel. What has a check of its own (the rules of bind(), the lab) is
/// not among them, nor the two that start dozens of traces, which took more than half of the time.
const BRIEF: [&str; 26] = [
    "time_wait: what ends it",
    "time_wait: counted as the kernel counts",
    "failures: a privileged port",
    "failures: the same two addresses in TIME_WAIT",
    "stories: how connections close",
    "stories: with a scripted peer",
    "stories: processes that end",
    "stories: sockets that are destroyed",
    "calls: who asked for what, and the answer",
    "calls: accept",
    "explain: what it says is what bind() does",
    "start: the start line",
    "comparison: scenes (ipv4, ipv6, v4-mapped)",
    "filters: --port shows the early event",
    "filters: namespaces that come and go",
    "owners: --pid of a client",
    "owners: --cgroup",
    "losses: a burst that nobody reads adds up",
    "in_state: the time that a state was held",
    "attributes: netns, uid, cpu and current task",
    "ending: SIGINT",
    "text: a header and one plain line an event in a pipe",
    "stuck: who does not close, and who is not answered",
    "uncertain: a TIME_WAIT older than the trace",
    "replay: the same lines, byte for byte",
    "wire: a whole connection, IPv4 and IPv6",
];
/// Those under the kernels that only the full matrix has, which lie between the others: what reads most fields,
/// and attaches to most functions.
const BRIEFEST: [&str; 8] = [
    "time_wait: what ends it",
    "failures: the same two addresses in TIME_WAIT",
    "stories: how connections close",
    "calls: who asked for what, and the answer",
    "explain: what it says is what bind() does",
    "comparison: scenes (ipv4, ipv6, v4-mapped)",
    "losses: a burst that nobody reads adds up",
    "wire: a whole connection, IPv4 and IPv6",
];

/// How the names of the live tests begin that trace by both backends at once.
const AGREEMENT: &str = "agreement: ";
/// Those that are run unless every one is asked for. The others wait for long, or for what these show as well.
const BRIEF_AGREEMENT: [&str; 4] = [
    "agreement: how connections close",
    "agreement: what ends a TIME_WAIT",
    "agreement: calls that fail",
    "agreement: many connections at once",
];

/// What the scripts share that trace.
pub(super) const SCENE: &str = include_str!("scene.sh");

/// One check, of any kernel.
pub(super) struct Check {
    pub(super) name: &'static str,
    /// What the tracer is made to use, and what it cannot be run without; `None`: what it chooses, or no
    /// tracer is there.
    pub(super) backend: Option<Backend>,
    /// What the guest's shell runs.
    pub(super) script: String,
    /// The longest that the guest may take: several times what it takes on an idle machine.
    pub(super) limit: Duration,
    pub(super) judge: Judge,
    /// Under which kernels it is run.
    pub(super) kernels: Kernels,
    /// Whether the guest must have sock_diag, TUN and dummy devices, which are modules.
    pub(super) needs_modules: bool,
}

/// Under which kernels a check is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernels {
    All,
    /// Those of the default matrix.
    Default,
    /// Those that only the full matrix has.
    Others,
}

impl Kernels {
    /// Whether this one is among them.
    pub(super) fn include(self, kernel: &Pinned) -> bool {
        match self {
            Self::All => true,
            Self::Default => !kernel.only_full,
            Self::Others => kernel.only_full,
        }
    }
}

/// Who reads what a check's guest has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judge {
    /// The JSON of `tcptrace doctor`.
    Doctor,
    /// The output of a test program.
    Tests,
    /// The kernel's types.
    Types,
    /// The JSON of `tcptrace lab run`.
    Lab,
    /// What was tried where something is taken away.
    Hindrance(Hindrance),
    /// A recording and what the guest's own replay showed of it.
    Recording,
}

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depth {
    /// What the full matrix has and the default one has not.
    pub(super) full: bool,
    /// Every live test, not one for each feature.
    pub(super) every_test: bool,
}

/// All checks, that of the doctor first: it says which backends there are.
pub(super) fn all(depth: Depth) -> Vec<Check> {
    let each = [Backend::Fentry, Backend::Timer];
    let mut checks = vec![doctor()];
    if depth.every_test {
        checks.extend([None, Some(Backend::Timer)].map(every_live_test));
    } else {
        checks.push(live(&BRIEF, Kernels::Default));
        checks.push(live(&BRIEFEST, Kernels::Others));
    }
    checks.push(tests(
        "bind rules",
        None,
        bind_rules(depth.every_test),
        1800,
    ));
    if depth.full {
        checks.push(of_types());
    }
    // Those of a process: capabilities, privileges, BTF, tracefs.
    checks.push(tests("hindrances", None, "live 'hindrances:'", 900));
    checks.extend(hindrances::checks());
    checks.push(agreement(depth.every_test));
    checks.extend(each.map(lab));
    checks.extend(each.map(recording));
    checks
}

impl Check {
    /// As in the table's head: `lab fentry`.
    pub(super) fn label(&self) -> String {
        label(self.name, self.backend)
    }
}

/// Name and backend as one.
pub(super) fn label(name: &str, backend: Option<Backend>) -> String {
    match backend {
        Some(backend) => format!("{name} {}", backend.word()),
        None => name.to_owned(),
    }
}

fn doctor() -> Check {
    Check {
        name: "doctor",
        backend: None,
        script: "exec tcptrace doctor --json".to_owned(),
        limit: Duration::from_secs(180),
        judge: Judge::Doctor,
        kernels: Kernels::All,
        needs_modules: false,
    }
}

/// 2,000 cases, or all 15,000.
fn bind_rules(all: bool) -> &'static str {
    if all {
        "TCPTRACE_BIND_CASES=all live 'bind rules'"
    } else {
        "live 'bind rules'"
    }
}

/// With the backend that the tracer chooses.
fn live(only: &[&str], kernels: Kernels) -> Check {
    let script = format!("TCPTRACE_LIVE_ONLY='{}' live", only.join("|"));
    Check {
        kernels,
        ..tests("live", None, &script, 1800)
    }
}

fn every_live_test(backend: Option<Backend>) -> Check {
    let backend_of = backend.map_or_else(String::new, |backend| {
        format!("TCPTRACE_LIVE_BACKEND={} ", backend.word())
    });
    let script = format!("{backend_of}live --skip '{AGREEMENT}'");
    tests("live", backend, &script, 7200)
}

/// Both backends at once, told the same: not among the live tests, since a kernel without fentry has nothing
/// to compare, which is no failure there.
fn agreement(every: bool) -> Check {
    let script = if every {
        format!("live '{AGREEMENT}'")
    } else {
        let only = BRIEF_AGREEMENT.join("|");
        format!("TCPTRACE_LIVE_ONLY='{only}' live")
    };
    tests("agreement", Some(Backend::Fentry), &script, 900)
}

fn of_types() -> Check {
    Check {
        name: "types",
        backend: None,
        script: types::SCRIPT.to_owned(),
        limit: Duration::from_secs(300),
        judge: Judge::Types,
        kernels: Kernels::All,
        needs_modules: false,
    }
}

fn tests(name: &'static str, backend: Option<Backend>, script: &str, seconds: u64) -> Check {
    Check {
        name,
        backend,
        script: script.to_owned(),
        limit: Duration::from_secs(seconds),
        judge: Judge::Tests,
        kernels: Kernels::All,
        needs_modules: true,
    }
}

fn lab(backend: Backend) -> Check {
    Check {
        name: "lab",
        backend: Some(backend),
        script: format!("exec tcptrace lab run --all --json {}", backend.flags()),
        limit: Duration::from_secs(1800),
        judge: Judge::Lab,
        kernels: Kernels::All,
        needs_modules: true,
    }
}

/// A trace of a connection, of a bind() that fails, and of a TIME_WAIT until it ends by itself, shown and
/// recorded at once; then what a replay shows of it, and the recording.
fn recording(backend: Backend) -> Check {
    let script = include_str!("recording.sh").replace("FLAGS", backend.flags());
    let script = format!("{SCENE}{script}");
    Check {
        name: "recording",
        backend: Some(backend),
        script,
        limit: Duration::from_secs(300),
        judge: Judge::Recording,
        kernels: Kernels::All,
        needs_modules: false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DEFAULT: Depth = Depth {
        full: false,
        every_test: false,
    };
    const FULL: Depth = Depth {
        full: true,
        every_test: false,
    };

    #[test]
    fn the_doctor_comes_first_and_each_check_is_there_once() {
        for depth in [DEFAULT, FULL] {
            let checks = all(depth);
            assert_eq!(checks[0].judge, Judge::Doctor);
            for without in [Kernels::Default, Kernels::Others] {
                let of_one_kernel = checks.iter().filter(|check| check.kernels != without);
                let labels: Vec<String> = of_one_kernel.map(Check::label).collect();
                let different: BTreeSet<&String> = labels.iter().collect();
                assert_eq!(labels.len(), different.len());
                assert!(labels.contains(&"live".to_owned()), "{labels:?}");
            }
        }
    }

    #[test]
    fn every_live_test_is_run_only_where_that_is_asked_for() {
        let scripts = |depth| -> Vec<String> {
            let checks = all(depth).into_iter().filter(|check| check.name == "live");
            checks.map(|check| check.script).collect()
        };
        for (some, only) in scripts(FULL).iter().zip([&BRIEF[..], &BRIEFEST]) {
            let names = format!("TCPTRACE_LIVE_ONLY='{}' live", only.join("|"));
            assert_eq!(*some, names);
        }
        assert!(BRIEFEST.iter().all(|name| BRIEF.contains(name)));
        let every = Depth {
            every_test: true,
            ..FULL
        };
        assert_eq!(
            scripts(every),
            [
                "live --skip 'agreement: '",
                "TCPTRACE_LIVE_BACKEND=timer live --skip 'agreement: '"
            ]
        );
    }

    #[test]
    fn what_compares_the_backends_runs_where_the_doctor_has_found_both() {
        for depth in [DEFAULT, FULL] {
            let checks = all(depth);
            let agreement = checks.iter().find(|check| check.name == "agreement");
            let agreement = agreement.expect("it is among the checks");
            assert_eq!(agreement.backend, Some(Backend::Fentry));
        }
    }

    #[test]
    fn a_recording_is_made_with_the_backend_that_the_row_names() {
        let script = recording(Backend::Timer).script;
        assert!(
            script.contains("--backend timer --calls syscalls"),
            "{script}"
        );
        assert!(!script.contains("FLAGS"));
    }
}
