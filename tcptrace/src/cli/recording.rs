//! Owns the recording that a trace writes: where it goes, and what is in it so far.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use anyhow::Context;
use tcptrace_model::Input;

use crate::{
    failure::Failure,
    record::{Ending, Opening, Step, write::Recorder},
};

/// Where a recording is to go. Until it begins, what was there stays.
pub(super) struct Destination {
    file: File,
    /// `None` for stdout.
    path: Option<PathBuf>,
    /// The file was not there before, and is empty so far.
    is_new: bool,
}

impl Destination {
    /// Opens `path`, or stdout for `-`.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let destination = if path.as_os_str() == "-" {
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            Self {
                file: stdout.context("cannot write to stdout")?.into(),
                path: None,
                is_new: false,
            }
        } else {
            let (file, is_new) = open(path)
                .with_context(|| format!("cannot write the recording {}", path.display()))?;
            Self {
                file,
                path: Some(path.to_owned()),
                is_new,
            }
        };
        if destination.file.is_terminal() {
            return Err(Failure::Usage(
                "a recording is nothing for a terminal; write it to a file with: -o FILE, or to a pipe with: -o -".to_owned(),
            ));
        }
        Ok(destination)
    }

    /// Whether it is stdout.
    pub(super) fn is_stdout(&self) -> bool {
        self.path.is_none()
    }

    /// Begins the recording in place of what was there.
    pub(super) fn begin(mut self, opening: &Opening) -> anyhow::Result<Recording> {
        self.is_new = false;
        let name = self.name();
        let begin = || {
            let file = self.file.try_clone()?;
            // Nothing else can be emptied.
            if self.path.is_some() && file.metadata()?.is_file() {
                file.set_len(0)?;
            }
            Recorder::begin(file, opening)
        };
        Ok(Recording {
            recorder: begin().with_context(|| format!("cannot write the recording {name}"))?,
            name,
            inputs: 0,
            transitions: 0,
            lost: 0,
            has_ended: false,
        })
    }

    fn name(&self) -> String {
        self.path
            .as_ref()
            .map_or_else(|| "stdout".to_owned(), |path| path.display().to_string())
    }
}

impl Drop for Destination {
    /// A trace that did not come about leaves no empty file.
    fn drop(&mut self) {
        if let Some(path) = self.path.as_ref().filter(|_| self.is_new) {
            // If it cannot be removed, it stays.
            let _ = fs::remove_file(path);
        }
    }
}

/// A recording that is being written.
pub(super) struct Recording {
    recorder: Recorder<File>,
    name: String,
    inputs: u64,
    transitions: u64,
    lost: u64,
    has_ended: bool,
}

impl Recording {
    /// Adds a step.
    pub(super) fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        self.count(step);
        self.recorder
            .step(step)
            .with_context(|| format!("cannot write the recording {}", self.name))
    }

    /// Ends it, unless it has ended.
    pub(super) fn end(&mut self, ending: Ending) -> anyhow::Result<()> {
        if !self.has_ended {
            self.step(&Step::End(ending))?;
        }
        self.flush()
    }

    /// Hands everything so far to the operating system.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        self.recorder
            .flush()
            .with_context(|| format!("cannot write the recording {}", self.name))
    }

    /// What its user calls it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How many transitions are in it.
    pub(super) fn transitions(&self) -> u64 {
        self.transitions
    }

    fn count(&mut self, step: &Step) {
        match step {
            Step::Input(input) => {
                self.inputs += 1;
                match input {
                    Input::Transition(_) => self.transitions += 1,
                    Input::Lost(loss) => self.lost += loss.records,
                    Input::MinisocketEntered(_)
                    | Input::MinisocketRearmed(_)
                    | Input::MinisocketEnded(_)
                    | Input::Reset(_)
                    | Input::Accepted(_)
                    | Input::Holder(_)
                    | Input::Surroundings(_)
                    | Input::Call(_)
                    | Input::Snapshot(_)
                    | Input::Gap { ts_ns: _ } => {}
                }
            }
            Step::Tick { now_ns: _ } => {}
            Step::End(_) => self.has_ended = true,
        }
    }
}

impl fmt::Display for Recording {
    /// What is in it, in a sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            recorder,
            name,
            inputs,
            transitions,
            lost,
            has_ended: _,
        } = self;
        let lost = match lost {
            0 => "none lost".to_owned(),
            lost => format!("{lost} LOST: the recording has gaps"),
        };
        write!(
            f,
            "recorded {inputs} inputs to {name}, {transitions} of them transitions, {} bytes, {lost}",
            recorder.bytes()
        )
    }
}

/// Opens a file that may be there, as it is, and tells whether it was not.
fn open(path: &Path) -> io::Result<(File, bool)> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok((OpenOptions::new().write(true).open(path)?, false))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{record::samples, source::replay::Replay};

    /// A path of this test's own, with nothing there.
    fn nowhere(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tcptrace-{name}-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn a_trace_that_does_not_come_about_leaves_what_was_there() {
        let path = nowhere("untouched");
        drop(Destination::open(&path).unwrap());
        assert!(!path.exists());

        fs::write(&path, "something of value").unwrap();
        drop(Destination::open(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"something of value");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_recording_replaces_what_was_there_and_counts_what_it_has() {
        let path = nowhere("replaced");
        fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
        let destination = Destination::open(&path).unwrap();
        let mut recording = destination.begin(&samples::opening()).unwrap();
        for step in samples::steps() {
            recording.step(&step).unwrap();
        }
        let sentence = {
            recording.flush().unwrap();
            recording.to_string()
        };
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let mut replay = Replay::open(&bytes[..]).unwrap();
        let mut inputs = 0;
        while let Some(step) = replay.next_step().unwrap() {
            inputs += u64::from(matches!(step, Step::Input(_)));
        }
        assert!(
            sentence.starts_with(&format!("recorded {inputs} inputs to {}", path.display())),
            "{sentence}"
        );
        assert!(
            sentence.contains(&format!("{} bytes, 7 LOST", bytes.len())),
            "{sentence}"
        );
    }

    #[test]
    fn a_recording_ends_only_once() {
        let path = nowhere("once");
        let destination = Destination::open(&path).unwrap();
        let mut recording = destination.begin(&samples::opening()).unwrap();
        let ending = Ending {
            ts_ns: 2,
            duration_ns: 1,
        };
        recording.end(ending).unwrap();
        recording.end(ending).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let mut replay = Replay::open(&bytes[..]).unwrap();
        assert_eq!(replay.next_step().unwrap(), Some(Step::End(ending)));
        assert_eq!(replay.next_step().unwrap(), None);
    }
}
