//! Owns the count of what was lost: read from the kernel, told as differences.

use std::{
    io,
    mem::{self, MaybeUninit, size_of},
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result};
use aya::{
    maps::{MapData, PerCpuArray},
    programs::ProgramFd,
};
use aya_obj::generated::{bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, bpf_prog_info};
use tcptrace_model::{Loss, LossReason, RecordKind};

/// The kernel's loss counters and what of them has been told already.
pub(crate) struct Losses {
    /// Per CPU, indexed by the number of the record kind.
    counters: PerCpuArray<MapData, u64>,
    /// Told so far: a row per kind, a column per CPU.
    told: Vec<Vec<u64>>,
    /// The programs that the kernel skips where they are running already.
    watched: Vec<Watched>,
}

/// A program, and what is known of its skips.
struct Watched {
    program: ProgramFd,
    /// What it records.
    kind: RecordKind,
    /// How many of the skips another program has caught, per CPU; `None` where nothing takes over.
    caught: Option<PerCpuArray<MapData, u64>>,
    /// What it was at the last look: as long as the other program has not run, an event that it will catch
    /// looks like one that is lost.
    skipped: u64,
    told: u64,
}

impl Watched {
    /// How many of its events no program has recorded.
    fn skipped(&self) -> Result<u64> {
        // In this order: what is caught meanwhile is not missed.
        let skipped =
            recursion_misses(&self.program).context("cannot read the program's counters")?;
        let caught = match &self.caught {
            None => 0,
            Some(caught) => caught
                .get(&0, 0)
                .context("cannot read what was caught")?
                .iter()
                .sum(),
        };
        Ok(skipped.saturating_sub(caught))
    }

    /// The same, less what may still be caught.
    fn settle(&mut self, is_over: bool) -> Result<u64> {
        let skipped = self.skipped()?;
        let before = mem::replace(&mut self.skipped, skipped);
        Ok(if is_over || self.caught.is_none() {
            skipped
        } else {
            skipped.min(before)
        })
    }
}

impl Losses {
    /// Counts from zero: the counters have just been made.
    pub(crate) fn new(counters: PerCpuArray<MapData, u64>) -> Self {
        Self {
            counters,
            told: vec![Vec::new(); RecordKind::ALL.len()],
            watched: Vec::new(),
        }
    }

    /// Counts what the kernel skips of this program, too, less what another one has `caught`.
    pub(crate) fn watch(
        &mut self,
        (program, kind): (ProgramFd, RecordKind),
        caught: Option<PerCpuArray<MapData, u64>>,
    ) {
        self.watched.push(Watched {
            program,
            kind,
            caught,
            skipped: 0,
            told: 0,
        });
    }

    /// Tells every loss since the last call; of what the kernel skipped, only what the last call had found,
    /// too, unless it `is_over` and all programs are done.
    pub(crate) fn poll(
        &mut self,
        now_ns: u64,
        is_over: bool,
        mut tell: impl FnMut(Loss),
    ) -> Result<()> {
        for (kind, told) in RecordKind::ALL.into_iter().zip(&mut self.told) {
            let counts = self
                .counters
                .get(&u32::from(kind.number()), 0)
                .context("cannot read the loss counters")?;
            told.resize(counts.len(), 0);
            for (cpu, (count, told)) in counts.iter().zip(told).enumerate() {
                if *count > *told {
                    tell(Loss {
                        ts_ns: now_ns,
                        records: *count - *told,
                        kind,
                        cpu: u32::try_from(cpu).ok(),
                        reason: LossReason::BufferFull,
                    });
                    *told = *count;
                }
            }
        }
        for watched in &mut self.watched {
            let skipped = watched.settle(is_over)?;
            if skipped > watched.told {
                tell(Loss {
                    ts_ns: now_ns,
                    records: skipped - watched.told,
                    kind: watched.kind,
                    cpu: None,
                    reason: LossReason::Recursion,
                });
                watched.told = skipped;
            }
        }
        Ok(())
    }
}

/// How often the kernel skipped the program because it was running on that CPU already
/// (`recursion_misses`, since 5.12; 0 before, when it did not skip raw tracepoints).
fn recursion_misses(program: &ProgramFd) -> io::Result<u64> {
    /// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads.
    #[repr(C)]
    struct InfoByFd {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = MaybeUninit::<bpf_prog_info>::zeroed();
    let size = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
    let attr = InfoByFd {
        bpf_fd: u32::try_from(program.as_fd().as_raw_fd()).map_err(io::Error::other)?,
        info_len: size(size_of::<bpf_prog_info>())?,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: bpf(2) reads `attr`, of the size given, and writes at most `info_len` bytes to `info`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const attr,
            size_of::<InfoByFd>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and is made of integers.
    Ok(unsafe { info.assume_init() }.recursion_misses)
}
