//! Owns the remedies: what would have made a call succeed, each tried by the rules.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{Phase, TcpState};

use super::{
    Address, Asker, BindSysctls, Call, Family, Holder, KernelVersion, PortUse, Remedy, Request,
    Verdict, World, automatic, decide, explain::in_the_way, port_range,
};

/// A request in its world, to be changed and tried.
#[derive(Clone)]
struct Trial {
    request: Request,
    holders: Vec<Holder>,
    sysctls: BindSysctls,
    ports: Option<PortUse>,
    kernel: KernelVersion,
}

/// What would have made a failing `request` succeed, best first: each was tried by [`decide`] with the
/// change made, and it succeeded. Where two do, the one that asks for less is there alone.
///
/// For connect() a remedy makes the kernel send a SYN; what the network says is another matter. Give it the
/// request as [`settled`](super::settled) by the errno that was seen.
#[must_use]
pub fn remedies(request: &Request, world: &World<'_>) -> Vec<Remedy> {
    let base = Trial {
        request: *request,
        holders: world.holders.to_vec(),
        sysctls: *world.sysctls,
        ports: world.ports,
        kernel: world.kernel,
    };
    if base.verdict() == Verdict::Succeeds {
        return Vec::new();
    }
    let in_the_way = in_the_way(request, world);
    let mut guilty: Vec<usize> = (in_the_way.certain.iter())
        .chain(&in_the_way.possible)
        .map(|(index, _)| *index)
        .collect();
    guilty.sort_unstable();

    let mut found = Vec::new();
    by_time_or_closing(&base, &guilty, &mut found);
    if request.call != Call::Connect {
        by_sharing(&base, &guilty, &mut found);
    }
    match request.call {
        Call::Bind => {
            by_another_address(&base, &mut found);
            by_permission(&base, &mut found);
        }
        Call::Listen => {}
        Call::Connect => by_another_destination(&base, &mut found),
    }
    by_more_ports(&base, &mut found);
    by_a_new_socket(&base, &mut found);
    found
}

impl Trial {
    fn verdict(&self) -> Verdict {
        decide(
            &self.request,
            &World {
                holders: &self.holders,
                sysctls: &self.sysctls,
                ports: self.ports,
                kernel: self.kernel,
            },
        )
    }

    /// Whether it succeeds after `change`, which says whether there is anything to change.
    fn succeeds_after(&self, change: impl FnOnce(&mut Self) -> bool) -> bool {
        let mut trial = self.clone();
        change(&mut trial) && trial.verdict() == Verdict::Succeeds
    }

    /// Whether the kernel chooses the port.
    fn is_automatic(&self) -> bool {
        match self.request.call {
            Call::Bind => (self.request.asked).is_some_and(|asked| asked.addr.port() == 0),
            Call::Listen | Call::Connect => self.request.asker.local.port() == 0,
        }
    }
}

fn by_time_or_closing(base: &Trial, guilty: &[usize], found: &mut Vec<Remedy>) {
    let waiting = base.succeeds_after(|trial| {
        let only_minisockets = !guilty.is_empty()
            && guilty
                .iter()
                .all(|index| trial.holders[*index].minisocket.is_some());
        if only_minisockets {
            keep(&mut trial.holders, |index, _| {
                guilty.binary_search(&index).is_err()
            });
            return true;
        }
        trial.request.call == Call::Connect && trial.ports.as_mut().is_some_and(forget_time_wait)
    });
    if waiting {
        found.push(Remedy::Wait);
    }

    let closable: Vec<usize> = guilty
        .iter()
        .copied()
        .filter(|index| closing(&base.holders[*index]) != Closing::Nothing)
        .collect();
    let closed = base.succeeds_after(|trial| {
        for index in &closable {
            let holder = &mut trial.holders[*index];
            if closing(holder) == Closing::TimeWait {
                *holder = minisocket_of(holder);
            }
        }
        keep(&mut trial.holders, |index, holder| {
            !(closable.binary_search(&index).is_ok() && closing(holder) == Closing::Frees)
        });
        !closable.is_empty()
    });
    if closed {
        found.push(Remedy::CloseHolders(closable));
    }
}

/// Options of the sockets.
fn by_sharing(base: &Trial, guilty: &[usize], found: &mut Vec<Remedy>) {
    let reuseaddr =
        |trial: &mut Trial| !core::mem::replace(&mut trial.request.asker.reuseaddr, true);
    if base.succeeds_after(reuseaddr) {
        found.push(Remedy::ReuseaddrOnNew);
    } else if base.succeeds_after(|trial| {
        trial.request.asker.reuseaddr = true;
        for index in guilty {
            trial.holders[*index].reuseaddr = Some(true);
        }
        !guilty.is_empty()
    }) {
        found.push(Remedy::ReuseaddrOnBoth);
    }

    let reuseport =
        |trial: &mut Trial| !core::mem::replace(&mut trial.request.asker.reuseport, true);
    if base.succeeds_after(reuseport) {
        found.push(Remedy::ReuseportOnNew);
    } else if base.succeeds_after(|trial| {
        trial.request.asker.reuseport = true;
        for index in guilty {
            trial.holders[*index].reuseport = Some(true);
        }
        !guilty.is_empty()
    }) {
        found.push(Remedy::ReuseportOnBoth);
    }

    let v6only = |trial: &mut Trial| {
        trial.request.asker.family == Family::V6
            && !core::mem::replace(&mut trial.request.asker.v6only, true)
    };
    if base.succeeds_after(v6only) {
        found.push(Remedy::V6onlyOnNew);
    }
    if base.succeeds_after(|trial| core::mem::replace(&mut trial.request.asker.v6only, false)) {
        found.push(Remedy::ClearV6only);
    }
}

/// Local addresses that are this host's for certain: others hold ports on them.
fn by_another_address(base: &Trial, found: &mut Vec<Remedy>) {
    let mut tried: Vec<IpAddr> = Vec::new();
    for holder in &base.holders {
        let ip = holder.local.ip();
        if ip.to_canonical().is_unspecified() || needs_scope(ip) || tried.contains(&ip) {
            continue;
        }
        tried.push(ip);
        let succeeds = base.succeeds_after(|trial| {
            let Some(asked) = &mut trial.request.asked else {
                return false;
            };
            let is_another = asked.addr.ip() != ip && asked.addr.is_ipv4() == ip.is_ipv4();
            asked.addr.set_ip(ip);
            trial.request.address = Some(Address::Local);
            is_another
        });
        if succeeds {
            found.push(Remedy::OtherAddress(ip));
        }
    }
}

/// What the kernel allows the process to bind.
fn by_permission(base: &Trial, found: &mut Vec<Remedy>) {
    let freebind = |trial: &mut Trial| !core::mem::replace(&mut trial.request.asker.freebind, true);
    if base.succeeds_after(freebind) {
        found.push(Remedy::Freebind);
    }
    let nonlocal = |trial: &mut Trial| {
        let is_ipv6 =
            (trial.request.asked).is_some_and(|asked| asked.addr.ip().to_canonical().is_ipv6());
        let sysctl = if is_ipv6 {
            &mut trial.sysctls.nonlocal_bind_v6
        } else {
            &mut trial.sysctls.nonlocal_bind
        };
        !core::mem::replace(sysctl, true)
    };
    if base.succeeds_after(nonlocal) {
        found.push(Remedy::NonlocalBind);
    }
    let capability =
        |trial: &mut Trial| trial.request.asker.may_bind_privileged.replace(true) != Some(true);
    if base.succeeds_after(capability) {
        found.push(Remedy::Capability);
    }
    let Some(port) = base.request.asked.map(|asked| asked.addr.port()) else {
        return;
    };
    let start = |trial: &mut Trial| {
        let lower = port < trial.sysctls.unprivileged_port_start;
        trial.sysctls.unprivileged_port_start = port;
        lower
    };
    if base.succeeds_after(start) {
        found.push(Remedy::UnprivilegedPortStart(port));
    }
}

fn by_another_destination(base: &Trial, found: &mut Vec<Remedy>) {
    let succeeds = base.succeeds_after(|trial| {
        let Some(asked) = &mut trial.request.asked else {
            return false;
        };
        let is_connected_to =
            |port: u16| (trial.holders.iter()).any(|holder| holder.remote.port() == port);
        let own = asked.addr.port();
        let Some(port) = (1..=u16::MAX).find(|port| *port != own && !is_connected_to(*port)) else {
            return false;
        };
        asked.addr.set_port(port);
        if let Some(ports) = &mut trial.ports {
            ports.to_destination = [0; 14];
            ports.destination = Some(asked.addr);
        }
        true
    });
    if succeeds {
        found.push(Remedy::OtherDestination);
    }
}

/// Where the kernel chooses the port.
fn by_more_ports(base: &Trial, found: &mut Vec<Remedy>) {
    if !base.is_automatic() {
        return;
    }
    let widest = |trial: &mut Trial| {
        let before = port_range(&trial.request.asker, &trial.sysctls);
        // net/ipv4/sysctl_net_ipv4.c `ipv4_local_port_range` (v6.18) takes no privileged port.
        trial.sysctls.port_range = (trial.sysctls.unprivileged_port_start.max(1), u16::MAX);
        let after = port_range(&trial.request.asker, &trial.sysctls);
        if let Some(ports) = &mut trial.ports {
            ports.range = after;
        }
        before.0 > after.0 || before.1 < after.1
    };
    if base.succeeds_after(widest) {
        found.push(Remedy::WiderPortRange);
    }
    if base.request.call == Call::Connect {
        let reuse = |trial: &mut Trial| core::mem::replace(&mut trial.sysctls.tcp_tw_reuse, 1) != 1;
        if base.succeeds_after(reuse) {
            found.push(Remedy::TcpTwReuse);
        }
        return;
    }
    let mut second_search = base.clone();
    second_search.sysctls.autobind_reuse = true;
    second_search.request.asker.reuseaddr = true;
    let is_all_that_counts = second_search.verdict()
        == Verdict::Undecided {
            missing: automatic::REUSEADDR_OF_ALL,
        };
    if is_all_that_counts
        && (base.ports)
            .is_some_and(|ports| automatic::search_if_all_reuse(&base.request.asker, &ports))
    {
        found.push(Remedy::AutobindReuse);
    }
}

/// For a socket that has done something already.
fn by_a_new_socket(base: &Trial, found: &mut Vec<Remedy>) {
    let asker = &base.request.asker;
    let is_new = asker.state == TcpState::Close
        && (base.request.call != Call::Bind || asker.local.port() == 0);
    let succeeds = base.succeeds_after(|trial| {
        let old = trial.request.asker;
        trial.request.asker.state = TcpState::Close;
        let any = match old.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        match trial.request.call {
            // The old one still has its port.
            Call::Bind => {
                trial.holders.push(holder_of(&old));
                trial.request.asker.local = SocketAddr::new(any, 0);
            }
            // Bound to the same address and port.
            Call::Listen => {}
            // With a port that nobody holds.
            Call::Connect => {
                trial.request.asker.local = SocketAddr::new(any, 0);
                trial.ports = Some(unused(port_range(&old, &trial.sysctls)));
            }
        }
        !is_new
    });
    if succeeds {
        found.push(Remedy::NewSocket);
    }
}

/// What becomes of a holder when its process closes it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// The port is free, at once or when the peer has acknowledged the FIN.
    Frees,
    /// It becomes a minisocket with the same options.
    TimeWait,
    /// Nothing: no process has it, or it is closing already.
    Nothing,
}

fn closing(holder: &Holder) -> Closing {
    if holder.minisocket.is_some() {
        return Closing::Nothing;
    }
    match holder.state {
        TcpState::Listen
        | TcpState::Close
        | TcpState::BoundInactive
        | TcpState::SynSent
        | TcpState::CloseWait => Closing::Frees,
        TcpState::Established | TcpState::SynRecv => Closing::TimeWait,
        TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::TimeWait
        | TcpState::LastAck
        | TcpState::Closing
        | TcpState::NewSynRecv => Closing::Nothing,
    }
}

fn minisocket_of(holder: &Holder) -> Holder {
    Holder {
        state: TcpState::TimeWait,
        minisocket: Some(Phase::TimeWait),
        uid: None,
        port_bound: None,
        ..*holder
    }
}

/// A socket as one that holds its port.
fn holder_of(asker: &Asker) -> Holder {
    Holder {
        sk: 0,
        cookie: None,
        state: asker.state,
        minisocket: None,
        local: asker.local,
        remote: SocketAddr::new(asker.local.ip(), 0),
        reuseaddr: Some(asker.reuseaddr),
        reuseport: Some(asker.reuseport),
        force_reuse: asker.force_reuse,
        v6only: Some(asker.v6only),
        uid: Some(asker.uid),
        device: asker.device,
        port_bound: None,
        timestamps: None,
    }
}

/// Takes the connections in TIME_WAIT out of the counts. Whether there were any.
fn forget_time_wait(ports: &mut PortUse) -> bool {
    let index = usize::from(TcpState::TimeWait.number());
    let here = core::mem::take(&mut ports.to_destination[index]);
    ports.by_state[index] = ports.by_state[index].saturating_sub(here);
    here > 0
}

fn unused(range: (u16, u16)) -> PortUse {
    PortUse {
        ts_ns: 0,
        range,
        reserved: 0,
        held: 0,
        by_state: [0; 14],
        to_destination: [0; 14],
        destination: None,
    }
}

/// Keeps those holders for which `stays` says so, by their index.
fn keep(holders: &mut Vec<Holder>, stays: impl Fn(usize, &Holder) -> bool) {
    let mut index = 0;
    holders.retain(|holder| {
        index += 1;
        stays(index - 1, holder)
    });
}

/// Such an address belongs to an interface: by itself it says too little.
fn needs_scope(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
