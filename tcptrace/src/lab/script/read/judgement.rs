//! What a line says of its result: `claim`, `control`, `expect`.

use super::{
    super::{
        fault::Fault,
        program::{Judgement, Kind, Since, Wanted},
        words::{Line, Word},
    },
    values::{number, time, value, what},
};
use crate::lab::value::{Expected, Value};

const WORDS: [&str; 3] = ["claim", "control", "expect"];

/// All that is left of a line: an optional name for its result, and what is said of that. `kind` is `None` for
/// what has no result.
pub(super) fn judgement<'s>(
    kind: Option<Kind>,
    line: &mut Line<'s>,
) -> Result<(Option<&'s str>, Option<Judgement>), Fault> {
    let mut name = None;
    if let Some(word) = line.peek().filter(|word| word.quoted) {
        name = Some(word.text);
        line.take();
    }
    let mut claimed = None;
    let mut expected = Vec::new();
    while let Some(word) = line.take() {
        if !WORDS.contains(&word.text) || word.quoted {
            let fault = Fault::new(word.at, format!("{} is not understood here", word.text));
            return Err(fault.meant(word.text, WORDS));
        }
        let Some(kind) = kind else {
            let fault = Fault::new(word.at, "this line has no result");
            return Err(fault.rather("calls that may fail have one, and `measure`"));
        };
        if word.text == "expect" {
            once(&word, expected.is_empty())?;
            expected = by_version(kind, line)?;
        } else {
            once(&word, claimed.is_none())?;
            claimed = Some((wanted(kind, line)?, word.text == "claim"));
        }
    }
    if claimed.is_none() && expected.is_empty() {
        return match name {
            Some(_) => Err(line.missing("`claim`, `control` or `expect`")),
            None => Ok((None, None)),
        };
    }
    Ok((name, Some(Judgement { claimed, expected })))
}

fn once(word: &Word<'_>, is_first: bool) -> Result<(), Fault> {
    if is_first {
        return Ok(());
    }
    let fault = Fault::new(word.at.clone(), "this line has said that already");
    Err(fault.rather("one claim or control, and one expect"))
}

/// `E on 6.14+, E on 6.1+, else E`; or one for all.
fn by_version(kind: Kind, line: &mut Line<'_>) -> Result<Vec<(Since, Wanted)>, Fault> {
    let mut all: Vec<(Since, Wanted)> = Vec::new();
    loop {
        let is_last = !all.is_empty() && line.eat("else");
        let what = wanted(kind, line)?;
        if is_last || (all.is_empty() && line.peek().is_none_or(|word| word.text != "on")) {
            all.push((None, what));
            return Ok(all);
        }
        line.demand("on")?;
        let word = line.need("a version such as 6.14+")?;
        let since = version(&word)?;
        if let Some((Some(before), _)) = all.last()
            && *before <= since
        {
            let (major, minor) = before;
            return Err(Fault::new(
                word.at,
                format!("{} is not older than {major}.{minor}", word.text),
            )
            .rather("the first that fits counts: newest first"));
        }
        all.push((Some(since), what));
        if !line.eat(",") {
            return Err(line
                .missing("what older kernels do")
                .rather("a comma, and such as: else EADDRNOTAVAIL"));
        }
    }
}

fn version(word: &Word<'_>) -> Result<(u16, u16), Fault> {
    let numbers = word.text.strip_suffix('+').and_then(|text| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    numbers.ok_or_else(|| {
        Fault::new(
            word.at.clone(),
            format!("{} is not a kernel version", word.text),
        )
        .rather("such as 6.14+, which is 6.14 and later")
    })
}

/// What a value is to be.
fn wanted(kind: Kind, line: &mut Line<'_>) -> Result<Wanted, Fault> {
    let Some(first) = line.peek().cloned() else {
        return Err(line.missing(what(kind)));
    };
    let misplaced = |right: &str| Err(Fault::new(first.at.clone(), "not for this").rather(right));
    match (first.text, kind) {
        ("between", Kind::Time) => {
            line.take();
            let from = time(&line.need("a time")?)?;
            line.demand("and")?;
            let word = line.need("a time")?;
            let to = time(&word)?;
            if to < from {
                return Err(Fault::new(word.at, "this is the shorter of the two"));
            }
            Ok(Wanted::Plain(Expected::between(from, to)))
        }
        ("timer", Kind::Time) => {
            line.take();
            Ok(Wanted::Timer(time(&line.need("a time")?)?))
        }
        ("at", Kind::Count) => {
            line.take();
            let word = line.need("`at least` or `at most`")?;
            let bound: fn(u64) -> Expected = match word.text {
                "least" => Expected::AtLeast,
                "most" => Expected::AtMost,
                _ => {
                    let wrong = "here should be `at least` or `at most`";
                    return Err(Fault::new(word.at, wrong));
                }
            };
            let count = number(&line.need("a number")?, "a number")?;
            Ok(Wanted::Plain(bound(count)))
        }
        ("between" | "timer", _) => misplaced("that is for times"),
        ("at", Kind::Time) => misplaced("a time is expected like this: between 60s and 65s"),
        ("at", _) => misplaced("that is for numbers"),
        _ => {
            let mut values: Vec<Value> = vec![value(kind, line)?];
            while line.eat("or") {
                values.push(value(kind, line)?);
            }
            Ok(Wanted::Plain(match values.len() {
                1 => Expected::Is(values.remove(0)),
                _ => Expected::OneOf(values),
            }))
        }
    }
}
