//! Owns experiments of one's own: files that say in TOML what is claimed, and in a script, a sentence a line, what
//! actors do and what is measured. docs/lab/own.md describes them.
//!
//! A file is read whole before anything is played: `head` reads the TOML, `read` the script, into a `program`
//! in which every name has been looked up (`names`); `fault` tells what is wrong, all at once. `play` plays a
//! program on a stage, as if it had been written in Rust.

mod fault;
mod head;
mod names;
mod play;
mod program;
mod read;
#[cfg(test)]
mod tests;
mod words;

use std::{fs, path::Path};

use anyhow::Context;

use self::{
    fault::Fault,
    program::{Action, OfEnd, Program, Quantity, Step},
    words::Word,
};
use super::experiment::Task;
use crate::failure::Failure;

/// No file that a person writes is longer.
const LONGEST_FILE: u64 = 1 << 20;
/// How long a TIME_WAIT lasts, in seconds: `TCP_TIMEWAIT_LEN` of include/net/tcp.h (v6.18).
const TIME_WAIT_SECONDS: u64 = 60;
/// About how long anything else takes, in seconds.
const REST_SECONDS: u64 = 3;

/// Whether a word of the command line is meant to be a file.
#[must_use]
pub fn is_file(word: &str) -> bool {
    let path = Path::new(word);
    path.extension()
        .is_some_and(|extension| extension == "toml")
        || path.is_file()
}

/// The experiment of a file, to be played under this id.
///
/// # Errors
/// When the file cannot be read, or not be understood: with all that is wrong, by line.
pub fn load(name: &str, id: String) -> Result<Task, Failure> {
    let about = fs::metadata(name).map_err(|error| Failure::Usage(format!("{name}: {error}")))?;
    if !about.is_file() || about.len() > LONGEST_FILE {
        let wrong = format!("{name} is no file that describes an experiment (docs/lab/own.md)");
        return Err(Failure::Usage(wrong));
    }
    let bytes = fs::read(name).with_context(|| format!("cannot read {name}"))?;
    let Ok(source) = String::from_utf8(bytes) else {
        return Err(Failure::Usage(format!("{name} is not UTF-8 text")));
    };
    task(name, id, &source).map_err(|faults| Failure::Usage(fault::tell(name, &source, faults)))
}

/// The experiment that this text describes.
fn task(name: &str, id: String, source: &str) -> Result<Task, Vec<Fault>> {
    let mut faults = Vec::new();
    let head = head::read(source, &mut faults);
    let mut steps = Vec::new();
    for (at, sysctl, value) in head.sysctls {
        let line = fault::line_of(source, at.start);
        let word = Word {
            text: &sysctl,
            at,
            quoted: false,
        };
        match read::sysctl_name(&word) {
            Ok(name) => steps.push(Step {
                line,
                what: format!("sysctl {name} = {value}"),
                action: Action::Sysctl { name, value },
                judgement: None,
            }),
            Err(fault) => faults.push(fault),
        }
    }
    let program = match read::read(source, head.lines) {
        Ok(mut program) => {
            let is_decided = program.lines.iter().any(decides);
            if !is_decided && faults.is_empty() {
                let fault = Fault::new(head.script, "no line of the script has a claim");
                faults.push(fault.rather("the verdict is made of them, such as: claim EADDRINUSE"));
            }
            steps.append(&mut program.lines);
            program.lines = steps;
            program
        }
        Err(more) => {
            faults.extend(more);
            Program::default()
        }
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    let seconds = seconds(&program);
    let file = name.to_owned();
    Ok(Task {
        id,
        name: name.to_owned(),
        claims: Vec::new(),
        title: head.title,
        says: head.claim,
        why: head.why,
        condition: head.condition,
        seconds,
        play: Box::new(move |stage| play::play(&program, &file, stage)),
    })
}

/// Whether the claim stands or falls with it.
fn decides(step: &Step) -> bool {
    let judgement = step.judgement.as_ref();
    let claimed = judgement.and_then(|judgement| judgement.claimed.as_ref());
    claimed.is_some_and(|(_, decisive)| *decisive)
}

/// About how long it takes: what passes, and a TIME_WAIT if its end is measured.
fn seconds(program: &Program) -> u32 {
    let mut passes = 0;
    let mut waits = 0;
    for step in &program.lines {
        match &step.action {
            Action::Pass(time) => passes += time.as_secs(),
            Action::Measure(Quantity::OfEnd(_, OfEnd::TimeWait | OfEnd::FinWait2 | OfEnd::End)) => {
                waits = TIME_WAIT_SECONDS;
            }
            Action::Measure(_)
            | Action::Act(..)
            | Action::Sysctl { .. }
            | Action::Address(_)
            | Action::AwaitState { .. }
            | Action::AwaitSockets { .. }
            | Action::ShowStory(_) => {}
        }
    }
    u32::try_from(passes + waits + REST_SECONDS).unwrap_or(u32::MAX)
}
