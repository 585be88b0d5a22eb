//! Owns the live source: the running kernel, through the ring buffer.

mod check;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    panic,
    path::PathBuf,
    sync::Arc,
    thread,
};

use anyhow::{Context, anyhow};
use aya::{Btf, EbpfLoader};
use aya_log::Level;
use hashbrown::HashMap;
use tcptrace_common::{AF_INET, AF_INET6, CallOffsets, Config, ListenerKey};
use tcptrace_model::{EndedBy, Input, ResetReason, Settings, conflict};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    awaited::Awaited, functions::Functions, snapshots::Snapshots, surroundings::Lookout,
    trouble::Trouble,
};
use crate::{
    bpf::{
        calls::{Calls, CallsBackend},
        decode::{Decoded, Decoder},
        end_reason,
        filters::Filters,
        hooks::{Backend, SET_STATE, TimeWaitBackend},
        load::{Attached, Setup},
        netns_set::NetnsSet,
        offsets::KernelTypes,
        preflight::{self, Machine},
        self_check::SelfCheck,
    },
    failure::Failure,
    host::{
        clock, ftrace,
        kernel_version::KernelVersion,
        netns::{Namespace, NewNamespace},
        process,
        symbols::Symbols,
    },
};

/// The reader is woken whenever another eighth of the buffer has been written. (It looks by itself many times a
/// second.)
const WAKEUPS_PER_BUFFER: u32 = 8;

/// What to trace, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which sockets.
    pub filters: Filters,
    /// Size of the ring buffer: a power of two, at least a page.
    pub buffer_bytes: u32,
    /// How much the eBPF program says of itself.
    pub log_level: Option<Level>,
    /// How minisockets are to be watched.
    pub backend: Backend,
    /// How bind(), listen() and connect() are to be watched.
    pub calls: Calls,
    /// A file of raw BTF with the kernel's types; `None` for the kernel's own.
    pub btf: Option<PathBuf>,
}

/// The running kernel as a source of inputs.
pub struct Live {
    attached: Attached,
    decoder: Decoder,
    /// Whether minisockets cannot be filtered as the sockets before them are.
    known_minisockets_only: bool,
    /// Whether RSTs of minisockets are recorded.
    minisocket_resets: bool,
    /// Records that came while the tracer checked itself.
    early: VecDeque<Decoded>,
    /// What of the check could not be made, and why, a sentence each.
    unchecked: Vec<String>,
    /// `lost_before` of the record before.
    lost_before: u32,
    /// An input whose gap has been told.
    after_gap: Option<Input>,
    /// What this kernel does not let anybody see.
    degraded: Vec<String>,
    /// What it keeps from eBPF programs by design, in one sentence.
    keeps_back: Option<&'static str>,
    /// The sockets that there were already, and those that there are after a loss.
    snapshots: Snapshots,
    /// Where the kernel's functions lie that end minisockets.
    symbols: Arc<Awaited<Result<Symbols, String>>>,
    no_symbols_told: bool,
    /// Whether what is attached to functions still sees anything.
    functions: Functions,
    /// Its rules of bind() are the model's to know.
    kernel: conflict::KernelVersion,
    /// A record that was read before a snapshot which belongs before it.
    after_snapshot: Option<Decoded>,
    /// What is to be found out about calls that fail.
    lookout: Lookout,
}

impl Live {
    /// Checks the machine, loads and attaches the program, and checks that its records are right.
    ///
    /// # Errors
    /// [`Failure::Unsupported`] with one sentence when the kernel or the privileges do not allow it.
    pub fn open(request: &Request) -> Result<Self, Failure> {
        // The kernel takes its time to list its symbols, and aya to parse all of its types: it does so
        // once for each loader, and once more for fentry.
        let symbols = Arc::new(Awaited::of(|| Symbols::read(&end_reason::FUNCTIONS)));
        let backend = request.backend;
        let may_be_fentry = match backend {
            Backend::Auto | Backend::Fentry => true,
            Backend::Timer => request.calls.may_be_fentry(),
        };
        let btf = thread::spawn(move || types_of_functions(may_be_fentry));
        let loader = thread::spawn(EbpfLoader::new);
        // The kernel waits for others while it makes one.
        let stage = thread::spawn(NewNamespace::make);
        let machine = Machine::probe().with_types(request.btf.as_deref());
        preflight::demand(&machine.checks(request.buffer_bytes))?;
        let types = KernelTypes::of(request.btf.as_deref())
            .map_err(|error| Failure::Unsupported(format!("{error:#}")))?;
        if !types.has_tracepoint(SET_STATE) {
            return Err(Failure::Unsupported(format!(
                "this kernel has no tracepoint {SET_STATE}; boot one with TCP built in and CONFIG_TRACEPOINTS=y"
            )));
        }
        let check = SelfCheck::prepare().context("cannot open a socket for the self-check")?;
        let reset_reason = has_reset_reason(&types);
        let call_offsets = call_offsets(&types, request.calls);
        let mut config = Config {
            calls: *call_offsets.as_ref().unwrap_or(&CallOffsets::UNSET),
            offsets: types
                .offsets()
                .map_err(|error| Failure::Unsupported(format!("{error:#}; {}", types.remedy())))?,
            self_check_ipv4: check.cookies()[0],
            self_check_ipv6: check.cookies()[1],
            wakeup_bytes: request.buffer_bytes / WAKEUPS_PER_BUFFER,
            reset_reason: u32::from(reset_reason),
            ..Config::UNSET
        };
        request.filters.apply(&mut config);
        let btf = btf
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic));
        let attached = Attached::new(
            (loader.join()).unwrap_or_else(|panic| panic::resume_unwind(panic)),
            &Setup {
                config,
                ports: request.filters.ports.clone(),
                namespaces: request.filters.netns.inodes(),
                buffer_bytes: request.buffer_bytes,
                log_level: request.log_level,
                types: &types,
                backend,
                calls: request.calls,
                buckets: types.bucket_offsets().map_err(|error| format!("{error:#}")),
                call_offsets: call_offsets
                    .map(|_| ())
                    .map_err(|error| format!("{error:#}")),
                btf,
                timer_code: &|| {
                    end_reason::timer_code(symbols.value().as_ref().map_err(Clone::clone)?)
                },
            },
        )?;
        let hz = clock::hz().context("cannot read the kernel's HZ")?;
        let known = Arc::clone(&symbols);
        let decoder = Decoder {
            tick_ns: 1_000_000_000 / u64::from(hz.max(1)),
            boot_offset_ns: clock::suspended_ns(),
            reset_reasons: reset_reasons(&types),
            ended_by: Box::new(move |stack| match known.value() {
                Ok(symbols) => end_reason::ended_by(stack, symbols),
                Err(_) => EndedBy::Unknown,
            }),
        };
        let mut live = Self {
            degraded: degraded(&types, &attached, request.calls),
            keeps_back: types.keeps_back(),
            known_minisockets_only: request.filters.need_the_socket(),
            minisocket_resets: reset_reason && attached.resets,
            attached,
            decoder,
            early: VecDeque::new(),
            unchecked: Vec::new(),
            lost_before: 0,
            after_gap: None,
            snapshots: Snapshots::new(&request.filters),
            after_snapshot: None,
            lookout: Lookout::default(),
            symbols,
            no_symbols_told: false,
            functions: Functions::default(),
            kernel: (&KernelVersion::running().map_err(anyhow::Error::from)?).into(),
        };
        // First attached, then looked at: what the process opens in between is seen either way.
        if let Some(pid) = request.filters.pid {
            live.follow_open_sockets(pid)?;
        }
        let stage = stage
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic));
        live.check_itself(check, stage, &types)?;
        live.snapshots.begin();
        live.snapshots.wait();
        Ok(live)
    }

    /// Registers the ring buffer with the event loop that this runs in: readable when the kernel
    /// wakes its reader.
    ///
    /// # Errors
    /// When the buffer cannot be polled.
    pub fn into_async(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: `as_raw_fd` always returns the descriptor of the ring buffer, which `self` keeps
        // open until it is dropped.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }.map_err(Into::into)
    }

    /// Which backend serves which need.
    #[must_use]
    pub fn backends(&self) -> BTreeMap<&'static str, &'static str> {
        let mut backends = BTreeMap::from([("transitions", "raw_tracepoint")]);
        if let Ok(backend) = &self.attached.time_wait {
            backends.insert("time_wait", backend.name());
        }
        if self.attached.resets {
            backends.insert("resets", "raw_tracepoint");
        }
        if let Some(backend) = self.attached.accepts {
            backends.insert("accept", backend.name());
        }
        if let Ok(backend) = &self.attached.calls {
            backends.insert("calls", backend.name());
        }
        backends
    }

    /// The network namespaces that are traced, where they are a set: with [`NetnsFilter::Changing`], or with
    /// several.
    ///
    /// [`NetnsFilter::Changing`]: crate::bpf::filters::NetnsFilter::Changing
    #[must_use]
    pub fn wanted_namespaces(&self) -> Option<NetnsSet> {
        self.attached.wanted_namespaces.clone()
    }

    /// Whether calls are watched by what slows every system call of the machine.
    #[must_use]
    pub fn slows_system_calls(&self) -> bool {
        self.attached.calls == Ok(CallsBackend::Syscalls)
    }

    /// What the model must know of this source.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let backend = self.attached.time_wait.as_ref().ok().copied();
        Settings {
            minisockets: backend.is_some(),
            minisocket_resets: self.minisocket_resets,
            known_minisockets_only: self.known_minisockets_only,
            rearms_exact: backend == Some(TimeWaitBackend::Fentry),
            kernel: self.kernel,
            calls: self.attached.calls.is_ok(),
            ..Settings::default()
        }
    }

    /// What could not be found out so far beside the events; each is told once.
    pub fn unseen(&mut self) -> Vec<Trouble> {
        let mut troubles = self.snapshots.troubles();
        troubles.extend(self.functions.trouble().map(Trouble::Functions));
        let watches = self.attached.time_wait.is_ok();
        if let Some(Err(why)) = self.symbols.ready().filter(|_| watches)
            && !self.no_symbols_told
        {
            self.no_symbols_told = true;
            troubles.push(Trouble::Ends(format!(
                "what ends a TIME_WAIT before its time is not known: {why}"
            )));
        }
        troubles
    }

    /// The programs.
    pub(super) fn attached(&self) -> &Attached {
        &self.attached
    }

    /// Whether the kernel's symbols are known; waits for them.
    pub(super) fn symbols(&self) -> Result<(), String> {
        self.symbols
            .value()
            .as_ref()
            .map(drop)
            .map_err(Clone::clone)
    }

    /// What this kernel does not let anybody see, a sentence each.
    #[must_use]
    pub fn degraded(&self) -> &[String] {
        &self.degraded
    }

    /// What of the tracer's check of itself could not be made here, and why, a sentence each.
    #[must_use]
    pub fn unchecked(&self) -> &[String] {
        &self.unchecked
    }

    /// Whether this kernel keeps some events from eBPF programs by design, without counting them: what is
    /// missing may have happened.
    #[must_use]
    pub fn keeps_back(&self) -> bool {
        self.keeps_back.is_some()
    }

    /// The next input; `None` when there is nothing for now.
    ///
    /// # Errors
    /// When a record cannot be decoded: it would be silently wrong to go on.
    pub fn next_input(&mut self) -> anyhow::Result<Option<Input>> {
        loop {
            if let Some(input) = self.lookout.next() {
                return Ok(Some(input));
            }
            match self.next_fact()? {
                Some(input @ (Input::Call(_) | Input::Holder(_))) => self.lookout.take(&input),
                Some(input) => return Ok(Some(input)),
                None => {
                    if self.attached.is_detached() {
                        self.lookout.finish();
                    }
                    return Ok(self.lookout.next());
                }
            }
        }
    }

    /// The next input, as the kernel and the snapshots tell it.
    fn next_fact(&mut self) -> anyhow::Result<Option<Input>> {
        if let Some(input) = self.after_gap.take().or_else(|| self.snapshots.next()) {
            return Ok(Some(input));
        }
        let next = match self.after_snapshot.take() {
            Some(decoded) => Some(decoded),
            None => self.next_record()?,
        };
        // What was recorded before the snapshot began comes before it.
        if self.snapshots.is_due(next.map(|decoded| decoded.ts_ns)) {
            self.after_snapshot = next;
            return Ok(self.snapshots.next());
        }
        let Some(decoded) = next else {
            return Ok(None);
        };
        let Decoded {
            lost_before,
            ts_ns,
            self_check: _,
            input,
        } = decoded;
        if lost_before == self.lost_before && !self.functions.are_silent() {
            return Ok(Some(input));
        }
        self.lost_before = lost_before;
        self.after_gap = Some(input);
        Ok(Some(Input::Gap { ts_ns }))
    }

    /// Tells the losses since the last call.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn losses(&mut self, now_ns: u64, mut tell: impl FnMut(Input)) -> anyhow::Result<()> {
        // The machine may have been suspended since the last time.
        self.decoder.boot_offset_ns = clock::suspended_ns();
        let mut any = false;
        let is_over = self.attached.is_detached();
        self.attached.losses.poll(now_ns, is_over, |loss| {
            any = true;
            tell(Input::Lost(loss));
        })?;
        let seeing_again = self.uses_functions() && self.functions.look();
        if any || seeing_again {
            self.snapshots.want();
        }
        self.snapshots.look(now_ns);
        Ok(())
    }

    /// Hands what the eBPF program says of itself to the logger.
    pub fn flush_log(&mut self) {
        self.attached.log.flush();
    }

    /// Ends the recording. What is in the buffer can still be read, and then what it waits for.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&mut self) -> anyhow::Result<()> {
        self.attached.detach()
    }

    fn uses_functions(&self) -> bool {
        self.attached.time_wait == Ok(TimeWaitBackend::Fentry)
            || self.attached.calls == Ok(CallsBackend::Fentry)
    }

    /// The next record that is not about the self-check.
    fn next_record(&mut self) -> anyhow::Result<Option<Decoded>> {
        if let Some(early) = self.early.pop_front() {
            return Ok(Some(early));
        }
        while let Some(bytes) = self.attached.ring.next() {
            let decoded = decoded(&self.decoder, &bytes)?;
            if !decoded.self_check {
                return Ok(Some(decoded));
            }
        }
        Ok(None)
    }

    fn follow_open_sockets(&mut self, pid: u32) -> Result<(), Failure> {
        let sockets = process::tcp_sockets(pid).map_err(|error| {
            Failure::Unsupported(format!(
                "cannot look at the open sockets of process {pid} ({error}), so --pid would miss some; run it as root, on Linux 5.6 or later"
            ))
        })?;
        let netns = Namespace::find(&format!("/proc/{pid}/ns/net"))
            .map_err(|sentence| Failure::Other(anyhow!(sentence)))?;
        let mut listeners: HashMap<ListenerKey, u32> = HashMap::new();
        for socket in sockets {
            self.attached.follow_cookie(socket.cookie)?;
            if let Some(address) = socket.listens_at {
                *listeners
                    .entry(listener_key(netns.inode, address))
                    .or_default() += 1;
            }
        }
        for (key, count) in listeners {
            self.attached.follow_listeners(key, count)?;
        }
        Ok(())
    }
}

/// The kernel's types, for programs on its functions; or why there are to be none of these.
fn types_of_functions(wanted: bool) -> Result<Btf, String> {
    if !wanted {
        return Err("fentry was not asked for".to_owned());
    }
    match ftrace::obstacle() {
        Some(why) => Err(why),
        None => {
            Btf::from_sys_fs().map_err(|error| format!("cannot read the kernel's BTF: {error}"))
        }
    }
}

/// Where the fields lie that the programs of calls read, if there are to be any.
fn call_offsets(types: &KernelTypes, calls: Calls) -> anyhow::Result<CallOffsets> {
    match calls {
        Calls::Off => Ok(CallOffsets::UNSET),
        Calls::Auto | Calls::Fentry | Calls::Syscalls => types.call_offsets(),
    }
}

/// Whether the tracepoint of sent RSTs says why (6.10 and later).
fn has_reset_reason(types: &KernelTypes) -> bool {
    types
        .tracepoint_arguments("tcp_send_reset")
        .is_some_and(|arguments| arguments > 2)
}

/// The reasons for a RST by the running kernel's numbers; none where it does not tell them.
fn reset_reasons(types: &KernelTypes) -> Vec<ResetReason> {
    let mut reasons = Vec::new();
    for (name, number) in types.enumerators("sk_rst_reason").unwrap_or_default() {
        let (Some(name), Ok(number)) =
            (name.strip_prefix("SK_RST_REASON_"), usize::try_from(number))
        else {
            continue;
        };
        if number >= reasons.len() {
            reasons.resize(number + 1, ResetReason::Other);
        }
        reasons[number] = ResetReason::from_name(name).unwrap_or(ResetReason::Other);
    }
    reasons
}

/// What this kernel keeps from the trace, a sentence each.
fn degraded(types: &KernelTypes, attached: &Attached, calls: Calls) -> Vec<String> {
    let mut degraded: Vec<String> = types.keeps_back().map(str::to_owned).into_iter().collect();
    if let Err(why) = &attached.time_wait {
        degraded.push(format!(
            "TIME_WAIT is not seen on this kernel, neither its beginning nor its end: {why}"
        ));
    }
    if let (Err(why), true) = (&attached.calls, calls != Calls::Off) {
        degraded.push(format!(
            "bind(), listen() and connect() are not seen, so none that fails is explained: {why}"
        ));
    }
    if let (Ok(_), Some(why)) = (&attached.calls, &attached.no_lists) {
        degraded.push(format!(
            "the sockets that hold the port of a call that failed are not listed: {why}"
        ));
    }
    degraded.extend(
        attached
            .refused
            .iter()
            .map(|why| format!("why a connection was reset is not always seen: {why}")),
    );
    degraded
}

fn decoded(decoder: &Decoder, record: &[u8]) -> anyhow::Result<Decoded> {
    decoder
        .record(record)
        .map_err(|error| anyhow!("{error}; please report it with the output of: uname -r"))
}

/// How the kernel side knows who listens at `address`.
fn listener_key(netns: u32, address: SocketAddr) -> ListenerKey {
    let (family, octets) = match address.ip() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            (AF_INET, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        IpAddr::V6(ip) => (AF_INET6, ip.octets()),
    };
    let word = |index: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&octets[index * 4..index * 4 + 4]);
        u32::from_ne_bytes(bytes)
    };
    ListenerKey {
        netns,
        port: address.port(),
        family,
        address: [word(0), word(1), word(2), word(3)],
    }
}

impl AsRawFd for Live {
    fn as_raw_fd(&self) -> RawFd {
        self.attached.ring.as_raw_fd()
    }
}
