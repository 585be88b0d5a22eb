//! Owns the escaping of names that others chose: whatever a process calls itself, it cannot write to
//! the terminal.

use std::fmt::Write;

/// `bytes` as text: printable UTF-8 stays as it is; control characters, bytes that are not UTF-8,
/// characters that turn the direction of text around and the backslash become `\xNN` or `\u{…}`.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                ' '..='~' => text.push(character),
                '\0'..='\u{9f}' => push_byte(&mut text, u32::from(character)),
                _ if is_invisible(character) => {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "\\u{{{:x}}}", u32::from(character));
                }
                _ => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            push_byte(&mut text, u32::from(*byte));
        }
    }
    text
}

fn push_byte(text: &mut String, byte: u32) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\\x{byte:02x}");
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
}
