//! Owns the base figures: their file, and what is said of figures beside them.

use std::{collections::BTreeMap, env::consts, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::Part;
use crate::{bench::stats::grouped, process, toolchain};

/// A cost may grow by this much before it counts as grown.
const TOLERANCE: f64 = 0.1;

/// Figures by name.
pub(super) type Figures = BTreeMap<String, f64>;

/// What was measured when the base was made.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Base {
    user: Option<Measured>,
    programs: Option<Measured>,
    time: Option<Measured>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Measured {
    /// On what.
    machine: String,
    figures: Figures,
}

/// Figures beside their base.
#[derive(Debug)]
pub(super) enum Verdict<'a> {
    /// The base's.
    Compared(&'a Figures),
    /// They cannot be compared with a base of this machine.
    OtherMachine(&'a str),
    /// There is no base.
    NoBase,
}

impl Base {
    /// That of the file; an empty one if there is none.
    pub(super) fn read(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not what --renew writes; type: cargo xtask bench cost --renew",
                path.display()
            )
        })
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Makes these figures the base.
    pub(super) fn put(&mut self, part: Part, machine: &str, figures: &Figures) {
        let decimals = i32::try_from(part.decimals()).unwrap_or(0);
        let rounded = |value: f64| {
            let unit = 10_f64.powi(decimals);
            (value * unit).round() / unit
        };
        *self.part_mut(part) = Some(Measured {
            machine: machine.to_owned(),
            figures: figures
                .iter()
                .map(|(name, value)| (name.clone(), rounded(*value)))
                .collect(),
        });
    }

    /// What the figures are beside this base.
    pub(super) fn judge(&self, part: Part, machine: &str) -> Verdict<'_> {
        let measured = match part {
            Part::User => &self.user,
            Part::Programs => &self.programs,
            Part::Time => &self.time,
        };
        match measured {
            None => Verdict::NoBase,
            Some(base) if base.machine != machine => Verdict::OtherMachine(&base.machine),
            Some(base) => Verdict::Compared(&base.figures),
        }
    }

    fn part_mut(&mut self, part: Part) -> &mut Option<Measured> {
        match part {
            Part::User => &mut self.user,
            Part::Programs => &mut self.programs,
            Part::Time => &mut self.time,
        }
    }
}

impl Verdict<'_> {
    /// Why there is nothing to compare with; `None` where there is.
    pub(super) fn not_compared(&self) -> Option<String> {
        match self {
            Self::Compared(_) => None,
            Self::OtherMachine(theirs) => Some(format!("the base is of {theirs}")),
            Self::NoBase => Some("there is no base".to_owned()),
        }
    }

    /// A row of the table.
    pub(super) fn row(&self, part: Part, name: &str, now: f64) -> Vec<String> {
        let decimals = part.decimals();
        let number = |value: f64| grouped(&format!("{value:.decimals$}"));
        let mut row = vec![format!("  {name}"), number(now)];
        if let Some(base) = self.base_of(name) {
            row.push(number(base));
            row.push(format!("{:+.1} %", (now / base - 1.0) * 100.0));
        }
        row
    }

    /// A sentence for each figure that has grown too much, and for each that is in one of the two only.
    pub(super) fn worse(&self, part: Part, figures: &Figures) -> Vec<String> {
        let Self::Compared(base) = self else {
            return Vec::new();
        };
        let decimals = part.decimals();
        let mut sentences = Vec::new();
        for (name, now) in figures {
            match base.get(name) {
                None => sentences.push(format!("{name} ({}) is not in the base", part.name())),
                Some(base) if *now > base * (1.0 + TOLERANCE) => sentences.push(format!(
                    "{name} ({}) has grown by {:.1} %, from {base:.decimals$} to {now:.decimals$}",
                    part.name(),
                    (now / base - 1.0) * 100.0
                )),
                Some(_) => {}
            }
        }
        for name in base.keys().filter(|name| !figures.contains_key(*name)) {
            sentences.push(format!("{name} ({}) is in the base only", part.name()));
        }
        sentences
    }

    fn base_of(&self, name: &str) -> Option<f64> {
        match self {
            Self::Compared(base) => base.get(name).copied(),
            Self::OtherMachine(_) | Self::NoBase => None,
        }
    }
}

/// What the figures depend on beside the code: the architecture and the compiler; of programs the compiler that
/// made the object and the kernel; of time the processor too.
pub(super) fn machine(part: Part) -> Result<String> {
    let kernel = || -> Result<String> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease");
        let release = release.context("/proc is not mounted")?;
        Ok(format!("Linux {}", version(release.trim())))
    };
    Ok(match part {
        Part::User => {
            let said = process::capture(Command::new("rustc").arg("--version"))?;
            let release = said.split_whitespace().nth(1).unwrap_or("unknown");
            format!("{}, Rust {release}", consts::ARCH)
        }
        Part::Programs => {
            let compiler = toolchain::compiler()?.version();
            format!("{}, {}, {compiler}", consts::ARCH, kernel()?)
        }
        Part::Time => {
            let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            format!(
                "{}, {}",
                processor(&cpuinfo).unwrap_or(consts::ARCH),
                kernel()?
            )
        }
    })
}

/// The model in /proc/cpuinfo, which arm64 does not have.
fn processor(cpuinfo: &str) -> Option<&str> {
    cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim())
    })
}

/// `6.18` of `6.18.5-cloud-amd64`.
fn version(release: &str) -> &str {
    let second = release.match_indices(['.', '-']).nth(1);
    second.map_or(release, |(end, _)| &release[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(pairs: &[(&str, f64)]) -> Figures {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    #[test]
    fn growth_by_more_than_a_tenth_is_told_with_its_size() {
        let mut base = Base::default();
        base.put(
            Part::User,
            "here",
            &figures(&[("json", 1000.4), ("text", 500.0)]),
        );
        let verdict = base.judge(Part::User, "here");
        let worse = |now: &[(&str, f64)]| verdict.worse(Part::User, &figures(now));
        assert!(worse(&[("json", 1100.0), ("text", 100.0)]).is_empty());
        let sentences = worse(&[("json", 1101.0), ("text", 500.0)]);
        assert_eq!(
            sentences,
            ["json (user space, instructions per record) has grown by 10.1 %, from 1000 to 1101"]
        );
        assert_eq!(worse(&[("json", 1000.0), ("record", 1.0)]).len(), 2);
    }

    #[test]
    fn figures_of_another_machine_are_not_compared() {
        let mut base = Base::default();
        base.put(Part::Time, "there", &figures(&[("x", 1.0)]));
        let verdict = base.judge(Part::Time, "here");
        assert!(matches!(verdict, Verdict::OtherMachine("there")));
        assert!(
            verdict
                .worse(Part::Time, &figures(&[("x", 9.0)]))
                .is_empty()
        );
        assert!(matches!(base.judge(Part::User, "here"), Verdict::NoBase));
        for part in [Part::User, Part::Time] {
            assert!(base.judge(part, "here").not_compared().is_some());
        }
        assert!(base.judge(Part::Time, "there").not_compared().is_none());
    }

    #[test]
    fn a_base_survives_its_file() {
        let mut base = Base::default();
        base.put(Part::Time, "here", &figures(&[("x", 1.23456)]));
        let text = serde_json::to_string(&base).unwrap();
        let again: Base = serde_json::from_str(&text).unwrap();
        assert_eq!(again.time.unwrap().figures, figures(&[("x", 1.235)]));
    }

    #[test]
    fn the_machine_is_named_by_processor_and_kernel() {
        assert_eq!(
            processor("processor\t: 0\nmodel name\t: AMD EPYC\n"),
            Some("AMD EPYC")
        );
        assert_eq!(version("6.18.5-cloud-amd64"), "6.18");
        assert_eq!(version("6.18"), "6.18");
        assert_eq!(version("7.3-rc2"), "7.3");
    }
}
