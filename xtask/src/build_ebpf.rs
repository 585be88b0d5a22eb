//! Owns the making of the eBPF object, and the decision that it need not be made.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{artifacts, fingerprint, say::say, toolchain, workspace};

/// Makes sure that the object is there and made of the present sources.
pub(crate) fn ensure() -> Result<()> {
    let root = workspace::root();
    let up_to_date = is_up_to_date(&root)?;
    // The stamp says nothing of the compiler; cargo knows, and does nothing if it is the same one.
    if up_to_date && !toolchain::is_asked_for() {
        return Ok(());
    }
    let compiler = toolchain::compiler()?;
    // The build itself may write Cargo.lock, and a source may change meanwhile: the stamp must be
    // that of what was compiled.
    for _ in 0..3 {
        let before = fingerprint::of_sources(&root)?;
        let mut cargo = compiler.cargo("build")?;
        let programs = artifacts::built_by(cargo.arg("--bins"))
            .context("the eBPF program does not compile")?;
        if fingerprint::of_sources(&root)? != before {
            continue;
        }
        for program in programs {
            let object = root
                .join("target/ebpf")
                .join(format!("{}.o", program.target));
            replace(&object, &fs::read(&program.executable)?)?;
        }
        replace(&root.join(fingerprint::STAMP), before.as_bytes())?;
        if !is_up_to_date(&root)? {
            bail!(
                "the eBPF crate has no program that becomes {}",
                fingerprint::OBJECT
            );
        }
        say(format_args!("the eBPF object is {}", fingerprint::OBJECT));
        return Ok(());
    }
    bail!("the eBPF sources keep changing while they are compiled; run the command again")
}

fn is_up_to_date(root: &Path) -> Result<bool> {
    let stamp = fs::read_to_string(root.join(fingerprint::STAMP)).unwrap_or_default();
    let sources = fingerprint::of_sources(root).context("the eBPF sources cannot be read")?;
    Ok(stamp.trim() == sources && root.join(fingerprint::OBJECT).is_file())
}

/// Writes whole or not at all, and not when nothing would change: what embeds the object is built
/// again when the file is touched.
fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == contents) {
        return Ok(());
    }
    let aside = path.with_extension(std::process::id().to_string());
    let written = fs::write(&aside, contents).and_then(|()| fs::rename(&aside, path));
    written.or_else(|error: io::Error| {
        Err(error).with_context(|| format!("cannot write {}", path.display()))
    })
}
