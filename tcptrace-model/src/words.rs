//! Owns the vocabulary of closing: the words that findings use, with the names that output uses.

/// Defines an enum whose variants have one name each in all output.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name that output uses.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// The one with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }
        }
    };
}
pub(crate) use words;

words! {
    /// How a connection ended, seen from one end.
    CloseSequence {
        /// This end sent its FIN first (RFC 9293 3.6, case 1): the active close.
        LocalFirst = "local_first",
        /// The peer's FIN came first (RFC 9293 3.6, case 2): the passive close.
        RemoteFirst = "remote_first",
        /// Both FINs crossed: the peer's came before it had acknowledged ours (RFC 9293 3.6, case 3).
        Simultaneous = "simultaneous",
        /// This end sent a RST.
        ResetSent = "reset_sent",
        /// The peer sent a RST.
        ResetReceived = "reset_received",
        /// The peer did not answer for too long.
        TimedOut = "timed_out",
        /// The peer answered the SYN with a RST.
        Refused = "refused",
        /// Somebody else ended it: `ss -K`, or the kernel for lack of memory.
        Aborted = "aborted",
        /// The handshake was not completed.
        NeverEstablished = "never_established",
        /// It is not known.
        Unknown = "unknown",
    }
}

words! {
    /// What made this side close.
    CloseCause {
        /// close() of the last descriptor.
        Close = "close",
        /// shutdown().
        Shutdown = "shutdown",
        /// The process ended and left its descriptors to the kernel.
        Exit = "exit",
        /// A signal ended the process.
        Signal = "signal",
        /// close() with SO_LINGER and a time of 0.
        LingerReset = "linger_reset",
        /// close() with received data that nobody had read (RFC 2525 2.17).
        UnreadDataReset = "unread_data_reset",
        /// The listener was closed before anybody had accepted the connection.
        ListenerClosed = "listener_closed",
        /// connect() with AF_UNSPEC.
        Disconnect = "disconnect",
        /// The peer did not answer the keepalive probes.
        Keepalive = "keepalive",
        /// The peer did not acknowledge, however often it was sent again.
        RetransmitTimeout = "retransmit_timeout",
        /// `TCP_USER_TIMEOUT` ran out.
        UserTimeout = "user_timeout",
        /// Somebody destroyed the socket: `ss -K`, or another user of SOCK_DESTROY.
        SocketDestroyed = "socket_destroyed",
        /// The peer reset the connection.
        Peer = "peer",
        /// It is not known.
        Unknown = "unknown",
    }
}

words! {
    /// What this end was in the handshake.
    Role {
        /// It called connect().
        Client = "client",
        /// It came from a listener.
        Server = "server",
        /// It is not known.
        Unknown = "unknown",
    }
}

words! {
    /// Where it is known from who owns a socket.
    OwnerSource {
        /// The process called connect().
        Connect = "connect",
        /// The process called listen().
        Listen = "listen",
        /// The process called accept().
        Accept = "accept",
        /// The process had it open when a snapshot looked.
        Proc = "proc",
        /// The process called bind().
        Bind = "bind",
        /// The process closed it.
        Closer = "closer",
        /// The process owns the listener that it came from; whoever accepted it may be another one.
        Listener = "listener",
    }
}

words! {
    /// Phase of a minisocket (`tw_substate`).
    Phase {
        /// The peer's FIN has not come yet.
        FinWait2 = "fin_wait2",
        /// The real one.
        TimeWait = "time_wait",
    }
}

words! {
    /// What ended a minisocket, as far as a hook shows it.
    EndedBy {
        /// Its timer ran out.
        Expiry = "expiry",
        /// A connect() took its addresses and ports.
        Connect = "connect",
        /// A SYN that was accepted.
        Syn = "syn",
        /// Data (or a SYN, in phase FIN_WAIT2) for a connection that nobody has: answered with a RST.
        Data = "data",
        /// One of the two above: the hook does not show which.
        SynOrData = "syn_or_data",
        /// A RST.
        Reset = "reset",
        /// SOCK_DESTROY (`ss -K`).
        Destroyed = "destroyed",
        /// Its network namespace was taken down.
        NetnsExit = "netns_exit",
        /// It is not known.
        Unknown = "unknown",
    }
}

words! {
    /// What ended a TIME_WAIT.
    TimeWaitEnd {
        /// Its time was over.
        Expired = "expired",
        /// A connect() of this host took its addresses and ports.
        ReusedByConnect = "reused_by_connect",
        /// A new SYN from the peer did.
        ReusedBySyn = "reused_by_syn",
        /// A RST from the peer (RFC 1337).
        Reset = "reset",
        /// The peer sent data to an end that nobody has any more.
        DataAfterClose = "data_after_close",
        /// Somebody destroyed it: `ss -K`.
        SocketDestroyed = "socket_destroyed",
        /// Its network namespace was taken down.
        NetnsExit = "netns_exit",
        /// It never began: `tcp_max_tw_buckets` are in use, or there was no memory.
        NeverEntered = "never_entered",
        /// It is not known.
        Unknown = "unknown",
    }
}

words! {
    /// How sure a finding is.
    Certainty {
        /// The kernel itself showed it.
        Exact = "exact",
        /// It follows from what was seen, though something was not.
        Inferred = "inferred",
        /// The essential part is not known.
        Unknown = "unknown",
    }
}

words! {
    /// What weakens a finding.
    Doubt {
        /// Records were lost during its life.
        RecordsLost = "records_lost",
        /// It is older than the trace.
        BeforeTrace = "before_trace",
        /// It was forgotten to make room for others.
        Evicted = "evicted",
        /// The date of the real TIME_WAIT is the kernel's own stamp: whole milliseconds.
        DateFromStamp = "date_from_stamp",
        /// The date of the real TIME_WAIT is computed from the timer's expiry: when it was last set,
        /// within a tick; the peer's FIN may have come earlier if it was sent again.
        DateFromTimer = "date_from_timer",
        /// The hook does not show what ended it.
        EndNotShown = "end_not_shown",
        /// It had not ended when the trace did.
        TraceEnded = "trace_ended",
        /// The kernel did not list the holders of the port (or not all): they are those that the trace
        /// knows.
        HoldersNotListed = "holders_not_listed",
        /// The rules, as known here, do not give the error that the kernel gave.
        RulesDisagree = "rules_disagree",
        /// The options of a holder are not known.
        OptionsUnknown = "options_unknown",
        /// A holder is only bound, and no hook shows when such a socket is closed: it may be gone.
        CloseNotShown = "close_not_shown",
    }
}

words! {
    /// `enum sk_rst_reason` of include/net/rstreason.h (v6.18): why a RST was sent. The kernel's
    /// numbers differ between versions; its names do not.
    ResetReason {
        /// No reason given.
        NotSpecified = "NOT_SPECIFIED",
        /// Nobody listens there.
        NoSocket = "NO_SOCKET",
        /// An impossible acknowledgement number in SYN_RECV.
        TcpInvalidAckSequence = "TCP_INVALID_ACK_SEQUENCE",
        /// PAWS rejected the segment.
        TcpRfc7323Paws = "TCP_RFC7323_PAWS",
        /// An acknowledgement that is far too old.
        TcpTooOldAck = "TCP_TOO_OLD_ACK",
        /// An acknowledgement of what was never sent.
        TcpAckUnsentData = "TCP_ACK_UNSENT_DATA",
        /// Flags that make no sense in this state.
        TcpFlags = "TCP_FLAGS",
        /// An old acknowledgement.
        TcpOldAck = "TCP_OLD_ACK",
        /// Data for a socket that has been closed.
        TcpAbortOnData = "TCP_ABORT_ON_DATA",
        /// A segment that a minisocket answers with a RST.
        TcpTimewaitSocket = "TCP_TIMEWAIT_SOCKET",
        /// A SYN where none may come.
        InvalidSyn = "INVALID_SYN",
        /// close() with unread data.
        TcpAbortOnClose = "TCP_ABORT_ON_CLOSE",
        /// `TCP_LINGER2` forbids FIN_WAIT2.
        TcpAbortOnLinger = "TCP_ABORT_ON_LINGER",
        /// Too little memory, or too many orphans.
        TcpAbortOnMemory = "TCP_ABORT_ON_MEMORY",
        /// The state of the socket asks for it.
        TcpState = "TCP_STATE",
        /// The keepalive probes were not answered.
        TcpKeepaliveTimeout = "TCP_KEEPALIVE_TIMEOUT",
        /// connect(AF_UNSPEC) with data not yet sent.
        TcpDisconnectWithData = "TCP_DISCONNECT_WITH_DATA",
        /// MPTCP.
        MptcpRstEunspec = "MPTCP_RST_EUNSPEC",
        /// MPTCP.
        MptcpRstEmptcp = "MPTCP_RST_EMPTCP",
        /// MPTCP.
        MptcpRstEresource = "MPTCP_RST_ERESOURCE",
        /// MPTCP.
        MptcpRstEprohibit = "MPTCP_RST_EPROHIBIT",
        /// MPTCP.
        MptcpRstEwq2big = "MPTCP_RST_EWQ2BIG",
        /// MPTCP.
        MptcpRstEbadperf = "MPTCP_RST_EBADPERF",
        /// MPTCP.
        MptcpRstEmiddlebox = "MPTCP_RST_EMIDDLEBOX",
        /// An error.
        Error = "ERROR",
        /// One that this version does not know.
        Other = "OTHER",
    }
}

/// A set of [`Doubt`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubts(u16);

impl Doubts {
    /// No doubt.
    pub const NONE: Self = Self(0);

    /// The set with `doubt` in it.
    #[must_use]
    pub const fn with(self, doubt: Doubt) -> Self {
        Self(self.0 | 1 << doubt as u16)
    }

    /// Both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `doubt` is in it.
    #[must_use]
    pub const fn contains(self, doubt: Doubt) -> bool {
        self.0 & 1 << doubt as u16 != 0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each doubt in it.
    pub fn iter(self) -> impl Iterator<Item = Doubt> {
        Doubt::ALL
            .iter()
            .copied()
            .filter(move |doubt| self.contains(*doubt))
    }
}
