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
    if layout.width.is_none() {
        out.push(' ');
        out.push_str(body);
    } else {
        wrap(out, layout, column + 1, indent, &format!(" {body}"));
    }
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

/// A paragraph of several parts.
#[derive(Debug)]
pub(super) struct Paragraph {
    pub(super) mark: Mark,
    pub(super) heading: String,
    pub(super) sections: Vec<Section>,
}

/// A part of a paragraph: a sentence, or a label and what it is of.
#[derive(Debug)]
pub(super) struct Section {
    /// What the items are; the whole sentence where there are none.
    pub(super) label: String,
    /// Without a full stop.
    pub(super) items: Vec<String>,
    /// What stands between the items where they are on one line.
    pub(super) joint: &'static str,
}

impl Section {
    /// A sentence.
    pub(super) fn plain(sentence: &str) -> Self {
        Self {
            label: sentence.to_owned(),
            items: Vec::new(),
            joint: "",
        }
    }

    /// All of it, as one sentence.
    fn sentence(&self) -> String {
        match self.items[..] {
            [] => self.label.clone(),
            _ => format!("{} {}.", self.label, self.items.join(self.joint)),
        }
    }
}

/// Adds a paragraph to `out`, like [`paragraph`]; on a terminal, each section of several stands on
/// lines of its own, and so does each item of several.
pub(super) fn sections(out: &mut String, layout: &Layout, told: &Paragraph) {
    let Paragraph {
        mark,
        heading,
        sections,
    } = told;
    let sentences: Vec<String> = sections.iter().map(Section::sentence).collect();
    if layout.width.is_none() || sections.len() < 2 {
        paragraph(out, layout, *mark, heading, &sentences.join(" "));
        return;
    }
    let indent = out.len() - out.rfind('\n').map_or(0, |newline| newline + 1) + 2;
    paragraph(out, layout, *mark, heading, "");
    for (section, sentence) in sections.iter().zip(&sentences) {
        if section.items.len() < 2 {
            line(out, layout, indent, indent, sentence);
            continue;
        }
        line(out, layout, indent, indent, &section.label);
        for item in &section.items {
            line(out, layout, indent, indent + 2, &format!("- {item}"));
        }
    }
}

/// Adds a line that begins at the column `begin`; what does not fit is indented by `indent`.
fn line(out: &mut String, layout: &Layout, begin: usize, indent: usize, text: &str) {
    out.extend(std::iter::repeat_n(' ', begin));
    wrap(out, layout, begin, indent, text);
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
    let Some(width) = layout.width.filter(|width| *width >= MIN_WIDTH) else {
        out.push_str(text);
        return column + text.chars().count();
    };
    for (index, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        let space = usize::from(index > 0);
        if column + space + length > width && column > indent {
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
