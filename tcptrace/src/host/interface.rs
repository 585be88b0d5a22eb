//! Owns network interfaces of the calling thread's network namespace, as far as std has nothing for them: their
//! numbers, addresses, and bringing them up, without the `ip` program.

use std::{
    ffi::CString,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use socket2::{Domain, Socket, Type};

/// The number of the interface of this name: 1 for `lo` in every namespace.
///
/// # Errors
/// When there is none.
pub fn index(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: if_nametoindex(3) reads a string that ends with NUL and outlives the call, and returns 0 when
    // there is no interface of this name.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Brings it up.
///
/// # Errors
/// When there is no such interface, or the kernel refuses.
pub fn bring_up(name: &str) -> io::Result<()> {
    let control = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut request = request(name)?;
    // SAFETY: the kernel reads and writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    let up = libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    // SAFETY: SIOCGIFFLAGS has just filled in ifru_flags, and every bit pattern of it is valid.
    unsafe { request.ifr_ifru.ifru_flags |= up };
    // SAFETY: as for SIOCGIFFLAGS.
    check(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })
}

/// Gives it an IPv4 address, and by the network mask a route. An interface has one by its own name, and one more
/// by each label such as `lo:1`.
///
/// # Errors
/// When there is no such interface, or the kernel refuses.
pub fn add_ipv4(name: &str, address: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
    let control = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut request = request(name)?;
    for (call, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
        request.ifr_ifru.ifru_addr = socket_address(value);
        // SAFETY: the kernel reads one ifreq, which outlives the call.
        check(unsafe { libc::ioctl(control.as_raw_fd(), call, &raw mut request) })?;
    }
    Ok(())
}

/// Gives it one more IPv6 address; `prefix` bits of it are the network's, to which there is a route then.
///
/// # Errors
/// When there is no such interface, or the kernel refuses.
pub fn add_ipv6(name: &str, address: Ipv6Addr, prefix: u32) -> io::Result<()> {
    let control = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    let request = libc::in6_ifreq {
        ifr6_addr: libc::in6_addr {
            s6_addr: address.octets(),
        },
        ifr6_prefixlen: prefix,
        ifr6_ifindex: index(name)?.try_into().map_err(io::Error::other)?,
    };
    // SAFETY: the kernel reads one in6_ifreq, which outlives the call.
    check(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFADDR, &raw const request) })
}

/// A request about the interface of this name.
pub(crate) fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain integers and unions of them, for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays NUL.
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    // After the port: sockaddr_in has it first.
    for (to, from) in data[2..].iter_mut().zip(address.octets()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default(),
        sa_data: data,
    }
}

/// Turns the kernel's "-1 and errno" into a result.
fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_the_first_interface() {
        assert_eq!(index("lo").unwrap(), 1);
        assert!(index("no-such-if").is_err());
    }

    #[test]
    fn a_name_that_no_interface_can_have_is_refused() {
        let error = request("sixteen-letters!").err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
        assert!(request("fifteen-letters").is_ok());
    }
}
