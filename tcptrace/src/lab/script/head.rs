//! Owns the TOML around a script: title, claim, why, condition, sysctls, and where the script's lines are.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::fault::Fault;

/// What a file says beside its script. Empty where it is wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) title: String,
    pub(super) claim: String,
    pub(super) why: String,
    pub(super) condition: Option<String>,
    /// Sysctls of the namespace in the order of the file: where, name, value.
    pub(super) sysctls: Vec<(Range<usize>, String, String)>,
    /// Where the lines of the script are.
    pub(super) lines: Vec<Range<usize>>,
    /// Where the key `script` is.
    pub(super) script: Range<usize>,
}

const KEYS: [&str; 6] = ["title", "claim", "why", "condition", "sysctl", "script"];
const QUOTES: &str = "'''";

/// Reads the file as TOML.
pub(super) fn read(source: &str, faults: &mut Vec<Fault>) -> Head {
    let (table, errors) = DeTable::parse_recoverable(source);
    for error in &errors {
        let at = error.span().unwrap_or_default();
        faults.push(Fault::new(at, format!("not TOML: {}", error.message())));
    }
    let mut head = Head::default();
    if !errors.is_empty() {
        // What else seems to be wrong may come from that.
        return head;
    }
    let mut seen: Vec<String> = Vec::new();
    for (key, value) in table.get_ref() {
        let name: &str = key.get_ref();
        seen.push(name.to_owned());
        match name {
            "title" => head.title = text(name, value.span(), value.get_ref(), faults),
            "claim" => head.claim = text(name, value.span(), value.get_ref(), faults),
            "why" => head.why = text(name, value.span(), value.get_ref(), faults),
            "condition" => {
                head.condition = Some(text(name, value.span(), value.get_ref(), faults));
            }
            "sysctl" => {
                match value.get_ref() {
                    DeValue::Table(table) => {
                        seen.extend(table.keys().map(|key| key.get_ref().to_string()));
                        sysctls("", table, &mut head.sysctls, faults);
                    }
                    _ => faults.push(Fault::new(value.span(), "sysctl is a table").rather(
                        "[sysctl], and below it lines such as: net.ipv4.tcp_timestamps = 1",
                    )),
                }
            }
            "script" => {
                head.script = key.span();
                match lines(source, value.span(), value.get_ref()) {
                    Ok(lines) => head.lines = lines,
                    Err(fault) => faults.push(fault),
                }
            }
            _ => {
                let fault = Fault::new(key.span(), format!("{name} means nothing here"));
                faults.push(fault.meant(name, KEYS));
            }
        }
    }
    // Tables are sorted by name.
    head.sysctls.sort_by_key(|(at, ..)| at.start);
    for (needed, example) in [
        ("title", "title = \"One line\""),
        ("claim", "claim = \"What is to be tried, in one sentence\""),
        ("script", "script = '''"),
    ] {
        if !seen.iter().any(|key| key == needed) {
            faults.push(Fault::new(0..0, format!("{needed} is missing")).rather(example));
        }
    }
    head
}

fn text(name: &str, at: Range<usize>, value: &DeValue<'_>, faults: &mut Vec<Fault>) -> String {
    let words: Vec<&str> = value
        .as_str()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    if words.is_empty() {
        let wrong = format!("{name} is a text of at least one word");
        faults.push(Fault::new(at, wrong).rather(format!("{name} = \"…\"")));
    }
    words.join(" ")
}

/// `"net.ipv4.x" = 1` and `net.ipv4.x = 1`, which is a table of tables.
fn sysctls(
    before: &str,
    table: &DeTable<'_>,
    found: &mut Vec<(Range<usize>, String, String)>,
    faults: &mut Vec<Fault>,
) {
    for (key, value) in table {
        if before.is_empty() && KEYS.contains(&key.get_ref().as_ref()) {
            let wrong = format!("{} is below [sysctl], and so a part of it", key.get_ref());
            let right = "put [sysctl] last, or write: sysctl.net.ipv4.tcp_timestamps = 1";
            faults.push(Fault::new(key.span(), wrong).rather(right));
            continue;
        }
        let name = format!("{before}{}", key.get_ref());
        let value_text = match value.get_ref() {
            DeValue::Table(table) => {
                sysctls(&format!("{name}."), table, found, faults);
                continue;
            }
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::String(text) => text.clone().into_owned(),
            DeValue::Boolean(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => {
                let wrong = "a sysctl is a number or a text";
                faults.push(Fault::new(value.span(), wrong).rather("1 or \"32768 60999\""));
                continue;
            }
        };
        found.push((key.span(), name, value_text));
    }
}

/// The places of the lines of the script. They must be lines of the file, too, or errors could not name them.
fn lines(source: &str, at: Range<usize>, value: &DeValue<'_>) -> Result<Vec<Range<usize>>, Fault> {
    let raw = &source[at.clone()];
    let inside = raw
        .strip_prefix(QUOTES)
        .and_then(|rest| rest.strip_suffix(QUOTES));
    let (DeValue::String(_), Some(inside)) = (value, inside) else {
        let first_line = raw.lines().next().unwrap_or_default().len();
        let wrong = "the script is a text between two lines of '''";
        return Err(Fault::new(at.start..at.start + first_line, wrong).rather("script = ''' … '''"));
    };
    let mut begin = at.start + QUOTES.len();
    let mut lines = Vec::new();
    for line in inside.split('\n') {
        lines.push(begin..begin + line.len());
        begin += line.len() + 1;
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(source: &str) -> (Head, Vec<Fault>) {
        let mut faults = Vec::new();
        let head = read(source, &mut faults);
        (head, faults)
    }

    #[test]
    fn a_head_is_read_with_its_sysctls_in_the_order_of_the_file() {
        let source = "title = \"T\"\nclaim = '''\none\n  two\n'''\n[sysctl]\n\"net.b\" = 1\nnet.a.c = \"2 3\"\n";
        let (head, faults) = read_all(source);
        assert_eq!(head.title, "T");
        assert_eq!(head.claim, "one two");
        let sysctls: Vec<_> = head
            .sysctls
            .iter()
            .map(|(_, name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(sysctls, [("net.b", "1"), ("net.a.c", "2 3")]);
        assert_eq!(
            faults,
            [Fault::new(0..0, "script is missing").rather("script = '''")]
        );
    }

    #[test]
    fn lines_of_the_script_are_lines_of_the_file() {
        let source = "script = '''\npass 1s\n  pass 2s\n'''\n";
        let (head, _) = read_all(source);
        let lines: Vec<_> = head.lines.iter().map(|at| &source[at.clone()]).collect();
        assert_eq!(lines, ["", "pass 1s", "  pass 2s", ""]);
    }

    #[test]
    fn what_stands_below_sysctl_is_told_to_be_a_part_of_it() {
        let (_, faults) =
            read_all("title = \"T\"\nclaim = \"C\"\n[sysctl]\nnet.a = 1\nscript = '''\n'''\n");
        let right = "put [sysctl] last, or write: sysctl.net.ipv4.tcp_timestamps = 1";
        assert_eq!(
            faults,
            [Fault::new(43..49, "script is below [sysctl], and so a part of it").rather(right)]
        );
    }

    #[test]
    fn a_script_with_escapes_is_refused() {
        let (_, faults) =
            read_all("title = \"T\"\nclaim = \"C\"\nscript = \"pass 1s\\npass 2s\"\n");
        assert_eq!(
            faults,
            [
                Fault::new(33..51, "the script is a text between two lines of '''")
                    .rather("script = ''' … '''")
            ]
        );
    }
}
