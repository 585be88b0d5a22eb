//! Owns what a script means once it has been read and checked: actors and sockets are numbers, expectations are
//! values.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tcptrace_model::TcpState;

use crate::lab::{
    actor::Options,
    stage::Kernel,
    value::{Expected, Value},
};

/// A script that can be played.
#[derive(Clone, Debug, Default)]
pub(super) struct Program {
    /// The names of its actors.
    pub(super) actors: Vec<String>,
    /// How many sockets it has.
    pub(super) sockets: usize,
    /// Its lines, in order.
    pub(super) lines: Vec<Step>,
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// The number of the line in the file.
    pub(super) line: usize,
    /// What is done or measured, as it is written, or the name that the line gives to that.
    pub(super) what: String,
    pub(super) action: Action,
    /// What is expected of the result; `None` for nothing but that a call succeeds.
    pub(super) judgement: Option<Judgement>,
}

/// What a line does. A number stands for an actor or a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// An actor does something.
    Act(usize, Act),
    /// Sets a sysctl.
    Sysctl { name: String, value: String },
    /// Gives loopback an address.
    Address(IpAddr),
    /// Waits for the state of a connection's end.
    AwaitState { socket: usize, state: TcpState },
    /// Waits for so many sockets in a state.
    AwaitSockets {
        count: u64,
        port: u16,
        state: TcpState,
    },
    /// Lets time pass.
    Pass(Duration),
    /// Measures something.
    Measure(Quantity),
    /// Puts the story of a connection into the report.
    ShowStory(usize),
}

/// What an actor does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Open {
        ipv6: bool,
        new: New,
    },
    Bind(Subject, SocketAddr),
    /// With an address, bind() comes before it.
    Listen(Subject, Option<SocketAddr>),
    Connect(Subject, SocketAddr),
    ConnectMany {
        address: SocketAddr,
        count: u32,
        new: New,
    },
    Accept {
        listener: usize,
        socket: usize,
    },
    AcceptMany {
        listener: usize,
        count: u32,
        socket: usize,
    },
    Close(usize),
    CloseMany(usize),
    Shutdown {
        socket: usize,
        reading: bool,
    },
    Write {
        socket: usize,
        bytes: usize,
        hold: bool,
    },
    Read(usize),
    Disconnect(usize),
    Set(usize, Options),
    User(u32),
    Exit(i32),
    Killed(i32),
}

/// A socket that a line opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct New {
    pub(super) socket: usize,
    pub(super) options: Options,
}

/// The socket of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// It is opened for it.
    New(New),
    /// There is one.
    Known(usize),
}

/// Something that can be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Quantity {
    /// Of one end of a connection.
    OfEnd(usize, OfEnd),
    /// The local port of a socket.
    Port(usize),
    /// The local address of a socket.
    Address(usize),
    /// How many sockets were opened at once.
    Size(usize),
    /// Of the last call that failed.
    OfFailure(OfFailure),
    /// Of the first socket that was in its way.
    OfHolder(OfHolder),
    /// Whether this would have helped it.
    Remedy(&'static str),
    /// How many sockets with this local port are in a state.
    Sockets { port: u16, state: TcpState },
    /// A counter.
    Counter { group: String, name: String },
    /// A sysctl.
    Sysctl(String),
}

/// Defines what can be measured of something: its variant, the word for it, what kind of value it is.
macro_rules! facts {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal $kind:expr,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            pub(super) const fn kind(self) -> Kind {
                match self {
                    $(Self::$variant => $kind,)+
                }
            }
        }
    };
}

facts! {
    /// What can be measured of one end of a connection. Those after `left` are findings of the trace, with
    /// the names that JSON has for them (docs/findings.md).
    OfEnd {
        /// Its state now (sock_diag); CLOSE when it is gone.
        State = "state" Kind::State,
        /// How long until its minisocket's timer runs out (sock_diag).
        Left = "left" Kind::Time,
        /// The states that it went through.
        States = "states" Kind::States,
        Close = "close" Kind::Word(Vocabulary::Close),
        Cause = "cause" Kind::Word(Vocabulary::Cause),
        ClosedFirst = "closed_first" Kind::Word(Vocabulary::ClosedFirst),
        Owner = "owner" Kind::Actor,
        ClosedBy = "closed_by" Kind::Actor,
        Error = "error" Kind::Errno,
        Reset = "reset" Kind::Word(Vocabulary::Reset),
        Established = "established" Kind::Time,
        HalfClosed = "half_closed" Kind::Time,
        /// How long the minisocket waited for the peer's FIN.
        FinWait2 = "fin_wait2" Kind::Time,
        /// How long the real TIME_WAIT lasted.
        TimeWait = "time_wait" Kind::Time,
        /// For how long the minisocket's timer was set when it was entered.
        Timeout = "timeout" Kind::Time,
        /// What ended the minisocket.
        End = "end" Kind::Word(Vocabulary::End),
    }
}

facts! {
    /// What can be measured of a call that failed.
    OfFailure {
        Rule = "rule" Kind::Word(Vocabulary::Rule),
        /// How many sockets were in the way.
        Holders = "holders" Kind::Count,
    }
}

facts! {
    /// What can be measured of a socket that was in the way.
    OfHolder {
        State = "state" Kind::State,
        Owner = "owner" Kind::Actor,
        /// How long from the call until it goes by itself.
        Left = "left" Kind::Time,
        Reuseaddr = "reuseaddr" Kind::Fact,
        Reuseport = "reuseport" Kind::Fact,
        Address = "address" Kind::Text,
    }
}

/// What a value is, and so how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `ok`, or an errno.
    Call,
    /// What recv() returned: `data`, `fin`, or an errno.
    Received,
    State,
    /// `ESTABLISHED > CLOSE_WAIT > LAST_ACK`
    States,
    /// An errno, or `none`.
    Errno,
    Word(Vocabulary),
    /// The name of an actor.
    Actor,
    /// One word.
    Text,
    Time,
    Count,
    /// `yes` or `no`.
    Fact,
}

/// The words that a finding may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vocabulary {
    Close,
    Cause,
    ClosedFirst,
    Reset,
    End,
    Rule,
}

/// What is said of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// What the claim says, and whether it stands or falls with that.
    pub(super) claimed: Option<(Wanted, bool)>,
    /// What this kernel is expected to do, by version: the first that fits. Empty: what the claim says.
    pub(super) expected: Vec<(Since, Wanted)>,
}

/// From which version on: `None` for all others.
pub(super) type Since = Option<(u16, u16)>;

/// What a value is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Plain(Expected),
    /// As long as a timer of the kernel's takes that was set to this time.
    Timer(Duration),
}

impl Wanted {
    /// What that is on this kernel.
    pub(super) fn on(&self, kernel: &Kernel) -> Expected {
        match self {
            Self::Plain(expected) => expected.clone(),
            Self::Timer(time) => Expected::between(*time, *time + kernel.granularity(*time) + BUSY),
        }
    }
}

/// How much later than its bucket says a timer may run on a machine that is busy.
const BUSY: Duration = Duration::from_secs(1);

impl From<Value> for Wanted {
    fn from(value: Value) -> Self {
        Self::Plain(value.into())
    }
}

impl Judgement {
    /// What this kernel is expected to do.
    pub(super) fn expected_of(&self, kernel: &Kernel) -> Option<Expected> {
        self.expected
            .iter()
            .find(|(since, _)| since.is_none_or(|(major, minor)| kernel.is_at_least(major, minor)))
            .map(|(_, wanted)| wanted.on(kernel))
    }
}
