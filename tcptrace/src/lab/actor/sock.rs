//! A socket of an actor, seen by its experiment: every system call that an experiment may ask for.

use std::{cell::Cell, fmt, net::SocketAddr};

use anyhow::{Context, Result, bail, ensure};

use super::{
    Actor, Many,
    address::Address,
    must,
    protocol::{Answer, Options, Order},
    words::{with, words},
};
use crate::lab::{
    tuple::Tuple,
    value::{Called, Errno},
};

/// A socket of an actor. It stays open when this is dropped: closing is what experiments are about.
pub struct Sock<'a> {
    actor: &'a Actor,
    number: u32,
    /// With which it was opened.
    options: Options,
    local: Cell<SocketAddr>,
    remote: Cell<Option<SocketAddr>>,
}

/// A connect() that has not returned yet.
#[must_use = "its result is still to come"]
pub struct Connecting<'a> {
    socket: Sock<'a>,
    address: SocketAddr,
}

/// What recv() returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes, at least one.
    Data(usize),
    /// The peer's FIN.
    Fin,
    /// Nothing but an errno.
    Refused(Errno),
}

impl<'a> Sock<'a> {
    pub(super) fn new(
        actor: &'a Actor,
        number: u32,
        local: SocketAddr,
        remote: Option<SocketAddr>,
    ) -> Self {
        Self {
            actor,
            number,
            options: Options::NONE,
            local: Cell::new(local),
            remote: Cell::new(remote),
        }
    }

    pub(super) fn opened_with(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Whose it is.
    #[must_use]
    pub fn actor(&self) -> &'a Actor {
        self.actor
    }

    /// Its own address and port, as last known; unspecified before it has one.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local.get()
    }

    /// The peer's.
    ///
    /// # Errors
    /// When it is not connected.
    pub fn remote(&self) -> Result<SocketAddr> {
        self.remote.get().context("this socket has no peer")
    }

    /// Both.
    ///
    /// # Errors
    /// When it is not connected.
    pub fn tuple(&self) -> Result<Tuple> {
        Ok(Tuple {
            local: self.local(),
            remote: self.remote()?,
        })
    }

    /// bind()
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn bind(&self, address: impl Into<Address>) -> Result<Called> {
        let address = address.into().0;
        let called = self.call(&Order::Bind {
            socket: self.number,
            address,
        })?;
        self.tell(format_args!("bind {address}{}", with(self.options)), called);
        Ok(called)
    }

    /// listen(), with the largest backlog.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn listen(&self) -> Result<Called> {
        let called = self.call(&Order::Listen {
            socket: self.number,
            backlog: libc::SOMAXCONN,
        })?;
        self.tell(format_args!("listen on {}", self.local()), called);
        Ok(called)
    }

    /// connect(); returns when the connection is there, or has failed.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn connect(&self, address: impl Into<Address>) -> Result<Called> {
        let address = address.into().0;
        let called = self.call(&Order::Connect {
            socket: self.number,
            address,
        })?;
        self.tell_connected(address, called);
        Ok(called)
    }

    /// Begins a connect() that somebody else has to answer. Until then, its actor does nothing else.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn connecting(self, address: impl Into<Address>) -> Result<Connecting<'a>> {
        let address = address.into().0;
        self.actor.line.borrow_mut().send(&Order::Connect {
            socket: self.number,
            address,
        })?;
        Ok(Connecting {
            socket: self,
            address,
        })
    }

    /// Chooses the first sequence number of the connect() that follows, which the kernel otherwise takes from a
    /// clock (RFC 9293 3.4.1). Sets `SO_REUSEADDR` to off.
    ///
    /// # Errors
    /// When it cannot.
    pub fn begin_at(&self, sequence: u32) -> Result<()> {
        self.actor.must_be_done(&Order::FirstSequence {
            socket: self.number,
            sequence,
        })?;
        self.actor
            .tell(format_args!("choose the first sequence number {sequence}"));
        Ok(())
    }

    /// connect() with AF_UNSPEC, which dissolves the connection.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn disconnect(&self) -> Result<Called> {
        let called = self.call(&Order::Disconnect {
            socket: self.number,
        })?;
        self.tell("connect AF_UNSPEC", called);
        Ok(called)
    }

    /// accept()
    ///
    /// # Errors
    /// When it fails: there must be a connection.
    pub fn accept(&self) -> Result<Self> {
        let accepted = self.actor.done(&Order::Accept {
            listener: self.number,
        })?;
        self.actor.tell(format_args!(
            "accept {} -- {}",
            accepted.local(),
            accepted.remote()?
        ));
        Ok(accepted)
    }

    /// accept() so many times.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn accept_many(&self, count: u32) -> Result<Many> {
        let many = self.actor.many(&Order::AcceptMany {
            listener: self.number,
            count,
        })?;
        ensure!(
            many.refused.is_none(),
            "only {} of {count} connections could be accepted",
            many.count
        );
        self.actor.tell(format_args!("accept {count} connections"));
        Ok(many)
    }

    /// send() of so many bytes.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn write(&self, bytes: usize) -> Result<Called> {
        self.send(bytes, false)
    }

    /// send() with MSG_MORE: the bytes wait for what comes next, such as a FIN.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn write_and_hold(&self, bytes: usize) -> Result<Called> {
        self.send(bytes, true)
    }

    /// recv(), once; waits until there is something.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn read(&self) -> Result<Received> {
        let order = Order::Read {
            socket: self.number,
        };
        let received = match self.actor.ask(&order)? {
            Answer::Bytes(0) => Received::Fin,
            Answer::Bytes(bytes) => Received::Data(bytes),
            Answer::Refused(errno) => Received::Refused(Errno(errno)),
            other => bail!("recv(): {other:?}"),
        };
        match received {
            Received::Data(bytes) => self.actor.tell(format_args!("read {bytes} bytes")),
            Received::Fin => self.actor.tell("read the end of the stream (FIN)"),
            Received::Refused(errno) => self.actor.tell(format_args!("read: {errno}")),
        }
        Ok(received)
    }

    /// shutdown() of writing: the FIN.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn shutdown(&self) -> Result<Called> {
        self.shut(false)
    }

    /// shutdown() of reading. A listener stops to listen.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn shutdown_reading(&self) -> Result<Called> {
        self.shut(true)
    }

    /// close()
    ///
    /// # Errors
    /// When it had been closed before.
    pub fn close(&self) -> Result<()> {
        self.actor.must_be_done(&Order::Close {
            socket: self.number,
        })?;
        self.actor.tell(format_args!("close {}", self.described()));
        Ok(())
    }

    /// Sets options.
    ///
    /// # Errors
    /// When it cannot.
    pub fn set(&self, options: Options) -> Result<()> {
        self.actor.must_be_done(&Order::Set {
            socket: self.number,
            options,
        })?;
        self.actor.tell(format_args!(
            "set{} on {}",
            words(options),
            self.described()
        ));
        Ok(())
    }

    /// Asks the kernel for its addresses.
    ///
    /// # Errors
    /// When it is closed.
    pub fn look(&self) -> Result<()> {
        let called = self.call(&Order::Addresses {
            socket: self.number,
        })?;
        must(called, "getsockname()")
    }

    fn described(&self) -> String {
        match self.remote.get() {
            Some(remote) => format!("{} -- {remote}", self.local()),
            None => self.local().to_string(),
        }
    }

    fn shut(&self, read: bool) -> Result<Called> {
        let called = self.call(&Order::Shutdown {
            socket: self.number,
            read,
        })?;
        let what = if read { "reading of" } else { "writing of" };
        self.tell(format_args!("shutdown {what} {}", self.described()), called);
        Ok(called)
    }

    fn send(&self, bytes: usize, more: bool) -> Result<Called> {
        let order = Order::Write {
            socket: self.number,
            bytes,
            more,
        };
        let called = match self.actor.ask(&order)? {
            Answer::Bytes(_) => Ok(()),
            Answer::Refused(errno) => Err(Errno(errno)),
            other => bail!("send(): {other:?}"),
        };
        self.tell(format_args!("write {bytes} bytes"), called);
        Ok(called)
    }

    fn tell(&self, what: impl fmt::Display, called: Called) {
        match called {
            Ok(()) => self.actor.tell(what),
            Err(errno) => self.actor.tell(format_args!("{what}: {errno}")),
        }
    }

    fn tell_connected(&self, address: SocketAddr, called: Called) {
        match called {
            Ok(()) => self.tell(
                format_args!("connect {} -- {address}", self.local()),
                called,
            ),
            Err(_) => self.tell(
                format_args!("connect {address}{}", with(self.options)),
                called,
            ),
        }
    }

    fn call(&self, order: &Order) -> Result<Called> {
        let answer = self.actor.ask(order)?;
        self.take(answer)
    }

    fn take(&self, answer: Answer) -> Result<Called> {
        match answer {
            Answer::Done => Ok(Ok(())),
            Answer::Refused(errno) => Ok(Err(Errno(errno))),
            Answer::Socket { local, remote, .. } => {
                self.local.set(local);
                self.remote.set(remote);
                Ok(Ok(()))
            }
            other => bail!("the actor {}: {other:?}", self.actor.name),
        }
    }
}

impl<'a> Connecting<'a> {
    /// Waits until it returns.
    ///
    /// # Errors
    /// When it does not.
    pub fn returned(self) -> Result<(Sock<'a>, Called)> {
        let Self { socket, address } = self;
        let order = Order::Connect {
            socket: socket.number,
            address,
        };
        let answer = socket.actor.answer(&order)?;
        let called = socket.take(answer)?;
        socket.tell_connected(address, called);
        Ok((socket, called))
    }

    /// Waits until it succeeds.
    ///
    /// # Errors
    /// When it does not.
    pub fn connected(self) -> Result<Sock<'a>> {
        let (socket, called) = self.returned()?;
        must(called, "connect()")?;
        Ok(socket)
    }
}
