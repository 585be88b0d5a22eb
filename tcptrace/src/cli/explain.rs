//! Owns `tcptrace explain`: why a bind() would fail now, from a snapshot of now.

mod answer;
mod look;
mod question;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;

use self::{
    answer::{Answer, Outcome},
    look::Seen,
    question::Question,
};
use super::{args::explain::ExplainArgs, output};
use crate::{
    failure::Failure,
    host::{clock, netns::Namespace},
    render::{json::Json, notice, text::call},
};

/// Looks, decides, and prints.
pub(super) fn run(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    let namespace = args
        .netns
        .as_deref()
        .map(Namespace::find)
        .transpose()
        .map_err(Failure::Usage)?;
    let (questions, seen) = look::look(args, namespace.as_ref())?;
    let mut answers = questions
        .iter()
        .map(|question| answer::answer(question, &seen))
        .collect::<anyhow::Result<Vec<Answer>>>()?;
    let owners_missing = answer::add_owners(&mut answers, &seen);
    let written = if args.json {
        json(&answers)
    } else {
        text(args, &answers, &seen)
    };
    match written {
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
        other => other.context("cannot write the answer")?,
    }
    for note in seen.notes.iter().chain(&owners_missing) {
        notice::say(format_args!("note: {note}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn json(answers: &[Answer]) -> io::Result<()> {
    let mut json = Json::new(io::stdout().lock(), clock::wall_offset_ns());
    for answer in answers {
        match &answer.outcome {
            Outcome::Fails(found) => json.would_fail(found)?,
            Outcome::Succeeds {
                holders,
                total,
                listen,
            } => {
                json.would_succeed(&answer.call, holders, *total)?;
                if let Some(found) = listen {
                    json.would_fail(found)?;
                }
            }
        }
    }
    Ok(())
}

fn text(args: &ExplainArgs, answers: &[Answer], seen: &Seen) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let layout = output::layout(args.color, args.wide);
    // Any address of both families is asked for, and mostly both have the same answer.
    let (told, same) = match answers {
        [first, second] if first.is_like(second) => (&answers[..1], Some(second)),
        _ => (answers, None),
    };
    for answer in told {
        match &answer.outcome {
            Outcome::Fails(found) => write!(out, "{}", call::would_fail(&layout, seen.hz, found))?,
            Outcome::Succeeds {
                holders,
                total,
                listen,
            } => {
                let paragraph = call::would_succeed(&layout, &answer.call, holders, *total);
                write!(out, "{paragraph}")?;
                if let Some(found) = listen {
                    write!(out, "{}", call::would_fail(&layout, seen.hz, found))?;
                }
            }
        }
    }
    if let Some(Question { asked, .. }) = same.map(|answer| &answer.question) {
        writeln!(out, "The same holds for {}.", asked.addr)?;
    }
    if let Some(free) = answer::free_ports(answers, seen) {
        writeln!(out, "{free}")?;
    }
    Ok(())
}
