//! What can be measured, and how it is written.

use super::{
    super::{
        fault::Fault,
        names::Is,
        program::{Kind, OfEnd, OfFailure, OfHolder, Quantity},
        words::{Line, Word},
    },
    Reader,
    values::{port, remedy, state},
};

/// What is measured of something that is not `of` anything.
const ALONE: [&str; 4] = ["sockets", "counter", "sysctl", "remedy"];
/// Of any socket, beside what only connections have.
const OF_SOCKET: [&str; 3] = ["port", "address", "size"];

impl Reader<'_> {
    /// What is measured, and what kind of value that is.
    pub(super) fn quantity(&mut self, line: &mut Line<'_>) -> Result<(Quantity, Kind), Fault> {
        let word = line.need("what is measured")?;
        match word.text {
            "sockets" => {
                line.demand("on port")?;
                let port = port(line)?;
                line.demand("in")?;
                let state = state(&line.need("a state")?)?;
                Ok((Quantity::Sockets { port, state }, Kind::Count))
            }
            "counter" => {
                let word = line.need("a counter such as TcpExt.TCPTimeWaitOverflow")?;
                let Some((group, name)) = word.text.split_once('.') else {
                    let wrong = format!("{} has no group", word.text);
                    let right = "such as TcpExt.TCPTimeWaitOverflow, of /proc/net/netstat and snmp";
                    return Err(Fault::new(word.at, wrong).rather(right));
                };
                let (group, name) = (group.to_owned(), name.to_owned());
                Ok((Quantity::Counter { group, name }, Kind::Count))
            }
            "sysctl" => {
                let name = super::sysctl_name(&line.need("the name of a sysctl")?)?;
                Ok((Quantity::Sysctl(name), Kind::Text))
            }
            "remedy" => {
                let remedy = remedy(&line.need("a remedy such as reuseaddr_on_both")?)?;
                line.demand("of failure")?;
                self.after_a_failure(&word)?;
                Ok((Quantity::Remedy(remedy), Kind::Fact))
            }
            _ => self.of_something(&word, line),
        }
    }

    fn of_something(
        &mut self,
        what: &Word<'_>,
        line: &mut Line<'_>,
    ) -> Result<(Quantity, Kind), Fault> {
        if !known().any(|known| known == what.text) {
            let wrong = format!("nothing that can be measured is called {}", what.text);
            return Err(Fault::new(what.at.clone(), wrong).meant(what.text, known()));
        }
        line.demand("of")?;
        let whose = line.need("a socket, `failure` or `holder`")?;
        let not_its = |all: Vec<&str>| {
            let wrong = format!("{} has no {}", whose.text, what.text);
            Fault::new(what.at.clone(), wrong).rather(format!("it has: {}", all.join(", ")))
        };
        match whose.text {
            "failure" => {
                self.after_a_failure(&whose)?;
                let found = OfFailure::ALL.iter().find(|one| one.name() == what.text);
                let one = found.ok_or_else(|| {
                    let all = OfFailure::ALL.iter().map(|one| one.name());
                    not_its(all.chain(["remedy"]).collect())
                })?;
                Ok((Quantity::OfFailure(*one), one.kind()))
            }
            "holder" => {
                self.after_a_failure(&whose)?;
                let found = OfHolder::ALL.iter().find(|one| one.name() == what.text);
                let one = found
                    .ok_or_else(|| not_its(OfHolder::ALL.iter().map(|one| one.name()).collect()))?;
                Ok((Quantity::OfHolder(*one), one.kind()))
            }
            _ => self.of_socket(what, &whose, &not_its),
        }
    }

    fn of_socket(
        &self,
        what: &Word<'_>,
        whose: &Word<'_>,
        not_its: &dyn Fn(Vec<&str>) -> Fault,
    ) -> Result<(Quantity, Kind), Fault> {
        let socket = self.names.socket(whose)?;
        let single = &[Is::Unconnected, Is::Listening, Is::Connected];
        match what.text {
            "port" => {
                self.names.must_be(socket, whose, single, "one socket")?;
                Ok((Quantity::Port(socket), Kind::Count))
            }
            "address" => {
                self.names.must_be(socket, whose, single, "one socket")?;
                Ok((Quantity::Address(socket), Kind::Text))
            }
            "size" => {
                self.names
                    .must_be(socket, whose, &[Is::Many], "several sockets")?;
                Ok((Quantity::Size(socket), Kind::Count))
            }
            _ => {
                let found = OfEnd::ALL.iter().find(|one| one.name() == what.text);
                let one = found.ok_or_else(|| {
                    let all = OfEnd::ALL.iter().map(|one| one.name());
                    not_its(all.chain(["port", "address"]).collect())
                })?;
                self.names.end_of_connection(whose)?;
                Ok((Quantity::OfEnd(socket, *one), one.kind()))
            }
        }
    }

    /// Fails unless a call that may have failed came before.
    fn after_a_failure(&self, word: &Word<'_>) -> Result<(), Fault> {
        if self.may_have_failed {
            return Ok(());
        }
        let fault = Fault::new(word.at.clone(), "no call before this line may fail");
        Err(fault.rather("a bind, listen or connect with, for example: claim EADDRINUSE"))
    }
}

/// All that can be measured.
fn known() -> impl Iterator<Item = &'static str> {
    let of_end = OfEnd::ALL.iter().map(|one| one.name());
    let of_failure = OfFailure::ALL.iter().map(|one| one.name());
    let of_holder = OfHolder::ALL.iter().map(|one| one.name());
    of_end
        .chain(of_failure)
        .chain(of_holder)
        .chain(OF_SOCKET)
        .chain(ALONE)
}
