//! Owns loading and attaching: configuration in, a running program with its maps out.

use std::{collections::HashSet, thread, time::Duration};

use anyhow::{Context, anyhow};
use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
};
use aya_log::{EbpfLogger, Level};
use tcptrace_common::{
    BucketOffsets, CheckedConnections, Config, ListenerKey, Offsets, PORT_BITMAP_BYTES, PortSet,
    TimerCode, filter,
};

use super::{
    calls::{self, Calls, CallsBackend, Watching},
    holders::BucketData,
    hooks::{self, Backend, Hook, Link, Place, TimeWaitBackend},
    kfuncs::Kfuncs,
    link,
    losses::Losses,
    netns_set::NetnsSet,
    offsets::KernelTypes,
};
use crate::failure::Failure;

/// No program runs for longer than this.
const LONGEST_PROGRAM: Duration = Duration::from_millis(20);

/// What the programs are loaded with.
pub struct Setup<'a> {
    /// Offsets and filters.
    pub config: Config,
    /// The ports of [`filter::PORT`], [`filter::LOCAL_PORT`] and [`filter::REMOTE_PORT`].
    pub ports: Vec<(PortSet, u16)>,
    /// The network namespaces of [`filter::NETNS_SET`] at first, by inode number.
    pub namespaces: Vec<u32>,
    /// Bytes of the ring buffer: a power of two, at least a page.
    pub buffer_bytes: u32,
    /// How much the program says of itself; `None` for nothing, at no cost.
    pub log_level: Option<Level>,
    /// The running kernel's functions and tracepoints.
    pub types: &'a KernelTypes,
    /// How minisockets are to be watched.
    pub backend: Backend,
    /// How calls are to be watched.
    pub calls: Calls,
    /// Why they cannot be, if this kernel lacks a field that their programs read.
    pub call_offsets: Result<(), String>,
    /// Where the kernel's table of ports lies; or why that is not known, and no holders are listed.
    pub buckets: Result<BucketOffsets, String>,
    /// The kernel's BTF as aya wants it, for fentry; or why there is none.
    pub btf: Result<Btf, String>,
    /// How the timers of minisockets are known; asked for where they are needed only.
    pub timer_code: &'a dyn Fn() -> Result<TimerCode, String>,
}

/// The programs, attached.
pub struct Attached {
    ebpf: Ebpf,
    /// In the order in which they are to be detached.
    links: Vec<Link>,
    pub(crate) ring: RingBuf<MapData>,
    pub(crate) losses: Losses,
    /// The network namespaces that are wanted, if [`filter::NETNS_SET`] is on.
    pub(crate) wanted_namespaces: Option<NetnsSet>,
    pub(crate) log: EbpfLogger<&'static dyn log::Log>,
    /// How minisockets are watched; or why they are not.
    pub(crate) time_wait: Result<TimeWaitBackend, String>,
    /// Why minisockets are not watched by functions; `None` when they are.
    pub(crate) no_fentry: Option<String>,
    /// What else could not be attached, a sentence each.
    pub(crate) refused: Vec<String>,
    /// Whether RSTs are recorded.
    pub(crate) resets: bool,
    /// How calls are watched; or why they are not.
    pub(crate) calls: Result<CallsBackend, String>,
    /// Why calls are not watched by functions; `None` when they are, or that was not asked for.
    pub(crate) calls_no_fentry: Option<String>,
    /// Why the holders of ports are not listed when a call fails; `None` when they are.
    pub(crate) no_lists: Option<String>,
    /// The function that shows the holder which the kernel met first, if one is watched.
    pub(crate) in_the_way: Option<&'static str>,
    /// Whether minisockets carry the date at which they were last set to TIME_WAIT: `tw_entry_stamp`.
    pub(crate) entry_stamp: bool,
    /// What records accept(), if anything does.
    pub(crate) accepts: Option<CallsBackend>,
}

/// A port set as the kernel sees it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PortBitmap([u8; PORT_BITMAP_BYTES]);

// SAFETY: an array of bytes: no padding, every value valid.
unsafe impl Pod for PortBitmap {}

/// [`ListenerKey`] as bytes for the table.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct ListenerKeyData(ListenerKey);

// SAFETY: `repr(C)`, integers only, no padding: its size is asserted where it is defined.
unsafe impl Pod for ListenerKeyData {}

/// [`CheckedConnections`] as bytes for its map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct CheckedData(CheckedConnections);

// SAFETY: `repr(C)`, integers only, no padding: its size is asserted where it is defined.
unsafe impl Pod for CheckedData {}

/// [`TimerCode`] as bytes for its map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct TimerCodeData(TimerCode);

// SAFETY: `repr(C)`, integers only, no padding: its size is asserted where it is defined.
unsafe impl Pod for TimerCodeData {}

impl Attached {
    /// Loads the programs by `loader`, a new one, and attaches them: those of transitions last, so that one
    /// which is seen has everything that belongs to it.
    ///
    /// # Errors
    /// [`Failure::Unsupported`] when the kernel refuses what there is no tracing without, or the backend
    /// that was asked for.
    pub fn new(loader: EbpfLoader<'static>, setup: &Setup<'_>) -> Result<Self, Failure> {
        let mut ebpf = load(loader, setup)?;
        set_ports(&mut ebpf, &setup.ports)?;
        let ring = RingBuf::try_from(take(&mut ebpf, "EVENTS")?).context("EVENTS")?;
        let counters = PerCpuArray::try_from(take(&mut ebpf, "LOST")?).context("LOST")?;
        let caught = PerCpuArray::try_from(take(&mut ebpf, "CAUGHT")?).context("CAUGHT")?;
        let wanted_namespaces = netns_set(&mut ebpf, setup)?;
        let log = EbpfLogger::init(&mut ebpf).context("cannot read the program's log")?;

        let mut refused = Vec::new();
        // Timers come as late as they can: they need the kernel's symbols, which it is listing still, and it
        // can check programs meanwhile.
        hooks::load_ahead(hooks::TRANSITIONS.iter().chain(&hooks::RESETS), &mut ebpf);
        let by_functions = attach_functions(&mut ebpf, setup);
        if let (Backend::Fentry, Err(why)) = (setup.backend, &by_functions) {
            return Err(unsupported(why));
        }
        let accepted = matches!(&by_functions, Ok((_, Some(_))));
        let Watching {
            backend: calls,
            no_fentry: calls_no_fentry,
            links: calls_links,
            accept: accepts,
            no_lists,
            in_the_way,
        } = attach_calls(accepted, &mut ebpf, setup)?;
        let Minisockets {
            backend: time_wait,
            no_fentry,
            links: minisockets,
            accept,
        } = attach_minisockets(by_functions, &mut ebpf, setup)?;
        let resets = attach_each(
            hooks::RESETS.into_iter().filter(|hook| match hook.place {
                Place::RawTracepoint(name) => setup.types.has_tracepoint(name),
                Place::Entry(_) | Place::Exit(_) | Place::Syscall(..) => true,
            }),
            &mut ebpf,
            &mut refused,
        );
        let transitions = hooks::attach_all(&hooks::TRANSITIONS, &mut ebpf, None)?;
        let mut losses = Losses::new(counters);
        // Of the two on transitions, the second catches what is skipped of the first.
        losses.watch(transitions[0].program(&ebpf)?, Some(caught));
        let mut watched = HashSet::new();
        for link in minisockets
            .iter()
            .chain(&accept)
            .chain(&calls_links)
            .chain(&resets)
        {
            if watched.insert(link.name()) {
                losses.watch(link.program(&ebpf)?, None);
            }
        }
        Ok(Self {
            time_wait,
            no_fentry,
            refused,
            resets: resets.len() == hooks::RESETS.len(),
            calls,
            calls_no_fentry,
            no_lists: setup.buckets.as_ref().err().cloned().or(no_lists),
            in_the_way,
            entry_stamp: setup.config.offsets.tw_entry_stamp != Offsets::ABSENT,
            accepts,
            // What explains a transition is taken off after it.
            links: transitions
                .into_iter()
                .chain(resets)
                .chain(minisockets)
                .chain(accept)
                .chain(calls_links)
                .collect(),
            ebpf,
            ring,
            losses,
            wanted_namespaces,
            log,
        })
    }

    /// Takes the programs off their hooks, and waits for those that run: no record is made after this.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&mut self) -> anyhow::Result<()> {
        for link in self.links.drain(..) {
            link.detach(&mut self.ebpf)?;
        }
        wait_for_running_programs();
        Ok(())
    }

    /// Makes the records of these connections pass every filter, marked as those of the check.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn mark(&mut self, connections: CheckedConnections) -> anyhow::Result<()> {
        let map = self
            .ebpf
            .map_mut("CHECKED")
            .context("the object has no CHECKED")?;
        let mut map: Array<_, CheckedData> = Array::try_from(map).context("CHECKED")?;
        map.set(0, CheckedData(connections), 0)
            .context("cannot tell the programs by which connections they are checked")
    }

    /// Whether the programs are off their hooks.
    pub(crate) fn is_detached(&self) -> bool {
        self.links.is_empty()
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

fn load(loader: EbpfLoader<'static>, setup: &Setup<'_>) -> Result<Ebpf, Failure> {
    let kfuncs = Kfuncs::find(setup.types);
    let buckets = BucketData(*setup.buckets.as_ref().unwrap_or(&BucketOffsets::UNKNOWN));
    let log_level = setup.log_level.map_or(0, |level| level as u8);
    let has = |bits: u32| setup.config.filters & bits != 0;
    // What it borrows lives as long as this function only.
    let mut loader: EbpfLoader<'_> = loader;
    loader
        // Nothing is relocated by type: the kernel's BTF is not needed here.
        .btf(None)
        .override_global("BUCKET", &buckets, true)
        .override_global(aya_log::LEVEL, &log_level, true)
        .map_max_entries("EVENTS", setup.buffer_bytes);
    if !has(filter::PORT | filter::LOCAL_PORT | filter::REMOTE_PORT) {
        loader.map_max_entries("UNDECIDED", 1);
    }
    if !has(filter::NETNS_SET) {
        loader.map_max_entries("NETNS_WANTED", 1);
    }
    if !has(filter::PID) {
        for map in ["FOLLOWED", "FOLLOWED_COOKIES", "FOLLOWED_LISTENERS"] {
            loader.map_max_entries(map, 1);
        }
    }
    if setup.calls == Calls::Off || setup.call_offsets.is_err() {
        loader.map_max_entries("CALLS", 1);
    }
    let object = link::linked(kfuncs, &setup.config)?;
    loader.load(object.bytes()).map_err(refused)
}

/// Attaches the programs of calls; a backend that was asked for and cannot be had is a failure.
fn attach_calls(accepted: bool, ebpf: &mut Ebpf, setup: &Setup<'_>) -> Result<Watching, Failure> {
    let watching = calls::watch(
        setup.calls,
        setup.call_offsets.clone(),
        accepted,
        ebpf,
        setup.types,
        &setup.btf,
    );
    match (&watching.backend, setup.calls) {
        (Err(why), Calls::Fentry | Calls::Syscalls) => Err(Failure::Unsupported(format!(
            "{why}; let tcptrace choose with: --calls auto"
        ))),
        _ => Ok(watching),
    }
}

/// What watches minisockets.
struct Minisockets {
    /// How; or why they are not watched.
    backend: Result<TimeWaitBackend, String>,
    /// Why it is not by functions; `None` when it is.
    no_fentry: Option<String>,
    links: Vec<Link>,
    /// That of accept(), which needs fexit, too.
    accept: Option<Link>,
}

/// The programs of minisockets: those that are attached to functions already, else by timers.
fn attach_minisockets(
    by_functions: Result<(Vec<Link>, Option<Link>), String>,
    ebpf: &mut Ebpf,
    setup: &Setup<'_>,
) -> Result<Minisockets, Failure> {
    let why_not = match by_functions {
        Ok((links, accept)) => {
            return Ok(Minisockets {
                backend: Ok(TimeWaitBackend::Fentry),
                no_fentry: None,
                links,
                accept,
            });
        }
        Err(why) => why,
    };
    let by_timers = attach_timers(ebpf, setup);
    let (backend, links) = match by_timers {
        Ok(links) => (Ok(TimeWaitBackend::Timer), links),
        Err(why) if setup.backend == Backend::Timer => return Err(unsupported(&why)),
        Err(why) => (Err(format!("{why_not}; {why}")), Vec::new()),
    };
    Ok(Minisockets {
        backend,
        no_fentry: Some(why_not),
        links,
        accept: None,
    })
}

/// A backend that was asked for cannot be had.
fn unsupported(why: &str) -> Failure {
    Failure::Unsupported(format!("{why}; let tcptrace choose with: --backend auto"))
}

fn attach_timers(ebpf: &mut Ebpf, setup: &Setup<'_>) -> Result<Vec<Link>, String> {
    let code = TimerCodeData((setup.timer_code)()?);
    let map = ebpf
        .map_mut("TIMER_CODE")
        .ok_or("the object has no TIMER_CODE")?;
    Array::<_, TimerCodeData>::try_from(map)
        .and_then(|mut map| map.set(0, code, 0))
        .map_err(|error| format!("cannot tell the programs which timers to watch: {error}"))?;
    hooks::attach_all(&hooks::TIMERS, ebpf, None).map_err(|refused| refused.to_string())
}

fn attach_functions(
    ebpf: &mut Ebpf,
    setup: &Setup<'_>,
) -> Result<(Vec<Link>, Option<Link>), String> {
    if setup.backend == Backend::Timer {
        return Err("--backend timer".to_owned());
    }
    let hooks = hooks::functions(setup.types)?;
    let btf = setup.btf.as_ref().map_err(Clone::clone)?;
    let links =
        hooks::attach_all(&hooks, ebpf, Some(btf)).map_err(|refused| refused.to_string())?;
    let accept = hooks::accept(setup.types).and_then(|hook| hook.attach(ebpf, Some(btf)).ok());
    Ok((links, accept))
}

/// Attaches what can be attached, and says what cannot.
fn attach_each(
    hooks: impl Iterator<Item = Hook>,
    ebpf: &mut Ebpf,
    refused: &mut Vec<String>,
) -> Vec<Link> {
    hooks
        .filter_map(|hook| {
            hook.attach(ebpf, None)
                .map_err(|error| refused.push(error.to_string()))
                .ok()
        })
        .collect()
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

/// The set of [`filter::NETNS_SET`], if that is on.
fn netns_set(ebpf: &mut Ebpf, setup: &Setup<'_>) -> anyhow::Result<Option<NetnsSet>> {
    if setup.config.filters & filter::NETNS_SET == 0 {
        return Ok(None);
    }
    let table = HashMap::try_from(take(ebpf, "NETNS_WANTED")?).context("NETNS_WANTED")?;
    let set = NetnsSet::new(table);
    for inode in &setup.namespaces {
        set.add(*inode)?;
    }
    Ok(Some(set))
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

/// Waits until the programs that run on any CPU are done. Another CPU may be in the middle of a record, behind
/// which the reader would not look, or about to make one. Programs run between `rcu_read_lock` and its opposite
/// (kernel/trace/bpf_trace.c `__bpf_trace_run`, kernel/bpf/trampoline.c `__bpf_prog_enter`, v6.18), and this call
/// waits for all who do (kernel/sched/membarrier.c, `MEMBARRIER_CMD_GLOBAL`, v6.18): some 20 ms.
fn wait_for_running_programs() {
    // SAFETY: membarrier(2) takes three integers.
    let waited = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if waited != 0 {
        // A kernel without it, or with CPUs that it must not disturb (nohz_full): no program takes that long,
        // unless the host of a virtual machine has taken its CPU away.
        thread::sleep(LONGEST_PROGRAM);
    }
}
