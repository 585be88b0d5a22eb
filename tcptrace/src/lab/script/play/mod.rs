//! Plays a program on a stage: each line becomes a call of an actor, a wait, or a reading.

mod acts;
mod measure;

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::{Context, Result};
use tcptrace_model::{CallFailed, TimeWait, conflict::Call};

use super::program::{Action, Program, Step};
use crate::lab::{
    actor::{Actor, Many, Sock},
    reading::Source,
    stage::Stage,
    tuple::Tuple,
    value::{Errno, Value},
};

/// Plays it. `file` is its name, for what cannot be played.
pub(super) fn play(program: &Program, file: &str, stage: &mut Stage) -> Result<()> {
    // Sockets belong to their actors, which stay where they are.
    let actors: Vec<OnceCell<Actor>> = program.actors.iter().map(|_| OnceCell::new()).collect();
    let mut player = Player {
        program,
        actors: &actors,
        sockets: (0..program.sockets).map(|_| None).collect(),
        tuples: BTreeMap::new(),
        failures: HashMap::new(),
        last_failure: None,
        time_waits: BTreeMap::new(),
    };
    for step in &program.lines {
        player
            .step(step, stage)
            .with_context(|| format!("{file}:{}: {}", step.line, step.what))?;
    }
    Ok(())
}

/// A script that is being played.
struct Player<'a> {
    program: &'a Program,
    actors: &'a [OnceCell<Actor>],
    sockets: Vec<Option<Held<'a>>>,
    /// Addresses and ports of the connections, also of those that have ended.
    tuples: BTreeMap<usize, Tuple>,
    /// How many calls have failed so far, by what the trace tells them apart by.
    failures: HashMap<Failed, usize>,
    last_failure: Option<Failure>,
    /// Ends of minisockets that have been told already, by socket.
    time_waits: BTreeMap<usize, Arc<TimeWait>>,
}

/// What a socket of the script is.
enum Held<'a> {
    One(Sock<'a>),
    Many(Many),
}

/// A call that failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Failed {
    call: Call,
    port: u16,
    errno: u16,
}

/// The last one.
struct Failure {
    failed: Failed,
    /// What the trace told of it, once that has been asked for.
    told: Option<Arc<CallFailed>>,
}

impl<'a> Player<'a> {
    fn step(&mut self, step: &Step, stage: &mut Stage) -> Result<()> {
        match &step.action {
            Action::Act(actor, act) => {
                let actor = self.actor(*actor, stage)?;
                if let Some(value) = self.act(actor, act, step.judgement.is_some(), stage)? {
                    judge(stage, step, value, Source::Call);
                }
            }
            Action::Sysctl { name, value } => stage.set_sysctl(name, value)?,
            Action::Address(address) => stage.add_address(*address)?,
            Action::AwaitState { socket, state } => {
                stage.await_state(self.tuple(*socket)?, *state)?;
            }
            Action::AwaitSockets { count, port, state } => {
                let what = format!("{count} sockets on port {port} in {}", state.name());
                stage.until(&what, || {
                    Ok((stage.count(*port, *state)? == *count).then_some(()))
                })?;
                stage.note(what);
            }
            Action::Pass(time) => stage.let_pass(*time)?,
            Action::Measure(quantity) => {
                let (value, source) = self.measure(quantity, stage)?;
                judge(stage, step, value, source);
            }
            Action::ShowStory(socket) => {
                stage.story(self.tuple(*socket)?)?;
            }
        }
        Ok(())
    }

    /// The actor, whose process starts when it is first named.
    fn actor(&self, index: usize, stage: &Stage) -> Result<&'a Actor> {
        let actor = &self.actors[index];
        if actor.get().is_none() {
            let new = stage.actor(&self.program.actors[index])?;
            return Ok(actor.get_or_init(|| new));
        }
        actor.get().context("this actor has not started")
    }

    fn tuple(&self, socket: usize) -> Result<Tuple> {
        let tuple = self.tuples.get(&socket).copied();
        tuple.context("this socket has not been connected")
    }

    /// Remembers a call that failed, and its port.
    fn has_failed(&mut self, call: Call, port: u16, errno: Errno) {
        let failed = Failed {
            call,
            port,
            errno: errno.0,
        };
        *self.failures.entry(failed).or_default() += 1;
        self.last_failure = Some(Failure { failed, told: None });
    }
}

/// Takes the reading of a line that expects something.
fn judge(stage: &mut Stage, step: &Step, value: Value, source: Source) {
    let Some(judgement) = &step.judgement else {
        return;
    };
    let kernel = stage.kernel().clone();
    let mut taking = stage.reading(&step.what);
    if let Some((wanted, decisive)) = &judgement.claimed {
        let claimed = wanted.on(&kernel);
        taking = if *decisive {
            taking.claim(claimed)
        } else {
            taking.control(claimed)
        };
    }
    if let Some(expected) = judgement.expected_of(&kernel) {
        taking = taking.expect(expected);
    }
    taking.measured(value, source);
}
