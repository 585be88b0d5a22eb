//! Owns what the kernel checks of a bind() before it looks at other sockets, in its order.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::TcpState;

use super::{
    Address, Asked, Asker, BindSysctls, Family, Request, Rule,
    errno::{EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL},
};

/// `AF_UNSPEC`
pub(super) const AF_UNSPEC: u16 = 0;
/// `AF_INET`
pub(super) const AF_INET: u16 = 2;
/// `AF_INET6`
pub(super) const AF_INET6: u16 = 10;

/// `sizeof(struct sockaddr_in)`
pub(super) const IPV4_LENGTH: u32 = 16;
/// include/net/ipv6.h `SIN6_LEN_RFC2133` (v6.18): without `sin6_scope_id`.
pub(super) const IPV6_LENGTH: u32 = 24;
/// `sizeof(struct sockaddr_in6)`
pub(super) const IPV6_LENGTH_WITH_SCOPE: u32 = 28;
/// `sizeof(struct sockaddr_storage)`: net/socket.c `move_addr_to_kernel` (v6.18) takes no more.
pub(super) const LONGEST: u32 = 128;

/// Why a call does not come to the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It fails here.
    Fails(u16, Rule),
    /// It depends on something that is not known.
    Unknown(&'static str),
}

/// What a bind() that passed asks of the table of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// The address and port.
    pub(super) local: SocketAddr,
    /// The interface: that of the socket, or the scope of a link-local address.
    pub(super) device: u32,
}

/// The checks of net/ipv4/af_inet.c `inet_bind_sk`, `__inet_bind`, net/ipv6/af_inet6.c `inet6_bind_sk`,
/// `__inet6_bind` (v6.18; the same since 5.10). What a security module or a cgroup's program says before
/// them cannot be known.
///
/// # Errors
///
/// The first check that does not pass, or that cannot be decided.
pub(super) fn bind(request: &Request, sysctls: &BindSysctls) -> Result<Passed, Stop> {
    let Some(asked) = request.asked else {
        return Err(Stop::Unknown("the address that was asked for"));
    };
    if asked.len > LONGEST {
        return Err(Stop::Fails(EINVAL, Rule::AddressLength));
    }
    match request.asker.family {
        Family::V4 => bind_v4(request, &asked, sysctls),
        Family::V6 => bind_v6(request, &asked, sysctls),
    }
}

fn bind_v4(request: &Request, asked: &Asked, sysctls: &BindSysctls) -> Result<Passed, Stop> {
    if asked.len < IPV4_LENGTH {
        return Err(Stop::Fails(EINVAL, Rule::AddressLength));
    }
    let family = Err(Stop::Fails(EAFNOSUPPORT, Rule::AddressFamily));
    let address = match (asked.family, asked.addr.ip()) {
        (AF_INET, IpAddr::V4(address)) => address,
        // What old programs do: any address, and a family that nobody has set.
        (AF_UNSPEC, IpAddr::V4(address)) if address.is_unspecified() => address,
        (AF_UNSPEC, IpAddr::V6(_)) => {
            return Err(Stop::Unknown("the address that was asked for"));
        }
        (_, IpAddr::V4(_) | IpAddr::V6(_)) => return family,
    };
    local_v4(request, address, sysctls)?;
    unprivileged(&request.asker, asked.addr.port(), sysctls)?;
    unbound(&request.asker)?;
    Ok(Passed {
        local: asked.addr,
        device: request.asker.device,
    })
}

fn bind_v6(request: &Request, asked: &Asked, sysctls: &BindSysctls) -> Result<Passed, Stop> {
    if asked.len < IPV6_LENGTH {
        return Err(Stop::Fails(EINVAL, Rule::AddressLength));
    }
    let IpAddr::V6(address) = asked.addr.ip() else {
        return Err(Stop::Fails(EAFNOSUPPORT, Rule::AddressFamily));
    };
    if asked.family != AF_INET6 {
        return Err(Stop::Fails(EAFNOSUPPORT, Rule::AddressFamily));
    }
    if address.is_multicast() {
        return Err(Stop::Fails(EINVAL, Rule::Multicast));
    }
    unprivileged(&request.asker, asked.addr.port(), sysctls)?;
    unbound(&request.asker)?;
    let mut device = request.asker.device;
    if let Some(mapped) = address.to_ipv4_mapped() {
        if request.asker.v6only {
            return Err(Stop::Fails(EINVAL, Rule::MappedOnV6only));
        }
        local_v4(request, mapped, sysctls)?;
    } else if !address.is_unspecified() {
        device = scoped(asked, address, device)?;
        if !nonlocal_allowed(&request.asker, sysctls.nonlocal_bind_v6) {
            local(request)?;
        }
    }
    Ok(Passed {
        local: asked.addr,
        device,
    })
}

/// The interface after the scope of a link-local address has been taken into account.
///
/// # Errors
///
/// When such an address comes without one.
pub(super) fn scoped(asked: &Asked, address: Ipv6Addr, device: u32) -> Result<u32, Stop> {
    if !address.is_unicast_link_local() {
        return Ok(device);
    }
    if asked.len >= IPV6_LENGTH_WITH_SCOPE && asked.scope != 0 {
        return Ok(asked.scope);
    }
    if device == 0 {
        return Err(Stop::Fails(EINVAL, Rule::LinkLocalWithoutScope));
    }
    Ok(device)
}

/// net/ipv4/af_inet.c `inet_addr_valid_or_nonlocal` (include/net/inet_sock.h, v6.18).
fn local_v4(request: &Request, address: Ipv4Addr, sysctls: &BindSysctls) -> Result<(), Stop> {
    // net/ipv4/fib_frontend.c `__inet_dev_addr_type` (v6.18) asks no routing table for these.
    let passes = address.is_unspecified() || address.is_broadcast() || address.is_multicast();
    if passes || nonlocal_allowed(&request.asker, sysctls.nonlocal_bind) {
        return Ok(());
    }
    local(request)
}

fn nonlocal_allowed(asker: &Asker, sysctl: bool) -> bool {
    sysctl || asker.freebind || asker.transparent
}

fn local(request: &Request) -> Result<(), Stop> {
    match request.address {
        Some(Address::Local) => Ok(()),
        Some(Address::Foreign) => Err(Stop::Fails(EADDRNOTAVAIL, Rule::AddressNotLocal)),
        None => Err(Stop::Unknown("whether the address is one of this host's")),
    }
}

fn unprivileged(asker: &Asker, port: u16, sysctls: &BindSysctls) -> Result<(), Stop> {
    if port == 0 || port >= sysctls.unprivileged_port_start {
        return Ok(());
    }
    match asker.may_bind_privileged {
        Some(true) => Ok(()),
        Some(false) => Err(Stop::Fails(EACCES, Rule::PrivilegedPort)),
        None => Err(Stop::Unknown("CAP_NET_BIND_SERVICE of the process")),
    }
}

fn unbound(asker: &Asker) -> Result<(), Stop> {
    if asker.state == TcpState::Close && asker.local.port() == 0 {
        Ok(())
    } else {
        Err(Stop::Fails(EINVAL, Rule::AlreadyBound))
    }
}

/// What a bind() asks for, as if it had passed. `None` when it asks for no address of its family.
pub(super) fn assume_passed(request: &Request) -> Option<Passed> {
    let asked = request.asked?;
    let device = match (request.asker.family, asked.addr.ip()) {
        (Family::V4, IpAddr::V4(_)) => request.asker.device,
        (Family::V6, IpAddr::V6(address)) => {
            scoped(&asked, address, request.asker.device).unwrap_or(request.asker.device)
        }
        (Family::V4, IpAddr::V6(_)) | (Family::V6, IpAddr::V4(_)) => return None,
    };
    Some(Passed {
        local: asked.addr,
        device,
    })
}
