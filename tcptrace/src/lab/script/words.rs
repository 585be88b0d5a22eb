//! Owns the words of a line of the script, each with its place in the file.

use std::ops::Range;

use super::fault::Fault;

/// A word, a comma, or a text in quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word<'s> {
    /// Without the quotes.
    pub(super) text: &'s str,
    /// Where, in bytes of the file.
    pub(super) at: Range<usize>,
    /// It is in quotes.
    pub(super) quoted: bool,
}

/// The words of a line, read from left to right.
pub(super) struct Line<'s> {
    source: &'s str,
    /// Where the line begins, and where its last word ends.
    pub(super) at: Range<usize>,
    words: Vec<Word<'s>>,
    next: usize,
}

impl<'s> Line<'s> {
    /// The line at this place in the file.
    pub(super) fn new(source: &'s str, at: Range<usize>) -> Result<Self, Fault> {
        let words = split(source, at.clone())?;
        let begin = words.first().map_or(at.start, |word| word.at.start);
        let end = words.last().map_or(begin, |word| word.at.end);
        Ok(Self {
            source,
            at: begin..end,
            words,
            next: 0,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The words from `from` (a byte of the file) to the last one that has been read, as they stand there.
    pub(super) fn read_since(&self, from: usize) -> &'s str {
        let end = self.next.checked_sub(1).map_or(from, |last| {
            let word = &self.words[last];
            word.at.end
        });
        &self.source[from..end.max(from)]
    }

    /// Where the first word after this byte of the file begins.
    pub(super) fn begin_after(&self, byte: usize) -> usize {
        let mut words = self.words.iter().map(|word| word.at.start);
        words.find(|start| *start >= byte).unwrap_or(byte)
    }

    /// The next word, which stays the next one.
    pub(super) fn peek(&self) -> Option<&Word<'s>> {
        self.words.get(self.next)
    }

    /// The next word.
    pub(super) fn take(&mut self) -> Option<Word<'s>> {
        let word = self.words.get(self.next).cloned();
        self.next += usize::from(word.is_some());
        word
    }

    /// The next word, which is to be `what`.
    pub(super) fn need(&mut self, what: &str) -> Result<Word<'s>, Fault> {
        match self.take() {
            Some(word) if word.text != "," && !word.quoted => Ok(word),
            Some(word) => Err(Fault::new(word.at, format!("here should be {what}"))),
            None => Err(self.missing(what)),
        }
    }

    /// Reads the next word if it is this one.
    pub(super) fn eat(&mut self, text: &str) -> bool {
        let is_it = self
            .peek()
            .is_some_and(|word| word.text == text && !word.quoted);
        self.next += usize::from(is_it);
        is_it
    }

    /// Reads these words, which have to come now.
    pub(super) fn demand(&mut self, text: &str) -> Result<(), Fault> {
        let example = format!("`{text}`");
        for one in text.split(' ') {
            if !self.eat(one) {
                return Err(match self.take() {
                    Some(word) => Fault::new(word.at, format!("here should be {example}")),
                    None => self.missing(&example),
                });
            }
        }
        Ok(())
    }

    /// All that is left of the line, as it stands there.
    pub(super) fn rest(&mut self) -> Option<&'s str> {
        let first = self.peek()?.at.start;
        self.next = self.words.len();
        Some(&self.source[first..self.at.end])
    }

    /// Something is missing at the end of the line.
    pub(super) fn missing(&self, what: &str) -> Fault {
        Fault::new(
            self.at.end..self.at.end,
            format!("the line ends where {what} should be"),
        )
    }

    /// The word after `as`, wherever it is, of a line that is wrong otherwise.
    pub(super) fn name_given(&self) -> Option<&Word<'s>> {
        let place = self.words.iter().position(|word| word.text == "as")?;
        self.words.get(place + 1)
    }
}

/// Words are between white space; a comma at a word's end is one of its own, a colon at the end of the first
/// one ends that. What follows a `#` is a comment.
fn split(source: &str, at: Range<usize>) -> Result<Vec<Word<'_>>, Fault> {
    let mut words = Vec::new();
    let mut from = at.start;
    loop {
        let rest = &source[from..at.end];
        from += rest.len() - rest.trim_start().len();
        let rest = rest.trim_start();
        if rest.is_empty() || rest.starts_with('#') {
            return Ok(words);
        }
        if let Some(inside) = rest.strip_prefix('"') {
            let Some(length) = inside.find('"') else {
                return Err(
                    Fault::new(from..at.end, "this text has no end").rather("end it with \"")
                );
            };
            words.push(Word {
                text: &inside[..length],
                at: from..from + length + 2,
                quoted: true,
            });
            from += length + 2;
            continue;
        }
        let mut length = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let one = &rest[..length];
        if words.is_empty()
            && let Some(colon) = one.find(':')
        {
            length = colon + 1;
        } else if let Some(word) = one.strip_suffix(',')
            && !word.is_empty()
        {
            length = word.len();
        }
        words.push(Word {
            text: &rest[..length],
            at: from..from + length,
            quoted: false,
        });
        from += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<&str> {
        split(line, 0..line.len())
            .unwrap()
            .iter()
            .map(|word| word.text)
            .collect()
    }

    #[test]
    fn a_line_is_split_at_white_space_commas_and_the_first_colon() {
        assert_eq!(
            texts("  server:bind [::1]:8000  expect ok on 6.14+, else EADDRINUSE # why"),
            [
                "server:",
                "bind",
                "[::1]:8000",
                "expect",
                "ok",
                "on",
                "6.14+",
                ",",
                "else",
                "EADDRINUSE"
            ]
        );
        assert_eq!(texts(r#"pass 2s "a # in it""#), ["pass", "2s", "a # in it"]);
        assert_eq!(texts("   # nothing"), [""; 0]);
    }

    #[test]
    fn words_know_where_they_are() {
        let source = "x\n  pass 2s\n";
        let line = Line::new(source, 2..11).unwrap();
        assert_eq!(line.at, 4..11);
        let at: Vec<_> = line.words.iter().map(|word| word.at.clone()).collect();
        assert_eq!(at, [4..8, 9..11]);
    }

    #[test]
    fn a_text_has_to_end() {
        assert_eq!(
            split("pass \"x", 0..7),
            Err(Fault::new(5..7, "this text has no end").rather("end it with \""))
        );
    }
}
