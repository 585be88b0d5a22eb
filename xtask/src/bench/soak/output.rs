//! Owns the reading of what tcptrace writes, while it writes it: its lines are counted, and the file is emptied
//! behind the reader, so that it stays a file and does not fill the disk.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Seek as _},
    os::fd::AsRawFd as _,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// What has been read is given back to the file system in pieces of so many bytes.
const PIECE: u64 = 64 << 20;
/// How far the reader may fall behind, in bytes: that much of the disk is used at most.
const BEHIND: u64 = 4 << 30;
/// How long to wait for more.
const LOOK: Duration = Duration::from_millis(5);

/// What the lines add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    pub(super) lines: u64,
    pub(super) bytes: u64,
    pub(super) transitions: u64,
    /// CLOSE to SYN_SENT.
    pub(super) begun: u64,
    /// LISTEN to SYN_RECV.
    pub(super) accepted: u64,
    /// SYN_SENT or SYN_RECV to CLOSE.
    pub(super) failed: u64,
    /// ESTABLISHED or CLOSE_WAIT to CLOSE.
    pub(super) reset: u64,
    /// Lines `time_wait_entered`.
    pub(super) time_waits: u64,
    /// Lines `connection`.
    pub(super) connections: u64,
    /// The line `start`.
    pub(super) start: Option<Value>,
    /// The line `summary`.
    pub(super) summary: Option<Value>,
}

/// What a reader and those who wait for it share.
#[derive(Default)]
pub(super) struct Progress {
    /// tcptrace has begun.
    pub(super) has_begun: AtomicBool,
    /// tcptrace has ended: what there is is all.
    pub(super) is_over: AtomicBool,
    /// Bytes that have been read.
    pub(super) read: AtomicU64,
    /// Why the reader gave up.
    pub(super) trouble: Mutex<Option<String>>,
}

/// Reads the file to its end, which is where it ends when tcptrace has.
pub(super) fn read(path: &Path, progress: &Progress) -> Result<Told> {
    let told = follow(path, progress);
    if let Err(error) = &told
        && let Ok(mut trouble) = progress.trouble.lock()
    {
        *trouble = Some(format!("{error:#}"));
    }
    told
}

fn follow(path: &Path, progress: &Progress) -> Result<Told> {
    // To give back what has been read takes the right to write.
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut told = Told::default();
    let mut line = Vec::new();
    let mut emptied = 0;
    loop {
        // Looked at first: what is written before it becomes true is read after.
        let is_over = progress.is_over.load(Ordering::SeqCst);
        if reader.read_until(b'\n', &mut line)? == 0 {
            if is_over {
                return Ok(told);
            }
            thread::sleep(LOOK);
            continue;
        }
        // The rest of a line comes later.
        if line.last() != Some(&b'\n') {
            ensure!(!is_over, "the last line is not complete");
            continue;
        }
        told.take(std::str::from_utf8(&line).context("a line is no UTF-8")?)?;
        line.clear();
        if told.lines == 1 {
            progress.has_begun.store(true, Ordering::SeqCst);
        }
        progress.read.store(told.bytes, Ordering::SeqCst);
        if told.bytes - emptied >= PIECE {
            let length = reader.get_mut().seek(io::SeekFrom::End(0))?;
            reader.seek(io::SeekFrom::Start(told.bytes))?;
            ensure!(
                length - told.bytes <= BEHIND,
                "the reader is {} MB behind tcptrace: the disk would fill",
                (length - told.bytes) >> 20
            );
            give_back(reader.get_ref(), emptied, told.bytes - emptied)?;
            emptied = told.bytes;
        }
    }
}

impl Told {
    fn take(&mut self, line: &str) -> Result<()> {
        self.lines += 1;
        self.bytes += line.len() as u64;
        let rest = line
            .strip_prefix("{\"kind\":\"")
            .context("a line begins otherwise")?;
        let kind = rest.split('"').next().unwrap_or_default();
        match kind {
            "transition" => {
                self.transitions += 1;
                let (old, new) = states(line).context("a transition has no states")?;
                match (old, new) {
                    ("CLOSE", "SYN_SENT") => self.begun += 1,
                    ("LISTEN", "SYN_RECV") => self.accepted += 1,
                    ("SYN_SENT" | "SYN_RECV", "CLOSE") => self.failed += 1,
                    ("ESTABLISHED" | "CLOSE_WAIT", "CLOSE") => self.reset += 1,
                    _ => {}
                }
            }
            "time_wait_entered" => self.time_waits += 1,
            "connection" => self.connections += 1,
            "start" => self.start = Some(serde_json::from_str(line)?),
            "summary" => self.summary = Some(serde_json::from_str(line)?),
            _ => {}
        }
        Ok(())
    }
}

/// `"oldstate":"CLOSE","newstate":"SYN_SENT"`
fn states(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once("\"oldstate\":\"")?;
    let (old, rest) = rest.split_once("\",\"newstate\":\"")?;
    let (new, _) = rest.split_once('"')?;
    Some((old, new))
}

/// Punches a hole: the bytes read as 0 from then on, and take no room.
fn give_back(file: &File, from: u64, length: u64) -> Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (from, length) = (i64::try_from(from)?, i64::try_from(length)?);
    // SAFETY: fallocate(2) takes four integers; the descriptor is open.
    if unsafe { libc::fallocate(file.as_raw_fd(), mode, from, length) } != 0 {
        return Err(io::Error::last_os_error()).context(
            "this file system cannot free a part of a file; name another folder with TMPDIR",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::MetadataExt as _};

    use super::*;
    use crate::bench::scratch::Scratch;

    const TRANSITION: &str =
        "{\"kind\":\"transition\",\"ts_ns\":1,\"oldstate\":\"CLOSE\",\"newstate\":\"SYN_SENT\"}\n";

    #[test]
    fn lines_are_counted_by_kind_and_states() {
        let mut told = Told::default();
        for line in [
            "{\"kind\":\"start\",\"ts_ns\":1,\"degraded\":[]}\n",
            TRANSITION,
            "{\"kind\":\"transition\",\"oldstate\":\"ESTABLISHED\",\"newstate\":\"CLOSE\"}\n",
            "{\"kind\":\"time_wait_entered\"}\n",
            "{\"kind\":\"summary\",\"lost\":0}\n",
        ] {
            told.take(line).unwrap();
        }
        assert_eq!((told.lines, told.transitions), (5, 2));
        assert_eq!((told.begun, told.reset, told.time_waits), (1, 1, 1));
        assert_eq!(told.summary.unwrap()["lost"], 0);
        assert!(Told::default().take("tcptrace: warning\n").is_err());
    }

    #[test]
    fn a_file_is_followed_until_its_writer_has_ended() {
        let (scratch, mut file) = Scratch::file("follow").unwrap();
        let progress = Progress::default();
        let told = thread::scope(|scope| {
            let reader = scope.spawn(|| read(scratch.path(), &progress));
            // In two halves: the reader may come in between.
            let (first, second) = TRANSITION.split_at(20);
            for part in [first, second, TRANSITION] {
                file.write_all(part.as_bytes()).unwrap();
                thread::sleep(Duration::from_millis(10));
            }
            progress.is_over.store(true, Ordering::SeqCst);
            reader.join().unwrap()
        });
        assert_eq!(told.unwrap().begun, 2);
    }

    #[test]
    fn what_has_been_read_takes_no_room() {
        let (scratch, mut file) = Scratch::file("hole").unwrap();
        file.write_all(&vec![1; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        // Some file systems cannot; that is told.
        if let Err(error) = give_back(&file, 0, 1 << 20) {
            assert!(format!("{error:#}").contains("TMPDIR"));
            return;
        }
        let metadata = std::fs::metadata(scratch.path()).unwrap();
        assert_eq!(metadata.len(), 1 << 20);
        assert!(metadata.blocks() * 512 < 1 << 19);
    }
}
