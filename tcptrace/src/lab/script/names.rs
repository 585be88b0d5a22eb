//! Owns the names of a script: which actors and sockets there are at a line, and what may be done with them.

use super::{fault::Fault, program::Program, words::Word};

/// Words that would be misread as names.
const RESERVED: [&str; 17] = [
    "failure", "holder", "as", "with", "on", "of", "in", "to", "from", "and", "or", "times",
    "claim", "control", "expect", "writing", "reading",
];
/// `TASK_COMM_LEN` of include/linux/sched.h (v6.18), without the NUL.
const LONGEST_NAME: usize = 15;

/// The actors and sockets so far.
#[derive(Default)]
pub(super) struct Names {
    actors: Vec<Actor>,
    sockets: Vec<Socket>,
}

struct Actor {
    name: String,
    /// The line in which it ended.
    ended: Option<usize>,
}

struct Socket {
    /// `None` for one that the script gave no name.
    name: Option<String>,
    actor: usize,
    is: Is,
    /// The line that opened it.
    line: usize,
    /// The line that closed it.
    closed: Option<usize>,
}

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Is {
    /// Opened or bound, not more.
    Unconnected,
    Listening,
    Connected,
    /// Several at once.
    Many,
    /// The line that opened it could not be understood.
    Unclear,
}

impl Names {
    /// The actor with this name; a new one if there is none.
    pub(super) fn actor(&mut self, word: &Word<'_>) -> Result<usize, Fault> {
        let name = word.text;
        if let Some(index) = self.actors.iter().position(|actor| actor.name == name) {
            if let Some(line) = self.actors[index].ended {
                return Err(Fault::new(
                    word.at.clone(),
                    format!("the process of {name} ended in line {line}"),
                )
                .rather("a new process has a name of its own"));
            }
            return Ok(index);
        }
        is_name(word)?;
        if name.len() > LONGEST_NAME {
            return Err(
                Fault::new(word.at.clone(), format!("{name} has {} bytes", name.len())).rather(
                    format!("the kernel keeps {LONGEST_NAME} of a process's name"),
                ),
            );
        }
        self.actors.push(Actor {
            name: name.to_owned(),
            ended: None,
        });
        Ok(self.actors.len() - 1)
    }

    /// The actor's process ends in this line.
    pub(super) fn end(&mut self, actor: usize, line: usize) {
        self.actors[actor].ended = Some(line);
    }

    /// A new socket of an actor.
    pub(super) fn open(
        &mut self,
        name: Option<&Word<'_>>,
        actor: usize,
        is: Is,
        line: usize,
    ) -> Result<usize, Fault> {
        if let Some(word) = name {
            is_name(word)?;
            let same = |socket: &&Socket| socket.name.as_deref() == Some(word.text);
            if let Some(other) = self.sockets.iter().find(same) {
                return Err(Fault::new(
                    word.at.clone(),
                    format!(
                        "{} is the name of the socket of line {}",
                        word.text, other.line
                    ),
                )
                .rather("each has a name of its own"));
            }
        }
        self.sockets.push(Socket {
            name: name.map(|word| word.text.to_owned()),
            actor,
            is,
            line,
            closed: None,
        });
        Ok(self.sockets.len() - 1)
    }

    /// A socket that a line would have opened if it could be understood, so that later lines are not blamed.
    pub(super) fn assume(&mut self, name: &Word<'_>, line: usize) {
        // Whose it is does not matter: see `is`.
        let _ = self.open(Some(name), usize::MAX, Is::Unclear, line);
    }

    /// A socket to look at; it may be closed.
    pub(super) fn socket(&self, word: &Word<'_>) -> Result<usize, Fault> {
        let found = self
            .sockets
            .iter()
            .position(|socket| socket.name.as_deref() == Some(word.text));
        found.ok_or_else(|| {
            let known = self
                .sockets
                .iter()
                .filter_map(|socket| socket.name.as_deref());
            let fault = Fault::new(
                word.at.clone(),
                format!("no socket is called {} so far", word.text),
            );
            if self.actors.iter().any(|actor| actor.name == word.text) {
                return fault.rather("that is an actor; sockets get their names by `as NAME`");
            }
            fault.meant(word.text, known)
        })
    }

    /// A socket that this actor has open, and is one of these.
    pub(super) fn open_socket(
        &self,
        word: &Word<'_>,
        actor: usize,
        wanted: &[Is],
        what: &str,
    ) -> Result<usize, Fault> {
        let index = self.socket(word)?;
        let socket = &self.sockets[index];
        if socket.is == Is::Unclear {
            return Ok(index);
        }
        if socket.actor != actor {
            let owner = &self.actors[socket.actor].name;
            return Err(Fault::new(
                word.at.clone(),
                format!(
                    "{} is a socket of {owner}, not of {}",
                    word.text, self.actors[actor].name
                ),
            )
            .rather(format!("{owner}: …")));
        }
        if let Some(line) = socket.closed {
            return Err(Fault::new(
                word.at.clone(),
                format!("{} was closed in line {line}", word.text),
            ));
        }
        self.must_be(index, word, wanted, what)?;
        Ok(index)
    }

    /// A socket that is or was one end of a connection.
    pub(super) fn end_of_connection(&self, word: &Word<'_>) -> Result<usize, Fault> {
        let index = self.socket(word)?;
        self.must_be(index, word, &[Is::Connected], "one end of a connection")?;
        Ok(index)
    }

    /// Fails unless the socket is one of these.
    pub(super) fn must_be(
        &self,
        index: usize,
        word: &Word<'_>,
        wanted: &[Is],
        what: &str,
    ) -> Result<(), Fault> {
        let is = self.sockets[index].is;
        if is == Is::Unclear || wanted.contains(&is) {
            return Ok(());
        }
        let is = match is {
            Is::Unconnected => "only bound or opened",
            Is::Listening => "a listener",
            Is::Connected => "one end of a connection",
            Is::Many => "several sockets",
            Is::Unclear => "unclear",
        };
        Err(Fault::new(
            word.at.clone(),
            format!("{} is {is}, not {what}", word.text),
        ))
    }

    /// What the socket is.
    pub(super) fn is(&self, socket: usize) -> Is {
        self.sockets[socket].is
    }

    /// From now on, it is this.
    pub(super) fn becomes(&mut self, socket: usize, is: Is) {
        self.sockets[socket].is = is;
    }

    /// It is closed in this line.
    pub(super) fn close(&mut self, socket: usize, line: usize) {
        self.sockets[socket].closed = Some(line);
    }

    /// The names of all actors.
    pub(super) fn actors(&self) -> impl Iterator<Item = &str> {
        self.actors.iter().map(|actor| actor.name.as_str())
    }

    /// Puts what a player has to know of them into the program.
    pub(super) fn put_into(self, program: &mut Program) {
        program.sockets = self.sockets.len();
        program.actors = self.actors.into_iter().map(|actor| actor.name).collect();
    }
}

/// Fails unless it can be a name.
fn is_name(word: &Word<'_>) -> Result<(), Fault> {
    let begins_well = word.text.starts_with(|one: char| one.is_ascii_alphabetic());
    let goes_on_well = word
        .text
        .chars()
        .all(|one| one.is_ascii_alphanumeric() || one == '-' || one == '_');
    if !begins_well || !goes_on_well || word.quoted {
        return Err(
            Fault::new(word.at.clone(), format!("{} cannot be a name", word.text))
                .rather("letters, digits, - and _, a letter first"),
        );
    }
    if RESERVED.contains(&word.text) {
        return Err(Fault::new(
            word.at.clone(),
            format!(
                "{} has a meaning of its own and cannot be a name",
                word.text
            ),
        ));
    }
    Ok(())
}
