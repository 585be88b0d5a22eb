//! Owns the choice of the compiler for the eBPF program: what is on the machine first, then what can
//! be set up without root.

mod linker;
mod prebuilt;
pub(crate) mod rustc;
mod rustup;

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, anyhow, bail};

use self::rustc::Rustc;
use crate::{say::say, workspace};

/// The target of the eBPF program: little endian, like every host that is supported.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// Names the rustc to use.
const RUSTC_VARIABLE: &str = "TCPTRACE_BPF_RUSTC";
/// Forces one of the two ways.
const WAY_VARIABLE: &str = "TCPTRACE_BPF_TOOLCHAIN";

/// A compiler that can compile the eBPF program.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    rustc: Rustc,
    cargo: PathBuf,
    core: Core,
    clippy: Option<PathBuf>,
}

/// Where `core` for the eBPF target comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Core {
    FromSource,
    Shipped,
}

/// What the user wants tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Any,
    Nightly,
    Debian,
}

impl Compiler {
    /// A cargo command that compiles the eBPF crate.
    pub(crate) fn cargo(&self, verb: &str) -> Result<Command> {
        let mut command = Command::new(&self.cargo);
        command.arg(verb);
        let linker = linker::ensure(self.rustc.version.llvm)?;
        command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
        self.complete(command)
    }

    /// A `cargo clippy` command for the eBPF crate, if this compiler comes with clippy.
    pub(crate) fn clippy(&self) -> Result<Option<Command>> {
        let Some(clippy) = &self.clippy else {
            return Ok(None);
        };
        let mut command = Command::new(clippy);
        command.arg("clippy").env("CARGO", &self.cargo);
        self.complete(command).map(Some)
    }

    /// In a few words, for people.
    pub(crate) fn description(&self) -> String {
        let core = match self.core {
            Core::FromSource => "core from rust-src",
            Core::Shipped => "core as shipped",
        };
        let version = &self.rustc.version;
        let home = self.rustc.sysroot.display();
        format!(
            "rustc {} (LLVM {}; {core}) in {home}",
            version.release, version.llvm
        )
    }

    /// What decides which instructions it makes.
    pub(crate) fn version(&self) -> String {
        let version = &self.rustc.version;
        format!("rustc {} (LLVM {})", version.release, version.llvm)
    }

    fn complete(&self, mut command: Command) -> Result<Command> {
        command.current_dir(workspace::root());
        command.args([
            "--package",
            "tcptrace-ebpf",
            "--release",
            "--target",
            TARGET,
        ]);
        command
            .arg("--target-dir")
            .arg(workspace::root().join("target/ebpf/build"));
        if self.core == Core::FromSource {
            command.args(["-Z", "build-std=core"]);
        }
        // `--btf`: without it callbacks of bpf_loop do not load. The architecture picks the layout of
        // pt_regs and its like; eBPF itself has none.
        let architecture = self
            .rustc
            .version
            .host
            .split('-')
            .next()
            .unwrap_or_default();
        let flags = [
            "-Cdebuginfo=2",
            "-Clink-arg=--btf",
            &format!("--cfg=bpf_target_arch=\"{architecture}\""),
        ];
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        // aya-ebpf needs one unstable feature, on any compiler.
        command
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", &self.rustc.program);
        command.env_remove("RUSTC_WORKSPACE_WRAPPER");
        let mut folders = vec![self.only_llvm()?];
        folders.extend(self.rustc.library_folders.clone());
        if let Some(path) = rustc::library_path(&folders) {
            command.env("LD_LIBRARY_PATH", path);
        }
        Ok(command)
    }

    /// A folder that holds the compiler's LLVM and nothing else: bpf-linker loads the first libLLVM
    /// that it meets, and a system folder may hold several.
    fn only_llvm(&self) -> Result<PathBuf> {
        let library = self.rustc.llvm_library()?;
        let folder = workspace::root().join("target/ebpf/llvm");
        point_to(&library, &folder)
            .with_context(|| format!("cannot write {}", folder.display()))?;
        Ok(folder)
    }
}

/// The compiler to use, set up first if need be. Says what it is, once.
pub(crate) fn compiler() -> Result<&'static Compiler> {
    static CHOSEN: OnceLock<Compiler> = OnceLock::new();
    if let Some(chosen) = CHOSEN.get() {
        return Ok(chosen);
    }
    let chosen = choose()?;
    say(format_args!(
        "compiles the eBPF program with {}",
        chosen.description()
    ));
    Ok(CHOSEN.get_or_init(|| chosen))
}

/// Whether the user asks for a particular compiler, so that an object at hand may not be what is
/// wanted.
pub(crate) fn is_asked_for() -> bool {
    [RUSTC_VARIABLE, WAY_VARIABLE]
        .iter()
        .any(|name| env::var_os(name).is_some())
}

fn choose() -> Result<Compiler> {
    if let Some(program) = env::var_os(RUSTC_VARIABLE) {
        return prebuilt::named(Path::new(&program))
            .with_context(|| format!("{RUSTC_VARIABLE} cannot be used"));
    }
    let way = Way::parse(env::var(WAY_VARIABLE).ok().as_deref())?;
    let (nightly, debian) = (way != Way::Debian, way != Way::Nightly);
    let found = nightly
        .then(rustup::find)
        .flatten()
        .or_else(|| debian.then(prebuilt::find_installed).flatten())
        .or_else(|| debian.then(prebuilt::find_unpacked).flatten());
    if let Some(found) = found {
        return Ok(found);
    }
    say("no compiler on this machine can compile eBPF yet; setting one up");
    let mut failures = Vec::new();
    for (name, wanted, provision) in [
        (
            "rustup",
            nightly,
            rustup::provision as fn() -> Result<Compiler>,
        ),
        ("Debian's packages", debian, prebuilt::provision),
    ] {
        if wanted {
            match provision() {
                Ok(compiler) => return Ok(compiler),
                Err(error) => failures.push(format!("{name}: {error:#}")),
            }
        }
    }
    Err(nothing_works(&failures))
}

impl Way {
    fn parse(text: Option<&str>) -> Result<Self> {
        match text {
            None | Some("") => Ok(Self::Any),
            Some("nightly") => Ok(Self::Nightly),
            Some("debian") => Ok(Self::Debian),
            Some(other) => {
                bail!("{WAY_VARIABLE} is {other:?}; it can be `nightly` or `debian`, or be unset")
            }
        }
    }
}

fn nothing_works(failures: &[String]) -> anyhow::Error {
    let pinned = rustup::PINNED;
    let packages = prebuilt::PACKAGES.join(" ");
    anyhow!(
        "no compiler for the eBPF program could be found or set up.\n  tried: {}\n\
         Do one of these, and run the command again:\n  \
         rustup toolchain install {pinned} --profile minimal --component rust-src\n  \
         sudo apt-get install --no-install-recommends {packages}\n  \
         export {RUSTC_VARIABLE}=PATH    (a rustc that ships core for {TARGET})",
        failures.join("\n  tried: ")
    )
}

/// Makes `folder/libLLVM.so` a link to `library`, replacing another one in one step.
fn point_to(library: &Path, folder: &Path) -> io::Result<()> {
    let link = folder.join("libLLVM.so");
    if fs::read_link(&link).is_ok_and(|current| current == library) {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let aside = folder.with_extension(std::process::id().to_string());
    symlink(library, &aside)?;
    fs::rename(aside, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_one_of_two_or_open() {
        assert_eq!(Way::parse(None).expect("unset is fine"), Way::Any);
        assert_eq!(Way::parse(Some("nightly")).expect("known"), Way::Nightly);
        assert_eq!(Way::parse(Some("debian")).expect("known"), Way::Debian);
        let error = Way::parse(Some("Debian")).expect_err("spelt otherwise");
        assert!(
            error.to_string().contains("`nightly` or `debian`"),
            "{error}"
        );
    }

    #[test]
    fn the_last_error_lists_every_attempt_and_what_to_type() {
        let error = nothing_works(&["rustup: not there".into(), "Debian's packages: none".into()]);
        let text = error.to_string();
        for part in [
            "tried: rustup: not there",
            "tried: Debian's packages: none",
            "rustup toolchain install nightly-",
            "sudo apt-get install --no-install-recommends rustc-web",
            "TCPTRACE_BPF_RUSTC=PATH",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }
}
