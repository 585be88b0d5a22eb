//! The live tests: the real tracer, on the running kernel, beside what the kernel itself recorded.
//!
//! They need root, tracefs and a kernel that lets the tracer run. What is missing is said once, with
//! the reason, and the tests that need it are counted as ignored.
//!
//! `TCPTRACE_LIVE_ONLY='start: the start line|calls: accept'` runs those only.
#![expect(
    clippy::print_stderr,
    reason = "a test run says on stderr what it skips, and why"
)]

mod again;
mod agreement;
mod attributes;
mod bench;
mod bind_rules;
mod calls;
mod cgroup;
mod compare;
mod comparison;
mod ending;
mod endings;
mod event;
mod explain;
mod failures;
mod filters;
mod fixtures;
mod hidden;
mod hindrances;
mod in_state;
mod kernel_pages;
mod kernel_table;
mod kernel_text;
mod kernel_trace;
mod lab;
mod lab_scripts;
mod lines;
mod losses;
mod netns;
mod owners;
mod peer;
mod ports;
mod programs;
mod puppet;
mod replay;
mod rights;
mod scenes;
mod skipped;
mod sock_diag;
mod sockets;
mod start;
mod stories;
mod stuck;
mod sys;
mod terminal;
mod text;
mod thousand;
mod time_waits;
mod told;
mod tracefs;
mod tracer;
mod types;
mod uncertain;
mod wanted_namespaces;
mod watch;
mod wire;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};

/// How long anything may take that takes milliseconds on an idle machine: an emulated one is twenty
/// times slower, and a busy one slower again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The variable with the names of the tests to run, all of them if there is none; between them stands a |.
const ONLY: &str = "TCPTRACE_LIVE_ONLY";

/// What a scenario cannot do without.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Root.
    Root,
    /// Root and tracefs.
    KernelTrace,
    /// The tracer, too.
    Tracer,
    /// The kernel's types.
    Types,
    /// The tracer, and a kernel that lets programs be attached to its functions.
    Fentry,
    /// Root, and TUN devices.
    Tun,
    /// The tracer, and a TUN device for a scripted peer.
    Peer,
    /// The tracer and a cgroup2 hierarchy.
    Cgroup,
    /// The tracer, and a kernel that destroys sockets when asked to.
    SockDestroy,
    /// The tracer by fentry as well as by tracepoints, and a TUN device.
    Both,
    /// The tracer by fentry as well as by tracepoints, and a kernel that destroys sockets when asked to.
    BothDestroy,
}

/// One test.
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) needs: Needs,
    pub(crate) run: Box<dyn Fn() -> Result<()> + Send>,
}

impl Scenario {
    /// A test that traces.
    pub(crate) fn new(
        name: impl Into<String>,
        run: impl Fn() -> Result<()> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            needs: Needs::Tracer,
            run: Box::new(run),
        }
    }

    /// The same test with other needs.
    pub(crate) fn needing(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }
}

/// Why scenarios cannot run here; `None` where they can.
#[derive(Default)]
struct Obstacles {
    root: Option<String>,
    kernel_trace: Option<String>,
    tracer: Option<String>,
    tun: Option<String>,
    cgroup: Option<String>,
    sock_destroy: Option<String>,
    fentry: Option<String>,
    types: Option<String>,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(puppet::ARGUMENT) {
        return match puppet::perform() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("puppet: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    if std::env::args().nth(1).as_deref() == Some(fixtures::ARGUMENT) {
        return match fixtures::make() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot make the recordings: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut arguments = Arguments::from_args();
    // One more than usual: the longest test only waits.
    let threads = std::thread::available_parallelism().map_or(1, usize::from) + 1;
    arguments.test_threads.get_or_insert(threads);
    let obstacles = if arguments.list {
        Obstacles::default()
    } else {
        Obstacles::find()
    };
    let scenarios = [
        // Each of the first two has a test that waits for a minute: it does so beside the others.
        time_waits::scenarios(),
        failures::scenarios(),
        agreement::scenarios(),
        lab::scenarios(),
        stories::scenarios(),
        bench::scenarios(),
        bind_rules::scenarios(),
        calls::scenarios(),
        explain::scenarios(),
        lab_scripts::scenarios(),
        start::scenarios(),
        hindrances::scenarios(),
        types::scenarios(),
        comparison::scenarios(),
        thousand::scenarios(),
        filters::scenarios(),
        wanted_namespaces::scenarios(),
        owners::scenarios(),
        losses::scenarios(),
        skipped::scenarios(),
        terminal::scenarios(),
        in_state::scenarios(),
        attributes::scenarios(),
        ending::scenarios(),
        text::scenarios(),
        stuck::scenarios(),
        uncertain::scenarios(),
        replay::scenarios(),
        wire::scenarios(),
    ];
    let scenarios = scenarios.into_iter().flatten().collect();
    let scenarios = match std::env::var(ONLY) {
        Ok(names) => match named(scenarios, &names) {
            Ok(scenarios) => scenarios,
            Err(error) => {
                eprintln!("{ONLY}: {error:#}");
                return ExitCode::FAILURE;
            }
        },
        Err(_) => scenarios,
    };
    let trials = scenarios
        .into_iter()
        .map(|one| obstacles.trial(one))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Those with these names, each of which must be that of a test: one that is renamed must not go unnoticed.
fn named(mut scenarios: Vec<Scenario>, names: &str) -> Result<Vec<Scenario>> {
    let names: Vec<&str> = names.split('|').collect();
    for name in &names {
        let known = scenarios.iter().any(|scenario| scenario.name == *name);
        ensure!(known, "there is no test {name:?}");
    }
    scenarios.retain(|scenario| names.contains(&scenario.name.as_str()));
    Ok(scenarios)
}

impl Obstacles {
    fn find() -> Self {
        let mut obstacles = Self {
            types: types::obstacle(),
            ..Self::default()
        };
        if let Some(reason) = &obstacles.types {
            eprintln!("live tests of the kernel's types skipped: {reason}");
        }
        if !sys::is_root() {
            let reason = "they need root, for network namespaces and tracefs".to_owned();
            eprintln!("live tests skipped: {reason}");
            return Self {
                root: Some(reason.clone()),
                kernel_trace: Some(reason.clone()),
                tracer: Some(reason.clone()),
                tun: Some(reason.clone()),
                cgroup: Some(reason.clone()),
                sock_destroy: Some(reason.clone()),
                fentry: Some(reason),
                ..obstacles
            };
        }
        match tracefs::prepare() {
            Ok(None) => {}
            Ok(Some(did)) => eprintln!("live tests: {did}"),
            Err(error) => {
                let reason = format!("no trace of the kernel's own to compare with: {error:#}");
                eprintln!("live tests skipped: {reason}");
                obstacles.kernel_trace = Some(reason);
            }
        }
        if let Some(reason) = netns::with_new(|_| tracer::refusal()).unwrap_or_else(|error| {
            // Not a reason to skip: each test will fail with it.
            eprintln!("live tests: {error:#}");
            None
        }) {
            eprintln!("live tests of the tracer skipped: {reason}");
            obstacles.tracer = Some(reason);
        }
        match peer::obstacle() {
            Ok(None) => {}
            Ok(Some(reason)) => {
                eprintln!("live tests with a scripted peer skipped: {reason}");
                obstacles.tun = Some(reason);
            }
            // Not a reason to skip: each test will fail with it.
            Err(error) => eprintln!("live tests: {error:#}"),
        }
        if let Err(error) = cgroup::mount_point() {
            eprintln!("live tests with control groups skipped: {error:#}");
            obstacles.cgroup = Some(format!("{error:#}"));
        }
        match sock_diag::obstacle() {
            Ok(None) => {}
            Ok(Some(reason)) => {
                eprintln!("live tests that destroy sockets skipped: {reason}");
                obstacles.sock_destroy = Some(reason);
            }
            // Not a reason to skip: each test will fail with it.
            Err(error) => eprintln!("live tests: {error:#}"),
        }
        match tracer::no_fentry() {
            Ok(None) => {}
            Ok(Some(reason)) => {
                eprintln!("live tests that need fentry skipped: {reason}");
                obstacles.fentry = Some(reason);
            }
            // Not a reason to skip: each test will fail with it.
            Err(error) => eprintln!("live tests: {error:#}"),
        }
        obstacles
    }

    fn trial(&self, scenario: Scenario) -> Trial {
        let Scenario { name, needs, run } = scenario;
        let obstacle = match needs {
            Needs::Root => self.root.as_ref(),
            Needs::KernelTrace => self.kernel_trace.as_ref(),
            Needs::Tracer => self.kernel_trace.as_ref().or(self.tracer.as_ref()),
            Needs::Types => self.types.as_ref(),
            Needs::Fentry => self.tracer.as_ref().or(self.fentry.as_ref()),
            Needs::Tun => self.root.as_ref().or(self.tun.as_ref()),
            Needs::Peer => self
                .kernel_trace
                .as_ref()
                .or(self.tracer.as_ref())
                .or(self.tun.as_ref()),
            Needs::Cgroup => self
                .kernel_trace
                .as_ref()
                .or(self.tracer.as_ref())
                .or(self.cgroup.as_ref()),
            Needs::SockDestroy => self
                .kernel_trace
                .as_ref()
                .or(self.tracer.as_ref())
                .or(self.sock_destroy.as_ref()),
            Needs::Both => self
                .kernel_trace
                .as_ref()
                .or(self.tracer.as_ref())
                .or(self.fentry.as_ref())
                .or(self.tun.as_ref()),
            Needs::BothDestroy => self
                .kernel_trace
                .as_ref()
                .or(self.tracer.as_ref())
                .or(self.fentry.as_ref())
                .or(self.sock_destroy.as_ref()),
        };
        let run = move || {
            sys::own_descriptors()
                .and_then(|()| again::unless_seen(&*run))
                .map_err(|error| Failed::from(format!("{error:#}")))
        };
        Trial::test(name, run).with_ignored_flag(obstacle.is_some())
    }
}
