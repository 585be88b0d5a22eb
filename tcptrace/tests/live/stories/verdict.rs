//! What is to be told of one end of a connection, and how a line differs from it.

use std::time::Duration;

use super::Stage;
use crate::event::{Life, State};
use crate::lines::{self, Report};
use crate::told::{Connection, Named};

/// Half an hour: no scene takes that long, so a time beyond it is no time at all.
const NONSENSE_NS: u64 = 1_800_000_000_000;

/// Half of a connection, as it is to be told.
#[derive(Clone, Copy)]
pub(super) struct End {
    role: &'static str,
    close: &'static str,
    cause: &'static str,
    closed_first: Option<&'static str>,
    error: Option<&'static str>,
    /// Direction of the RST.
    reset: Option<&'static str>,
    /// Whether this process closed or shut it down.
    closed_by_us: bool,
    minisocket: Option<&'static str>,
    half_closed: Half,
    /// Whether it came out of accept().
    accepted: bool,
    /// Whether only the kernel's reason for its RST proves the cause.
    needs_reason: bool,
}

/// For how long it was half closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    /// Never.
    Not,
    /// For as long as the scene has held it.
    Measured,
    /// The scene does not say.
    Open,
}

/// The end that called connect().
pub(super) const fn client(close: &'static str, cause: &'static str) -> End {
    End {
        role: "client",
        close,
        cause,
        closed_first: None,
        error: None,
        reset: None,
        closed_by_us: false,
        minisocket: None,
        half_closed: Half::Not,
        accepted: false,
        needs_reason: false,
    }
}

/// The end that came out of accept().
pub(super) const fn server(close: &'static str, cause: &'static str) -> End {
    End {
        role: "server",
        accepted: true,
        ..client(close, cause)
    }
}

impl End {
    /// This process closed it.
    pub(super) const fn by_us(self) -> Self {
        Self {
            closed_by_us: true,
            ..self
        }
    }

    /// Whose FIN came first: `local`, `remote` or `both`.
    pub(super) const fn first(self, end: &'static str) -> Self {
        Self {
            closed_first: Some(end),
            ..self
        }
    }

    pub(super) const fn error(self, name: &'static str) -> Self {
        Self {
            error: Some(name),
            ..self
        }
    }

    /// A RST, `sent` or `received`.
    pub(super) const fn reset(self, direction: &'static str) -> Self {
        Self {
            reset: Some(direction),
            ..self
        }
    }

    /// The phase of the minisocket that took its place.
    pub(super) const fn minisocket(self, phase: &'static str) -> Self {
        Self {
            minisocket: Some(phase),
            ..self
        }
    }

    /// Half closed for as long as the scene has held it.
    pub(super) const fn half_closed(self) -> Self {
        Self {
            half_closed: Half::Measured,
            ..self
        }
    }

    /// It may have been half closed.
    pub(super) const fn perhaps_half_closed(self) -> Self {
        Self {
            half_closed: Half::Open,
            ..self
        }
    }

    /// Only inferred where the kernel gives no reason for its RST (before 6.12).
    pub(super) const fn inferred_without_reason(self) -> Self {
        Self {
            needs_reason: true,
            ..self
        }
    }

    /// It never came out of accept().
    pub(super) const fn not_accepted(self) -> Self {
        Self {
            accepted: false,
            ..self
        }
    }

    /// Everything in which the line differs.
    pub(super) fn problems(
        &self,
        line: &Connection,
        stage: &Stage,
        report: &Report,
        has_peer: bool,
        netns: u32,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        let mut same = |what: &str, wanted: String, told: String| {
            if wanted != told {
                problems.push(format!("{what} must be {wanted}, not {told}"));
            }
        };
        same("role", self.role.to_owned(), line.role.clone());
        same("close", self.close.to_owned(), line.close.clone());
        same("cause", self.cause.to_owned(), line.cause.clone());
        same(
            "closed_first",
            or_null(self.closed_first),
            or_null(line.closed_first.as_deref()),
        );
        same("error", or_null(self.error), or_null(line.error.as_deref()));
        let direction = line.reset.as_ref().map(|reset| reset.direction.as_str());
        same("reset.direction", or_null(self.reset), or_null(direction));
        same(
            "minisocket",
            or_null(self.minisocket),
            or_null(line.minisocket.as_deref()),
        );
        same(
            "never_entered",
            "false".to_owned(),
            line.never_entered.to_string(),
        );
        same("complete", "true".to_owned(), line.complete.to_string());
        same("signal", "None".to_owned(), format!("{:?}", line.signal));
        same(
            "exit_status",
            "None".to_owned(),
            format!("{:?}", line.exit_status),
        );
        let us = std::process::id();
        let closer = line.closed_by.as_ref().map(|process| process.pid);
        same(
            "closed_by",
            format!("{:?}", self.closed_by_us.then_some(us)),
            format!("{closer:?}"),
        );
        let owner = line.owner.as_ref().map(|owner| owner.process.pid);
        same("owner", format!("{:?}", Some(us)), format!("{owner:?}"));
        let source = line.owner.as_ref().map(|owner| owner.source.as_str());
        let sources = owner_sources(self.role, self.accepted, report);
        if !source.is_some_and(|source| sources.contains(&source)) {
            problems.push(format!(
                "the owner is known from {source:?}, not one of {sources:?}"
            ));
        }
        let has_reason = line
            .reset
            .as_ref()
            .is_some_and(|reset| reset.reason.is_some());
        if self.needs_reason && !has_reason {
            if line.sure.certainty != "inferred" || !line.sure.doubts.is_empty() {
                problems.push("without the kernel's reason it can be inferred only".to_owned());
            }
        } else if let Err(error) = line.sure.is_exact() {
            problems.push(format!("{error:#}"));
        }
        problems.extend(self.wrong_half(line, stage));
        problems.extend(Self::wrong_peer(line, has_peer, netns));
        problems
    }

    fn wrong_half(&self, line: &Connection, stage: &Stage) -> Option<String> {
        let told = line.half_closed_ns.map(Duration::from_nanos);
        match (self.half_closed, told) {
            (Half::Open, _) | (Half::Not, None) => None,
            (Half::Not, Some(told)) => Some(format!("it was not half closed, let alone {told:?}")),
            (Half::Measured, told) => {
                let (least, most) = stage.half_closed.get().unwrap_or_default();
                let right = told.is_some_and(|told| least <= told && told <= most);
                (!right)
                    .then(|| format!("it was half closed for {least:?} to {most:?}, not {told:?}"))
            }
        }
    }

    fn wrong_peer(line: &Connection, has_peer: bool, netns: u32) -> Option<String> {
        let us = Some(std::process::id());
        match &line.peer {
            None if has_peer => Some("the other end is on this host too".to_owned()),
            Some(peer) if !has_peer => Some(format!("nobody here is the other end: {peer:?}")),
            Some(peer) => {
                let owner = peer.owner.as_ref().map(|owner| owner.process.pid);
                (peer.netns != Some(netns) || owner != us)
                    .then(|| format!("the other end is ours, in {netns}, not {peer:?}"))
            }
            None => None,
        }
    }
}

/// Where an owner may be known from. With fentry accept() is seen.
pub(super) fn owner_sources(
    role: &str,
    accepted: bool,
    report: &Report,
) -> &'static [&'static str] {
    match (role, accepted, has_fentry(report)) {
        ("client", _, _) => &["connect"],
        (_, false, _) => &["listener"],
        (_, true, true) => &["accept"],
        (_, true, false) => &["accept", "closer", "listener"],
    }
}

/// Whether the kernel lets the tracer use fentry.
pub(crate) fn has_fentry(report: &Report) -> bool {
    lines::field(&report.start, "backends")
        .and_then(|backends| lines::text(backends, "time_wait"))
        .is_ok_and(|backend| backend == "fentry")
}

/// Whether this line names this process.
pub(super) fn is(process: Option<&Named>, pid: u32, comm: &str) -> bool {
    process.is_some_and(|one| one.pid == pid && one.comm == comm)
}

/// What is wrong with the states of a line, beside those that the kernel itself recorded, and with
/// the times that are made of them.
pub(super) fn wrong_states(line: &Connection, lives: &[Life]) -> Vec<String> {
    let Some(socket) = life_of(line, lives) else {
        return vec!["the kernel recorded no such socket".to_owned()];
    };
    let mut problems = Vec::new();
    let mut wanted: Vec<State> = Vec::new();
    for event in socket {
        if event.step.new != State::CLOSE && wanted.last() != Some(&event.step.new) {
            wanted.push(event.step.new);
        }
    }
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let told: Vec<String> = line.states.iter().map(|span| span.state.clone()).collect();
    if wanted != told {
        problems.push(format!("the kernel recorded the states {wanted:?}"));
    }
    let mut next = None;
    for span in &line.states {
        let (Some(entered), Some(ns)) = (span.entered_ns, span.ns) else {
            problems.push(format!(
                "all states were seen, but times are missing in {span:?}"
            ));
            return problems;
        };
        if next.is_some_and(|next| next != entered) || ns > NONSENSE_NS {
            problems.push(format!("the times do not fit at {span:?}"));
        }
        next = Some(entered.saturating_add(ns));
    }
    if next != Some(line.ts_ns) {
        problems.push(format!(
            "it ended at {}, but its last state at {next:?}",
            line.ts_ns
        ));
    }
    let established = line.states.iter().find(|span| span.state == "ESTABLISHED");
    if line.established_ns != established.and_then(|span| span.ns) {
        problems.push(format!("established_ns is {:?}", line.established_ns));
    }
    problems
}

/// The kernel's record of the socket: the only one with these ports that is no listener.
fn life_of<'a>(told: &Connection, lives: &'a [Life]) -> Option<&'a Life> {
    let is_it = |life: &&Life| {
        let last = life.last().map(|event| &event.step);
        last.is_some_and(|step| {
            let ports = (step.lport, step.rport) == (told.ends.lport, told.ends.rport);
            let listened = life.iter().any(|event| event.step.new == State::LISTEN);
            ports && !listened
        })
    };
    let mut found = lives.iter().filter(is_it);
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

fn or_null(word: Option<&str>) -> String {
    word.unwrap_or("null").to_owned()
}
