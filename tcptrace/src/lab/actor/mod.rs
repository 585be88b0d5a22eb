//! Owns actors: processes of their own that open, connect and close sockets as an experiment tells them,
//! and end as it says.

mod address;
mod line;
mod perform;
mod protocol;
mod sock;
mod words;

use std::{
    cell::RefCell,
    fmt,
    os::{fd::OwnedFd, unix::net::UnixStream, unix::process::ExitStatusExt},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};

pub use self::{
    address::Address,
    sock::{Connecting, Received, Sock},
};
use self::{
    line::{LOOK_EVERY, Line},
    protocol::{Answer, Order},
};
pub use self::{perform::perform, protocol::Options};
use super::{
    limits::Cancel,
    log::Log,
    sys,
    value::{Called, Errno},
};
use crate::render::names;

/// An actor, seen by its experiment. Its process ends when this is dropped.
pub struct Actor {
    name: String,
    process: RefCell<Option<Child>>,
    line: RefCell<Line>,
    log: Arc<Log>,
    cancel: Cancel,
}

/// Several sockets of an actor, opened at once.
#[derive(Clone, Copy, Debug)]
pub struct Many {
    first: u32,
    /// How many.
    pub count: u32,
    /// Why there are not more; `None` if there are as many as were asked for.
    pub refused: Option<Errno>,
}

impl Actor {
    /// Starts the process of an actor in the network namespace of the calling thread. `name` is what the
    /// kernel will call it: up to 15 bytes.
    pub(super) fn start(name: &str, log: Arc<Log>, cancel: Cancel) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("no pair of sockets for an actor")?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let process = Command::new(program)
            .args(["lab", "actor", name])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start this program again, as the actor {name}"))?;
        ours.set_read_timeout(Some(LOOK_EVERY))?;
        Ok(Self {
            name: name.to_owned(),
            process: RefCell::new(Some(process)),
            line: RefCell::new(Line::new(ours)),
            log,
            cancel,
        })
    }

    /// What the kernel calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens a TCP socket.
    ///
    /// # Errors
    /// When it cannot.
    pub fn socket(&self, ipv6: bool, options: Options) -> Result<Sock<'_>> {
        let socket = self.done(&Order::Socket { ipv6, options })?;
        Ok(socket.opened_with(options))
    }

    /// Opens a socket and tries to bind it.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn try_bind(
        &self,
        address: impl Into<Address>,
        options: Options,
    ) -> Result<(Sock<'_>, Called)> {
        let address = address.into().0;
        let socket = self.socket(address.is_ipv6(), options)?;
        let called = socket.bind(address)?;
        Ok((socket, called))
    }

    /// Opens a socket and binds it.
    ///
    /// # Errors
    /// When it cannot.
    pub fn bound(&self, address: impl Into<Address>, options: Options) -> Result<Sock<'_>> {
        let (socket, called) = self.try_bind(address, options)?;
        must(called, "bind()")?;
        Ok(socket)
    }

    /// Opens a socket that listens.
    ///
    /// # Errors
    /// When it cannot.
    pub fn listening(&self, address: impl Into<Address>, options: Options) -> Result<Sock<'_>> {
        let socket = self.bound(address, options)?;
        must(socket.listen()?, "listen()")?;
        Ok(socket)
    }

    /// Opens a socket and tries to connect it.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn try_connect(
        &self,
        address: impl Into<Address>,
        options: Options,
    ) -> Result<(Sock<'_>, Called)> {
        let address = address.into().0;
        let socket = self.socket(address.is_ipv6(), options)?;
        let called = socket.connect(address)?;
        Ok((socket, called))
    }

    /// Opens a socket and connects it.
    ///
    /// # Errors
    /// When it cannot.
    pub fn connected(&self, address: impl Into<Address>, options: Options) -> Result<Sock<'_>> {
        let (socket, called) = self.try_connect(address, options)?;
        must(called, "connect()")?;
        Ok(socket)
    }

    /// Opens a socket and begins to connect it; somebody else has to answer.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn connecting(
        &self,
        address: impl Into<Address>,
        options: Options,
    ) -> Result<Connecting<'_>> {
        let address = address.into().0;
        self.socket(address.is_ipv6(), options)?.connecting(address)
    }

    /// Opens and connects `count` sockets, until the first that fails.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn connect_many(
        &self,
        address: impl Into<Address>,
        options: Options,
        count: u32,
    ) -> Result<Many> {
        let address = address.into().0;
        let many = self.many(&Order::ConnectMany {
            address,
            options,
            count,
        })?;
        let refused = many.refused;
        let end = refused.map_or_else(String::new, |errno| format!(", then connect(): {errno}"));
        self.tell(format_args!(
            "connect to {address}, {} times{end}",
            many.count
        ));
        Ok(many)
    }

    /// Closes them, one after the other.
    ///
    /// # Errors
    /// When it cannot.
    pub fn close_many(&self, many: Many) -> Result<()> {
        let Many { first, count, .. } = many;
        self.must_be_done(&Order::CloseMany {
            first,
            count,
            every_ms: 0,
        })?;
        self.tell(format_args!("close {count} of them"));
        Ok(())
    }

    /// Closes them, one each `every_ms`, so that what follows of it is spread over time.
    ///
    /// # Errors
    /// When it cannot.
    pub fn close_slowly(&self, many: Many, every_ms: u32) -> Result<()> {
        let Many { first, count, .. } = many;
        self.must_be_done(&Order::CloseMany {
            first,
            count,
            every_ms,
        })?;
        self.tell(format_args!(
            "close {count} of them, one each {every_ms} ms"
        ));
        Ok(())
    }

    /// shutdown() of writing of all of them: their FINs.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn shutdown_many(&self, many: Many) -> Result<()> {
        let Many { first, count, .. } = many;
        self.must_be_done(&Order::ShutdownMany { first, count })?;
        self.tell(format_args!("shutdown writing of {count} of them"));
        Ok(())
    }

    /// Gives up root for this user.
    ///
    /// # Errors
    /// When it cannot.
    pub fn become_user(&self, uid: u32) -> Result<()> {
        self.must_be_done(&Order::User { uid })?;
        self.tell(format_args!("go on as user {uid}"));
        Ok(())
    }

    /// Ends it by a signal, with its sockets open. Returns when it is gone.
    ///
    /// # Errors
    /// When it had ended before, or something else ends it.
    pub fn kill(&self, signal: i32) -> Result<()> {
        let mut process = self.taken()?;
        self.tell(format_args!("killed by {}", signal_name(signal)));
        sys::signal(process.id(), signal)?;
        let status = process.wait()?;
        ensure!(
            status.signal() == Some(signal),
            "signal {signal} was to end the actor {}, but: {status}",
            self.name
        );
        Ok(())
    }

    /// Makes it exit with this status, with its sockets open. Returns when it is gone.
    ///
    /// # Errors
    /// When it had ended before, or ends otherwise.
    pub fn exit(&self, status: i32) -> Result<()> {
        let mut process = self.taken()?;
        self.tell(format_args!("exit with status {status}"));
        self.line.borrow_mut().send(&Order::Exit { status })?;
        let ended = process.wait()?;
        ensure!(
            ended.code() == Some(status),
            "the actor {} was to exit with {status}, but: {ended}",
            self.name
        );
        Ok(())
    }

    /// The process, which nobody else will wait for from now on.
    fn taken(&self) -> Result<Child> {
        let process = self.process.borrow_mut().take();
        process.with_context(|| format!("the actor {} has ended", self.name))
    }

    fn tell(&self, what: impl fmt::Display) {
        self.log.add(format_args!("{}: {what}", self.name));
    }

    fn ask(&self, order: &Order) -> Result<Answer> {
        self.line
            .borrow_mut()
            .send(order)
            .with_context(|| format!("the actor {} has ended", self.name))?;
        self.answer(order)
    }

    fn answer(&self, order: &Order) -> Result<Answer> {
        let answer = self.line.borrow_mut().receive(&self.cancel);
        match answer.with_context(|| format!("the actor {}, asked to {order:?}", self.name))? {
            Answer::Confused(words) => bail!("the actor {} cannot: {words}", self.name),
            answer => Ok(answer),
        }
    }

    /// Asks for something that opens a socket, and must succeed.
    fn done(&self, order: &Order) -> Result<Sock<'_>> {
        match self.ask(order)? {
            Answer::Socket {
                socket,
                local,
                remote,
            } => Ok(Sock::new(self, socket, local, remote)),
            other => bail!("the actor {}, asked to {order:?}: {other:?}", self.name),
        }
    }

    fn must_be_done(&self, order: &Order) -> Result<()> {
        match self.ask(order)? {
            Answer::Done => Ok(()),
            other => bail!("the actor {}, asked to {order:?}: {other:?}", self.name),
        }
    }

    fn many(&self, order: &Order) -> Result<Many> {
        match self.ask(order)? {
            Answer::Many {
                first,
                count,
                refused,
            } => Ok(Many {
                first,
                count,
                refused: refused.map(Errno),
            }),
            other => bail!("the actor {}, asked to {order:?}: {other:?}", self.name),
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.borrow_mut().take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Fails unless the call has succeeded.
///
/// # Errors
/// When it has not.
pub fn must(called: Called, what: &str) -> Result<()> {
    match called {
        Ok(()) => Ok(()),
        Err(errno) => bail!("{what} was to succeed, but: {errno}"),
    }
}

/// `SIGKILL`, or `signal 34` for one without a name.
fn signal_name(signal: i32) -> String {
    let name = u8::try_from(signal).ok().and_then(names::signal);
    name.map_or_else(|| format!("signal {signal}"), str::to_owned)
}
