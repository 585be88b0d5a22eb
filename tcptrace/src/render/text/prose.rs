//! Owns paragraphs: a mark, a bold heading, and sentences that wrap below the heading on a terminal
//! and stay on one line in a pipe.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::Layout;

/// Below this width, wrapping does not help.
const MIN_WIDTH: usize = 40;

/// What a paragraph begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// It is told as it was.
    Plain,
    /// Something of it is not certain.
    Uncertain,
    /// It wants attention.
    Attention,
}

impl Mark {
    fn sign(self) -> char {
        match self {
            Self::Plain => '*',
            Self::Uncertain => '?',
            Self::Attention => '!',
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Uncertain => Style::new().fg_color(Some(AnsiColor::Yellow.into())),
            Self::Attention => Style::new().fg_color(Some(AnsiColor::Red.into())).bold(),
        }
    }
}

/// Adds a paragraph to `out`. What `out` holds of its last line so far (times) stands before it and
/// indents the lines that follow.
pub(super) fn paragraph(out: &mut String, layout: &Layout, mark: Mark, heading: &str, body: &str) {
    let before = out.len() - out.rfind('\n').map_or(0, |newline| newline + 1);
    let indent = before + 2;
    let (style, bold) = if layout.colour {
        (mark.style(), Style::new().bold())
    } else {
        (Style::new(), Style::new())
    };
    let sign = mark.sign();
    // Writing to a String cannot fail.
    let _ = write!(out, "{style}{sign}{style:#} {bold}");
    let column = wrap(out, layout, indent, indent, heading);
    let _ = write!(out, "{bold:#} ");
    // Two spaces set the heading off, unless the next word does not fit there.
    wrap(out, layout, column + 1, indent, &format!(" {body}"));
    out.push('\n');
}

/// Adds `text` to `out`, whose last line has `column` columns, with lines broken between words and
/// indented by `indent`. Returns how many columns the last line has then.
pub(super) fn wrap(
    out: &mut String,
    layout: &Layout,
    mut column: usize,
    indent: usize,
    text: &str,
) -> usize {
    let width = layout.width.filter(|width| *width >= MIN_WIDTH);
    for (index, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        let space = usize::from(index > 0);
        if width.is_some_and(|width| column + space + length > width) && column > indent {
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if space == 1 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    column
}
