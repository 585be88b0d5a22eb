//! What actors do: a verb each.

use std::time::Duration;

use super::{
    super::{
        fault::Fault,
        names::Is,
        program::{Act, Action, Kind, New, Subject},
        words::{Line, Word},
    },
    Reader,
    values::{number, options, socket_address},
};
use crate::{lab::actor::Options, render::names};

const VERBS: [&str; 15] = [
    "socket",
    "bind",
    "listen",
    "connect",
    "accept",
    "close",
    "shutdown",
    "write",
    "read",
    "disconnect",
    "set",
    "become",
    "go",
    "exit",
    "killed",
];
/// More would take longer than an actor may take to answer.
const MOST_SOCKETS: u32 = 100_000;
/// More than loopback takes before somebody reads.
const MOST_BYTES: usize = 1 << 20;
/// Longer than a report would be waited for.
pub(super) const LONGEST_PASS: Duration = Duration::from_secs(600);

impl Reader<'_> {
    /// What an actor does, and what kind of result that has.
    pub(super) fn act(
        &mut self,
        actor: usize,
        line: &mut Line<'_>,
    ) -> Result<(Action, Option<Kind>), Fault> {
        let verb = line.need("what the actor does")?;
        let (act, kind) = match verb.text {
            "socket" => (self.socket(actor, line)?, None),
            "bind" => (self.bind(actor, line)?, Some(Kind::Call)),
            "listen" => (self.listen(actor, line)?, Some(Kind::Call)),
            "connect" => (self.connect(actor, line)?, Some(Kind::Call)),
            "accept" => (self.accept(actor, line)?, None),
            "close" => (self.close(actor, line)?, None),
            "shutdown" => (self.shutdown(actor, line)?, Some(Kind::Call)),
            "write" => (self.write(actor, line)?, Some(Kind::Call)),
            "read" => {
                let socket = self.connected(actor, line)?;
                (Act::Read(socket), Some(Kind::Received))
            }
            "disconnect" => {
                let socket = self.connected(actor, line)?;
                self.names.becomes(socket, Is::Connected);
                (Act::Disconnect(socket), Some(Kind::Call))
            }
            "set" => {
                let options = options(line)?;
                line.demand("on")?;
                let word = line.need("a socket")?;
                let one = &[Is::Unconnected, Is::Listening, Is::Connected];
                let socket = self.names.open_socket(&word, actor, one, "one socket")?;
                (Act::Set(socket, options), None)
            }
            "become" | "go" => {
                line.demand(if verb.text == "go" {
                    "on as user"
                } else {
                    "user"
                })?;
                let word = line.need("the number of a user")?;
                (Act::User(number(&word, "the number of a user")?), None)
            }
            "exit" => {
                if line.eat("with") {
                    line.demand("status")?;
                }
                let word = line.need("a status")?;
                let status: u8 = number(&word, "a status: 0 to 255")?;
                self.names.end(actor, self.number);
                (Act::Exit(status.into()), None)
            }
            "killed" => {
                line.demand("by")?;
                let word = line.need("a signal such as SIGTERM")?;
                let signal = names::signal_number(word.text).ok_or_else(|| {
                    Fault::new(
                        word.at.clone(),
                        format!("no signal is called {}", word.text),
                    )
                    .meant(word.text, names::signals())
                })?;
                self.names.end(actor, self.number);
                (Act::Killed(signal), None)
            }
            _ => {
                let wrong = format!("no actor can {}", verb.text);
                return Err(Fault::new(verb.at, wrong).meant(verb.text, VERBS));
            }
        };
        Ok((Action::Act(actor, act), kind))
    }

    fn socket(&mut self, actor: usize, line: &mut Line<'_>) -> Result<Act, Fault> {
        let ipv6 = line.eat("ipv6");
        let new = self.new_socket(actor, Is::Unconnected, line)?;
        Ok(Act::Open { ipv6, new })
    }

    fn bind(&mut self, actor: usize, line: &mut Line<'_>) -> Result<Act, Fault> {
        let word = line.need("an address such as 127.0.0.1:8000, or a socket")?;
        if is_address(&word) {
            let address = socket_address(&word)?;
            let new = self.new_socket(actor, Is::Unconnected, line)?;
            return Ok(Act::Bind(Subject::New(new), address));
        }
        let one = &[Is::Unconnected, Is::Listening, Is::Connected];
        let socket = self.names.open_socket(&word, actor, one, "one socket")?;
        line.demand("to")?;
        let address = socket_address(&line.need("an address")?)?;
        Ok(Act::Bind(Subject::Known(socket), address))
    }

    fn listen(&mut self, actor: usize, line: &mut Line<'_>) -> Result<Act, Fault> {
        // As reports say it.
        line.eat("on");
        let word = line.need("an address such as 127.0.0.1:8000, or a socket")?;
        if is_address(&word) {
            let address = socket_address(&word)?;
            let new = self.new_socket(actor, Is::Listening, line)?;
            return Ok(Act::Listen(Subject::New(new), Some(address)));
        }
        let one = &[Is::Unconnected, Is::Listening, Is::Connected];
        let socket = self.names.open_socket(&word, actor, one, "one socket")?;
        if self.names.is(socket) == Is::Unconnected {
            self.names.becomes(socket, Is::Listening);
        }
        Ok(Act::Listen(Subject::Known(socket), None))
    }

    fn connect(&mut self, actor: usize, line: &mut Line<'_>) -> Result<Act, Fault> {
        let word = line.need("an address such as 127.0.0.1:8000, or a socket")?;
        if is_address(&word) {
            let address = socket_address(&word)?;
            if let Some(count) = times(line)? {
                let new = self.new_socket(actor, Is::Many, line)?;
                return Ok(Act::ConnectMany {
                    address,
                    count,
                    new,
                });
            }
            let new = self.new_socket(actor, Is::Connected, line)?;
            return Ok(Act::Connect(Subject::New(new), address));
        }
        let one = &[Is::Unconnected, Is::Listening, Is::Connected];
        let socket = self.names.open_socket(&word, actor, one, "one socket")?;
        line.demand("to")?;
        let address = socket_address(&line.need("an address")?)?;
        self.names.becomes(socket, Is::Connected);
        Ok(Act::Connect(Subject::Known(socket), address))
    }

    fn accept(&mut self, actor: usize, line: &mut Line<'_>) -> Result<Act, Fault> {
        let word = line.need("a listener")?;
        let listener = self
            .names
            .open_socket(&word, actor, &[Is::Listening], "a listener")?;
        if let Some(count) = times(line)? {
            let name = name(line)?;
            let socket = self
                .names
                .open(name.as_ref(), actor, Is::Many, self.number)?;
            return Ok(Act::AcceptMany {
                listener,
                count,
                socket,
            });
        }
        let name = name(line)?;
        let socket = self
            .names
            .open(name.as_ref(), actor, Is::Connected, self.number)?;
        Ok(Act::Accept { listener, socket })
    }

    fn close(&mut self, actor: usize, line: &mut Line<'_>) -> Result<Act, Fault> {
        let word = line.need("a socket")?;
        let any = &[Is::Unconnected, Is::Listening, Is::Connected, Is::Many];
        let socket = self.names.open_socket(&word, actor, any, "a socket")?;
        self.names.close(socket, self.number);
        Ok(match self.names.is(socket) {
            Is::Many => Act::CloseMany(socket),
            Is::Unconnected | Is::Listening | Is::Connected | Is::Unclear => Act::Close(socket),
        })
    }

    fn shutdown(&mut self, actor: usize, line: &mut Line<'_>) -> Result<Act, Fault> {
        let reading = line.eat("reading");
        if reading || line.eat("writing") {
            line.demand("of")?;
        }
        let word = line.need("a socket")?;
        let wanted = &[Is::Listening, Is::Connected];
        let what = "a connection or a listener";
        let socket = self.names.open_socket(&word, actor, wanted, what)?;
        Ok(Act::Shutdown { socket, reading })
    }

    fn write(&mut self, actor: usize, line: &mut Line<'_>) -> Result<Act, Fault> {
        let word = line.need("a number of bytes")?;
        let bytes = number(&word, "a number of bytes")?;
        if bytes == 0 || bytes > MOST_BYTES {
            return Err(Fault::new(word.at, "1 to 1048576 bytes can be written"));
        }
        if !line.eat("byte") {
            line.demand("bytes")?;
        }
        line.demand("to")?;
        let socket = self.connected(actor, line)?;
        let hold = line.eat("and");
        if hold {
            line.demand("hold")?;
        }
        Ok(Act::Write {
            socket,
            bytes,
            hold,
        })
    }

    /// The next word: an open connection of this actor.
    fn connected(&mut self, actor: usize, line: &mut Line<'_>) -> Result<usize, Fault> {
        let word = line.need("a socket")?;
        let wanted = &[Is::Connected];
        self.names
            .open_socket(&word, actor, wanted, "one end of a connection")
    }

    /// `with OPTIONS as NAME`, each of which may be left out.
    fn new_socket(&mut self, actor: usize, is: Is, line: &mut Line<'_>) -> Result<New, Fault> {
        let before = name(line)?;
        let options = if line.eat("with") {
            options(line)?
        } else {
            Options::NONE
        };
        let name = match before {
            Some(name) => Some(name),
            None => name(line)?,
        };
        let socket = self.names.open(name.as_ref(), actor, is, self.number)?;
        Ok(New { socket, options })
    }
}

/// `as NAME`
fn name<'s>(line: &mut Line<'s>) -> Result<Option<Word<'s>>, Fault> {
    if !line.eat("as") {
        return Ok(None);
    }
    line.need("a name for the socket").map(Some)
}

/// `N times`
fn times(line: &mut Line<'_>) -> Result<Option<u32>, Fault> {
    let Some(word) = line
        .peek()
        .filter(|word| word.text.starts_with(|one: char| one.is_ascii_digit()))
        .cloned()
    else {
        return Ok(None);
    };
    line.take();
    let count = number(&word, "a number of times")?;
    if count == 0 || count > MOST_SOCKETS {
        let wrong = format!("1 to {MOST_SOCKETS} sockets can be opened at once");
        return Err(Fault::new(word.at, wrong));
    }
    line.demand("times")?;
    Ok(Some(count))
}

/// Names of sockets have neither dots nor colons, and begin with a letter.
fn is_address(word: &Word<'_>) -> bool {
    word.text.contains(['.', ':', '[']) || word.text.starts_with(|one: char| one.is_ascii_digit())
}
