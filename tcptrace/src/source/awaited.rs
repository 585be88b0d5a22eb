//! Owns `Awaited`: a value that a thread works out, and that is waited for where it is needed.

use std::{
    panic,
    sync::{Mutex, OnceLock, PoisonError},
    thread::{self, JoinHandle},
};

/// A value that is on its way.
pub(super) struct Awaited<T> {
    thread: Mutex<Option<JoinHandle<T>>>,
    value: OnceLock<T>,
}

impl<T: Send + 'static> Awaited<T> {
    /// What `work` returns, in a thread of its own.
    pub(super) fn of(work: impl FnOnce() -> T + Send + 'static) -> Self {
        Self {
            thread: Mutex::new(Some(thread::spawn(work))),
            value: OnceLock::new(),
        }
    }

    /// The value, if it is there.
    pub(super) fn ready(&self) -> Option<&T> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = thread.as_ref().is_none_or(JoinHandle::is_finished);
        drop(thread);
        is_there.then(|| self.value())
    }

    /// The value; waits for it if need be. A panic of the work is passed on.
    pub(super) fn value(&self) -> &T {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            let value = thread
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic));
            return self.value.get_or_init(|| value);
        }
        drop(thread);
        self.value.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_worked_out_once_and_there_ever_after() {
        let awaited = Awaited::of(|| vec![7]);
        assert_eq!(*awaited.value(), [7]);
        assert_eq!(*awaited.value(), [7]);
        assert_eq!(awaited.ready(), Some(&vec![7]));
    }

    #[test]
    fn it_is_not_ready_before_it_is_there() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let awaited = Awaited::of(move || wait.recv().is_err());
        assert_eq!(awaited.ready(), None);
        drop(go);
        assert!(*awaited.value());
    }
}
