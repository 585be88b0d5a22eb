//! The process of an actor: does what its experiment says until that lets go of it.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use socket2::{Domain, SockAddr, Socket, Type};

use super::protocol::{Answer, Options, Order};
use crate::lab::sys;

/// Longer than any call on loopback takes on the slowest machine; then the experiment fails, not hangs.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// What one recv() takes at most.
const LARGEST_READ: usize = 1 << 16;

/// Runs the actor called `name`, whose orders come on stdin, which is a socket, and are answered there.
///
/// # Errors
/// When the experiment cannot be heard or answered any more.
pub fn perform(name: &str) -> Result<ExitCode> {
    sys::end_with_parent().context("an actor cannot ask to end with its experiment")?;
    sys::default_signals();
    sys::set_comm(name).context("an actor cannot take its name")?;
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let stream = UnixStream::from(stdin);
    let mut answers = stream.try_clone()?;
    let mut sockets = Sockets::default();
    for line in BufReader::new(stream).lines() {
        let order: Order = serde_json::from_str(&line?).context("an order cannot be read")?;
        let answer = match sockets.obey(&order) {
            Ok(answer) => answer,
            Err(error) => match error.raw_os_error() {
                Some(errno) => Answer::Refused(u16::try_from(errno).unwrap_or(u16::MAX)),
                None => Answer::Confused(format!("{order:?}: {error}")),
            },
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        answers.write_all(&line)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The sockets of an actor, by number; `None` for one that is closed.
#[derive(Default)]
struct Sockets(Vec<Option<Socket>>);

impl Sockets {
    fn obey(&mut self, order: &Order) -> io::Result<Answer> {
        match *order {
            Order::Socket { ipv6, options } => {
                let socket = open(ipv6, options)?;
                let local = address_of(&socket.local_addr()?)?;
                Ok(Answer::Socket {
                    socket: self.keep(socket),
                    local,
                    remote: None,
                })
            }
            Order::Set { socket, options } => {
                set(self.find(socket)?, options)?;
                Ok(Answer::Done)
            }
            Order::Bind { socket, address } => {
                self.find(socket)?.bind(&address.into())?;
                self.addresses(socket)
            }
            Order::Listen { socket, backlog } => {
                self.find(socket)?.listen(backlog)?;
                self.addresses(socket)
            }
            Order::Connect { socket, address } => {
                self.find(socket)?.connect(&address.into())?;
                self.addresses(socket)
            }
            Order::FirstSequence { socket, sequence } => {
                sys::choose_first_sequence(self.find(socket)?.as_raw_fd(), sequence)?;
                Ok(Answer::Done)
            }
            Order::Disconnect { socket } => {
                sys::disconnect(self.find(socket)?.as_raw_fd())?;
                self.addresses(socket)
            }
            Order::Accept { listener } => {
                let (socket, _) = self.find(listener)?.accept()?;
                let socket = self.keep(socket);
                self.addresses(socket)
            }
            Order::Write {
                socket,
                bytes,
                more,
            } => self.write(socket, bytes, more),
            Order::Read { socket } => {
                let mut data = vec![0; LARGEST_READ];
                let mut socket = self.find(socket)?;
                Ok(Answer::Bytes(io::Read::read(&mut socket, &mut data)?))
            }
            Order::Shutdown { socket, read } => {
                let how = if read {
                    std::net::Shutdown::Read
                } else {
                    std::net::Shutdown::Write
                };
                self.find(socket)?.shutdown(how)?;
                Ok(Answer::Done)
            }
            Order::Close { socket } => {
                self.find(socket)?;
                self.0[socket as usize] = None;
                Ok(Answer::Done)
            }
            Order::Addresses { socket } => self.addresses(socket),
            Order::ConnectMany {
                address,
                options,
                count,
            } => Ok(self.many(count, |_| {
                let socket = open(address.is_ipv6(), options)?;
                socket.connect(&address.into())?;
                Ok(socket)
            })),
            Order::AcceptMany { listener, count } => {
                self.find(listener)?;
                Ok(self.many(count, |sockets| {
                    sockets.find(listener)?.accept().map(|(socket, _)| socket)
                }))
            }
            Order::ShutdownMany { first, count } => {
                for socket in first..first + count {
                    self.find(socket)?.shutdown(std::net::Shutdown::Write)?;
                }
                Ok(Answer::Done)
            }
            Order::CloseMany {
                first,
                count,
                every_ms,
            } => self.close_many(first, count, every_ms),
            Order::User { uid } => {
                sys::become_user(uid)?;
                Ok(Answer::Done)
            }
            // Without destructors: it is the kernel that closes the sockets.
            Order::Exit { status } => sys::exit(status),
        }
    }

    fn write(&self, socket: u32, bytes: usize, more: bool) -> io::Result<Answer> {
        let flags = if more { libc::MSG_MORE } else { 0 };
        let data = vec![b'.'; bytes];
        let sent = self
            .find(socket)?
            .send_with_flags(&data, flags | libc::MSG_NOSIGNAL)?;
        Ok(Answer::Bytes(sent))
    }

    fn close_many(&mut self, first: u32, count: u32, every_ms: u32) -> io::Result<Answer> {
        let began = Instant::now();
        for index in 0..count {
            let due = Duration::from_millis(u64::from(every_ms) * u64::from(index));
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            self.find(first + index)?;
            self.0[(first + index) as usize] = None;
        }
        Ok(Answer::Done)
    }

    /// Keeps sockets from `next` until one fails.
    fn many(&mut self, count: u32, mut next: impl FnMut(&Self) -> io::Result<Socket>) -> Answer {
        let first = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        for done in 0..count {
            match next(self) {
                Ok(socket) => {
                    self.keep(socket);
                }
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or_default();
                    return Answer::Many {
                        first,
                        count: done,
                        refused: Some(u16::try_from(errno).unwrap_or(u16::MAX)),
                    };
                }
            }
        }
        Answer::Many {
            first,
            count,
            refused: None,
        }
    }

    fn keep(&mut self, socket: Socket) -> u32 {
        self.0.push(Some(socket));
        u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX)
    }

    fn find(&self, number: u32) -> io::Result<&Socket> {
        let socket = self.0.get(number as usize).and_then(Option::as_ref);
        socket.ok_or_else(|| io::Error::other(format!("no open socket {number}")))
    }

    fn addresses(&self, number: u32) -> io::Result<Answer> {
        let socket = self.find(number)?;
        Ok(Answer::Socket {
            socket: number,
            local: address_of(&socket.local_addr()?)?,
            remote: socket.peer_addr().ok().and_then(|peer| peer.as_socket()),
        })
    }
}

/// A socket with a limit on how long its calls may take.
fn open(ipv6: bool, options: Options) -> io::Result<Socket> {
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    // They are for connect() and accept(), too.
    socket.set_read_timeout(Some(CALL_LIMIT))?;
    socket.set_write_timeout(Some(CALL_LIMIT))?;
    if ipv6 && options.v6only.is_none() {
        // Whatever net.ipv6.bindv6only of this machine says.
        socket.set_only_v6(false)?;
    }
    set(&socket, options)?;
    Ok(socket)
}

fn set(socket: &Socket, options: Options) -> io::Result<()> {
    let Options {
        reuseaddr,
        reuseport,
        v6only,
        linger,
        linger2,
        freebind,
        bind_address_no_port,
    } = options;
    if let Some(on) = reuseaddr {
        socket.set_reuse_address(on)?;
    }
    if let Some(on) = reuseport {
        socket.set_reuse_port(on)?;
    }
    if let Some(on) = v6only {
        socket.set_only_v6(on)?;
    }
    if let Some(seconds) = linger {
        socket.set_linger(Some(Duration::from_secs(seconds.into())))?;
    }
    if let Some(seconds) = linger2 {
        sys::set_option(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_LINGER2,
            seconds,
        )?;
    }
    if let Some(on) = freebind {
        socket.set_freebind_v4(on)?;
    }
    if let Some(on) = bind_address_no_port {
        let name = libc::IP_BIND_ADDRESS_NO_PORT;
        sys::set_option(socket.as_raw_fd(), libc::IPPROTO_IP, name, on.into())?;
    }
    Ok(())
}

fn address_of(address: &SockAddr) -> io::Result<SocketAddr> {
    let none = || io::Error::other("not an internet address");
    address.as_socket().ok_or_else(none)
}
