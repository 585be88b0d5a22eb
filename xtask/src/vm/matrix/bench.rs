//! Owns the run of one kernel: its checks one after the other, each in a guest of its own.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{
    checks::{Check, Judge},
    hindrances,
    judge::{self, Doctor, Judgement},
    recording,
    table::Row,
    types,
};
use crate::vm::{
    Guest, Machine, Programs,
    guest::{Life, Lost, Output, Place},
    kernels::Pinned,
};

/// What every kernel's run needs.
pub(super) struct Bench {
    /// The tracer that runs here, on what guests have recorded.
    pub(super) tracer: PathBuf,
    /// The live tests that run here, on the types that guests have shown, if they were built.
    pub(super) live: Option<PathBuf>,
    pub(super) checks: Vec<Check>,
    pub(super) memory_mb: u32,
    /// What is known so far, of all kernels.
    pub(super) rows: Mutex<Vec<Row>>,
}

/// A kernel that is to be run, or the reason why it is not.
pub(super) struct Entrant {
    pub(super) pinned: Pinned,
    pub(super) ready: Result<Ready, String>,
}

/// A kernel that can be run.
pub(super) struct Ready {
    pub(super) machine: Machine,
    /// Of its kernel's packages.
    pub(super) version: String,
    pub(super) programs: Programs,
}

/// What a guest that reported has written, and the exit status of its command.
struct Written {
    stdout: String,
    stderr: String,
    status: u8,
}

impl Entrant {
    /// Its live tests, if it can be run.
    pub(super) fn live(&self) -> Option<&PathBuf> {
        let programs = &self.ready.as_ref().ok()?.programs;
        let (_, path) = programs.iter().find(|(name, _)| *name == "live")?;
        Some(path)
    }
}

impl Bench {
    /// Every check of one kernel, one after the other.
    pub(super) fn run(&self, entrant: &Entrant) {
        let mut doctor = None;
        let checks = self.checks.iter();
        for check in checks.filter(|check| check.kernels.include(&entrant.pinned)) {
            let start = Instant::now();
            let mut row = Row {
                kernel: entrant.pinned.label(),
                version: None,
                pinned: entrant.pinned.version.clone(),
                check: check.name,
                backend: check.backend,
                judgement: Judgement::skipped(""),
                details: Vec::new(),
                time: Duration::ZERO,
                boots: 0,
                console: Vec::new(),
            };
            row.judgement = match &entrant.ready {
                Err(reason) => Judgement::skipped(reason),
                Ok(ready) => {
                    row.version = Some(ready.version.clone());
                    match refusal(&ready.machine, doctor.as_ref(), check) {
                        Some(reason) => Judgement::skipped(reason),
                        None => self
                            .play(ready, &entrant.pinned, check, &mut doctor, &mut row)
                            .unwrap_or_else(|error| Judgement::fail(format!("{error:#}"))),
                    }
                }
            };
            row.time = start.elapsed();
            println!("{}", row.line());
            let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            rows.push(row);
        }
    }

    /// One check in a guest of its own. An error is a failure: there was nothing to judge.
    fn play(
        &self,
        ready: &Ready,
        pinned: &Pinned,
        check: &Check,
        doctor: &mut Option<Doctor>,
        row: &mut Row,
    ) -> Result<Judgement> {
        let name = format!("{}-{}", ready.machine.name, check.label().replace(' ', "-"));
        let place = Place::new(&name)?;
        let Written {
            stdout,
            stderr,
            status,
        } = self.guest(ready, pinned, check, &place, row)?;
        let ended = || format!("it ended with {status}: {}", judge::last_line(&stderr));
        Ok(match check.judge {
            Judge::Doctor => {
                let found = Doctor::parse(&stdout).with_context(ended)?;
                row.details.clone_from(&found.features);
                doctor.insert(found).judge(pinned)
            }
            Judge::Tests => {
                row.details = judge::each_test(&stdout);
                judge::tests(&stdout, &stderr, status)
            }
            Judge::Hindrance(hindrance) => hindrances::judge(hindrance, pinned, &stdout),
            Judge::Types => {
                ensure!(status == 0, "{}", ended());
                match &self.live {
                    Some(live) => types::judge(&stdout, live, place.folder())?,
                    None => Judgement::skipped("the live tests were not built for this machine"),
                }
            }
            Judge::Lab => judge::lab(&stdout, &stderr, status),
            Judge::Recording => {
                ensure!(status == 0, "{}", ended());
                Judgement::pass(recording::judge(&stdout, &self.tracer, place.folder())?)
            }
        })
    }

    /// Boots the guest and lets it run to its end. One that is lost is an error, and leaves the end of its
    /// console in the row.
    fn guest(
        &self,
        ready: &Ready,
        pinned: &Pinned,
        check: &Check,
        place: &Place,
        row: &mut Row,
    ) -> Result<Written> {
        let guest = Guest {
            programs: ready.programs.clone(),
            command: ["sh", "-c", &check.script].map(str::to_owned).to_vec(),
            memory_mb: self.memory_mb,
            fast_clock: true,
            timeout: check.limit * pinned.patience(),
            verbose: false,
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut output = Output {
            stdout: &mut stdout,
            stderr: &mut stderr,
            verbose: false,
        };
        let Life {
            end,
            boots,
            console,
            emulator,
        } = ready.machine.follow(&guest, place, &mut output)?;
        row.boots = boots;
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        let status = end.map_err(|lost: Lost| {
            let lines = console.lines().chain(emulator.lines());
            row.console = lines.map(str::to_owned).collect();
            anyhow!(
                "{lost}; the last line of its output: {}",
                judge::last_line(&stdout)
            )
        })?;
        Ok(Written {
            stdout,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            status,
        })
    }
}

/// Why a check is not run. Where the doctor itself came to nothing, everything is tried.
fn refusal(machine: &Machine, doctor: Option<&Doctor>, check: &Check) -> Option<String> {
    if check.needs_modules && !machine.kernel.has_modules {
        return Some("the suite no longer has the modules of this kernel".to_owned());
    }
    doctor?.refuses(check.backend?)
}
