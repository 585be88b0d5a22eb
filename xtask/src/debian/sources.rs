//! Owns the reading of this machine's apt sources, and the one-suite list that is made of them.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// One archive: a deb822 stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stanza {
    /// Field names and values, a value that spans lines keeping its line breaks.
    fields: Vec<(String, String)>,
}

/// Every archive that this machine's apt knows.
pub(crate) fn of_this_machine() -> Result<Vec<Stanza>> {
    let etc = Path::new("/etc/apt");
    let mut files = vec![etc.join("sources.list")];
    for entry in fs::read_dir(etc.join("sources.list.d"))
        .into_iter()
        .flatten()
    {
        files.push(entry?.path());
    }
    files.sort();
    let mut stanzas = Vec::new();
    for file in files {
        let is = |extension: &str| file.extension().is_some_and(|found| found == extension);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            // The classic file is often missing beside a deb822 one.
            Err(_) if !file.exists() => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", file.display()));
            }
        };
        if is("sources") {
            stanzas.extend(parse_deb822(&text));
        } else if is("list") {
            stanzas.extend(text.lines().filter_map(parse_classic));
        }
    }
    Ok(stanzas)
}

/// The deb822 text that offers `suite`, and only that, from the Debian archive among `stanzas`.
pub(crate) fn with_suite(stanzas: &[Stanza], suite: &str) -> Result<String> {
    let security = suite.ends_with("-security");
    let offers = |stanza: &&Stanza| {
        let has = |name, wanted: &dyn Fn(&str) -> bool| {
            stanza
                .field(name)
                .is_some_and(|value| value.split_whitespace().any(wanted))
        };
        has("Types", &|kind| kind == "deb")
            && has("Components", &|component| component == "main")
            && has("Suites", &|known| {
                is_debian(known) && known.ends_with("-security") == security
            })
    };
    // Others call their suites after Debian's too; Debian's own archive is the one that ends so.
    let folder = if security {
        "debian-security"
    } else {
        "debian"
    };
    let is_own = |stanza: &&Stanza| {
        stanza
            .field("URIs")
            .is_some_and(|uri| uri.trim_end_matches('/').ends_with(folder))
    };
    let stanza = stanzas
        .iter()
        .filter(offers)
        .find(is_own)
        .or_else(|| stanzas.iter().find(offers))
        .with_context(|| {
            format!("no Debian archive that could have {suite} is in this machine's apt sources")
        })?;
    Ok(stanza
        .with("Suites", suite)
        .with("Components", "main")
        .with("Types", "deb")
        // Which of them are wanted is for the caller to say.
        .without("Architectures")
        .to_string())
}

impl Stanza {
    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn with(&self, name: &str, value: &str) -> Self {
        let mut changed = self.clone();
        for field in &mut changed.fields {
            if field.0.eq_ignore_ascii_case(name) {
                value.clone_into(&mut field.1);
            }
        }
        changed
    }

    fn without(&self, name: &str) -> Self {
        let mut changed = self.clone();
        changed
            .fields
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        changed
    }
}

impl std::fmt::Display for Stanza {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.fields
            .iter()
            .try_for_each(|(name, value)| writeln!(out, "{name}: {value}"))
    }
}

fn parse_deb822(text: &str) -> Vec<Stanza> {
    let mut stanzas = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .chain([""])
    {
        if line.trim().is_empty() {
            if !fields.is_empty() {
                stanzas.push(Stanza {
                    fields: std::mem::take(&mut fields),
                });
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    stanzas.retain(|stanza| stanza.field("Enabled").is_none_or(|value| value != "no"));
    stanzas
}

/// `deb [signed-by=…] URI suite component…`
fn parse_classic(line: &str) -> Option<Stanza> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let components = words
        .take_while(|word| !word.starts_with('#'))
        .collect::<Vec<_>>();
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut fields = vec![
        field("Types", "deb"),
        field("URIs", uri),
        field("Suites", suite),
        field("Components", &components.join(" ")),
    ];
    let keys = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="));
    fields.extend(keys.map(|keys| field("Signed-By", keys)));
    Some(Stanza { fields })
}

fn is_debian(suite: &str) -> bool {
    const SUITES: [&str; 11] = [
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "sid",
        "experimental",
        "oldoldstable",
        "oldstable",
        "stable",
        "testing",
        "unstable",
    ];
    let name = suite.split(['-', '/']).next().unwrap_or(suite);
    SUITES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "\
# the vendor's own
Types: deb
URIs: http://vendor.test/apt
Suites: bookworm
Components: main

Types: deb deb-src
# a comment inside
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Architectures: amd64
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcd

Types: deb
URIs: http://mirror.test/debian-security/
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

    #[test]
    fn only_the_suite_is_swapped_and_the_key_is_kept() {
        let text = with_suite(&parse_deb822(MACHINE), "trixie").expect("an archive is there");
        let expected = "Types: deb\nURIs: http://mirror.test/debian\nSuites: trixie\n\
             Components: main\nSigned-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abcd\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn security_suites_come_from_the_security_archive() {
        let text = with_suite(&parse_deb822(MACHINE), "bullseye-security").expect("it is there");
        assert!(
            text.contains("/debian-security/\nSuites: bullseye-security\n"),
            "{text}"
        );
    }

    #[test]
    fn classic_lines_serve_as_well() {
        let lines = "# deb http://off.test/debian sid main\n\
             deb-src http://mirror.test/debian bookworm main\n\
             deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main # note\n";
        let stanzas = lines.lines().filter_map(parse_classic).collect::<Vec<_>>();
        let text = with_suite(&stanzas, "bookworm-backports").expect("an archive is there");
        let expected = "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm-backports\n\
             Components: main\nSigned-By: /k.gpg\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_archive_that_is_disabled_or_not_debian_is_refused() {
        let other = "Types: deb\nURIs: http://mirror.test/ubuntu\nSuites: noble\nComponents: main\n\
             \nTypes: deb\nEnabled: no\nURIs: http://mirror.test/debian\nSuites: sid\n\
             Components: main\n";
        let error = with_suite(&parse_deb822(other), "bookworm").expect_err("nothing fits");
        assert!(error.to_string().contains("bookworm"), "{error}");
    }
}
