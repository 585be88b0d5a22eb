//! Owns what /proc tells of programs, processes and the network, as text that is read here.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

/// Time and number of runs of eBPF programs, as the kernel counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    pub(super) time_ns: u64,
    pub(super) count: u64,
}

impl Runs {
    /// What has come on top of `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            time_ns: self.time_ns - before.time_ns,
            count: self.count - before.count,
        }
    }
}

/// The time of all programs of a process, each counted once however many descriptors it has, and the
/// runs of the one that runs most often, which may be one on another hook.
pub(super) fn programs_of(pid: u32) -> Result<Runs> {
    let programs = all_programs_of(pid)?;
    Ok(programs.values().fold(Runs::default(), |sum, runs| Runs {
        time_ns: sum.time_ns + runs.time_ns,
        count: sum.count.max(runs.count),
    }))
}

/// The ids of all programs of a process.
pub(super) fn program_ids_of(pid: u32) -> Result<Vec<u32>> {
    Ok(all_programs_of(pid)?.into_keys().collect())
}

/// The runs of a program that this process has.
pub(super) fn own_program(descriptor: &OwnedFd) -> Result<Runs> {
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let (_, runs) = program(&text).context("the kernel does not time programs")?;
    Ok(runs)
}

fn all_programs_of(pid: u32) -> Result<BTreeMap<u32, Runs>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut programs = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // It may have been closed meanwhile.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        programs.extend(program(&text));
    }
    Ok(programs)
}

/// The id and the runs of a program, if this is the fdinfo of one: kernel/bpf/syscall.c
/// `bpf_prog_show_fdinfo` (v6.18).
fn program(fdinfo: &str) -> Option<(u32, Runs)> {
    let number = |name| field(fdinfo, name)?.parse().ok();
    let runs = Runs {
        time_ns: number("run_time_ns")?,
        count: number("run_cnt")?,
    };
    Some((u32::try_from(number("prog_id")?).ok()?, runs))
}

/// The CPU time of a process in user space and in the kernel, in ticks of the clock (Linux, proc_pid_stat(5), `utime`
/// and `stime`): a ratio, no more.
pub(super) fn ticks_of(pid: u32) -> Result<[u64; 2]> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ticks(&text).with_context(|| format!("{path} tells no CPU time"))
}

/// The name of the program, in brackets, may have anything in it; what follows has no brackets.
fn ticks(stat: &str) -> Option<[u64; 2]> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    Some([fields.next()?.parse().ok()?, fields.next()?.parse().ok()?])
}

/// The memory of a process in bytes: what it has now, and the most that it had, each with what is mapped.
pub(super) fn memory_of(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Memory::parse(&text).with_context(|| format!("{path} tells no memory"))
}

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) now: u64,
    pub(super) most: u64,
}

impl Memory {
    fn parse(status: &str) -> Option<Self> {
        let bytes = |name| {
            let kib = field(status, name)?.strip_suffix("kB")?.trim();
            kib.parse::<u64>().ok().map(|kib| kib * 1024)
        };
        Some(Self {
            now: bytes("VmRSS")?,
            most: bytes("VmHWM")?,
        })
    }
}

/// `name:` and its value, as fdinfo and status have them.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 12 34 0 0 20 0 1 0 100 1 1";
        assert_eq!(ticks(stat), Some([12, 34]));
        assert_eq!(ticks("7 (cut off"), None);
    }

    #[test]
    fn a_program_is_told_by_its_fdinfo() {
        let text = "pos:\t0\nflags:\t02000002\nprog_type:\t17\nprog_id:\t4711\nrun_time_ns:\t900\n\
                    run_cnt:\t12\nverified_insns:\t2\n";
        let runs = Runs {
            time_ns: 900,
            count: 12,
        };
        assert_eq!(program(text), Some((4711, runs)));
        assert_eq!(program("pos:\t0\nflags:\t02\nmap_type:\t27\n"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\ttcptrace\nVmHWM:\t   14000 kB\nVmRSS:\t   12000 kB\nThreads:\t1\n";
        let expected = Memory {
            now: 12_000 * 1024,
            most: 14_000 * 1024,
        };
        assert_eq!(Memory::parse(status), Some(expected));
        assert_eq!(Memory::parse("Name:\tkthreadd\n"), None);
    }
}
