//! Owns the system calls of a TUN device: made, given addresses, read, written and waited for.

use std::{
    fmt,
    fs::File,
    io::{self, ErrorKind, Read as _, Write as _},
    net::Ipv4Addr,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{HERE, HERE_V6};
use crate::host::interface;

const PATH: &str = "/dev/net/tun";
/// The kernel puts a number in for `%d`: net/core/dev.c `__dev_alloc_name` (v6.18).
const NAME: &str = "wire%d";
/// Of a new TUN device: drivers/net/tun.c `tun_net_initialize` (v6.18).
const MTU: usize = 1500;
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
const PREFIX_LENGTH_V6: u32 = 64;
/// IFA_F_TENTATIVE (include/uapi/linux/if_addr.h, v6.18): the address may not be used yet.
const TENTATIVE: u32 = 0x40;
/// How long a new IPv6 address may take. Nobody is asked whether it is taken, as there is no ARP here
/// (net/ipv6/addrconf.c `addrconf_dad_begin`, v6.18), but a kernel thread has to run.
const TENTATIVE_FOR: Duration = Duration::from_secs(5);

/// There is no TUN device to be had here. One sentence that says why, and what to type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

impl Unavailable {
    /// What an error in making a device means; `None` if it is none of the machine's doing.
    fn for_error(error: &io::Error) -> Option<Self> {
        let driver = "load the kernel's driver with: modprobe tun";
        let sentence = match error.raw_os_error()? {
            libc::ENOENT => format!("there is no {PATH}; {driver}"),
            libc::ENODEV | libc::ENXIO => {
                format!("there is nothing behind {PATH} ({error}); {driver}")
            }
            libc::EACCES | libc::EPERM => format!(
                "no TUN device may be made with {PATH} ({error}); use sudo, and for a container \
                 type: docker run --device {PATH} --cap-add NET_ADMIN"
            ),
            _ => return None,
        };
        Some(Self(sentence))
    }
}

/// A TUN device, which is there as long as this.
pub(super) struct Tun {
    file: File,
    name: String,
}

impl Tun {
    /// Makes one in the network namespace of the calling thread.
    pub(super) fn create() -> Result<Self> {
        Self::try_create().map_err(|error| match Unavailable::for_error(&error) {
            Some(unavailable) => unavailable.into(),
            None => {
                anyhow::Error::new(error).context(format!("cannot make a TUN device with {PATH}"))
            }
        })
    }

    fn try_create() -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(PATH)?;
        let mut request = interface::request(NAME)?;
        request.ifr_ifru.ifru_flags =
            i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).map_err(io::Error::other)?;
        // SAFETY: the kernel reads and writes one ifreq, which outlives the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
        let name = request
            .ifr_name
            .iter()
            .map(|byte| byte.to_ne_bytes()[0])
            .take_while(|byte| *byte != 0)
            .collect();
        Ok(Self {
            file,
            name: String::from_utf8(name).map_err(io::Error::other)?,
        })
    }

    /// What the kernel calls it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Brings it up, with the kernel's IPv4 address and, by its network mask, the route to the remote host.
    pub(super) fn bring_up(&self) -> Result<()> {
        interface::add_ipv4(&self.name, HERE, NETMASK)
            .with_context(|| format!("cannot give {} the address {HERE}", self.name))?;
        interface::bring_up(&self.name).with_context(|| format!("cannot bring {} up", self.name))
    }

    /// Gives it the kernel's IPv6 address and the route to the remote host's.
    pub(super) fn add_v6(&self) -> Result<()> {
        interface::add_ipv6(&self.name, HERE_V6, PREFIX_LENGTH_V6)?;
        let deadline = Instant::now() + TENTATIVE_FOR;
        // Of the calling thread: /proc/net shows the namespace of the first one.
        while is_tentative(&std::fs::read_to_string("/proc/thread-self/net/if_inet6")?) {
            if Instant::now() > deadline {
                bail!("{HERE_V6} is still tentative after {TENTATIVE_FOR:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The next packet that the kernel has sent; `None` if there is none now.
    pub(super) fn read<'a>(&self, buffer: &'a mut [u8; MTU]) -> Result<Option<&'a [u8]>> {
        loop {
            match (&self.file).read(buffer) {
                Ok(length) => return Ok(Some(&buffer[..length])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot read {}", self.name));
                }
            }
        }
    }

    /// Hands the kernel a packet. It has dealt with it when this returns.
    pub(super) fn write(&self, packet: &[u8]) -> Result<()> {
        let written = (&self.file)
            .write(packet)
            .with_context(|| format!("cannot put a segment onto {}", self.name))?;
        ensure!(
            written == packet.len(),
            "{} took {written} bytes of {}",
            self.name,
            packet.len()
        );
        Ok(())
    }

    /// Waits until there is a packet, or a signal comes, for at most this long.
    pub(super) fn wait(&self, within: Duration) -> Result<()> {
        let mut poll = libc::pollfd {
            fd: self.file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let milliseconds = i32::try_from(within.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, which outlives the call.
        match check(unsafe { libc::poll(&raw mut poll, 1, milliseconds) }) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                Err(error).with_context(|| format!("cannot wait for {}", self.name))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Room for a packet.
pub(super) const fn buffer() -> [u8; MTU] {
    [0; MTU]
}

/// Whether the kernel's end has its address but may not use it yet. A line is
/// `fd090000000000000000000000000001 02 40 00 c0 wire0`, the last number being the flags:
/// net/ipv6/addrconf.c `if6_seq_show` (v6.18).
fn is_tentative(if_inet6: &str) -> bool {
    let address = format!("{:032x}", HERE_V6.to_bits());
    if_inet6.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.next() == Some(&address)
            && fields
                .nth(3)
                .and_then(|flags| u32::from_str_radix(flags, 16).ok())
                .is_some_and(|flags| flags & TENTATIVE != 0)
    })
}

/// Turns the kernel's "-1 and errno" into an `io::Result`.
fn check(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(returned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_lacks_is_told_with_what_to_type() {
        let told = |errno| {
            Unavailable::for_error(&io::Error::from_raw_os_error(errno))
                .map(|unavailable| unavailable.to_string())
        };
        for (errno, type_this) in [
            (libc::ENOENT, "modprobe tun"),
            (libc::ENODEV, "modprobe tun"),
            (libc::ENXIO, "modprobe tun"),
            (libc::EPERM, "sudo"),
            (libc::EACCES, "--device /dev/net/tun"),
        ] {
            let sentence = told(errno).expect("it is the machine's doing");
            assert!(
                sentence.contains(PATH) && sentence.contains(type_this),
                "{sentence}"
            );
        }
        assert_eq!(told(libc::EMFILE), None);
    }

    #[test]
    fn a_tentative_address_is_told_from_one_that_may_be_used() {
        let others = "00000000000000000000000000000001 01 80 10 80       lo\n\
                      fe800000000000000000000000000001 02 40 20 c0    wire0\n";
        let line =
            |flags| format!("{others}fd090000000000000000000000000001 02 40 00 {flags}    wire0\n");
        assert!(!is_tentative(others));
        assert!(is_tentative(&line("c0")));
        assert!(!is_tentative(&line("80")));
        assert!(!is_tentative("odd\n\n"));
    }
}
