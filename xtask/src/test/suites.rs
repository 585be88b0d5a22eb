//! Owns the building of the test programs, and which of them is which suite.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    artifacts::{self, Artifact},
    statics::Linkage,
    workspace,
};

/// What a test run consists of, all built.
pub(crate) struct Suites {
    /// How it was all linked.
    pub(crate) linkage: Linkage,
    /// Unit tests and those of the command line: they need nothing of the machine.
    pub(crate) ordinary: Vec<Artifact>,
    /// The programs that a machine, or a guest, runs to test a kernel.
    pub(crate) live: Option<Live>,
}

/// The live suite.
pub(crate) struct Live {
    /// Its test program.
    pub(crate) harness: Artifact,
    /// The tracer that it drives.
    pub(crate) tracer: PathBuf,
}

/// How the programs of a guest are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speed {
    /// As the workspace's other debug builds: quickly built, slow.
    AsBuilt,
    /// Optimised, with the assertions of a debug build: for a guest that runs them again and again.
    Optimised,
}

/// Builds every test program of the workspace.
pub(crate) fn build() -> Result<Suites> {
    let linkage = Linkage::of_this_machine()?;
    let built = built_with(&linkage, Speed::AsBuilt, &[])?;
    Ok(sort(linkage, built))
}

/// Builds what the guest needs: the tracer, and the live suite if the workspace has it already.
pub(crate) fn build_for_guest(
    linkage: &Linkage,
    speed: Speed,
) -> Result<(PathBuf, Option<PathBuf>)> {
    let tracer = build_tracer(linkage, speed)?;
    if !has_live_suite()? {
        return Ok((tracer, None));
    }
    let live = ["--package", "tcptrace", "--test", "live"];
    let built = built_with(linkage, speed, &live)?;
    Ok((
        tracer,
        built
            .into_iter()
            .find(is_live)
            .map(|artifact| artifact.executable),
    ))
}

/// Builds the tracer alone.
pub(crate) fn build_tracer(linkage: &Linkage, speed: Speed) -> Result<PathBuf> {
    let mut cargo = workspace::cargo("build");
    speed.apply(&mut cargo);
    linkage.apply(cargo.args(["--package", "tcptrace", "--bin", "tcptrace"]));
    let built = artifacts::built_by(&mut cargo)?;
    tracer(&built).context("package tcptrace has no program of that name")
}

/// A command that runs this test program as cargo would.
pub(crate) fn command(test: &Artifact, filters: &[String]) -> Command {
    let mut command = Command::new(&test.executable);
    command
        .current_dir(&test.package)
        .env("CARGO_MANIFEST_DIR", &test.package)
        .args(filters);
    command
}

/// The libraries whose documentation has examples to run. Compiling a library again to find none
/// takes longer than a look at its sources.
pub(crate) fn packages_with_examples() -> Result<Vec<String>> {
    let mut packages = Vec::new();
    for name in ["tcptrace-common", "tcptrace-model", "tcptrace"] {
        let sources = workspace::root().join(name).join("src");
        let is_library = sources.join("lib.rs").is_file();
        if is_library
            && has_examples(&sources)
                .with_context(|| format!("cannot read {}", sources.display()))?
        {
            packages.push(name.to_owned());
        }
    }
    Ok(packages)
}

impl Speed {
    fn apply(self, cargo: &mut Command) {
        match self {
            Self::AsBuilt => {}
            Self::Optimised => {
                cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
            }
        }
    }
}

fn built_with(linkage: &Linkage, speed: Speed, what: &[&str]) -> Result<Vec<Artifact>> {
    let mut cargo = workspace::cargo("test");
    speed.apply(&mut cargo);
    linkage.apply(cargo.arg("--no-run").args(what));
    artifacts::built_by(&mut cargo)
}

fn sort(linkage: Linkage, built: Vec<Artifact>) -> Suites {
    let tracer = tracer(&built);
    let (live, mut ordinary): (Vec<_>, Vec<_>) = built
        .into_iter()
        .filter(|artifact| artifact.is_test)
        .partition(is_live);
    // Cargo reports them in the order in which they were ready.
    ordinary.sort_by_key(|test| {
        (
            test.package_name(),
            test.kind == "test",
            test.target.clone(),
        )
    });
    let live = live.into_iter().next().zip(tracer);
    Suites {
        linkage,
        ordinary,
        live: live.map(|(harness, tracer)| Live { harness, tracer }),
    }
}

fn is_live(artifact: &Artifact) -> bool {
    artifact.is_test && artifact.kind == "test" && artifact.target == "live"
}

fn tracer(built: &[Artifact]) -> Option<PathBuf> {
    let is_tracer = |artifact: &&Artifact| !artifact.is_test && artifact.target == "tcptrace";
    built
        .iter()
        .find(is_tracer)
        .map(|artifact| artifact.executable.clone())
}

fn has_live_suite() -> Result<bool> {
    let mut cargo = workspace::cargo("metadata");
    let text = crate::process::capture(cargo.args(["--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let mut targets =
        packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    Ok(targets.any(|target| target["name"] == "live" && target["kind"][0] == "test"))
}

fn has_examples(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let found = if path.is_dir() {
            has_examples(&path)?
        } else {
            let is_fence = |line: &str| {
                let line = line.trim_start();
                line.starts_with("/// ```") || line.starts_with("//! ```")
            };
            path.extension().is_some_and(|extension| extension == "rs")
                && fs::read_to_string(&path)?.lines().any(is_fence)
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
