//! Owns how a folder of `.toolchain` comes to be: once, whole, and by one process at a time.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{say::say, workspace};

/// Returns `.toolchain/<name>`, made by `make` if it is not there yet.
///
/// `make` fills a folder aside that gets its name only when it is complete, so an interrupted run
/// leaves nothing that a later one would take for good.
pub(crate) fn once(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    once_in(&workspace::toolchain_dir(), name, make)
}

/// Where [`once`] put `name`, if it did.
pub(crate) fn existing(name: &str) -> Option<PathBuf> {
    Some(workspace::toolchain_dir().join(name)).filter(|path| path.is_dir())
}

/// Holds `.toolchain/<name>.lock` until dropped, so that two xtasks do not meet in one folder.
pub(crate) fn lock(name: &str) -> Result<File> {
    lock_in(&workspace::toolchain_dir(), name)
}

fn once_in(top: &Path, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let finished = top.join(name);
    if finished.is_dir() {
        return Ok(finished);
    }
    let _lock = lock_in(top, name)?;
    // Whoever held the lock before may have made it.
    if finished.is_dir() {
        return Ok(finished);
    }
    let aside = top.join(format!("{name}.partial"));
    remove(&aside)?;
    fs::create_dir_all(&aside).with_context(|| format!("cannot create {}", aside.display()))?;
    make(&aside)?;
    fs::rename(&aside, &finished)
        .with_context(|| format!("cannot move {} into its place", aside.display()))?;
    Ok(finished)
}

fn lock_in(top: &Path, name: &str) -> Result<File> {
    let path = top.join(format!("{name}.lock"));
    let context = || format!("cannot lock {}", path.display());
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .with_context(context)?;
    let file = File::create(&path).with_context(context)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            say(format_args!(
                "waits for another xtask that is setting up {name}"
            ));
            file.lock().with_context(context)?;
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(context),
    }
    Ok(file)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A fresh folder that goes away with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("xtask-provision-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a temporary folder can be made");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_exists_is_not_made_again() {
        let top = Scratch::new("twice");
        let made = once_in(&top.0, "tool", |aside| Ok(fs::write(aside.join("a"), "1")?));
        assert_eq!(
            fs::read(made.expect("it is made").join("a")).expect("it is there"),
            b"1"
        );
        once_in(&top.0, "tool", |_| panic!("made twice")).expect("it is there already");
    }

    #[test]
    fn a_failed_attempt_leaves_nothing_behind_for_the_next() {
        let top = Scratch::new("failed");
        let failed = once_in(&top.0, "a/tool", |aside| {
            fs::write(aside.join("half"), "")?;
            anyhow::bail!("the network went away")
        });
        assert!(failed.is_err() && !top.0.join("a/tool").exists());
        let made = once_in(&top.0, "a/tool", |_| Ok(())).expect("the second attempt works");
        assert!(!made.join("half").exists());
    }

    #[test]
    fn concurrent_attempts_make_it_once() {
        let top = Scratch::new("concurrent");
        let count = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    once_in(&top.0, "tool", |_| {
                        count.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        Ok(())
                    })
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }
}
