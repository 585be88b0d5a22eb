//! Owns the fingerprint of the eBPF sources: what `cargo xtask build` writes beside the object and
//! `tcptrace/build.rs` (which includes this file) compares, so that a stale object is never embedded.

use std::{fs, io, path::Path};

/// Where the object lies, relative to the workspace root.
pub(crate) const OBJECT: &str = "target/ebpf/tcptrace.o";
/// Where the fingerprint of its sources lies, relative to the workspace root.
pub(crate) const STAMP: &str = "target/ebpf/tcptrace.sources";
/// The files and folders whose contents decide what the object is, relative to the workspace root.
pub(crate) const SOURCES: [&str; 5] = [
    "Cargo.lock",
    "tcptrace-common/Cargo.toml",
    "tcptrace-common/src",
    "tcptrace-ebpf/Cargo.toml",
    "tcptrace-ebpf/src",
];

/// The packages of Cargo.lock, beside the workspace's own, that become part of the object. The others
/// may change without it.
const LOCKED: [&str; 3] = ["aya-ebpf", "aya-log-ebpf", "aya-log-common"];

/// Hashes every source of the object: names and contents, in the order of the names.
///
/// # Errors
/// When one of [`SOURCES`] cannot be read.
pub(crate) fn of_sources(root: &Path) -> io::Result<String> {
    let mut hash = Fnv1a::new();
    for source in SOURCES {
        add(&mut hash, root, Path::new(source))?;
    }
    Ok(format!("{:016x}", hash.0))
}

fn add(hash: &mut Fnv1a, root: &Path, relative: &Path) -> io::Result<()> {
    let path = root.join(relative);
    if path.is_dir() {
        let mut names = fs::read_dir(&path)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        for name in names {
            add(hash, root, &relative.join(name))?;
        }
        return Ok(());
    }
    hash.write(relative.as_os_str().as_encoded_bytes());
    hash.write(&[0]);
    let mut contents = fs::read(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    if relative == Path::new("Cargo.lock") {
        contents = locked_packages(&String::from_utf8_lossy(&contents)).into_bytes();
    }
    hash.write(&(contents.len() as u64).to_le_bytes());
    hash.write(&contents);
    Ok(())
}

/// The blocks of a Cargo.lock about the packages of [`LOCKED`] and what their names begin.
fn locked_packages(lock: &str) -> String {
    lock.split("[[package]]")
        .filter(|block| {
            let name = block.trim_start().strip_prefix("name = \"");
            LOCKED
                .iter()
                .any(|locked| name.is_some_and(|name| name.starts_with(locked)))
        })
        .collect()
}

/// FNV-1a, 64 bits: the standard library's hasher is not stable between compilers.
struct Fnv1a(u64);

impl Fnv1a {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
