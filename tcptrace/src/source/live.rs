//! Owns the live source: the running kernel, through the ring buffer.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use aya_log::Level;
use hashbrown::HashMap;
use tcptrace_common::{AF_INET, AF_INET6, Config, ListenerKey};
use tcptrace_model::{Input, Transition};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    bpf::{
        decode::{self, Decoded},
        filters::Filters,
        load::{Attached, HOOK, Setup},
        offsets::KernelTypes,
        preflight::{self, Machine},
        self_check::{Expected, SelfCheck},
    },
    failure::Failure,
    host::{netns::Namespace, process},
};

/// The reader is woken when the records that wait pass another eighth of the buffer. (It looks by
/// itself many times a second.)
const WAKEUPS_PER_BUFFER: u32 = 8;
/// How long the records of the self-check may take: they are there when the system call returns,
/// unless another CPU is still writing an earlier one.
const SELF_CHECK_PATIENCE: Duration = Duration::from_millis(500);

/// What to trace, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which sockets.
    pub filters: Filters,
    /// Size of the ring buffer: a power of two, at least a page.
    pub buffer_bytes: u32,
    /// How much the eBPF program says of itself.
    pub log_level: Option<Level>,
}

/// The running kernel as a source of inputs.
pub struct Live {
    attached: Attached,
    /// Records that came while the tracer checked itself.
    early: VecDeque<Decoded>,
    /// `lost_before` of the record before.
    lost_before: u32,
    /// A transition whose gap has been told.
    after_gap: Option<Transition>,
    /// What this kernel does not let anybody see.
    degraded: Vec<&'static str>,
}

impl Live {
    /// Checks the machine, loads and attaches the program, and checks that its records are right.
    ///
    /// # Errors
    /// [`Failure::Unsupported`] with one sentence when the kernel or the privileges do not allow it.
    pub fn open(request: &Request) -> Result<Self, Failure> {
        preflight::demand(&Machine::probe().checks(request.buffer_bytes))?;
        let types =
            KernelTypes::running().map_err(|error| Failure::Unsupported(format!("{error:#}")))?;
        if !types.has_tracepoint(HOOK) {
            return Err(Failure::Unsupported(format!(
                "this kernel has no tracepoint {HOOK}; boot one with TCP built in and CONFIG_TRACEPOINTS=y"
            )));
        }
        let check = SelfCheck::prepare().context("cannot open a socket for the self-check")?;
        let mut config = Config {
            offsets: types.offsets().map_err(|error| {
                Failure::Unsupported(format!(
                    "{error:#}; please report it with the output of: uname -r"
                ))
            })?,
            self_check_ipv4: check.cookies()[0],
            self_check_ipv6: check.cookies()[1],
            wakeup_bytes: request.buffer_bytes / WAKEUPS_PER_BUFFER,
            ..Config::UNSET
        };
        request.filters.apply(&mut config);
        let attached = Attached::new(&Setup {
            config,
            ports: request.filters.ports.clone(),
            buffer_bytes: request.buffer_bytes,
            log_level: request.log_level,
        })?;
        let mut live = Self {
            attached,
            early: VecDeque::new(),
            lost_before: 0,
            after_gap: None,
            degraded: types.keeps_back().into_iter().collect(),
        };
        // First attached, then looked at: what the process opens in between is seen either way.
        if let Some(pid) = request.filters.pid {
            live.follow_open_sockets(pid)?;
        }
        live.check_itself(check)?;
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
    pub fn backends() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([("transitions", "raw_tracepoint")])
    }

    /// What this kernel does not let anybody see, a sentence each.
    #[must_use]
    pub fn degraded(&self) -> &[&'static str] {
        &self.degraded
    }

    /// The next input; `None` when there is nothing for now.
    ///
    /// # Errors
    /// When a record cannot be decoded: it would be silently wrong to go on.
    pub fn next_input(&mut self) -> anyhow::Result<Option<Input>> {
        if let Some(transition) = self.after_gap.take() {
            return Ok(Some(Input::Transition(transition)));
        }
        let Some(decoded) = self.next_record()? else {
            return Ok(None);
        };
        let Decoded {
            lost_before,
            self_check: _,
            transition,
        } = decoded;
        if lost_before == self.lost_before {
            return Ok(Some(Input::Transition(transition)));
        }
        self.lost_before = lost_before;
        self.after_gap = Some(transition);
        Ok(Some(Input::Gap {
            ts_ns: transition.ts_ns,
        }))
    }

    /// Tells the losses since the last call.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn losses(&mut self, now_ns: u64, mut tell: impl FnMut(Input)) -> anyhow::Result<()> {
        self.attached
            .losses
            .poll(now_ns, |loss| tell(Input::Lost(loss)))
    }

    /// Hands what the eBPF program says of itself to the logger.
    pub fn flush_log(&mut self) {
        self.attached.log.flush();
    }

    /// Ends the recording. What is in the buffer can still be read.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&mut self) -> anyhow::Result<()> {
        self.attached.detach()
    }

    /// The next record that is not about the self-check.
    fn next_record(&mut self) -> anyhow::Result<Option<Decoded>> {
        if let Some(early) = self.early.pop_front() {
            return Ok(Some(early));
        }
        while let Some(bytes) = self.attached.ring.next() {
            let decoded = decoded(&bytes)?;
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

    /// Compares what the program says of sockets that are known with what is known of them. Records
    /// of others that come meanwhile are kept.
    fn check_itself(&mut self, check: SelfCheck) -> Result<(), Failure> {
        let mut expected: VecDeque<Expected> = check
            .provoke()
            .context("cannot listen on a loopback port for the self-check")?
            .into();
        let deadline = Instant::now() + SELF_CHECK_PATIENCE;
        while let Some(awaited) = expected.front() {
            let Some(bytes) = self.attached.ring.next() else {
                if Instant::now() > deadline {
                    return Err(Failure::Unsupported(
                        "the eBPF program is attached but reports nothing of a socket that was opened to check it; see what this kernel allows with: tcptrace doctor".to_owned(),
                    ));
                }
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            let decoded = decoded(&bytes)?;
            drop(bytes);
            if !decoded.self_check {
                self.early.push_back(decoded);
            } else if awaited.is_about(&decoded.transition) {
                if let Some(difference) = awaited.disagreement(&decoded.transition) {
                    return Err(Failure::Unsupported(format!(
                        "the tracer's check of itself failed on this kernel: {difference}; please report it with the output of: uname -r"
                    )));
                }
                expected.pop_front();
            }
        }
        Ok(())
    }
}

fn decoded(record: &[u8]) -> anyhow::Result<Decoded> {
    decode::record(record)
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
