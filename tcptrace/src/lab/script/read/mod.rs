//! Reads the lines of a script and checks each in the light of those before it. A line is dispatched here; what
//! actors do (`acts`), what is measured (`measure`), what is said of a result (`judgement`) and how values are
//! written (`values`) have files of their own. A new kind of line is an arm of [`Reader::action`], an
//! [`Action`] and an arm of the player.

mod acts;
mod judgement;
mod measure;
mod values;

use std::ops::Range;

use self::{
    acts::LONGEST_PASS,
    judgement::judgement,
    values::{number, port, state, time},
};
use super::{
    fault::{Fault, line_of},
    names::Names,
    program::{Act, Action, Judgement, Kind, Program, Step, Wanted},
    words::{Line, Word},
};
use crate::lab::value::{Expected, Value};

/// What a line begins with, if not with an actor.
const WORDS: [&str; 6] = ["wait", "measure", "pass", "sysctl", "address", "show"];

/// Reads scripts.
struct Reader<'s> {
    source: &'s str,
    names: Names,
    steps: Vec<Step>,
    /// Names of actors that values are compared with, and where.
    mentioned: Vec<Mention>,
    /// A line before this one has a bind(), listen() or connect() that may fail.
    may_have_failed: bool,
    /// The number of this line.
    number: usize,
}

struct Mention {
    name: String,
    at: Range<usize>,
}

/// The script at these places of the file, a line each.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn read(
    source: &str,
    lines: impl IntoIterator<Item = Range<usize>>,
) -> Result<Program, Vec<Fault>> {
    let mut reader = Reader {
        source,
        names: Names::default(),
        steps: Vec::new(),
        mentioned: Vec::new(),
        may_have_failed: false,
        number: 0,
    };
    let mut faults = Vec::new();
    for at in lines {
        reader.number = line_of(source, at.start);
        match Line::new(source, at) {
            Ok(line) if line.is_empty() => {}
            Ok(mut line) => {
                if let Err(fault) = reader.line(&mut line) {
                    faults.push(fault);
                    // What it would have named is not unknown, and what it would have tried may have failed.
                    if let Some(name) = line.name_given() {
                        reader.names.assume(name, reader.number);
                    }
                    reader.may_have_failed = true;
                }
            }
            Err(fault) => faults.push(fault),
        }
    }
    for Mention { name, at } in &reader.mentioned {
        if !reader.names.actors().any(|actor| actor == name) && name != "unknown" {
            let fault = Fault::new(at.clone(), format!("no actor is called {name}"));
            faults.push(fault.meant(name, reader.names.actors()));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut program = Program {
        lines: reader.steps,
        ..Program::default()
    };
    reader.names.put_into(&mut program);
    Ok(program)
}

impl Reader<'_> {
    fn line(&mut self, line: &mut Line<'_>) -> Result<(), Fault> {
        let first = line.need("a word")?;
        let (action, kind) = match first.text.strip_suffix(':') {
            Some(name) => {
                let word = Word {
                    text: name,
                    at: first.at.start..first.at.end - 1,
                    quoted: false,
                };
                let actor = self.names.actor(&word)?;
                self.act(actor, line)?
            }
            None => self.action(&first, line)?,
        };
        let is_measure = matches!(action, Action::Measure(_));
        let from = if is_measure {
            line.begin_after(first.at.end)
        } else {
            first.at.start
        };
        let what = line.read_since(from).to_owned();
        let rest = line.peek().map_or(line.at.end, |word| word.at.start);
        let (name, judgement) = judgement(kind, line)?;
        if is_measure && judgement.is_none() {
            return Err(line
                .missing("`claim`, `control` or `expect`")
                .rather("what is measured is compared with something"));
        }
        if kind == Some(Kind::Actor) {
            self.mention(judgement.as_ref(), rest..line.at.end);
        }
        if matches!(
            action,
            Action::Act(
                _,
                Act::Bind(..) | Act::Listen(..) | Act::Connect(..) | Act::ConnectMany { .. }
            )
        ) && judgement.is_some()
        {
            self.may_have_failed = true;
        }
        self.steps.push(Step {
            line: self.number,
            what: name.map_or(what, str::to_owned),
            action,
            judgement,
        });
        Ok(())
    }

    /// What a line does that no actor does.
    fn action(
        &mut self,
        first: &Word<'_>,
        line: &mut Line<'_>,
    ) -> Result<(Action, Option<Kind>), Fault> {
        let action = match first.text {
            "wait" => self.wait(line)?,
            "measure" => {
                let (quantity, kind) = self.quantity(line)?;
                return Ok((Action::Measure(quantity), Some(kind)));
            }
            "pass" => {
                let word = line.need("a time such as 2s")?;
                let time = time(&word)?;
                if time > LONGEST_PASS {
                    let wrong = format!("{} is longer than the lab waits", word.text);
                    return Err(Fault::new(word.at, wrong).rather("10min at most"));
                }
                Action::Pass(time)
            }
            "sysctl" => {
                let name = sysctl_name(&line.need("the name of a sysctl")?)?;
                line.demand("=")?;
                let value = line.rest().ok_or_else(|| line.missing("a value"))?;
                let value = value.to_owned();
                Action::Sysctl { name, value }
            }
            "address" => {
                let word = line.need("an address")?;
                let address = word.text.parse().map_err(|_| {
                    Fault::new(word.at.clone(), format!("{} is not an address", word.text))
                        .rather("such as 10.7.0.1 or fd00::1, without a port")
                })?;
                Action::Address(address)
            }
            "show" => {
                line.demand("story of")?;
                let word = line.need("a socket")?;
                Action::ShowStory(self.names.end_of_connection(&word)?)
            }
            _ => {
                let wrong = format!("no line begins with {}", first.text);
                let fault = Fault::new(first.at.clone(), wrong);
                return Err(match line.peek().map(|word| word.text) {
                    Some("bind" | "listen" | "connect" | "accept" | "close") => {
                        fault.rather(format!("an actor has a colon: {}:", first.text))
                    }
                    _ => fault.meant(first.text, WORDS.into_iter().chain(["ACTOR:"])),
                });
            }
        };
        Ok((action, None))
    }

    /// `wait SOCKET in STATE`, `wait N sockets on port P in STATE`
    fn wait(&mut self, line: &mut Line<'_>) -> Result<Action, Fault> {
        let word = line.need("a socket, or a number of sockets")?;
        if word.text.starts_with(|one: char| one.is_ascii_digit()) {
            let count = number(&word, "a number of sockets")?;
            if !line.eat("socket") {
                line.demand("sockets")?;
            }
            line.demand("on port")?;
            let port = port(line)?;
            line.demand("in")?;
            let state = state(&line.need("a state")?)?;
            return Ok(Action::AwaitSockets { count, port, state });
        }
        let socket = self.names.end_of_connection(&word)?;
        line.demand("in")?;
        let state = state(&line.need("a state")?)?;
        Ok(Action::AwaitState { socket, state })
    }

    /// Names of actors in expectations are looked up when all actors are known.
    fn mention(&mut self, judgement: Option<&Judgement>, at: Range<usize>) {
        let Some(Judgement { claimed, expected }) = judgement else {
            return;
        };
        let wanted = claimed
            .iter()
            .map(|(wanted, _)| wanted)
            .chain(expected.iter().map(|(_, wanted)| wanted));
        for wanted in wanted {
            let values: &[Value] = match wanted {
                Wanted::Plain(Expected::Is(value)) => std::slice::from_ref(value),
                Wanted::Plain(Expected::OneOf(values)) => values,
                Wanted::Plain(
                    Expected::Between(..) | Expected::AtLeast(_) | Expected::AtMost(_),
                )
                | Wanted::Timer(_) => &[],
            };
            for value in values {
                if let Value::Word(name) = value {
                    let place = self.source[at.clone()].find(name.as_str()).unwrap_or(0);
                    let begin = at.start + place;
                    self.mentioned.push(Mention {
                        name: name.clone(),
                        at: begin..begin + name.len(),
                    });
                }
            }
        }
    }
}

/// The name of a sysctl that each network namespace has for itself.
pub(super) fn sysctl_name(word: &Word<'_>) -> Result<String, Fault> {
    let is_name = word
        .text
        .chars()
        .all(|one| one.is_ascii_alphanumeric() || matches!(one, '.' | '_' | '-'));
    if !is_name || !word.text.starts_with("net.") {
        let wrong = format!("{} is no sysctl of a network namespace", word.text);
        return Err(Fault::new(word.at.clone(), wrong).rather("such as net.ipv4.tcp_tw_reuse"));
    }
    Ok(word.text.to_owned())
}
