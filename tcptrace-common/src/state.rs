//! Owns `TcpState`: the kernel's TCP states with the kernel's numbers and spelling.

/// A TCP state, numbered as in include/net/tcp_states.h (v6.18).
///
/// `TimeWait`, `NewSynRecv` and `BoundInactive` never appear in `inet_sock_set_state`: the first two
/// belong to minisockets and request sockets, the last to sock_diag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TcpState {
    /// `TCP_ESTABLISHED`
    Established = 1,
    /// `TCP_SYN_SENT`
    SynSent = 2,
    /// `TCP_SYN_RECV`
    SynRecv = 3,
    /// `TCP_FIN_WAIT1`
    FinWait1 = 4,
    /// `TCP_FIN_WAIT2`
    FinWait2 = 5,
    /// `TCP_TIME_WAIT`
    TimeWait = 6,
    /// `TCP_CLOSE`
    Close = 7,
    /// `TCP_CLOSE_WAIT`
    CloseWait = 8,
    /// `TCP_LAST_ACK`
    LastAck = 9,
    /// `TCP_LISTEN`
    Listen = 10,
    /// `TCP_CLOSING`
    Closing = 11,
    /// `TCP_NEW_SYN_RECV`
    NewSynRecv = 12,
    /// `TCP_BOUND_INACTIVE` (6.8 and later, in sock_diag only)
    BoundInactive = 13,
}

impl TcpState {
    /// Every state, in the order of the kernel's numbers.
    pub const ALL: [Self; 13] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
        Self::NewSynRecv,
        Self::BoundInactive,
    ];

    /// The state that the kernel calls `number`; `None` for a number it does not use.
    #[must_use]
    pub const fn from_kernel(number: u8) -> Option<Self> {
        match number {
            1..=13 => Some(Self::ALL[number as usize - 1]),
            _ => None,
        }
    }

    /// The kernel's number of this state.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kernel's name without its `TCP_` prefix, as `show_tcp_state_name` of
    /// include/trace/events/sock.h (v6.18) prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
            Self::NewSynRecv => "NEW_SYN_RECV",
            Self::BoundInactive => "BOUND_INACTIVE",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_to_states_and_back() {
        for state in TcpState::ALL {
            assert_eq!(TcpState::from_kernel(state.number()), Some(state));
        }
        assert_eq!(TcpState::from_kernel(0), None);
        assert_eq!(TcpState::from_kernel(14), None);
        assert_eq!(TcpState::from_kernel(255), None);
    }

    #[test]
    fn the_numbers_are_the_kernels() {
        // include/net/tcp_states.h (v6.18)
        assert_eq!(TcpState::Established.number(), 1);
        assert_eq!(TcpState::TimeWait.number(), 6);
        assert_eq!(TcpState::Close.number(), 7);
        assert_eq!(TcpState::Listen.number(), 10);
        assert_eq!(TcpState::BoundInactive.number(), 13);
    }
}
