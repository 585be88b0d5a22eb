//! Owns the escaping of names that others chose: whatever a process calls itself, it cannot write to
//! the terminal.

use std::fmt::{self, Display, Formatter, Write};

use serde::{Serialize, Serializer};

/// `bytes` as text: printable UTF-8 stays as it is; control characters, bytes that are not UTF-8,
/// characters that turn the direction of text around and the backslash become `\xNN` or `\u{…}`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Escaped<'a>(pub(super) &'a [u8]);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            let valid = chunk.valid();
            if valid.bytes().all(is_plain) {
                f.write_str(valid)?;
            } else {
                for character in valid.chars() {
                    write_escaped(f, character)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Escaped<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Nearly all names are plain: these need no formatting.
        match str::from_utf8(self.0) {
            Ok(name) if name.bytes().all(is_plain) => serializer.serialize_str(name),
            Ok(_) | Err(_) => serializer.collect_str(self),
        }
    }
}

fn write_escaped(f: &mut Formatter<'_>, character: char) -> fmt::Result {
    match character {
        '\\' => f.write_str("\\\\"),
        ' '..='~' => f.write_char(character),
        '\0'..='\u{9f}' => write!(f, "\\x{:02x}", u32::from(character)),
        _ if is_invisible(character) => write!(f, "\\u{{{:x}}}", u32::from(character)),
        _ => f.write_char(character),
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'\\'
}

/// Zero-width and direction-changing characters, and everything else that shows nothing.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(bytes: &[u8]) -> String {
        Escaped(bytes).to_string()
    }

    #[test]
    fn ordinary_names_stay() {
        assert_eq!(escaped(b"nginx: worker"), "nginx: worker");
        assert_eq!(escaped("größe".as_bytes()), "größe");
        assert_eq!(escaped(b""), "");
    }

    #[test]
    fn hostile_names_cannot_reach_the_terminal() {
        assert_eq!(escaped(b"\x1b[2Jx"), "\\x1b[2Jx");
        assert_eq!(escaped(b"a\nb\x7f"), "a\\x0ab\\x7f");
        assert_eq!(escaped(b"\xff\xfe"), "\\xff\\xfe");
        assert_eq!(escaped("\u{202e}x".as_bytes()), "\\u{202e}x");
        assert_eq!(escaped("\u{9b}2J".as_bytes()), "\\x9b2J");
        assert_eq!(escaped(b"a\\x1b"), "a\\\\x1b");
    }

    #[test]
    fn in_json_they_are_the_same_text() {
        for name in [
            &b"nginx"[..],
            b"a\nb",
            b"\xff",
            b"a\\b\"c",
            "größe".as_bytes(),
        ] {
            let json = serde_json::to_string(&Escaped(name)).unwrap();
            let text: String = serde_json::from_str(&json).unwrap();
            assert_eq!(text, escaped(name));
        }
    }
}
