//! Owns `tcptrace replay`: a recording through the model and the output, as if it happened now.

use std::{fs::File, io, os::fd::AsFd, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Instant, interval, sleep_until},
};

use super::{
    args::ReplayArgs,
    output::{self, is_broken_pipe, reader_has_gone},
    session::with_stuck_after,
    signals::Signals,
    telling::Telling,
};
use crate::{
    failure::Failure,
    record::{Ending, Opening, Step, format::Damage},
    render::notice::{self, harmless},
    source::replay::Replay,
};

/// How long the rest of a pipe is waited for after Ctrl-C: whoever writes into it got that too, and
/// has an end to tell.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often it is looked whether anybody still reads the output.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Shows the recording until it ends, Ctrl-C, SIGTERM, `--count`, or a reader that has gone.
pub(super) fn run(args: &ReplayArgs) -> Result<ExitCode, Failure> {
    let recording = Recording::open(&args.file)?;
    output::warn_about(&args.output);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let outcome = runtime.block_on(show(args, recording));
    // A read that nobody waits for any more may last for ever.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::Other(error)),
    }
}

/// A recording that has been opened.
struct Recording {
    name: String,
    file: File,
    /// A file and no pipe: it ends by itself, and soon.
    is_file: bool,
}

impl Recording {
    /// Opens `path`, or stdin for `-`.
    fn open(path: &Path) -> anyhow::Result<Self> {
        let (name, file) = if path.as_os_str() == "-" {
            let stdin = io::stdin().as_fd().try_clone_to_owned();
            let stdin = stdin.context("cannot read stdin")?;
            ("the recording on stdin".to_owned(), stdin.into())
        } else {
            let name = path.display().to_string();
            let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
            (name, file)
        };
        let is_file = file
            .metadata()
            .with_context(|| format!("cannot read {name}"))?
            .is_file();
        Ok(Self {
            name,
            file,
            is_file,
        })
    }
}

/// Shows it, and says at the end what is wrong with it.
async fn show(args: &ReplayArgs, recording: Recording) -> anyhow::Result<()> {
    let Recording {
        name,
        file,
        is_file,
    } = recording;
    let mut patience = Patience {
        signals: Signals::catch()?,
        is_file,
        deadline: None,
    };
    let opening = spawn_blocking(move || Replay::open(file));
    let Some(opened) = patience.wait_for(opening).await? else {
        return Ok(());
    };
    let replay = opened.map_err(|damage| anyhow!("{name} {damage}"))?;
    let mut showing = Showing::begin(args, &replay)?;
    let outcome = showing.all(replay, &mut patience).await;
    if outcome.as_ref().is_err_and(|error| !error.is::<Damage>()) {
        return outcome;
    }
    showing.end()?;
    outcome.map_err(|damage| anyhow!("{name} {damage}; what stands before that has been shown"))
}

/// What has been shown so far.
struct Showing {
    telling: Telling,
    count: Option<u64>,
    /// The end of what has been shown so far.
    ending: Ending,
    has_ended: bool,
    skipped: u64,
}

impl Showing {
    fn begin(args: &ReplayArgs, replay: &Replay<File>) -> anyhow::Result<Self> {
        let Opening {
            start,
            settings,
            arguments,
        } = replay.opening();
        for sentence in &start.degraded {
            notice::warn(format_args!("the recorder warned: {}", harmless(sentence)));
        }
        if args.run.verbose > 0 {
            notice::say(format_args!(
                "recorded by tcptrace {} on {} with: tcptrace {}",
                harmless(&start.version),
                harmless(&start.kernel),
                harmless(&arguments.join(" ")),
            ));
        }
        let settings = with_stuck_after(*settings, &args.run);
        let renderer = output::renderer(&args.output, start.clock_offset_ns);
        let mut telling = Telling::new(
            settings,
            renderer,
            args.output.state.clone(),
            args.run.verbose > 0,
        );
        telling.start(start)?;
        Ok(Self {
            telling,
            count: args.run.count,
            ending: replay.end_so_far(),
            has_ended: false,
            skipped: replay.skipped(),
        })
    }

    /// Shows the steps until there are no more, or it is enough. What is wrong with the recording is
    /// an error with a [`Damage`].
    async fn all(
        &mut self,
        mut replay: Replay<File>,
        patience: &mut Patience,
    ) -> anyhow::Result<()> {
        loop {
            while let Some(step) = replay.step_at_hand()? {
                self.telling.step(&step)?;
                self.ending = replay.end_so_far();
                self.has_ended = matches!(step, Step::End(_));
                if !self.has_ended
                    && self
                        .count
                        .is_some_and(|count| self.telling.shown() >= count)
                {
                    return Ok(());
                }
            }
            self.skipped = replay.skipped();
            // Whoever reads it sees all there is while more is waited for.
            self.telling.flush()?;
            let reading = spawn_blocking(move || {
                let more = replay.fill();
                (replay, more)
            });
            let Some((filled, more)) = patience.wait_for(reading).await? else {
                return Ok(());
            };
            replay = filled;
            if !more? {
                return Ok(());
            }
        }
    }

    fn end(&mut self) -> io::Result<()> {
        if !self.has_ended {
            self.telling.step(&Step::End(self.ending))?;
        }
        self.telling.flush()?;
        if self.skipped > 0 {
            notice::warn(format_args!(
                "passed over {} frames that a later tcptrace wrote, for itself",
                self.skipped
            ));
        }
        Ok(())
    }
}

/// What ends the waiting for more of a recording.
struct Patience {
    signals: Signals,
    is_file: bool,
    /// Somebody wants it to end.
    deadline: Option<Instant>,
}

impl Patience {
    /// Waits for what `reading` reads; `None` when it is not to be waited for any more.
    ///
    /// # Errors
    /// A broken pipe when nobody reads the output any more.
    async fn wait_for<T>(&mut self, mut reading: JoinHandle<T>) -> anyhow::Result<Option<T>> {
        let mut look = interval(LOOK_EVERY);
        loop {
            let deadline = self.deadline;
            tokio::select! {
                biased;
                () = self.signals.any() => {
                    if self.is_file || deadline.is_some() {
                        return Ok(None);
                    }
                    self.deadline = Some(Instant::now() + LAST_WORDS);
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Ok(None);
                }
                read = &mut reading => return Ok(Some(read.context("cannot read on")?)),
                _ = look.tick() => {
                    if reader_has_gone() {
                        return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
                    }
                }
            }
        }
    }
}
