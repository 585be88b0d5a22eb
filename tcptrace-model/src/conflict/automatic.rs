//! Owns the kernel's own choice of a port for bind() to port 0 and listen() without bind().

use crate::TcpState;

use super::{
    Asker, BindSysctls, KernelVersion, PortUse, Rule, Verdict, World,
    bind::overlaps_with_all,
    errno::EADDRINUSE,
    precheck::{Passed, Stop},
};

/// What the second search depends on.
pub(super) const REUSEADDR_OF_ALL: &str = "SO_REUSEADDR of those that hold the automatic range";

/// The first kernel with `IP_LOCAL_PORT_RANGE`, in which connect() then looks at every port of the range:
/// net/ipv4/inet_hashtables.c `__inet_hash_connect` (v6.8).
const EVERY_PORT: KernelVersion = KernelVersion::of(6, 8);

/// How the ports of the range are used, as a choice sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Ports that nobody holds and that are not reserved.
    pub(super) free: u32,
    /// Ports that are not reserved.
    pub(super) open: u32,
    /// The highest port of the range is never looked at.
    pub(super) skips_last: bool,
}

impl Choice {
    /// `use` of the range that `asker` may choose from. `every_port` when the search has a step of 1.
    pub(super) fn new(ports: &PortUse, every_port: bool) -> Self {
        let (low, high) = ports.range;
        let total = (u32::from(high) + 1).saturating_sub(u32::from(low));
        let open = total.saturating_sub(ports.reserved);
        Self {
            free: open.saturating_sub(ports.held),
            open,
            // The search goes by parity, over an even number of ports.
            skips_last: !every_port && total > 1 && total % 2 == 1,
        }
    }

    /// Whether a port that nobody holds will be found; `None` when it may be the one that is skipped.
    pub(super) fn finds_free(self) -> Option<bool> {
        match self.free {
            0 => Some(false),
            1 if self.skips_last => None,
            _ => Some(true),
        }
    }
}

/// The range that the kernel chooses from, both within: net/ipv4/inet_connection_sock.c
/// `inet_sk_get_local_port_range` (v6.18).
#[must_use]
pub fn port_range(asker: &Asker, sysctls: &BindSysctls) -> (u16, u16) {
    let (mut low, mut high) = sysctls.port_range;
    let within = low..=high;
    if let Some((own_low, own_high)) = asker.port_range {
        if within.contains(&own_low) {
            low = own_low;
        }
        if within.contains(&own_high) {
            high = own_high;
        }
    }
    (low, high)
}

/// Whether connect() looks at every port of the range, not only at an even number of them.
pub(super) fn looks_at_every_port(asker: &Asker, kernel: KernelVersion) -> bool {
    asker.port_range.is_some() && kernel >= EVERY_PORT
}

/// bind() to port 0: net/ipv4/inet_connection_sock.c `inet_csk_find_open_port` (v6.18). Any holder whose
/// address overlaps takes the port, whatever the options are; `ip_autobind_reuse` gives those with
/// `SO_REUSEADDR` a second search in which it counts.
pub(super) fn search(asker: &Asker, passed: &Passed, world: &World<'_>) -> Verdict {
    let Some(ports) = &world.ports else {
        return Verdict::Undecided {
            missing: "which ports of the automatic range are held",
        };
    };
    match Choice::new(ports, false).finds_free() {
        Some(true) => Verdict::Succeeds,
        None => Verdict::Undecided {
            missing: "which port of the automatic range is free",
        },
        Some(false) if world.sysctls.autobind_reuse && asker.reuseaddr => Verdict::Undecided {
            missing: REUSEADDR_OF_ALL,
        },
        Some(false) if overlaps_with_all(asker, passed) || Choice::new(ports, false).open == 0 => {
            Stop::Fails(EADDRINUSE, Rule::NoFreePort).into()
        }
        Some(false) => Verdict::Undecided {
            missing: "the addresses of those that hold the automatic range",
        },
    }
}

/// Whether the search would succeed with `ip_autobind_reuse` and with `SO_REUSEADDR` on the socket and on
/// all holders: some port is held by sockets none of which listens, and `SO_REUSEPORT` on both, which
/// counts against it there, is not on this one.
pub(super) fn search_if_all_reuse(asker: &Asker, ports: &PortUse) -> bool {
    let choice = Choice::new(ports, false);
    let listening = ports.by_state[usize::from(TcpState::Listen.number())];
    let skipped = u32::from(choice.skips_last);
    !asker.reuseport && choice.open > listening + skipped
}
