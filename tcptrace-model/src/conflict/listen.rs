//! Owns listen(): the second look at the port.

use super::{
    Request, Rule, Verdict, World, automatic,
    bind::{Newcomer, Scan},
    errno::EINVAL,
    precheck::{Passed, Stop},
};
use crate::TcpState;

/// What the kernel does with a listen(): net/ipv4/af_inet.c `__inet_listen_sk`,
/// net/ipv4/inet_connection_sock.c `inet_csk_listen_start` (v6.18; the same since 5.10).
///
/// A port that bind() has got is asked for again, since only now does it count that others with
/// `SO_REUSEADDR` listen. Without a port the kernel chooses one, on any address.
pub(super) fn decide(request: &Request, world: &World<'_>) -> Verdict {
    match request.asker.state {
        // Only the backlog changes.
        TcpState::Listen => return Verdict::Succeeds,
        TcpState::Close | TcpState::BoundInactive => {}
        TcpState::Established
        | TcpState::SynSent
        | TcpState::SynRecv
        | TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::TimeWait
        | TcpState::CloseWait
        | TcpState::LastAck
        | TcpState::Closing
        | TcpState::NewSynRecv => {
            return Stop::Fails(EINVAL, Rule::CannotListen).into();
        }
    }
    let passed = bound(request);
    if passed.local.port() == 0 {
        return automatic::search(&request.asker, &passed, world);
    }
    let newcomer = Newcomer::new(&request.asker, &passed, world.kernel);
    Scan::of(&newcomer, world).verdict()
}

/// What a bound socket asks for.
pub(super) fn bound(request: &Request) -> Passed {
    Passed {
        local: request.asker.local,
        device: request.asker.device,
    }
}
