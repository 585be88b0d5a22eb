//! What the trace tells of the namespace, as experiments ask for it.

use std::time::Duration;

use anyhow::{Context, Result};
use tcptrace_model::{
    CallFailed, CallSucceeded, Comm, Connection, Finding, Owner, Story, Stuck, TcpState, TimeWait,
    TimeWaitEnd, TimeWaitEntered, TransitionFinding, conflict::Call,
};

use super::Stage;
use crate::lab::{
    tuple::Tuple,
    value::{Errno, Expected},
};

impl Stage {
    /// Puts a finding into the report, in the words of the trace.
    pub fn show(&mut self, finding: Finding) {
        self.shown.push(finding);
    }

    /// Waits for the first failure of this call, for this port, with this errno. It comes up to a second after the
    /// call, and is told in the report.
    ///
    /// # Errors
    /// When the trace does not tell of it.
    pub fn call_failed(&mut self, call: Call, port: u16, errno: Errno) -> Result<CallFailed> {
        self.nth_call_failed(call, port, errno, 1)
    }

    /// The same for the `nth` failure of that kind, counted from 1.
    ///
    /// # Errors
    /// When the trace does not tell of it.
    pub fn nth_call_failed(
        &mut self,
        call: Call,
        port: u16,
        errno: Errno,
        nth: usize,
    ) -> Result<CallFailed> {
        let what = format!("a failed {} of port {port} with {errno}", call.name());
        let all = self
            .observed
            .wait_for(&what, nth, &self.cancel, |finding| match finding {
                Finding::CallFailed(found)
                    if found.call.call == call
                        && found.call.error == errno.0
                        && asked_port(found) == port =>
                {
                    Some(found.clone())
                }
                _ => None,
            })?;
        let last = all.into_iter().next_back().context("no failure")?;
        self.show(Finding::CallFailed(last.clone()));
        Ok(*last)
    }

    /// Waits for the first success of this call by which a socket came to this local port. It is told in the
    /// report.
    ///
    /// # Errors
    /// When the trace does not tell of it.
    pub fn call_succeeded(&mut self, call: Call, port: u16) -> Result<CallSucceeded> {
        let what = format!("a {} of port {port}", call.name());
        let found = self
            .observed
            .first(&what, &self.cancel, |finding| match finding {
                Finding::CallSucceeded(found)
                    if found.call.call == call && found.call.local.port() == port =>
                {
                    Some(found.clone())
                }
                _ => None,
            })?;
        self.show(Finding::CallSucceeded(found.clone()));
        Ok(*found)
    }

    /// The states that a socket has gone through so far, by its address ([`SocketCall::sk`]): as
    /// [`Self::states`], for one that has no peer.
    ///
    /// [`SocketCall::sk`]: tcptrace_model::SocketCall::sk
    #[must_use]
    pub fn states_of(&self, sk: u64) -> Vec<TcpState> {
        visited(&self.observed.all(|finding| match finding {
            Finding::Transition(found) if found.transition.socket.sk == sk => Some(**found),
            _ => None,
        }))
    }

    /// Waits for the minisocket of this end of a connection to be entered.
    ///
    /// # Errors
    /// When the trace does not tell of it.
    pub fn time_wait_entered(&self, tuple: Tuple) -> Result<TimeWaitEntered> {
        let what = format!("the minisocket of {tuple}");
        self.observed
            .first(&what, &self.cancel, |finding| match finding {
                Finding::TimeWaitEntered(found) if Tuple::from(&found.minisocket) == tuple => {
                    Some(**found)
                }
                _ => None,
            })
    }

    /// Waits for the end of the minisocket of this end of a connection. It is told in the report.
    ///
    /// # Errors
    /// When the trace does not tell of it.
    pub fn time_wait(&mut self, tuple: Tuple) -> Result<TimeWait> {
        let what = format!("the end of the minisocket of {tuple}");
        let found = self
            .observed
            .first(&what, &self.cancel, |finding| match finding {
                Finding::TimeWait(found) if Tuple::from(&found.minisocket) == tuple => {
                    Some(found.clone())
                }
                _ => None,
            })?;
        self.show(Finding::TimeWait(found.clone()));
        Ok(*found)
    }

    /// What the trace says of a TIME_WAIT that a new SYN has ended. With timers, the kernel's stack is that of
    /// data that ends it, and only the RST tells them apart, which the tracepoint shows from 6.10 on: before
    /// that, the end is not known.
    #[must_use]
    pub fn ended_by_syn(&self) -> Expected {
        let settings = &self.watch.settings;
        if settings.rearms_exact || settings.minisocket_resets {
            TimeWaitEnd::ReusedBySyn.name().into()
        } else {
            TimeWaitEnd::Unknown.name().into()
        }
    }

    /// Waits for this end of a connection to end.
    ///
    /// # Errors
    /// When the trace does not tell of it.
    pub fn connection(&self, tuple: Tuple) -> Result<Connection> {
        let what = format!("the end of {tuple}");
        self.observed
            .first(&what, &self.cancel, |finding| match finding {
                Finding::Connection(found) if Tuple::from(&found.socket) == tuple => {
                    Some((**found).clone())
                }
                _ => None,
            })
    }

    /// Waits for the story of the connection with this end, from either side. It is told in the report,
    /// with a ladder if one is wanted.
    ///
    /// # Errors
    /// When the trace does not tell it.
    pub fn story(&mut self, tuple: Tuple) -> Result<Story> {
        let what = format!("the story of {tuple}");
        let found = self
            .observed
            .first(&what, &self.cancel, |finding| match finding {
                Finding::Story(story) => {
                    let end = Tuple::from(&story.first.socket);
                    (end == tuple || end == tuple.reversed()).then(|| story.clone())
                }
                _ => None,
            })?;
        self.show(Finding::Story(found.clone()));
        Ok(*found)
    }

    /// Waits until a connection's end is told to be stuck. It is told in the report.
    ///
    /// # Errors
    /// When the trace does not tell of it.
    pub fn stuck(&mut self, tuple: Tuple, state: TcpState) -> Result<Stuck> {
        let what = format!("{tuple} to be stuck in {}", state.name());
        let found = self
            .observed
            .first(&what, &self.cancel, |finding| match finding {
                Finding::Stuck(found)
                    if found.state == state && Tuple::from(&found.socket) == tuple =>
                {
                    Some(found.clone())
                }
                _ => None,
            })?;
        self.show(Finding::Stuck(found.clone()));
        Ok(*found)
    }

    /// The states that this end of a connection has gone through so far, by its transitions: each state
    /// entered, the first being what it began in. A minisocket's phases are not among them.
    #[must_use]
    pub fn states(&self, tuple: Tuple) -> Vec<TcpState> {
        visited(&self.transitions(tuple))
    }

    /// The transitions of this end of a connection so far.
    #[must_use]
    pub fn transitions(&self, tuple: Tuple) -> Vec<TransitionFinding> {
        self.observed.all(|finding| match finding {
            Finding::Transition(found) if Tuple::from(&found.transition.socket) == tuple => {
                Some(**found)
            }
            _ => None,
        })
    }
}

/// The name of the process that owns a socket; `unknown` for none.
#[must_use]
pub fn comm(owner: Option<&Owner>) -> String {
    owner.map_or_else(|| "unknown".to_owned(), |owner| name(&owner.process.comm))
}

/// A time that the trace has measured.
///
/// # Errors
/// When it is not known.
pub fn known(ns: Option<u64>, what: &str) -> Result<Duration> {
    let ns = ns.with_context(|| format!("the trace does not know {what}"))?;
    Ok(Duration::from_nanos(ns))
}

/// Each state of a socket with these transitions, the first being what it began in.
fn visited(transitions: &[TransitionFinding]) -> Vec<TcpState> {
    let first = transitions.first().map(|found| found.transition.oldstate);
    first
        .into_iter()
        .chain(transitions.iter().map(|found| found.transition.newstate))
        .collect()
}

fn name(comm: &Comm) -> String {
    String::from_utf8_lossy(comm.as_bytes()).into_owned()
}

/// The port that a call was about: the one it asked for, or the socket's.
fn asked_port(found: &CallFailed) -> u16 {
    found
        .call
        .asked
        .map_or(found.call.asker.local.port(), |asked| asked.addr.port())
}
