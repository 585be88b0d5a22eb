//! Owns the check of a kernel's types: what the guest shows of them is looked at on the host, as it is and with
//! every field and function that the tracer needs moved or missing.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{
    bulk,
    judge::{self, Judgement},
};

/// What the guest's shell runs.
pub(super) const SCRIPT: &str = "gzip -c /sys/kernel/btf/vmlinux | base64";
/// The live tests that need no kernel, only its types.
const TESTS: &str = "types: ";
/// Where they look for more types than those of this machine's kernel.
const FOLDER: &str = "TCPTRACE_BTF_DIR";

/// Runs these tests on the types; `live` is the program of the live tests, for this machine. The types stay in
/// `folder`.
pub(super) fn judge(stdout: &str, live: &Path, folder: &Path) -> Result<Judgement> {
    let folder = folder.join("types");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let packed = folder.join("vmlinux.gz");
    bulk::decode(stdout, &packed)?;
    bulk::unzip(&packed, &folder.join("vmlinux.btf"))?;
    fs::remove_file(&packed)?;
    let output = Command::new(live)
        .arg(TESTS)
        .env(FOLDER, &folder)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", live.display()))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let status = output
        .status
        .code()
        .and_then(|code| u8::try_from(code).ok());
    Ok(judge::tests(
        &said(&output.stdout),
        &said(&output.stderr),
        status.unwrap_or(u8::MAX),
    ))
}
