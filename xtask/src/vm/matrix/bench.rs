//! Owns the run of one kernel: its checks one after the other, each in a guest of its own.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{
    checks::{Check, Judge},
    judge::{self, Doctor, Judgement},
    recording,
    table::Row,
};
use crate::vm::{
    Guest, Machine,
    guest::{Life, Lost, Output, Place},
    kernels::Pinned,
};

/// What every kernel's run needs.
pub(super) struct Bench {
    /// The tracer first.
    pub(super) programs: Vec<(&'static str, PathBuf)>,
    pub(super) checks: Vec<Check>,
    pub(super) memory_mb: u32,
    /// What is known so far, of all kernels.
    pub(super) rows: Mutex<Vec<Row>>,
}

/// A kernel that is to be run, or the reason why it is not.
pub(super) struct Entrant {
    pub(super) pinned: Pinned,
    /// With the version of its kernel's packages.
    pub(super) machine: Result<(Machine, String), String>,
}

/// What a guest that reported has written, and the exit status of its command.
struct Written {
    stdout: String,
    stderr: String,
    status: u8,
}

impl Bench {
    /// Every check of one kernel, one after the other.
    pub(super) fn run(&self, entrant: &Entrant) {
        let mut doctor = None;
        for check in &self.checks {
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
            row.judgement = match &entrant.machine {
                Err(reason) => Judgement::skipped(reason),
                Ok((machine, version)) => {
                    row.version = Some(version.clone());
                    match refusal(machine, doctor.as_ref(), check) {
                        Some(reason) => Judgement::skipped(reason),
                        None => self
                            .play(machine, &entrant.pinned, check, &mut doctor, &mut row)
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
        machine: &Machine,
        pinned: &Pinned,
        check: &Check,
        doctor: &mut Option<Doctor>,
        row: &mut Row,
    ) -> Result<Judgement> {
        let name = format!("{}-{}", machine.name, check.label().replace(' ', "-"));
        let place = Place::new(&name)?;
        let Written {
            stdout,
            stderr,
            status,
        } = self.guest(machine, check, &place, row)?;
        let ended = || format!("it ended with {status}: {}", judge::last_line(&stderr));
        row.details = match check.judge {
            Judge::Doctor => judge::features(&stdout),
            Judge::Tests => judge::each_test(&stdout),
            Judge::Lab | Judge::Recording => Vec::new(),
        };
        Ok(match check.judge {
            Judge::Doctor => {
                let found = Doctor::parse(&stdout).with_context(ended)?;
                doctor.insert(found).judge(pinned)
            }
            Judge::Tests => judge::tests(&stdout, &stderr, status),
            Judge::Lab => judge::lab(&stdout, &stderr, status),
            Judge::Recording => {
                ensure!(status == 0, "{}", ended());
                Judgement::pass(recording::judge(&stdout, self.tracer()?, place.folder())?)
            }
        })
    }

    /// Boots the guest and lets it run to its end. One that is lost is an error, and leaves the end of its
    /// console in the row.
    fn guest(
        &self,
        machine: &Machine,
        check: &Check,
        place: &Place,
        row: &mut Row,
    ) -> Result<Written> {
        let guest = Guest {
            programs: self.programs.clone(),
            command: ["sh", "-c", &check.script].map(str::to_owned).to_vec(),
            memory_mb: self.memory_mb,
            fast_clock: true,
            timeout: check.limit,
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
        } = machine.follow(&guest, place, &mut output)?;
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

    /// The tracer, which is static: what runs in guests runs here as well.
    fn tracer(&self) -> Result<&Path> {
        let (_, path) = self.programs.first().context("no tracer was built")?;
        Ok(path)
    }
}

/// Why a check is not run. Where the doctor itself came to nothing, everything is tried.
fn refusal(machine: &Machine, doctor: Option<&Doctor>, check: &Check) -> Option<String> {
    if check.needs_modules && !machine.kernel.has_modules {
        return Some("the suite no longer has the modules of this kernel".to_owned());
    }
    doctor?.refuses(check.backend?)
}
