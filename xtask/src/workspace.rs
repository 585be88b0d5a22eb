//! Owns where things lie in the workspace, and which cargo builds it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    // `cargo run` tells where the package is now; the compiled-in path is for a binary run by hand.
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map_or(package.clone(), Path::to_path_buf)
}

/// The folder for what xtask provides: compilers, linkers, kernels. It survives `cargo clean`.
pub(crate) fn toolchain_dir() -> PathBuf {
    root().join(".toolchain")
}

/// The cargo that started xtask.
pub(crate) fn cargo_program() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// A cargo command at the root of the workspace, `verb` being its first argument.
pub(crate) fn cargo(verb: &str) -> Command {
    let mut command = Command::new(cargo_program());
    command.current_dir(root()).arg(verb);
    command
}

/// `path` as seen from the root of the workspace, for messages.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}
