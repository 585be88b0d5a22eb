//! Owns `tcptrace lab`: which experiments were asked for, and what is printed of them while and after they are
//! played.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    sync::{Arc, mpsc::TryRecvError},
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;
use tokio::{runtime, time::sleep};

use super::{
    args::lab::{LabArgs, LabCommand, ListArgs, RunArgs},
    args::run::CallsChoice,
    output::{self, is_broken_pipe},
    signals::Signals,
};
use crate::{
    bpf::filters::{Filters, NetnsFilter},
    failure::Failure,
    lab::{
        actor, claims,
        experiment::Task,
        experiments,
        report::{
            Ending, Report, json,
            text::{self, Look},
        },
        run::Event,
        script,
        session::{Session, Wanted},
    },
    render::{notice, text::Layout},
    source::live::Request,
};

/// The size of the buffer between kernel and lab.
const BUFFER_BYTES: u32 = 8 << 20;
/// Columns of a report that goes into a file: it is made to be read, not to be cut into lines.
const WIDTH: usize = 100;
/// How often events are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Does what was asked of the lab.
pub(super) fn run(args: &LabArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        LabCommand::List(args) => list(args),
        LabCommand::Run(args) => play(args),
        LabCommand::Actor { name } => Ok(actor::perform(name)?),
    }
}

#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    name: &'a str,
    claims: &'a [&'a str],
    title: &'a str,
    says: &'a str,
    seconds: u32,
}

fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let all = experiments::all();
    let mut out = String::new();
    let widest = |of: &dyn Fn(usize) -> usize| (0..all.len()).map(of).max().unwrap_or_default();
    let name_width = widest(&|index| all[index].name.len());
    let claims_width = widest(&|index| all[index].claims.join(" ").len());
    for experiment in &all {
        if args.json {
            let line = serde_json::to_string(&Listed {
                id: experiment.id,
                name: experiment.name,
                claims: experiment.claims,
                title: experiment.title,
                says: experiment.says,
                seconds: experiment.seconds,
            });
            let _ = writeln!(out, "{}", line.map_err(anyhow::Error::from)?);
        } else {
            let _ = writeln!(
                out,
                "{:<4} {:<name_width$}  {:<claims_width$}  {:>3}s  {}",
                experiment.id,
                experiment.name,
                experiment.claims.join(" "),
                experiment.seconds,
                experiment.title
            );
        }
    }
    match print(&out) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(error).into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn play(args: &RunArgs) -> Result<ExitCode, Failure> {
    if args.calls == CallsChoice::Off {
        return Err(Failure::Usage(
            "the lab has to see calls that fail; leave out: --calls off".to_owned(),
        ));
    }
    let tasks = wanted(args)?;
    let mut printer = Printer::new(args, &tasks);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::catch()?
    };
    let session = Session::begin(
        Wanted {
            tasks,
            jobs: args.jobs.map(usize::from),
            recordings: args.keep_recording.clone(),
            contradict: args.contradict,
        },
        Request {
            filters: Filters {
                netns: NetnsFilter::Changing,
                ..Filters::default()
            },
            buffer_bytes: BUFFER_BYTES,
            log_level: None,
            backend: args.backend.into(),
            calls: args.calls.into(),
            btf: args.types.btf.clone(),
        },
    )?;
    for sentence in &session.start().degraded {
        notice::warn(sentence);
    }
    let mut interrupted = false;
    let told: anyhow::Result<()> = runtime.block_on(async {
        loop {
            match session.events.try_recv() {
                Ok(event) => {
                    printer.take(event, &session)?;
                    continue;
                }
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {}
            }
            printer.show_progress()?;
            tokio::select! {
                () = signals.any(), if !interrupted => {
                    interrupted = true;
                    session.cancel();
                }
                () = sleep(LOOK_EVERY) => {}
            }
        }
    });
    if let Err(error) = told {
        session.cancel();
        session.end()?;
        // Whoever read it has seen enough.
        return if is_broken_pipe(&error) {
            Ok(ExitCode::SUCCESS)
        } else {
            Err(error.into())
        };
    }
    for sentence in session.end()? {
        notice::warn(sentence);
    }
    printer.finish().map_err(anyhow::Error::from)?;
    Ok(printer.exit_code(args))
}

/// The experiments that were asked for, each once, in the order of their ids or as they were asked for.
fn wanted(args: &RunArgs) -> Result<Vec<Arc<Task>>, Failure> {
    let all = experiments::all();
    if args.all {
        return Ok(all.into_iter().map(|one| Arc::new(one.into())).collect());
    }
    let mut chosen: Vec<Arc<Task>> = Vec::new();
    for word in &args.wanted {
        if script::is_file(word) {
            if chosen.iter().all(|one| one.name != *word) {
                chosen.push(Arc::new(script::load(word, id_of_file(word, &chosen))?));
            }
            continue;
        }
        let found = all.iter().copied().filter(|one| {
            one.id.eq_ignore_ascii_case(word)
                || one.name == word
                || one
                    .claims
                    .iter()
                    .any(|claim| claim.eq_ignore_ascii_case(word))
        });
        let before = chosen.len();
        for experiment in found {
            if chosen.iter().all(|one| one.id != experiment.id) {
                chosen.push(Arc::new(experiment.into()));
            }
        }
        let is_known =
            claims::find(&word.to_uppercase()).is_some() || all.iter().any(|one| one.name == word);
        if chosen.len() == before && !is_known {
            return Err(unknown(word));
        }
    }
    Ok(chosen)
}

/// The name of the file without its folder and ending; with a number if another experiment is called so.
fn id_of_file(file: &str, chosen: &[Arc<Task>]) -> String {
    let stem = Path::new(file).file_stem().unwrap_or_default();
    let stem = stem.to_string_lossy();
    let is_free = |id: &str| {
        chosen.iter().all(|one| one.id != id) && experiments::all().iter().all(|one| one.id != id)
    };
    if is_free(&stem) {
        return stem.into_owned();
    }
    // Each of the others has taken one number at most.
    (2..chosen.len() + 3)
        .map(|number| format!("{stem}-{number}"))
        .find(|id| is_free(id))
        .unwrap_or_default()
}

fn unknown(word: &str) -> Failure {
    Failure::Usage(format!(
        "there is no experiment {word:?}, nor a file of that name; list the lab's own with: tcptrace lab list"
    ))
}

/// Prints reports in the order of the plan, as soon as all before them are there; meanwhile, on a terminal, a line
/// that says what is being played.
struct Printer {
    json: bool,
    look: Layout,
    tasks: Vec<Arc<Task>>,
    reports: Vec<Option<Report>>,
    printed: usize,
    playing: BTreeSet<usize>,
    began: Instant,
    /// Stderr is a terminal, and there is a line on it.
    progress: Option<bool>,
}

impl Printer {
    fn new(args: &RunArgs, tasks: &[Arc<Task>]) -> Self {
        let layout = output::layout(args.color, false);
        Self {
            json: args.json,
            look: Layout {
                ladder: args.ladder,
                width: layout.width.or(Some(WIDTH)),
                ..layout
            },
            tasks: tasks.to_vec(),
            reports: tasks.iter().map(|_| None).collect(),
            printed: 0,
            playing: BTreeSet::new(),
            began: Instant::now(),
            progress: io::stderr().is_terminal().then_some(false),
        }
    }

    fn take(&mut self, event: Event, session: &Session) -> anyhow::Result<()> {
        match event {
            Event::Began(index) => {
                self.playing.insert(index);
            }
            Event::Again(_) => {}
            Event::Ended(index, report) => {
                self.playing.remove(&index);
                self.reports[index] = Some(*report);
                while let Some(Some(report)) = self.reports.get(self.printed) {
                    let told = if self.json {
                        json::line(report, session.start().clock_offset_ns)? + "\n"
                    } else {
                        let look = Look {
                            layout: self.look,
                            clock_offset_ns: session.start().clock_offset_ns,
                        };
                        text::report(report, session.start(), look)?
                    };
                    self.clear_progress()?;
                    print(&told)?;
                    self.printed += 1;
                }
            }
        }
        Ok(())
    }

    fn show_progress(&mut self) -> io::Result<()> {
        if self.progress.is_none() {
            return Ok(());
        }
        let done = self.reports.iter().flatten().count();
        let playing: Vec<&str> = self
            .playing
            .iter()
            .map(|index| self.tasks[*index].id.as_str())
            .collect();
        let mut line = format!(
            "{:>3}s  {done} of {} done, playing {}",
            self.began.elapsed().as_secs(),
            self.tasks.len(),
            playing.join(" ")
        );
        if let Some(width) = self.look.width {
            line.truncate(width.saturating_sub(1));
        }
        self.progress = Some(true);
        // The rest of the line before it is cleared.
        write!(io::stderr(), "\r{line}\x1b[K")
    }

    fn clear_progress(&mut self) -> io::Result<()> {
        if self.progress == Some(true) {
            self.progress = Some(false);
            write!(io::stderr(), "\r\x1b[K")?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.clear_progress()?;
        let reports: Vec<&Report> = self.reports.iter().flatten().collect();
        if self.json || reports.len() < 2 {
            return Ok(());
        }
        let look = Look {
            layout: self.look,
            clock_offset_ns: 0,
        };
        let mut out = text::summary(&reports, look);
        let count = |wanted: &dyn Fn(&Report) -> bool| {
            reports.iter().filter(|report| wanted(report)).count()
        };
        let as_expected = count(&Report::is_as_expected);
        let skipped = count(&|report| matches!(report.ending, Ending::Skipped(_)));
        let interrupted = count(&|report| report.ending == Ending::Interrupted);
        let _ = write!(
            out,
            "{} played in {}s: {as_expected} as expected of this kernel, {} not, {skipped} skipped",
            reports.len() - skipped,
            self.began.elapsed().as_secs(),
            reports.len() - as_expected - skipped - interrupted,
        );
        if interrupted > 0 {
            let _ = write!(out, ", {interrupted} interrupted");
        }
        out.push('\n');
        print(&out)
    }

    fn exit_code(&self, args: &RunArgs) -> ExitCode {
        let mut reports = self.reports.iter().flatten();
        let is_well = if args.contradict {
            reports.all(|report| match &report.ending {
                Ending::Played => {
                    !report.readings.is_empty() && report.readings.iter().all(|one| !one.met)
                }
                Ending::Skipped(_) => true,
                Ending::Failed(_) | Ending::Interrupted => false,
            })
        } else {
            reports.all(|report| {
                report.is_as_expected() || matches!(report.ending, Ending::Skipped(_))
            })
        };
        ExitCode::from(u8::from(!is_well))
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
