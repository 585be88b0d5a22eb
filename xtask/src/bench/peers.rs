//! Owns other people's programs: on PATH, or from Debian's packages, unpacked and not installed.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{debian, process::on_path, provision};

/// A program of somebody else's.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    program: PathBuf,
    /// Where its libraries are, when it was unpacked rather than installed.
    libraries: Vec<PathBuf>,
    /// What stands first on its command line.
    script: Option<PathBuf>,
}

/// `tcpstates` or another tool of libbpf-tools.
pub(super) fn libbpf_tool(name: &str) -> Result<Peer> {
    find(name, "libbpf-tools", &format!("usr/sbin/{name}"))
}

/// bpftrace with the script `tcplife.bt` of its own package.
pub(super) fn bpftrace_tcplife() -> Result<Peer> {
    const SCRIPT: &str = "usr/sbin/tcplife.bt";
    let peer = find("bpftrace", "bpftrace", "usr/bin/bpftrace")?;
    let unpacked = provision::existing("bpftrace").map(|folder| folder.join(SCRIPT));
    let script = on_path("tcplife.bt")
        .into_iter()
        .chain([Path::new("/").join(SCRIPT)])
        .chain(unpacked)
        .find(|path| path.exists())
        .context("this bpftrace came without tcplife.bt")?;
    Ok(Peer {
        script: Some(script),
        ..peer
    })
}

/// `ss` with `--events`, which is newer than the program.
pub(super) fn ss() -> Result<Peer> {
    let peer = find("ss", "iproute2", "usr/bin/ss")?;
    let help = peer.command()?.arg("--help").output()?;
    ensure!(
        String::from_utf8_lossy(&help.stdout).contains("--events"),
        "this ss has no --events"
    );
    Ok(peer)
}

/// The web server.
pub(super) fn nginx() -> Result<Peer> {
    find("nginx", "nginx", "usr/sbin/nginx")
}

/// The load generator of Apache.
pub(super) fn ab() -> Result<Peer> {
    find("ab", "apache2-utils", "usr/bin/ab")
}

impl Peer {
    /// The command that starts it, so that it finds its libraries.
    pub(super) fn command(&self) -> Result<Command> {
        let mut command = Command::new(&self.program);
        if !self.libraries.is_empty() {
            command.env("LD_LIBRARY_PATH", env::join_paths(&self.libraries)?);
        }
        command.args(&self.script);
        Ok(command)
    }
}

/// The program on PATH, or else that of Debian's package.
fn find(program: &str, package: &str, path: &str) -> Result<Peer> {
    if let Some(program) = on_path(program) {
        return Ok(Peer {
            program,
            libraries: Vec::new(),
            script: None,
        });
    }
    let folder = provision::once(package, |aside| {
        debian::unpack_with_dependencies(&[package], aside)
    })?;
    let program = folder.join(path);
    if !program.exists() {
        bail!("Debian's package {package} has no {path}");
    }
    Ok(Peer {
        program,
        libraries: debian::library_folders(&folder),
        script: None,
    })
}
