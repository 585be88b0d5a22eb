//! Owns what cargo says it has built: its JSON messages, read down to the executables.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;

/// An executable that cargo has built.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Artifact {
    /// The folder of its package.
    pub(crate) package: PathBuf,
    /// The name of its target: `tcptrace`, `live`, …
    pub(crate) target: String,
    /// `bin`, `lib`, `test`, …
    pub(crate) kind: String,
    /// Whether it is a test harness.
    pub(crate) is_test: bool,
    /// Where it lies.
    pub(crate) executable: PathBuf,
}

impl Artifact {
    /// The name of its package's folder, which is the package's name in this workspace.
    pub(crate) fn package_name(&self) -> String {
        self.package
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }
}

/// Runs a `cargo build`-like command to its end and returns the executables, fresh or not.
pub(crate) fn built_by(cargo: &mut Command) -> Result<Vec<Artifact>> {
    cargo
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    let mut child = cargo
        .spawn()
        .with_context(|| format!("cannot run `{}`", process::shown(cargo)))?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut artifacts = Vec::new();
    for line in BufReader::new(stdout).lines() {
        artifacts.extend(parse(&line?));
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` failed: {status}", process::shown(cargo));
    }
    Ok(artifacts)
}

/// The executable that one line of cargo's messages announces, if it does.
fn parse(line: &str) -> Option<Artifact> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    Some(Artifact {
        package: PathBuf::from(message["manifest_path"].as_str()?)
            .parent()?
            .to_path_buf(),
        target: message["target"]["name"].as_str()?.to_owned(),
        kind: message["target"]["kind"][0].as_str()?.to_owned(),
        is_test: message["profile"]["test"].as_bool()?,
        executable: PathBuf::from(message["executable"].as_str()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_is_read_from_its_message() {
        let line = r#"{"reason":"compiler-artifact","package_id":"path+file:///p/tcptrace#0.1.0",
            "manifest_path":"/p/tcptrace/Cargo.toml",
            "target":{"kind":["test"],"crate_types":["bin"],"name":"live"},
            "profile":{"opt_level":"0","test":true},"executable":"/p/target/debug/deps/live-1"}"#;
        let expected = Artifact {
            package: "/p/tcptrace".into(),
            target: "live".into(),
            kind: "test".into(),
            is_test: true,
            executable: "/p/target/debug/deps/live-1".into(),
        };
        assert_eq!(expected.package_name(), "tcptrace");
        assert_eq!(parse(line), Some(expected));
    }

    #[test]
    fn libraries_and_other_messages_are_passed_over() {
        let library = r#"{"reason":"compiler-artifact","manifest_path":"/p/m/Cargo.toml",
            "target":{"kind":["lib"],"name":"m"},"profile":{"test":false},"executable":null}"#;
        assert_eq!(parse(library), None);
        assert_eq!(parse(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(parse("running 3 tests"), None);
    }
}
