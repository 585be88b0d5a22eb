//! A network namespace of its own for each test: nothing a test does is seen outside it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use tcptrace::host::interface;

use crate::{skipped::Told, sys};

/// The network namespace that the calling thread lives in.
pub(crate) struct Netns {
    /// The inode of the namespace, which is how the tracer names it.
    pub(crate) inode: u32,
    /// A path to the namespace that other threads and processes can open too.
    pub(crate) path: PathBuf,
}

/// Runs `body` on a thread in a new network namespace with loopback up.
///
/// Threads and processes that `body` starts inherit the namespace; the kernel removes it when the
/// last of them is gone.
pub(crate) fn with_new<T: Send>(body: impl FnOnce(&Netns) -> Result<T> + Send) -> Result<T> {
    let losses = Told::here();
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            losses.share();
            sys::unshare(libc::CLONE_NEWNET).context("cannot make a network namespace")?;
            interface::bring_up("lo").context("cannot bring lo up")?;
            body(&Netns::current()?)
        });
        inside
            .join()
            .unwrap_or_else(|panic| Err(anyhow!("the test panicked: {}", told(&*panic))))
    })
}

/// Writes a sysctl of the calling thread's network namespace, such as `ipv4/ip_local_port_range`.
pub(crate) fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).with_context(|| format!("cannot write {value:?} to {path}"))
}

impl Netns {
    fn current() -> Result<Self> {
        // /proc/self would be the main thread's namespace.
        let link = fs::read_link("/proc/thread-self").context("no /proc/thread-self")?;
        let path = PathBuf::from("/proc").join(link).join("ns/net");
        let inode = fs::metadata(&path)
            .with_context(|| format!("cannot stat {}", path.display()))?
            .ino();
        Ok(Self {
            inode: u32::try_from(inode).context("namespace inodes have 32 bits")?,
            path,
        })
    }
}

fn told(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "no message".to_owned())
}
