//! Situations in which a bind() or a listen() fails: who holds the port how, and who wants it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail};

use crate::endings::expect_fin;
use crate::event::State;
use crate::kernel_table;
use crate::sockets::Socket;

/// What the holder of the port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Old {
    Nobody,
    Bound,
    Listening,
    /// A connection whose listener is closed.
    Established,
    /// The end of a connection whose peer has closed, and whose listener is closed.
    CloseWait,
    /// A minisocket whose peer does not close, for `tcp_fin_timeout`.
    OrphanFinWait2,
    TimeWait,
}

/// A socket: what it is bound to, and its options.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub(super) struct Side {
    pub(super) ip: IpAddr,
    pub(super) reuseaddr: bool,
    pub(super) reuseport: bool,
    pub(super) v6only: bool,
    pub(super) freebind: bool,
}

/// A call that fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    pub(super) name: &'static str,
    pub(super) old: Old,
    pub(super) holder: Side,
    pub(super) new: Side,
    /// bind() succeeds, and listen() fails.
    pub(super) listens: bool,
    /// The errno.
    pub(super) error: i32,
    /// The clause, as JSON names it.
    pub(super) rule: &'static str,
}

/// The holder's sockets that a descriptor still keeps.
pub(super) type Held = Vec<Socket>;

impl Side {
    pub(super) const fn at(ip: IpAddr) -> Self {
        Self {
            ip,
            reuseaddr: false,
            reuseport: false,
            v6only: false,
            freebind: false,
        }
    }

    pub(super) const fn reuseaddr(mut self) -> Self {
        self.reuseaddr = true;
        self
    }

    pub(super) const fn reuseport(mut self) -> Self {
        self.reuseport = true;
        self
    }

    /// A socket with these options, not bound yet.
    pub(super) fn socket(&self) -> io::Result<Socket> {
        let socket = Socket::new(self.ip.is_ipv6())?;
        socket.set_reuse_address(self.reuseaddr)?;
        socket.set_reuse_port(self.reuseport)?;
        if self.v6only {
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32)?;
        }
        if self.freebind {
            socket.set(libc::SOL_IP, libc::IP_FREEBIND, &1_i32)?;
        }
        Ok(socket)
    }
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const LOOPBACK_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const MAPPED: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
/// Of the documentation (RFC 5737): no host has it.
const FOREIGN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

const fn held(name: &'static str, old: Old, holder: Side, new: Side) -> Situation {
    Situation {
        name,
        old,
        holder,
        new,
        listens: false,
        error: libc::EADDRINUSE,
        rule: "port_held",
    }
}

/// All of them.
pub(super) const SITUATIONS: [Situation; 18] = [
    held(
        "a TIME_WAIT, no options",
        Old::TimeWait,
        Side::at(LOOPBACK),
        Side::at(LOOPBACK),
    ),
    held(
        "a TIME_WAIT, SO_REUSEADDR on the new socket only",
        Old::TimeWait,
        Side::at(LOOPBACK),
        Side::at(LOOPBACK).reuseaddr(),
    ),
    held(
        "a TIME_WAIT, SO_REUSEADDR on the old socket only",
        Old::TimeWait,
        Side::at(LOOPBACK).reuseaddr(),
        Side::at(LOOPBACK),
    ),
    held(
        "a TIME_WAIT of IPv6",
        Old::TimeWait,
        Side::at(LOOPBACK_V6),
        Side::at(ANY_V6),
    ),
    held(
        "an orphan in FIN_WAIT2",
        Old::OrphanFinWait2,
        Side::at(LOOPBACK),
        Side::at(ANY),
    ),
    held(
        "a connection, its listener closed",
        Old::Established,
        Side::at(LOOPBACK).reuseaddr(),
        Side::at(ANY),
    ),
    held(
        "a connection that nobody closes",
        Old::CloseWait,
        Side::at(LOOPBACK),
        Side::at(LOOPBACK).reuseaddr(),
    ),
    held(
        "a socket that is only bound",
        Old::Bound,
        Side::at(LOOPBACK),
        Side::at(ANY),
    ),
    held(
        "bound, SO_REUSEPORT there and SO_REUSEADDR here",
        Old::Bound,
        Side::at(LOOPBACK).reuseport(),
        Side::at(LOOPBACK).reuseaddr(),
    ),
    Situation {
        rule: "port_listening",
        ..held(
            "a listener, SO_REUSEADDR on both",
            Old::Listening,
            Side::at(LOOPBACK).reuseaddr(),
            Side::at(LOOPBACK).reuseaddr(),
        )
    },
    Situation {
        rule: "port_listening",
        ..held(
            "a listener without options",
            Old::Listening,
            Side::at(ANY),
            Side::at(LOOPBACK),
        )
    },
    Situation {
        rule: "port_listening",
        ..held(
            "a listener of IPv4, for a dual-stack socket",
            Old::Listening,
            Side::at(ANY),
            Side::at(ANY_V6),
        )
    },
    held(
        "a connection of a dual-stack listener, for IPv4",
        Old::TimeWait,
        Side::at(ANY_V6),
        Side::at(ANY),
    ),
    Situation {
        rule: "port_listening",
        ..held(
            "a listener, for a v4-mapped address",
            Old::Listening,
            Side::at(LOOPBACK),
            Side::at(MAPPED),
        )
    },
    Situation {
        listens: true,
        rule: "port_listening",
        ..held(
            "a listener of two that are bound",
            Old::Bound,
            Side::at(LOOPBACK).reuseaddr(),
            Side::at(LOOPBACK).reuseaddr(),
        )
    },
    Situation {
        error: libc::EADDRNOTAVAIL,
        rule: "address_not_local",
        ..held(
            "an address of another host",
            Old::Nobody,
            Side::at(LOOPBACK),
            Side::at(FOREIGN),
        )
    },
    Situation {
        error: libc::EINVAL,
        rule: "mapped_on_v6only",
        ..held(
            "a v4-mapped address with IPV6_V6ONLY",
            Old::Nobody,
            Side::at(LOOPBACK),
            Side {
                v6only: true,
                ..Side::at(MAPPED)
            },
        )
    },
    Situation {
        error: libc::EINVAL,
        rule: "already_bound",
        ..held(
            "bound already",
            Old::Nobody,
            Side::at(LOOPBACK),
            Side::at(LOOPBACK),
        )
    },
];

impl Situation {
    /// Makes the holder on `port`.
    pub(super) fn hold(&self, port: u16) -> Result<Held> {
        let address = SocketAddr::new(self.holder.ip, port);
        if self.old == Old::Nobody {
            return Ok(Vec::new());
        }
        let holder = self.holder.socket()?;
        holder.bind(address).context("the holder's own bind()")?;
        if self.old == Old::Bound {
            return Ok(vec![holder]);
        }
        holder.listen(8)?;
        if self.old == Old::Listening {
            return Ok(vec![holder]);
        }
        let client = Socket::new(address.is_ipv6())?;
        client.connect(match address.ip() {
            ip if ip.is_unspecified() && ip.is_ipv6() => SocketAddr::new(LOOPBACK_V6, port),
            ip if ip.is_unspecified() => SocketAddr::new(LOOPBACK, port),
            _ => address,
        })?;
        let remote = client.local_port()?;
        let server = holder.accept()?;
        drop(holder);
        match self.old {
            Old::Nobody | Old::Bound | Old::Listening => bail!("it has no connection"),
            Old::Established => return Ok(vec![server, client]),
            Old::CloseWait => {
                client.shutdown_write()?;
                expect_fin(&server)?;
                return Ok(vec![server, client]);
            }
            Old::OrphanFinWait2 => {
                drop(server);
                expect_fin(&client)?;
                kernel_table::wait_for_state(port, remote, State::FIN_WAIT2)?;
                // The client may stay open: it is not in the way.
                return Ok(vec![client]);
            }
            Old::TimeWait => {
                drop(server);
                expect_fin(&client)?;
                drop(client);
                kernel_table::wait_for_state(port, remote, State::TIME_WAIT)?;
            }
        }
        Ok(Vec::new())
    }

    /// Makes the call, with the holder there.
    pub(super) fn call(&self, port: u16, held: &Held) -> Result<io::Result<Socket>> {
        let socket = self.new.socket()?;
        let address = SocketAddr::new(self.new.ip, port);
        if self.rule == "already_bound" {
            socket.bind(SocketAddr::new(self.new.ip, 0))?;
        }
        if let Err(error) = socket.bind(address) {
            return Ok(Err(error));
        }
        if self.listens {
            // The holder, as long as it is there, is the first to listen.
            for holder in held {
                holder.listen(8)?;
            }
            return Ok(socket.listen(8).map(|()| socket));
        }
        Ok(Ok(socket))
    }
}
