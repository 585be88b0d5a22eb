//! The line to an actor's process.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use super::protocol::{Answer, Order};
use crate::lab::limits::{Cancel, PATIENCE};

/// How often an actor that has not answered yet is asked whether the lab is to end.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The line to an actor's process.
pub(super) struct Line {
    stream: BufReader<UnixStream>,
    /// What has come of the next answer.
    begun: String,
}

impl Line {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
            begun: String::new(),
        }
    }

    pub(super) fn send(&mut self, order: &Order) -> Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        Ok(())
    }

    pub(super) fn receive(&mut self, cancel: &Cancel) -> Result<Answer> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.stream.read_line(&mut self.begun) {
                Ok(0) => bail!("its process has ended"),
                Ok(_) => break,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error.into()),
            }
            cancel.check()?;
            ensure!(Instant::now() < deadline, "no answer within {PATIENCE:?}");
        }
        Ok(serde_json::from_str(&std::mem::take(&mut self.begun))?)
    }
}
