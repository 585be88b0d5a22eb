//! Owns the way of files out of a guest: as base64 on its stdout.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Writes what `text` stands for to `file`.
pub(super) fn decode(text: &str, file: &Path) -> Result<()> {
    let encoded = file.with_extension("base64");
    fs::write(&encoded, text).with_context(|| format!("cannot write {}", encoded.display()))?;
    run(Command::new("base64").arg("-d").arg(&encoded), file)?;
    fs::remove_file(&encoded)?;
    Ok(())
}

/// Writes what `packed`, made by gzip, holds to `file`.
pub(super) fn unzip(packed: &Path, file: &Path) -> Result<()> {
    run(Command::new("gzip").arg("-dc").arg(packed), file)
}

fn run(command: &mut Command, to: &Path) -> Result<()> {
    let name = command.get_program().display().to_string();
    let output = fs::File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(output)
        .status()
        .with_context(|| format!("cannot run `{name}`"))?;
    ensure!(
        status.success(),
        "what the guest wrote is nothing that `{name}` can read"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_out_as_it_was() {
        let file = std::env::temp_dir().join(format!("tcptrace-bulk-{}", std::process::id()));
        decode("aGVsbG8K\n", &file).expect("it is base64");
        assert_eq!(
            fs::read_to_string(&file).expect("it was written"),
            "hello\n"
        );
        assert!(unzip(&file, &file.with_extension("out")).is_err());
        assert!(decode("!", &file).is_err());
        for left in [
            file.clone(),
            file.with_extension("out"),
            file.with_extension("base64"),
        ] {
            let _ = fs::remove_file(left);
        }
    }
}
