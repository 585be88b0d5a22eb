//! A process of its own that opens and closes sockets as it is told, one command a line.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result, bail, ensure};

use crate::sockets::Socket;
use crate::{PATIENCE, sys};

/// The argument that makes this test binary a puppet instead of a test run.
pub(crate) const ARGUMENT: &str = "--as-puppet";

/// The process, seen by the test that started it. It ends when this is dropped.
pub(crate) struct Puppet {
    child: Child,
    commands: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Puppet {
    /// Starts one in the network namespace of this thread.
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start this test binary again, as a puppet")?;
        let stdout = child.stdout.take().context("no pipe from the puppet")?;
        let commands = child.stdin.take();
        let (to_us, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if to_us.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            commands,
            answers,
        })
    }

    /// The process id, as the tracer's `--pid` takes it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects to the address and keeps the socket.
    pub(crate) fn connect(&mut self, address: SocketAddr) -> Result<()> {
        self.tell(&format!("connect {address}"))
    }

    /// Listens on the address and keeps the socket.
    pub(crate) fn listen(&mut self, address: SocketAddr) -> Result<()> {
        self.tell(&format!("listen {address}"))
    }

    /// Accepts a connection from its newest listener and keeps it.
    pub(crate) fn accept(&mut self) -> Result<()> {
        self.tell("accept")
    }

    /// Starts a child that accepts a connection from its newest listener, and ends after the peer's FIN
    /// with the connection open; returns the child's process id.
    pub(crate) fn fork_to_accept(&mut self) -> Result<u32> {
        let answer = self.ask("fork")?;
        let pid = answer.strip_prefix("child ");
        let pid = pid.with_context(|| format!("the puppet could not fork: {answer}"))?;
        Ok(pid.parse()?)
    }

    /// Closes all that it has connected, accepted and listened on.
    pub(crate) fn close_all(&mut self) -> Result<()> {
        self.tell("close")
    }

    /// Gives up root for this user.
    pub(crate) fn become_user(&mut self, uid: u32) -> Result<()> {
        self.tell(&format!("user {uid}"))
    }

    /// Takes a name of any bytes.
    pub(crate) fn rename(&mut self, name: &[u8]) -> Result<()> {
        let mut hex = String::new();
        for byte in name {
            let _ = write!(hex, "{byte:02x}");
        }
        self.tell(&format!("name {hex}"))
    }

    /// Ends it by SIGKILL, with its sockets open.
    pub(crate) fn kill(self) -> Result<()> {
        self.end_by(libc::SIGKILL)
    }

    /// Ends it by a signal, with its sockets open; fails unless it is that which ends it.
    pub(crate) fn end_by(mut self, signal: i32) -> Result<()> {
        sys::signal(self.child.id(), signal)?;
        let status = self.child.wait()?;
        ensure!(
            status.signal() == Some(signal),
            "signal {signal} must end the puppet, but: {status}"
        );
        Ok(())
    }

    /// Makes it exit with this status, with its sockets open.
    pub(crate) fn exit(mut self, status: i32) -> Result<()> {
        let commands = self
            .commands
            .as_mut()
            .context("the puppet has been let go")?;
        writeln!(commands, "exit {status}").context("the puppet has ended")?;
        let ended = self.child.wait()?;
        ensure!(
            ended.code() == Some(status),
            "the puppet must exit with {status}, but: {ended}"
        );
        Ok(())
    }

    fn tell(&mut self, command: &str) -> Result<()> {
        let answer = self.ask(command)?;
        ensure!(
            answer == "done",
            "the puppet could not {command:?}: {answer}"
        );
        Ok(())
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        let commands = self
            .commands
            .as_mut()
            .context("the puppet has been let go")?;
        writeln!(commands, "{command}").context("the puppet has ended")?;
        self.answers
            .recv_timeout(PATIENCE)
            .with_context(|| format!("no answer from the puppet to {command:?}"))
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        // The end of its input is its command to end.
        self.commands = None;
        let _ = self.child.wait();
    }
}

/// The process itself: does what stdin says until it ends.
pub(crate) fn perform() -> Result<()> {
    // A test run in the background of a script begins with SIGINT ignored, and hands that on.
    sys::default_signals();
    let mut sockets = Sockets::default();
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        match sockets.obey(&line?) {
            Ok(answer) => writeln!(stdout, "{answer}")?,
            Err(error) => writeln!(stdout, "{error:#}")?,
        }
        stdout.flush()?;
    }
    Ok(())
}

#[derive(Default)]
struct Sockets {
    connected: Vec<Socket>,
    accepted: Vec<Socket>,
    listeners: Vec<Socket>,
}

impl Sockets {
    /// Does it, and returns the answer.
    fn obey(&mut self, command: &str) -> Result<String> {
        match command.split_once(' ').unwrap_or((command, "")) {
            ("connect", address) => {
                let address: SocketAddr = address.parse()?;
                let socket = Socket::new(address.is_ipv6())?;
                socket.connect(address)?;
                self.connected.push(socket);
            }
            ("listen", address) => {
                let address: SocketAddr = address.parse()?;
                let socket = Socket::new(address.is_ipv6())?;
                socket.set_reuse_address(true)?;
                socket.bind(address)?;
                socket.listen(16)?;
                self.listeners.push(socket);
            }
            ("accept", "") => {
                let listener = self.listeners.last().context("nothing to accept from")?;
                self.accepted.push(listener.accept()?);
            }
            ("fork", "") => return Ok(format!("child {}", self.fork_to_accept()?)),
            ("close", "") => *self = Self::default(),
            ("exit", status) => {
                let status = status.parse()?;
                // SAFETY: _exit takes an integer and does not return. Unlike exit() it runs no
                // destructors, so it is the kernel that closes the sockets.
                unsafe { libc::_exit(status) }
            }
            ("user", uid) => sys::become_user(uid.parse()?)?,
            ("name", hex) => {
                let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16);
                let name = (0..hex.len())
                    .step_by(2)
                    .map(byte)
                    .collect::<Result<Vec<_>, _>>()?;
                sys::set_comm(&name)?;
            }
            (other, rest) => bail!("no such command: {other} {rest}"),
        }
        Ok("done".to_owned())
    }

    fn fork_to_accept(&self) -> Result<u32> {
        let listener = self.listeners.last().context("nothing to accept from")?;
        // SAFETY: a puppet has one thread, so the child may do whatever the parent may.
        let pid = sys::check(unsafe { libc::fork() }).context("cannot fork")?;
        if pid > 0 {
            return Ok(u32::try_from(pid)?);
        }
        let accepted = listener.accept();
        let served = accepted
            .as_ref()
            .is_ok_and(|socket| socket.receive().is_ok());
        // SAFETY: as for "exit". What was accepted is still open; everything else is the parent's.
        unsafe { libc::_exit(i32::from(!served)) }
    }
}
