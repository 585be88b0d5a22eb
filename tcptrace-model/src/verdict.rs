//! Owns the words of a verdict: cause, action of the application, and how they are put together.

use crate::{Certainty, CloseCause, CloseSequence, Evidence, File, ResetSeen};

/// Why one side closed: the word, and the signal or exit status that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) word: CloseCause,
    /// The signal of [`CloseCause::Signal`], the status of [`CloseCause::Exit`], else 0.
    detail: u8,
}

impl Cause {
    /// The signal that ended the process.
    pub(crate) fn signal(self) -> Option<u8> {
        (self.word == CloseCause::Signal).then_some(self.detail)
    }

    /// The status with which the process ended.
    pub(crate) fn exit_status(self) -> Option<u8> {
        (self.word == CloseCause::Exit).then_some(self.detail)
    }
}

impl From<CloseCause> for Cause {
    fn from(word: CloseCause) -> Self {
        Self { word, detail: 0 }
    }
}

/// The first thing that an application did to close its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) cause: Cause,
    pub(crate) certainty: Certainty,
}

impl Action {
    /// What a transition shows that only a system call or the end of a process makes: those into
    /// FIN_WAIT1 and LAST_ACK, and those from a state to itself (`tcp_close_state`).
    pub(crate) fn of(evidence: &Evidence) -> Self {
        let cause = match evidence.file {
            File::Open => CloseCause::Shutdown.into(),
            File::Released => released(evidence),
            File::None | File::Unknown => CloseCause::Unknown.into(),
        };
        Self {
            cause,
            certainty: if evidence.kernel_thread || cause.word == CloseCause::Unknown {
                Certainty::Inferred
            } else {
                Certainty::Exact
            },
        }
    }

    /// shutdown(), where nothing else is possible though it was not seen.
    pub(crate) fn must_have_been_shutdown() -> Self {
        Self {
            cause: CloseCause::Shutdown.into(),
            certainty: Certainty::Exact,
        }
    }
}

/// Whose task was on the CPU at the last transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closer {
    /// Anybody's, or the kernel's own.
    Nobody,
    /// That of a process that closed its own socket.
    Holder,
    /// That of a process that ended somebody else's connection.
    Stranger,
}

/// How one end ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) close: CloseSequence,
    pub(crate) cause: Cause,
    pub(crate) certainty: Certainty,
    /// The last moment alone proves both: what came before may be unknown.
    pub(crate) proven: bool,
    /// The RST that ended it.
    pub(crate) reset: Option<ResetSeen>,
    /// The minisocket that should have come was forbidden.
    pub(crate) never_entered: bool,
    pub(crate) closer: Closer,
}

impl Verdict {
    /// Nothing is known.
    pub(crate) fn unknown() -> Self {
        Self {
            certainty: Certainty::Unknown,
            ..Self::new(CloseSequence::Unknown, CloseCause::Unknown)
        }
    }

    pub(crate) fn new(close: CloseSequence, cause: impl Into<Cause>) -> Self {
        let cause = cause.into();
        Self {
            close,
            cause,
            certainty: Certainty::Exact,
            proven: false,
            reset: None,
            never_entered: false,
            closer: Closer::Nobody,
        }
    }

    pub(crate) fn after(close: CloseSequence, action: Action) -> Self {
        Self::new(close, action.cause).at_most(action.certainty)
    }

    pub(crate) fn at_most(mut self, certainty: Certainty) -> Self {
        self.certainty = self.certainty.max(certainty);
        self
    }

    pub(crate) fn inferred(self) -> Self {
        self.at_most(Certainty::Inferred)
    }

    pub(crate) fn proven(mut self) -> Self {
        self.proven = true;
        self
    }

    pub(crate) fn with_reset(mut self, reset: Option<ResetSeen>) -> Self {
        self.reset = reset;
        self
    }

    /// Closed by the task on the CPU, unless that is the kernel's own.
    pub(crate) fn by(mut self, closer: Closer, evidence: &Evidence) -> Self {
        if !evidence.kernel_thread {
            self.closer = closer;
        }
        self
    }
}

/// The last descriptor is gone: who let go of it?
fn released(evidence: &Evidence) -> Cause {
    if !evidence.exiting || evidence.kernel_thread {
        return CloseCause::Close.into();
    }
    // The encoding of wait(2): include/uapi of the C library, `WTERMSIG`, `WEXITSTATUS`.
    let [low, high, ..] = evidence.exit_code.to_le_bytes();
    match low & 0x7f {
        0 => Cause {
            word: CloseCause::Exit,
            detail: high,
        },
        signal => Cause {
            word: CloseCause::Signal,
            detail: signal,
        },
    }
}
