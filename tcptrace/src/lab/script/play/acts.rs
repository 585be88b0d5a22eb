//! What actors do when a script is played.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tcptrace_model::conflict::Call;

use super::{
    super::program::{Act, New, Subject},
    Held, Player,
};
use crate::lab::{
    actor::{Actor, Received, Sock},
    stage::Stage,
    value::{Called, Value},
};

impl<'a> Player<'a> {
    /// Does it. Returns the result of what may fail; it may fail only if that is `judged`.
    pub(super) fn act(
        &mut self,
        actor: &'a Actor,
        act: &Act,
        judged: bool,
        stage: &Stage,
    ) -> Result<Option<Value>> {
        let called = match *act {
            Act::Open { ipv6, new } => {
                let socket = actor.socket(ipv6, new.options)?;
                stage.note(format_args!("{}: socket", actor.name()));
                self.hold(new.socket, socket);
                return Ok(None);
            }
            Act::Bind(subject, address) => {
                let index = self.subject(actor, subject, address.is_ipv6())?;
                let called = self.socket(index)?.bind(address)?;
                self.call(Call::Bind, address.port(), called)
            }
            Act::Listen(subject, address) => self.listen(actor, subject, address)?,
            Act::Connect(subject, address) => {
                let index = self.subject(actor, subject, address.is_ipv6())?;
                let called = self.socket(index)?.connect(address)?;
                self.learn(index);
                self.call(Call::Connect, address.port(), called)
            }
            Act::ConnectMany {
                address,
                count,
                new,
            } => {
                let many = actor.connect_many(address, new.options, count)?;
                self.sockets[new.socket] = Some(Held::Many(many));
                let called = many.refused.map_or(Ok(()), Err);
                self.call(Call::Connect, address.port(), called)
            }
            Act::Accept { listener, socket } => {
                let accepted = self.socket(listener)?.accept()?;
                self.hold(socket, accepted);
                return Ok(None);
            }
            Act::AcceptMany {
                listener,
                count,
                socket,
            } => {
                let many = self.socket(listener)?.accept_many(count)?;
                self.sockets[socket] = Some(Held::Many(many));
                return Ok(None);
            }
            Act::Close(socket) => {
                self.socket(socket)?.close()?;
                return Ok(None);
            }
            Act::CloseMany(socket) => {
                let Some(Held::Many(many)) = &self.sockets[socket] else {
                    bail!("these sockets have not been opened");
                };
                actor.close_many(*many)?;
                return Ok(None);
            }
            Act::Shutdown {
                socket,
                reading: true,
            } => self.socket(socket)?.shutdown_reading()?,
            Act::Shutdown {
                socket,
                reading: false,
            } => self.socket(socket)?.shutdown()?,
            Act::Write {
                socket,
                bytes,
                hold: true,
            } => self.socket(socket)?.write_and_hold(bytes)?,
            Act::Write {
                socket,
                bytes,
                hold: false,
            } => self.socket(socket)?.write(bytes)?,
            Act::Read(socket) => match self.socket(socket)?.read()? {
                Received::Data(_) => return Ok(Some("data".into())),
                Received::Fin => return Ok(Some("fin".into())),
                Received::Refused(errno) => Err(errno),
            },
            Act::Disconnect(socket) => self.socket(socket)?.disconnect()?,
            Act::Set(socket, options) => {
                self.socket(socket)?.set(options)?;
                return Ok(None);
            }
            Act::User(uid) => {
                actor.become_user(uid)?;
                return Ok(None);
            }
            Act::Exit(status) => {
                actor.exit(status)?;
                return Ok(None);
            }
            Act::Killed(signal) => {
                actor.kill(signal)?;
                return Ok(None);
            }
        };
        may_fail(called, judged)?;
        Ok(Some(called.into()))
    }

    /// listen(); with an address, bind() before it, and its result if that fails.
    fn listen(
        &mut self,
        actor: &'a Actor,
        subject: Subject,
        address: Option<SocketAddr>,
    ) -> Result<Called> {
        let ipv6 = address.is_some_and(|address| address.is_ipv6());
        let index = self.subject(actor, subject, ipv6)?;
        if let Some(address) = address {
            let called = self.socket(index)?.bind(address)?;
            if called.is_err() {
                return Ok(self.call(Call::Bind, address.port(), called));
            }
        }
        let socket = self.socket(index)?;
        // Before the call: one without a port gets one by it.
        let port = socket.local().port();
        let called = socket.listen()?;
        Ok(self.call(Call::Listen, port, called))
    }

    /// The socket of a call, opened for it if need be.
    fn subject(&mut self, actor: &'a Actor, subject: Subject, ipv6: bool) -> Result<usize> {
        match subject {
            Subject::New(New { socket, options }) => {
                let opened = actor.socket(ipv6, options)?;
                self.hold(socket, opened);
                Ok(socket)
            }
            Subject::Known(socket) => Ok(socket),
        }
    }

    /// From now on, this is that socket.
    fn hold(&mut self, index: usize, socket: Sock<'a>) {
        self.sockets[index] = Some(Held::One(socket));
        self.learn(index);
    }

    /// The addresses and ports of its connection, if it has one.
    fn learn(&mut self, index: usize) {
        if let Some(Held::One(socket)) = &self.sockets[index]
            && let Ok(tuple) = socket.tuple()
        {
            self.tuples.insert(index, tuple);
        }
    }

    pub(super) fn socket(&self, index: usize) -> Result<&Sock<'a>> {
        match &self.sockets[index] {
            Some(Held::One(socket)) => Ok(socket),
            Some(Held::Many(_)) | None => None.context("this socket has not been opened"),
        }
    }

    /// Remembers it if it failed.
    fn call(&mut self, call: Call, port: u16, called: Called) -> Called {
        if let Err(errno) = called {
            self.has_failed(call, port, errno);
        }
        called
    }
}

/// Fails for a call that has failed though the script does not say that it may.
fn may_fail(called: Called, judged: bool) -> Result<()> {
    match called {
        Err(errno) if !judged => {
            bail!("{errno}; what may fail says so at the end of its line, such as: expect {errno}")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
