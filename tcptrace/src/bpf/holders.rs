//! Owns asking the kernel which sockets hold a port: one program, run once, without a trace.

use std::{panic, thread};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader, Pod, RawTracePointRunOptions, TestRun as _,
    maps::{MapData, RingBuf},
    programs::RawTracePoint,
};
use tcptrace_common::{BucketOffsets, Config};

use super::{kfuncs::Kfuncs, link, offsets::KernelTypes};

/// The larger tables of the object, which this program does not use.
const TABLES: [&str; 6] = [
    "UNDECIDED",
    "FOLLOWED",
    "FOLLOWED_COOKIES",
    "FOLLOWED_LISTENERS",
    "CALLS",
    "NETNS_WANTED",
];
/// The program of tcptrace-ebpf/src/probes/list_holders.rs.
const PROGRAM: &str = "list_holders";
/// Beside the number of records in what the program returns: there may be more holders.
const CUT: u32 = 1 << 16;

/// [`BucketOffsets`] as bytes for the loader.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct BucketData(pub(super) BucketOffsets);

// SAFETY: `repr(C)`, integers only, no padding: its size is asserted where it is defined.
unsafe impl Pod for BucketData {}

/// The program that lists the holders of a port, loaded.
pub struct Lister {
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
}

impl Lister {
    /// Bytes of the ring buffer: enough for [`tcptrace_common::HolderLimit::ALL`] records, and a power of two.
    pub const BUFFER_BYTES: u32 = 64 * 1024;

    /// Loads the program.
    ///
    /// # Errors
    /// When the kernel or the privileges do not allow it, or this kernel's table of ports is not known.
    pub fn load(types: &KernelTypes) -> Result<Self> {
        // It parses all of the kernel's types, though nobody here wants them: meanwhile.
        let loader = thread::spawn(EbpfLoader::new);
        let config = Config {
            offsets: types.offsets()?,
            ..Config::UNSET
        };
        let buckets = BucketData(types.bucket_offsets()?);
        let mut loader = loader
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic));
        loader
            .btf(None)
            .override_global("BUCKET", &buckets, true)
            .map_max_entries("EVENTS", Self::BUFFER_BYTES);
        for table in TABLES {
            loader.map_max_entries(table, 1);
        }
        // Its program runs in the task that asks, and nothing runs it meanwhile.
        let object = link::linked(Kfuncs::default(), &config)?;
        let mut ebpf = loader
            .load(object.bytes())
            .context("cannot load the eBPF object")?;
        let program: &mut RawTracePoint = ebpf
            .program_mut(PROGRAM)
            .with_context(|| format!("the object has no {PROGRAM}"))?
            .try_into()?;
        program
            .load()
            .context("the kernel refuses the eBPF program")?;
        let ring = ebpf
            .take_map("EVENTS")
            .context("the object has no EVENTS")?;
        Ok(Self {
            ring: RingBuf::try_from(ring)?,
            ebpf,
        })
    }

    /// Hands each record of the sockets that hold `port` in the network namespace of the calling thread to
    /// `each`, which says whether it could read it. Returns whether there may be more. `device` is the
    /// interface that the asker would be bound to, 0 for none.
    ///
    /// # Errors
    /// When the kernel does not run the program.
    pub fn list(
        &mut self,
        port: u16,
        device: u32,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<bool> {
        let program: &RawTracePoint = self
            .ebpf
            .program(PROGRAM)
            .with_context(|| format!("the object has no {PROGRAM}"))?
            .try_into()?;
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = port.into();
        options.args[1] = device.into();
        let returned = program
            .test_run(options)
            .context("the kernel does not run the eBPF program")?
            .return_value;
        if returned == u32::MAX {
            bail!("the eBPF program could not find the table of ports");
        }
        while let Some(record) = self.ring.next() {
            if !each(&record) {
                bail!("the eBPF program made a record that cannot be read");
            }
        }
        Ok(returned & CUT != 0)
    }
}
