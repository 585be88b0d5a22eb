//! Owns the bytes that names, strings and numbers of a line become: few at a time, some hundred times a line.

#![expect(
    clippy::inline_always,
    reason = "what is known of a name or a number is known where it is written"
)]

use std::fmt;

/// Twice as many as are copied at a time.
const FEW: usize = 32;

/// Appends the name of a member, and what follows it. Where the name is a constant, so is the number of bytes, and
/// they are stored without a call; `extend_from_slice` is not always inlined.
#[inline(always)]
pub(super) fn named(out: &mut Vec<u8>, name: &'static str) {
    let (begin, length) = (out.len(), name.len());
    out.reserve(length + 3);
    // SAFETY: there is room for the name and three more bytes, and each of them is written.
    unsafe {
        let to = out.as_mut_ptr().add(begin);
        to.write(b'"');
        to.add(1).copy_from_nonoverlapping(name.as_ptr(), length);
        to.add(1 + length)
            .cast::<[u8; 2]>()
            .write_unaligned(*b"\":");
        out.set_len(begin + length + 3);
    }
}

/// Appends a string in which nothing needs escaping.
#[inline(always)]
pub(super) fn word(out: &mut Vec<u8>, word: &'static str) {
    out.push(b'"');
    raw(out, word);
    out.push(b'"');
}

#[inline(always)]
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escaped(out, text);
    out.push(b'"');
}

#[inline(always)]
fn escaped(out: &mut Vec<u8>, text: &str) {
    if !put_few(out, text.as_bytes(), true) {
        escaped_pieces(out, text.as_bytes());
    }
}

/// What is long, or not plain: nearly all of its pieces are.
#[cold]
fn escaped_pieces(out: &mut Vec<u8>, bytes: &[u8]) {
    for piece in bytes.chunks(FEW) {
        if !put_few(out, piece, true) {
            escaped_each(out, piece);
        }
    }
}

/// Appends what stands for itself, such as the digits of a number.
#[inline(always)]
pub(super) fn raw(out: &mut Vec<u8>, text: &str) {
    if !put_few(out, text.as_bytes(), false) {
        out.extend_from_slice(text.as_bytes());
    }
}

/// Appends [`FEW`] bytes at most. Does nothing and says so if there are more, or one or none, or if they are to be
/// `plain`, and are not.
#[inline(always)]
fn put_few(out: &mut Vec<u8>, bytes: &[u8], plain: bool) -> bool {
    match bytes.len() {
        2..4 => put::<2>(out, bytes, plain),
        4..8 => put::<4>(out, bytes, plain),
        8..16 => put::<8>(out, bytes, plain),
        16..=FEW => put::<16>(out, bytes, plain),
        _ => false,
    }
}

/// Appends bytes, of which there are `N` at least and twice as many at most: the first `N` and the last, which
/// overlap. The copy of a number of bytes that is not known takes longer to begin than these do. Does nothing
/// and says so if they are to be `plain`, and are not.
#[inline(always)]
fn put<const N: usize>(out: &mut Vec<u8>, bytes: &[u8], plain: bool) -> bool {
    let (Some(first), Some(last)) = (bytes.first_chunk::<N>(), bytes.last_chunk::<N>()) else {
        return false;
    };
    if bytes.len() > 2 * N || (plain && !(is_plain(first) && is_plain(last))) {
        return false;
    }
    let begin = out.len();
    out.reserve(bytes.len());
    // SAFETY: there is room for as many bytes as are written, each once at least: `N` from the begin, and `N`
    // to the end, which is so far from there that they lie within and leave nothing out.
    unsafe {
        let to = out.as_mut_ptr().add(begin);
        to.cast::<[u8; N]>().write_unaligned(*first);
        to.add(bytes.len() - N)
            .cast::<[u8; N]>()
            .write_unaligned(*last);
        out.set_len(begin + bytes.len());
    }
    true
}

/// Whether every byte of a string stands for itself: RFC 8259, section 7. Up to eight at a time, since nearly all
/// of a line is names and numbers that do.
#[inline(always)]
fn is_plain<const N: usize>(bytes: &[u8; N]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut special = 0;
    for word in words {
        special |= specials(*word);
    }
    if !rest.is_empty() {
        let mut word = [b' '; 8];
        word[..rest.len()].copy_from_slice(rest);
        special |= specials(word);
    }
    special == 0
}

/// Not 0 if any of the bytes does not stand for itself.
#[inline(always)]
fn specials(bytes: [u8; 8]) -> u64 {
    let word = u64::from_ne_bytes(bytes);
    below(word, b' ') | below(word ^ each(b'"'), 1) | below(word ^ each(b'\\'), 1)
}

/// A word of eight such bytes.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Not 0 if any of the eight bytes is below `limit`, which is at most 128.
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(each(limit)) & !word & each(0x80)
}

fn escaped_each(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\x08' => b'b',
            b'\x0c' => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            ..b' ' => {
                let digit = |half: u8| b"0123456789abcdef"[usize::from(half & 15)];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(byte >> 4), digit(byte)]);
                continue;
            }
            _ => {
                out.push(byte);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
}

/// What is formatted, into a string that has begun.
pub(super) struct Formatted<'a>(pub(super) &'a mut Vec<u8>);

impl fmt::Write for Formatted<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escaped(self.0, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_every_length_are_what_serde_json_writes() {
        for length in 0..=40 {
            let plain: String = ('a'..='z').cycle().take(length).collect();
            let mut texts = vec![plain.clone()];
            for at in 0..length {
                for special in ["\"", "\\", "\n", "\x1f", " ", "\x7f", "ü", "\u{202e}"] {
                    texts.push(format!("{}{special}{}", &plain[..at], &plain[at + 1..]));
                }
            }
            for text in texts {
                let mut out = b"before".to_vec();
                string(&mut out, &text);
                let expected = format!("before{}", serde_json::to_string(&text).unwrap());
                assert_eq!(str::from_utf8(&out).unwrap(), expected);
            }
        }
    }

    #[test]
    fn digits_words_and_names_are_written_whole() {
        for text in (0..=20).map(|length| "1234567890".repeat(2)[..length].to_owned()) {
            let mut out = Vec::new();
            raw(&mut out, &text);
            assert_eq!(str::from_utf8(&out).unwrap(), text);
        }
        let mut out = Vec::new();
        named(&mut out, "in_state_ns");
        word(&mut out, "CLOSE_WAIT");
        assert_eq!(out, br#""in_state_ns":"CLOSE_WAIT""#);
    }
}
