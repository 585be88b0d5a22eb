//! Owns the conversation with sock_diag: asking the kernel for its TCP sockets, and reading the answer.

use std::{
    fmt, io,
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use bytes::{Buf, BufMut};
use socket2::{Domain, Protocol, Socket, Type};
use tcptrace_common::{AF_INET, AF_INET6, TcpState};

/// Message type of include/uapi/linux/sock_diag.h (v6.18).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP` of include/uapi/linux/netlink.h (v6.18).
const REQUEST_ALL: u16 = 0x301;
/// `IPPROTO_TCP` of include/uapi/linux/in.h (v6.18).
const IPPROTO_TCP: u8 = 6;
/// `INET_DIAG_SHUTDOWN` of include/uapi/linux/inet_diag.h (v6.18).
const INET_DIAG_SHUTDOWN: u16 = 8;
/// `INET_DIAG_CGROUP_ID` of include/uapi/linux/inet_diag.h (v6.18).
const INET_DIAG_CGROUP_ID: u16 = 21;
/// `idiag_timer` of a minisocket: net/ipv4/tcp_diag.c `tcp_twsk_diag_fill` (v6.18), before that
/// net/ipv4/inet_diag.c `inet_twsk_diag_fill`.
const TIMER_OF_MINISOCKET: u8 = 3;
/// The states to list, as bits. SYN_RECV stands for NEW_SYN_RECV too, and FIN_WAIT2 and TIME_WAIT for
/// minisockets of that phase: net/ipv4/tcp_diag.c `tcp_diag_dump` (v6.18).
const STATES: u32 = {
    let mut bits = 0;
    let mut number = TcpState::Established as u32;
    while number <= TcpState::Closing as u32 {
        bits |= 1 << number;
        number += 1;
    }
    bits
};

/// Sockets that are only bound, as a bit like those above: `TCP_BOUND_INACTIVE` of
/// include/net/tcp_states.h (v6.18), from 6.8 on. Each is listed as CLOSE.
const ONLY_BOUND: u32 = 1 << 13;

/// `struct nlmsghdr`, in bytes.
const HEADER: usize = 16;
/// `struct nlmsghdr` and `struct inet_diag_req_v2`, in bytes.
const REQUEST: u16 = 16 + 56;
/// `struct inet_diag_msg`, in bytes.
const MESSAGE: usize = 72;
/// Larger than the kernel's datagrams, so that it cuts none off: they are up to 32 KiB, and as large
/// as the buffer of the last read allows: net/netlink/af_netlink.c `netlink_recvmsg` and
/// `netlink_dump` (v6.18).
const DATAGRAM: usize = 64 * 1024;
/// How long the kernel may take for a datagram: it walks the whole table of sockets for one at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a list is asked for that came out inconsistent.
const ATTEMPTS: usize = 3;

/// A TCP socket, as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// CLOCK_BOOTTIME in ns, just before the kernel looked at it.
    pub ts_ns: u64,
    /// Its state; for a minisocket its phase, FIN_WAIT2 or TIME_WAIT.
    pub state: TcpState,
    /// Local address and port (host byte order).
    pub local: SocketAddr,
    /// Remote address and port; port 0 for a listener.
    pub remote: SocketAddr,
    /// `SO_COOKIE`. The kernel gives one to each socket that it lists.
    pub cookie: Option<NonZeroU64>,
    /// For a minisocket: ms until its timer runs out. `None` for a full socket.
    pub minisocket_expires_in_ms: Option<u32>,
    /// Whether a timer of the kernel's runs for it, that could end it or send for it: `idiag_timer` is not 0
    /// (net/ipv4/inet_diag.c `inet_sk_diag_fill`, v6.18).
    pub has_timer: bool,
    /// Bytes that have come and that nobody has read; for a listener, connections that nobody has accepted.
    pub unread: u32,
    /// The user that owns it, as seen from the user namespace of this process. `None` where no
    /// application has it: the kernel says 0 then, always for a minisocket, and for others where it
    /// asks the file (net/core/sock.c `sock_i_uid`, v6.12) and not the socket.
    pub uid: Option<u32>,
    /// Inode number of its file; `None` when no application has it.
    pub inode: Option<NonZeroU32>,
    /// The id of its cgroup (v2); `None` for a minisocket, and on kernels that do not tell.
    pub cgroup_id: Option<u64>,
    /// Index of the interface that it is bound to; 0 for none.
    pub device: u32,
}

/// An address family to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Ipv4,
    /// v4-mapped addresses included.
    Ipv6,
}

/// Why sockets could not be listed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// This kernel does not list TCP sockets at all.
    NoSuchThing,
    /// The kernel refused, or the conversation broke.
    Io(io::Error),
    /// The answer is not what this program knows how to read.
    Malformed(&'static str),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchThing => f.write_str(
                "this kernel does not list TCP sockets; load the module that does with: modprobe tcp_diag",
            ),
            Self::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
                write!(f, "the kernel did not answer within {} s", PATIENCE.as_secs())
            }
            Self::Io(error) => write!(f, "the kernel does not list TCP sockets: {error}"),
            Self::Malformed(what) => {
                write!(f, "the kernel's list of TCP sockets cannot be read: {what}")
            }
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            // net/ipv4/inet_diag.c `inet_diag_lock_handler`, net/core/sock_diag.c `__sock_diag_cmd`,
            // net/netlink/af_netlink.c `netlink_create` (v6.18).
            Some(libc::ENOENT | libc::EPROTONOSUPPORT) => Self::NoSuchThing,
            _ => Self::Io(error),
        }
    }
}

/// Lists the sockets of both families in the namespace of the calling thread whose local port is `port`, or
/// any for `None`; those that are only bound from 6.8 on. An inconsistent list is the best there is: who
/// asks for one at a moment can do nothing about it. `boottime` reads CLOCK_BOOTTIME in ns.
///
/// # Errors
/// When the kernel does not list them.
pub(super) fn with_local_port(
    port: Option<u16>,
    boottime: &dyn Fn() -> u64,
) -> Result<Vec<Listed>, Trouble> {
    let mut diag = SockDiag::open()?;
    diag.states |= ONLY_BOUND;
    diag.local_port = port.unwrap_or(0);
    let keep = |one: &Listed| match port {
        Some(port) => one.local.port() == port,
        None => one.local.port() != 0,
    };
    let mut listed = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        diag.list(family, boottime, &keep, &mut listed)?;
    }
    Ok(listed)
}

/// A netlink socket: it lists the sockets of the network namespace in which it was opened.
pub(super) struct SockDiag {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
    /// Which to list, as bits.
    states: u32,
    /// Those with this local port only; 0 for any. The kernel still lists others that are only bound:
    /// net/ipv4/tcp_diag.c `tcp_diag_dump` (v6.18) looks at the port of the others alone.
    local_port: u16,
}

impl SockDiag {
    /// Opens one in the namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel has no sock_diag, or refuses.
    pub(super) fn open() -> Result<Self, Trouble> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(libc::NETLINK_SOCK_DIAG)),
        )?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            buffer: vec![0; DATAGRAM],
            sequence: 0,
            states: STATES,
            local_port: 0,
        })
    }

    /// Appends the sockets of a family that `keep` wants to `into`. Returns whether the list is
    /// consistent: false when the kernel said three times that it was interrupted.
    ///
    /// The kernel takes no lock over the whole of its table: a socket may be listed twice, or be
    /// missed when others around it go: net/ipv4/tcp_diag.c `tcp_diag_dump` (v6.18).
    ///
    /// # Errors
    /// When the kernel does not list them; `into` is as it was then.
    pub(super) fn list(
        &mut self,
        family: Family,
        boottime: &dyn Fn() -> u64,
        keep: &dyn Fn(&Listed) -> bool,
        into: &mut Vec<Listed>,
    ) -> Result<bool, Trouble> {
        until_consistent(into, |into| self.list_once(family, boottime, keep, into))
    }

    fn list_once(
        &mut self,
        family: Family,
        boottime: &dyn Fn() -> u64,
        keep: &dyn Fn(&Listed) -> bool,
        into: &mut Vec<Listed>,
    ) -> Result<bool, Trouble> {
        self.sequence += 1;
        // The kernel gathers the first datagram while it is asked, and each further one while the one
        // before it is read: net/netlink/af_netlink.c `netlink_recvmsg` (v6.18).
        let mut gathered_ns = boottime();
        self.socket.send(&request(
            family,
            self.states,
            self.local_port,
            self.sequence,
        ))?;
        let mut consistent = true;
        loop {
            let next_ns = boottime();
            let length = match (&self.socket).read(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            if length == self.buffer.len() {
                return Err(Trouble::Malformed("a datagram is larger than 64 KiB"));
            }
            let end = read_datagram(
                &self.buffer[..length],
                self.sequence,
                gathered_ns,
                |listed| {
                    if keep(&listed) {
                        into.push(listed);
                    }
                },
            )?;
            consistent &= !end.interrupted;
            if end.done {
                return Ok(consistent);
            }
            gathered_ns = next_ns;
        }
    }
}

/// Lets `list` append to `into` until it says that the list is consistent, [`ATTEMPTS`] times at
/// most. What an attempt has appended does not outlast it, save for the last.
fn until_consistent<T>(
    into: &mut Vec<T>,
    mut list: impl FnMut(&mut Vec<T>) -> Result<bool, Trouble>,
) -> Result<bool, Trouble> {
    let before = into.len();
    for _ in 0..ATTEMPTS {
        into.truncate(before);
        match list(into) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(trouble) => {
                into.truncate(before);
                return Err(trouble);
            }
        }
    }
    Ok(false)
}

/// How a datagram ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    /// The list is complete.
    done: bool,
    /// `NLM_F_DUMP_INTR`: the table changed so that the list is inconsistent.
    interrupted: bool,
}

fn request(family: Family, states: u32, local_port: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(REQUEST.into());
    // struct nlmsghdr; the kernel fills in who asks.
    bytes.put_u32_ne(REQUEST.into());
    bytes.put_u16_ne(SOCK_DIAG_BY_FAMILY);
    bytes.put_u16_ne(REQUEST_ALL);
    bytes.put_u32_ne(sequence);
    bytes.put_u32_ne(0);
    // struct inet_diag_req_v2: no extensions; a local port, or 0 for any; any addresses.
    bytes.put_slice(&match family {
        Family::Ipv4 => [AF_INET.to_le_bytes()[0], IPPROTO_TCP],
        Family::Ipv6 => [AF_INET6.to_le_bytes()[0], IPPROTO_TCP],
    });
    bytes.put_bytes(0, 2);
    bytes.put_u32_ne(states);
    bytes.put_u16(local_port);
    bytes.resize(REQUEST.into(), 0);
    bytes
}

/// Hands every socket of `datagram` to `each`. What answers another request is skipped.
fn read_datagram(
    datagram: &[u8],
    sequence: u32,
    ts_ns: u64,
    mut each: impl FnMut(Listed),
) -> Result<End, Trouble> {
    const CUT_OFF: Trouble = Trouble::Malformed("a message is cut off");
    let mut end = End::default();
    let mut rest = datagram;
    while !rest.is_empty() {
        let mut header = rest.get(..HEADER).ok_or(CUT_OFF)?;
        let length = usize::try_from(header.get_u32_ne()).map_err(|_| CUT_OFF)?;
        let kind = header.get_u16_ne();
        let flags = header.get_u16_ne();
        let answers = header.get_u32_ne();
        let payload = rest.get(HEADER..length).ok_or(CUT_OFF)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        if answers != sequence {
            continue;
        }
        end.interrupted |= i32::from(flags) & libc::NLM_F_DUMP_INTR != 0;
        match i32::from(kind) {
            libc::NLMSG_DONE => {
                outcome(payload).unwrap_or(Err(CUT_OFF))?;
                end.done = true;
            }
            libc::NLMSG_ERROR => outcome(payload).unwrap_or(Err(CUT_OFF))?,
            libc::NLMSG_OVERRUN => return Err(Trouble::Malformed("the kernel lost a part of it")),
            _ if kind == SOCK_DIAG_BY_FAMILY => {
                if let Some(listed) = read_message(payload, ts_ns)? {
                    each(listed);
                }
            }
            // Control messages that carry nothing, such as NLMSG_NOOP.
            _ => {}
        }
    }
    Ok(end)
}

/// What the number at the start of `payload` says: 0, or an errno with a minus; `None` without one.
fn outcome(mut payload: &[u8]) -> Option<Result<(), Trouble>> {
    let number = payload.try_get_i32_ne().ok()?;
    Some(match number {
        0.. => Ok(()),
        _ => Err(io::Error::from_raw_os_error(number.saturating_neg()).into()),
    })
}

/// A `struct inet_diag_msg` and its attributes; `None` for a request socket.
///
/// A request socket is no connection yet: it has had no state event, and the child that the last ACK
/// makes of it will have its own. The kernel lists it as SYN_RECV, as it does a full socket in that
/// state. Only full sockets have the attribute `INET_DIAG_SHUTDOWN`: net/ipv4/inet_diag.c
/// `inet_diag_msg_attrs_fill`, net/ipv4/tcp_diag.c `tcp_req_diag_fill` (v6.18).
fn read_message(payload: &[u8], ts_ns: u64) -> Result<Option<Listed>, Trouble> {
    let (mut message, attributes) = payload
        .split_at_checked(MESSAGE)
        .ok_or(Trouble::Malformed("a socket is cut off"))?;
    let attributes = Attributes::read(attributes)?;
    let family = message.get_u8();
    let state = message.get_u8();
    let timer = message.get_u8();
    message.advance(1);
    let local_port = message.get_u16();
    let remote_port = message.get_u16();
    let local = address(family, message.get_u128())?;
    let remote = address(family, message.get_u128())?;
    let device = message.get_u32_ne();
    let (low, high) = (message.get_u32_ne(), message.get_u32_ne());
    let expires_ms = message.get_u32_ne();
    let unread = message.get_u32_ne();
    message.advance(4);
    let uid = message.get_u32_ne();
    let inode = NonZeroU32::new(message.get_u32_ne());
    let state = TcpState::from_kernel(state).ok_or(Trouble::Malformed("a state is unknown"))?;
    let minisocket = timer == TIMER_OF_MINISOCKET;
    if state == TcpState::SynRecv && !attributes.shutdown {
        return Ok(None);
    }
    Ok(Some(Listed {
        ts_ns,
        state,
        local: SocketAddr::new(local, local_port),
        remote: SocketAddr::new(remote, remote_port),
        cookie: NonZeroU64::new(u64::from(high) << 32 | u64::from(low)),
        minisocket_expires_in_ms: minisocket.then_some(expires_ms),
        has_timer: timer != 0,
        unread,
        uid: inode.map(|_| uid),
        inode,
        cgroup_id: attributes.cgroup_id,
        device,
    }))
}

/// An IPv4 address stands in the first of the four words.
fn address(family: u8, octets: u128) -> Result<IpAddr, Trouble> {
    match u16::from(family) {
        AF_INET => Ok(Ipv4Addr::from_bits((octets >> 96) as u32).into()),
        AF_INET6 => Ok(Ipv6Addr::from_bits(octets).into()),
        _ => Err(Trouble::Malformed("an address family is unknown")),
    }
}

/// What is of interest of a socket's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Attributes {
    shutdown: bool,
    cgroup_id: Option<u64>,
}

impl Attributes {
    fn read(mut rest: &[u8]) -> Result<Self, Trouble> {
        const CUT_OFF: Trouble = Trouble::Malformed("an attribute is cut off");
        let mut found = Self::default();
        while !rest.is_empty() {
            let mut header = rest.get(..4).ok_or(CUT_OFF)?;
            let length = usize::from(header.get_u16_ne());
            let kind = header.get_u16_ne();
            let mut value = rest.get(4..length).ok_or(CUT_OFF)?;
            rest = rest.get(aligned(length)..).unwrap_or_default();
            match kind {
                INET_DIAG_SHUTDOWN => found.shutdown = true,
                INET_DIAG_CGROUP_ID => found.cgroup_id = value.try_get_u64_ne().ok(),
                _ => {}
            }
        }
        Ok(found)
    }
}

/// Messages and attributes begin at multiples of 4 bytes.
const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests;
