//! Owns what the rules speak of: requests, holders, settings, verdicts and remedies.

use alloc::vec::Vec;
use core::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
};

use crate::{Phase, TcpState, words::words};

words! {
    /// A system call that asks for a port or an address.
    Call {
        /// bind()
        Bind = "bind",
        /// listen()
        Listen = "listen",
        /// connect()
        Connect = "connect",
    }
}

/// Family of a socket. A v4-mapped address belongs to an IPv6 socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `AF_INET`
    V4,
    /// `AF_INET6`
    V6,
}

/// What was asked, by which socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The call.
    pub call: Call,
    /// The socket, as it was when the call began.
    pub asker: Asker,
    /// The address of bind() and connect(); `None` for listen(), or when it could not be read.
    pub asked: Option<Asked>,
    /// Whether the address of bind() is one of this host's; `None` when that is not known.
    pub address: Option<Address>,
}

/// What kind of address bind() asked for, in the routing tables of its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// `RTN_LOCAL`, or any address, or multicast, or broadcast: passes the check.
    Local,
    /// None of this host's.
    Foreign,
}

/// An address as an application gives it to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `sa_family` as given: 2 `AF_INET`, 10 `AF_INET6`, 0 `AF_UNSPEC`.
    pub family: u16,
    /// Length given, in bytes.
    pub len: u32,
    /// Address and port (host byte order). A v4-mapped address is an IPv6 address. Meaningless unless
    /// `family` is one of the two.
    pub addr: SocketAddr,
    /// `sin6_scope_id`; 0 for none.
    pub scope: u32,
}

/// A socket that asks, as it was when its call began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Asker {
    /// Its family.
    pub family: Family,
    /// Its state: CLOSE for one that is new or only bound.
    pub state: TcpState,
    /// Its local address and port (`skc_rcv_saddr`, `skc_num`); any address and port 0 when new.
    pub local: SocketAddr,
    /// `SO_REUSEADDR`
    pub reuseaddr: bool,
    /// `SK_FORCE_REUSE` (TCP_REPAIR): no conflict at all.
    pub force_reuse: bool,
    /// `SO_REUSEPORT`
    pub reuseport: bool,
    /// It belongs to a group of `SO_REUSEPORT` listeners already (`sk_reuseport_cb`).
    pub reuseport_group: bool,
    /// `IPV6_V6ONLY`
    pub v6only: bool,
    /// `IP_FREEBIND`
    pub freebind: bool,
    /// `IP_TRANSPARENT`
    pub transparent: bool,
    /// `IP_BIND_ADDRESS_NO_PORT`
    pub bind_address_no_port: bool,
    /// `SO_BINDTODEVICE`: interface index; 0 for none.
    pub device: u32,
    /// `sk_uid`, as seen from the initial user namespace.
    pub uid: u32,
    /// `IP_LOCAL_PORT_RANGE`, low and high, both within; `None` for the namespace's.
    pub port_range: Option<(u16, u16)>,
    /// Whether it may bind below `ip_unprivileged_port_start`: CAP_NET_BIND_SERVICE in the user
    /// namespace of the network namespace. `None` when that is not known.
    pub may_bind_privileged: Option<bool>,
}

/// A socket that holds a local port: an owner of the port's `inet_bind_bucket`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Address of its `struct sock` or minisocket; 0 when not known.
    pub sk: u64,
    /// `SO_COOKIE`
    pub cookie: Option<NonZeroU64>,
    /// Its state: CLOSE for one that is only bound. For a minisocket FIN_WAIT2 or TIME_WAIT.
    pub state: TcpState,
    /// The phase of a minisocket; `None` for a full socket.
    pub minisocket: Option<Phase>,
    /// Local address (`skc_rcv_saddr`) and port; an IPv6 address for an IPv6 socket, mapped or not.
    pub local: SocketAddr,
    /// Remote address and port; port 0 for none.
    pub remote: SocketAddr,
    /// `SO_REUSEADDR` as it is now; `None` when not known.
    pub reuseaddr: Option<bool>,
    /// `SO_REUSEPORT` as it is now; `None` when not known.
    pub reuseport: Option<bool>,
    /// `SK_FORCE_REUSE`
    pub force_reuse: bool,
    /// `skc_ipv6only`; `None` when not known.
    pub v6only: Option<bool>,
    /// The user that counts for `SO_REUSEPORT`; `None` when not known. Means nothing for a minisocket.
    pub uid: Option<u32>,
    /// `SO_BINDTODEVICE`: interface index; 0 for none.
    pub device: u32,
    /// bind() asked for its port (`SOCK_BINDPORT_LOCK`); false for what connect() or accept() gave it.
    /// `None` when not known, and for minisockets.
    pub port_bound: Option<bool>,
    /// For a minisocket: whether its connection used timestamps. `None` when not known.
    pub timestamps: Option<bool>,
}

/// What the rules need to know beside the request.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// Sockets that hold the port in question, in the namespace of the request. For a bind() to port 0
    /// and an unbound connect() see `ports`.
    pub holders: &'a [Holder],
    /// The settings of the namespace.
    pub sysctls: &'a BindSysctls,
    /// How the ports that the kernel could choose are used; `None` when that is not known.
    pub ports: Option<PortUse>,
    /// The kernel.
    pub kernel: KernelVersion,
}

/// Settings of a network namespace that decide about ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct BindSysctls {
    /// `net.ipv4.ip_unprivileged_port_start`
    pub unprivileged_port_start: u16,
    /// `net.ipv4.ip_nonlocal_bind`
    pub nonlocal_bind: bool,
    /// `net.ipv6.ip_nonlocal_bind`
    pub nonlocal_bind_v6: bool,
    /// `net.ipv4.ip_local_port_range`, both within.
    pub port_range: (u16, u16),
    /// How many ports of that range `net.ipv4.ip_local_reserved_ports` takes out of automatic choice.
    pub reserved_in_range: u32,
    /// `net.ipv4.ip_autobind_reuse`
    pub autobind_reuse: bool,
    /// `net.ipv4.tcp_tw_reuse`: 0, 1, or 2 for loopback only.
    pub tcp_tw_reuse: u8,
    /// `net.ipv4.tcp_timestamps` is not 0.
    pub tcp_timestamps: bool,
}

impl Default for BindSysctls {
    /// What a new namespace has (Documentation/networking/ip-sysctl.rst, v6.18).
    fn default() -> Self {
        Self {
            unprivileged_port_start: 1024,
            nonlocal_bind: false,
            nonlocal_bind_v6: false,
            port_range: (32_768, 60_999),
            reserved_in_range: 0,
            autobind_reuse: false,
            tcp_tw_reuse: 2,
            tcp_timestamps: true,
        }
    }
}

/// How the ports of the automatic range are used: a count made by user space (sock_diag).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortUse {
    /// CLOCK_BOOTTIME ns at which it was counted.
    pub ts_ns: u64,
    /// The range that was looked at, both within.
    pub range: (u16, u16),
    /// Ports of it that are reserved.
    pub reserved: u32,
    /// Ports of it that at least one socket holds.
    pub held: u32,
    /// Sockets that hold a port of it, by state: index is the kernel's number of the state, CLOSE for
    /// only bound; minisockets count as their phase.
    pub by_state: [u32; 14],
    /// For connect(): those of them that are connected to the destination asked for.
    pub to_destination: [u32; 14],
    /// The destination that was counted; `None` for none.
    pub destination: Option<SocketAddr>,
}

/// A kernel release: 6, 18 and 44 for 6.18.44.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
    /// The third number: what was changed in the stable series; 0 where the release does not say.
    pub patch: u16,
}

impl KernelVersion {
    /// The first of a series.
    #[must_use]
    pub const fn of(major: u16, minor: u16) -> Self {
        Self {
            major,
            minor,
            patch: 0,
        }
    }
}

words! {
    /// The clause of the kernel's procedure that decided.
    Rule {
        /// A Linux security module (SELinux, AppArmor, Landlock) refused: net/socket.c `__sys_bind`.
        SecurityModule = "security_module",
        /// A cgroup's eBPF program refused: net/ipv4/af_inet.c `inet_bind_sk`.
        CgroupProgram = "cgroup_program",
        /// The address is too short.
        AddressLength = "address_length",
        /// The family of the address is not the socket's.
        AddressFamily = "address_family",
        /// A multicast address for a stream socket (IPv6).
        Multicast = "multicast",
        /// A v4-mapped address for a socket with `IPV6_V6ONLY`.
        MappedOnV6only = "mapped_on_v6only",
        /// A link-local address without the interface it belongs to.
        LinkLocalWithoutScope = "link_local_without_scope",
        /// No such interface.
        NoSuchDevice = "no_such_device",
        /// The address is none of this host's.
        AddressNotLocal = "address_not_local",
        /// The port is below `ip_unprivileged_port_start`.
        PrivilegedPort = "privileged_port",
        /// The socket has a port already, or is not in CLOSE: bind() comes once, and first.
        AlreadyBound = "already_bound",
        /// Another socket holds the port, and not both have `SO_REUSEADDR` (or both `SO_REUSEPORT`).
        PortHeld = "port_held",
        /// Another socket listens on the port: `SO_REUSEADDR` does not share it.
        PortListening = "port_listening",
        /// Both have `SO_REUSEPORT`, but they belong to different users.
        ReuseportOtherUser = "reuseport_other_user",
        /// Port 0: every port of the automatic range is held or reserved.
        NoFreePort = "no_free_port",
        /// The socket is in a state in which it cannot listen.
        CannotListen = "cannot_listen",
        /// connect(): every port of the automatic range is taken for this destination, held by a bind(),
        /// or reserved.
        PortsExhausted = "ports_exhausted",
        /// connect() of a bound socket: a connection with these two addresses and ports exists.
        TupleInUse = "tuple_in_use",
        /// connect() of a bound socket: such a connection is in TIME_WAIT and may not be replaced.
        TupleInTimeWait = "tuple_in_time_wait",
        /// connect(): this host has no address that could be the source, such as for `::1` where IPv6 is
        /// disabled.
        NoSourceAddress = "no_source_address",
        /// Nobody listens there: the peer answered with a RST.
        Refused = "refused",
        /// No route, or a router or the peer said that it cannot be reached.
        Unreachable = "unreachable",
        /// The peer did not answer.
        TimedOut = "timed_out",
        /// The socket is connected.
        AlreadyConnected = "already_connected",
        /// The socket is connecting.
        AlreadyConnecting = "already_connecting",
        /// The address is a broadcast address.
        Broadcast = "broadcast",
        /// A firewall, a route of type `prohibit` or a cgroup's eBPF program refused.
        NotPermitted = "not_permitted",
        /// A signal interrupted the call.
        Interrupted = "interrupted",
        /// No memory.
        NoMemory = "no_memory",
        /// None that is known gives this error.
        Unknown = "unknown",
    }
}

/// What the kernel does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The call succeeds.
    Succeeds,
    /// It fails.
    Fails {
        /// The errno.
        error: u16,
        /// The clause.
        rule: Rule,
        /// Which of the holders stand in the way: indices into [`World::holders`], ascending.
        guilty: Vec<usize>,
    },
    /// It depends on something that is not known: what is missing.
    Undecided {
        /// What it depends on, such as `SO_REUSEADDR of the holder`.
        missing: &'static str,
    },
}

/// What would have made a call succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// `SO_REUSEADDR` on the new socket: all holders in the way have it.
    ReuseaddrOnNew,
    /// `SO_REUSEADDR` on the new socket and on the holders in the way. A connection has what its listener
    /// had when it was accepted.
    ReuseaddrOnBoth,
    /// `SO_REUSEPORT` on the new socket: all holders in the way have it.
    ReuseportOnNew,
    /// `SO_REUSEPORT` on the new socket and on the holders in the way, by the same user.
    ReuseportOnBoth,
    /// `IPV6_V6ONLY` on the new socket: the holders in the way are IPv4's.
    V6onlyOnNew,
    /// Another local address, for which nobody holds the port: one that was tried.
    OtherAddress(IpAddr),
    /// Wait: the minisockets in the way end by themselves.
    Wait,
    /// Close the holders in the way: indices into [`World::holders`].
    CloseHolders(Vec<usize>),
    /// `IP_FREEBIND` on the new socket.
    Freebind,
    /// `net.ipv4.ip_nonlocal_bind` (or that of ipv6) = 1.
    NonlocalBind,
    /// CAP_NET_BIND_SERVICE for the process.
    Capability,
    /// `net.ipv4.ip_unprivileged_port_start` at most this.
    UnprivilegedPortStart(u16),
    /// A wider `net.ipv4.ip_local_port_range`.
    WiderPortRange,
    /// Another destination address or port: connect() counts ports for each.
    OtherDestination,
    /// `net.ipv4.tcp_tw_reuse` = 1.
    TcpTwReuse,
    /// `net.ipv4.ip_autobind_reuse` = 1, with `SO_REUSEADDR` on both.
    AutobindReuse,
    /// A socket of its own: this one has been bound, connected or listens.
    NewSocket,
    /// `IPV6_V6ONLY` off on the new socket: it asks for a v4-mapped address.
    ClearV6only,
}

impl Remedy {
    /// The name that output uses.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ReuseaddrOnNew => "reuseaddr_on_new",
            Self::ReuseaddrOnBoth => "reuseaddr_on_both",
            Self::ReuseportOnNew => "reuseport_on_new",
            Self::ReuseportOnBoth => "reuseport_on_both",
            Self::V6onlyOnNew => "v6only_on_new",
            Self::OtherAddress(_) => "other_address",
            Self::Wait => "wait",
            Self::CloseHolders(_) => "close_holders",
            Self::Freebind => "freebind",
            Self::NonlocalBind => "nonlocal_bind",
            Self::Capability => "capability",
            Self::UnprivilegedPortStart(_) => "unprivileged_port_start",
            Self::WiderPortRange => "wider_port_range",
            Self::OtherDestination => "other_destination",
            Self::TcpTwReuse => "tcp_tw_reuse",
            Self::AutobindReuse => "autobind_reuse",
            Self::NewSocket => "new_socket",
            Self::ClearV6only => "clear_v6only",
        }
    }
}
