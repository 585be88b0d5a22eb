//! Embeds the eBPF object that `cargo xtask build` has made, and refuses one that is older than its
//! sources: a build of this crate alone needs no eBPF toolchain.

#[path = "../xtask/src/fingerprint.rs"]
mod fingerprint;

use std::{env, fs, path::Path, process::exit};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace");
    for watched in fingerprint::SOURCES
        .iter()
        .chain([&fingerprint::OBJECT, &fingerprint::STAMP])
    {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    let object = root.join(fingerprint::OBJECT);
    let built_from = fs::read_to_string(root.join(fingerprint::STAMP)).unwrap_or_default();
    let sources = fingerprint::of_sources(root).unwrap_or_else(|error| fail(&error.to_string()));
    if !object.exists() {
        fail(&format!("{} does not exist yet", fingerprint::OBJECT));
    }
    if built_from.trim() != sources {
        fail(&format!(
            "{} is older than its sources",
            fingerprint::OBJECT
        ));
    }
    let embedded = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("tcptrace.o");
    if let Err(error) = fs::copy(&object, &embedded) {
        fail(&format!("cannot copy {}: {error}", object.display()));
    }
}

fn fail(why: &str) -> ! {
    println!("cargo::error=the eBPF object to embed: {why}; type: cargo xtask build");
    exit(1);
}
