//! Owns loading and attaching: configuration in, a running program with its maps out.

use anyhow::{Context, anyhow};
use aya::{
    Ebpf, EbpfError, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{ProgramError, RawTracePoint, raw_trace_point::RawTracePointLinkId},
};
use aya_log::{EbpfLogger, Level};
use tcptrace_common::{Config, ListenerKey, PORT_BITMAP_BYTES, PortSet, filter};

use super::{OBJECT, losses::Losses};
use crate::failure::Failure;

/// The hook, and the program for it.
pub const HOOK: &str = "inet_sock_set_state";
/// The programs on the hook, in the order in which they are attached: the second takes over what the
/// kernel skips of the first.
const PROGRAMS: [&str; 2] = [HOOK, "inet_sock_set_state_nested"];

/// What the program is loaded with.
pub struct Setup {
    /// Offsets and filters.
    pub config: Config,
    /// The ports of [`filter::PORT`], [`filter::LOCAL_PORT`] and [`filter::REMOTE_PORT`].
    pub ports: Vec<(PortSet, u16)>,
    /// Bytes of the ring buffer: a power of two, at least a page.
    pub buffer_bytes: u32,
    /// How much the program says of itself; `None` for nothing, at no cost.
    pub log_level: Option<Level>,
}

/// The program, attached.
pub struct Attached {
    ebpf: Ebpf,
    /// With the name of the program it belongs to.
    links: Vec<(&'static str, RawTracePointLinkId)>,
    pub(crate) ring: RingBuf<MapData>,
    pub(crate) losses: Losses,
    pub(crate) log: EbpfLogger<&'static dyn log::Log>,
}

/// A port set as the kernel sees it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PortBitmap([u8; PORT_BITMAP_BYTES]);

// SAFETY: an array of bytes: no padding, every value valid.
unsafe impl Pod for PortBitmap {}

/// [`Config`] as bytes for the loader.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct ConfigData(Config);

// SAFETY: `repr(C)`, integers only, no padding: its size is asserted where it is defined.
unsafe impl Pod for ConfigData {}

/// [`ListenerKey`] as bytes for the table.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct ListenerKeyData(ListenerKey);

// SAFETY: `repr(C)`, integers only, no padding: its size is asserted where it is defined.
unsafe impl Pod for ListenerKeyData {}

impl Attached {
    /// Loads the program and attaches it.
    ///
    /// # Errors
    /// [`Failure::Unsupported`] when the kernel refuses, with what to look at.
    pub fn new(setup: &Setup) -> Result<Self, Failure> {
        let config = ConfigData(setup.config);
        let log_level = setup.log_level.map_or(0, |level| level as u8);
        let has = |bits: u32| setup.config.filters & bits != 0;
        let mut loader = EbpfLoader::new();
        loader
            // Nothing is relocated by type: the kernel's BTF is not needed here.
            .btf(None)
            .override_global("CONFIG", &config, true)
            .override_global(aya_log::LEVEL, &log_level, true)
            .map_max_entries("EVENTS", setup.buffer_bytes);
        if !has(filter::PORT | filter::LOCAL_PORT | filter::REMOTE_PORT) {
            loader.map_max_entries("UNDECIDED", 1);
        }
        if !has(filter::PID) {
            for map in ["FOLLOWED", "FOLLOWED_COOKIES", "FOLLOWED_LISTENERS"] {
                loader.map_max_entries(map, 1);
            }
        }
        let mut ebpf = loader.load(OBJECT).map_err(refused)?;
        set_ports(&mut ebpf, &setup.ports)?;
        let ring = RingBuf::try_from(take(&mut ebpf, "EVENTS")?).context("EVENTS")?;
        let counters = PerCpuArray::try_from(take(&mut ebpf, "LOST")?).context("LOST")?;
        let caught = PerCpuArray::try_from(take(&mut ebpf, "CAUGHT")?).context("CAUGHT")?;
        let log = EbpfLogger::init(&mut ebpf).context("cannot read the program's log")?;

        for name in PROGRAMS {
            program(&mut ebpf, name)?
                .load()
                .map_err(|error| not_loaded(&error))?;
        }
        let first = program(&mut ebpf, HOOK)?
            .fd()
            .context(HOOK)?
            .try_clone()
            .context(HOOK)?;
        let mut links = Vec::new();
        for name in PROGRAMS {
            let link = program(&mut ebpf, name)?.attach(HOOK).map_err(|error| {
                Failure::Unsupported(format!(
                    "cannot attach to the raw tracepoint {HOOK}: {error}; see what this kernel allows with: tcptrace doctor"
                ))
            })?;
            links.push((name, link));
        }
        Ok(Self {
            ebpf,
            links,
            ring,
            losses: Losses::new(counters, first, caught),
            log,
        })
    }

    /// Takes the programs off their hook: no record is made after this.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&mut self) -> anyhow::Result<()> {
        for (name, link) in self.links.drain(..) {
            program(&mut self.ebpf, name)?
                .detach(link)
                .with_context(|| format!("cannot detach {name}"))?;
        }
        Ok(())
    }

    /// Makes `--pid` follow the socket with this cookie.
    ///
    /// # Errors
    /// When the table is full.
    pub fn follow_cookie(&mut self, cookie: u64) -> anyhow::Result<()> {
        self.follow("FOLLOWED_COOKIES", cookie, 1)
    }

    /// Makes `--pid` follow the children of `listeners` sockets that listen at `key`.
    ///
    /// # Errors
    /// When the table is full.
    pub fn follow_listeners(&mut self, key: ListenerKey, listeners: u32) -> anyhow::Result<()> {
        self.follow("FOLLOWED_LISTENERS", ListenerKeyData(key), listeners)
    }

    fn follow<K: Pod>(&mut self, table: &str, key: K, value: u32) -> anyhow::Result<()> {
        let map = self
            .ebpf
            .map_mut(table)
            .with_context(|| format!("the object has no {table}"))?;
        let mut map: HashMap<_, K, u32> =
            HashMap::try_from(map).with_context(|| table.to_owned())?;
        map.insert(key, value, 0)
            .with_context(|| format!("the process of --pid has more sockets than {table} holds"))
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut RawTracePoint> {
    ebpf.program_mut(name)
        .with_context(|| format!("the object has no program {name}"))?
        .try_into()
        .with_context(|| name.to_owned())
}

fn set_ports(ebpf: &mut Ebpf, ports: &[(PortSet, u16)]) -> anyhow::Result<()> {
    let map = ebpf.map_mut("PORTS").context("the object has no PORTS")?;
    let mut map: Array<_, PortBitmap> = Array::try_from(map).context("PORTS")?;
    for set in [PortSet::Either, PortSet::Local, PortSet::Remote] {
        let mut bitmap = PortBitmap([0; PORT_BITMAP_BYTES]);
        for (_, port) in ports.iter().filter(|(of, _)| *of == set) {
            bitmap.0[usize::from(port >> 3)] |= 1 << (port & 7);
        }
        map.set(set as u32, bitmap, 0)
            .context("cannot set the port filter")?;
    }
    Ok(())
}

fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<aya::maps::Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the object has no {name}"))
}

/// Why the maps could not be made.
fn refused(error: EbpfError) -> Failure {
    if let EbpfError::MapError(MapError::CreateError { name, io_error, .. }) = &error {
        let denied = matches!(io_error.raw_os_error(), Some(libc::EPERM | libc::ENOMEM));
        if denied {
            return Failure::Unsupported(format!(
                "the kernel refuses memory for the eBPF map {name} ({io_error}); raise the limit with: ulimit -l unlimited, or ask for less with: --buffer-size 1M"
            ));
        }
    }
    Failure::Other(anyhow!(error).context("cannot load the eBPF object"))
}

/// Why the program could not be loaded: the verifier's last words, or the kernel's refusal.
fn not_loaded(error: &ProgramError) -> Failure {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            let last = log
                .lines()
                .rev()
                .map(str::trim)
                .find(|line| !is_statistics(line));
            let why = last.map_or_else(String::new, |line| format!(" ({line})"));
            Failure::Unsupported(format!(
                "the kernel refuses the eBPF program: {io_error}{why}; see what this kernel allows with: tcptrace doctor"
            ))
        }
        other => Failure::Other(anyhow!("cannot load the eBPF program: {other}")),
    }
}

/// Whether a line of the verifier's log is about its own work: kernel/bpf/verifier.c
/// `print_verification_stats` (v6.18). The reason for a refusal stands before.
fn is_statistics(line: &str) -> bool {
    line.is_empty()
        || ["processed ", "verification time ", "stack depth "]
            .iter()
            .any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_no_reason() {
        assert!(is_statistics("stack depth 456+0+0"));
        assert!(is_statistics(
            "processed 12 insns (limit 1000000) max_states_per_insn 0"
        ));
        assert!(!is_statistics("R1 type=scalar expected=fp"));
    }
}
