//! Owns the trace of the lab: one for all experiments, whose inputs it hands to the one that they are about, by
//! network namespace.

use std::{
    collections::HashMap,
    fs::File,
    panic,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tcptrace_model::{Input, Settings, Snapshot};

use super::observed::Observed;
use crate::{
    bpf::netns_set::NetnsSet,
    failure::Failure,
    host::clock,
    record::{Ending, Opening, Step, write::Recorder},
    render::Start,
    source::{
        describe,
        live::{Live, Request},
        trouble::Trouble,
    },
};

/// How often the buffer is emptied.
const READ_EVERY: Duration = Duration::from_millis(10);
/// How often the trackers are told the time.
const TICK_EVERY: Duration = Duration::from_millis(200);
/// After how long in a passing state a connection is told to be stuck, in ns: less than the minute that
/// `tcptrace` waits if nothing else is asked for, which would be most of what an experiment may take.
pub(super) const STUCK_AFTER_NS: u64 = 3_000_000_000;

/// The trace, running in a thread of its own.
pub struct Watch {
    routes: Arc<Routes>,
    reader: JoinHandle<Result<()>>,
    /// What it began with.
    pub start: Start,
    /// What the trackers know of it.
    pub settings: Settings,
    /// This kernel keeps some events from every eBPF program.
    pub keeps_back: bool,
    /// Which namespaces the kernel reports.
    wanted: NetnsSet,
}

/// Which experiment an input is for.
#[derive(Default)]
struct Routes {
    by_namespace: Mutex<HashMap<u32, Arc<Observed>>>,
    /// What the trace does not show.
    troubles: Mutex<Vec<String>>,
    /// Whether it is to end.
    stop: AtomicBool,
}

/// What the trace began with, from the thread that reads it: [`Watch`] has the same fields.
type Begun = Result<(Start, Settings, bool, NetnsSet), Failure>;

impl Watch {
    /// Begins to trace.
    ///
    /// # Errors
    /// As [`Live::open`].
    pub fn begin(request: Request) -> Result<Self, Failure> {
        let routes = Arc::new(Routes::default());
        let (tell, told) = mpsc::channel();
        let reader = thread::spawn({
            let routes = Arc::clone(&routes);
            move || read(&request, &tell, &routes)
        });
        let (start, settings, keeps_back, wanted) = told
            .recv()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the trace ended before it began").into()))?;
        Ok(Self {
            routes,
            reader,
            start,
            settings,
            keeps_back,
            wanted,
        })
    }

    /// From now on, what happens in the namespace with this inode number is for the one that this returns,
    /// and goes to `recording` as well.
    ///
    /// # Errors
    /// When the recording cannot be written, or too many namespaces are traced.
    pub fn observe(&self, netns: u32, recording: Option<File>) -> Result<Arc<Observed>> {
        let recorder = recording
            .map(|file| Recorder::begin(file, &self.opening(netns)))
            .transpose()
            .context("cannot begin a recording")?;
        let observed = Arc::new(Observed::new(self.settings, recorder));
        self.routes.lock().insert(netns, Arc::clone(&observed));
        self.wanted.add(netns)?;
        Ok(observed)
    }

    /// Hands on no more of this namespace, and ends its recording. Returns what went wrong with that.
    #[must_use]
    pub fn forget(&self, netns: u32) -> Option<String> {
        let observed = self.routes.lock().remove(&netns)?;
        // Of a namespace that goes on being traced nobody hears.
        let refused = self.wanted.remove(netns).err();
        let ts_ns = clock::boottime_ns();
        observed
            .end(&Step::End(Ending {
                ts_ns,
                duration_ns: ts_ns.saturating_sub(self.start.ts_ns),
            }))
            .or(refused.map(|error| format!("{error:#}")))
    }

    /// What it has turned out not to show, a sentence each.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let troubles = self.routes.troubles.lock();
        troubles.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the trace.
    ///
    /// # Errors
    /// When it could not be read to its end.
    pub fn end(self) -> Result<()> {
        self.routes.stop.store(true, Ordering::Relaxed);
        self.reader
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    fn opening(&self, netns: u32) -> Opening {
        Opening {
            start: Start {
                ts_ns: clock::boottime_ns(),
                netns: Some(netns),
                ..self.start.clone()
            },
            settings: self.settings,
            arguments: std::env::args_os()
                .skip(1)
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
        }
    }
}

impl Routes {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Observed>>> {
        self.by_namespace
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self, sentence: String) {
        let troubles = self.troubles.lock();
        troubles
            .unwrap_or_else(PoisonError::into_inner)
            .push(sentence);
    }

    /// The one for a namespace, or all.
    fn to(&self, netns: Option<u32>) -> Vec<Arc<Observed>> {
        let all = self.lock();
        match netns {
            Some(netns) => all.get(&netns).cloned().into_iter().collect(),
            None => all.values().cloned().collect(),
        }
    }
}

/// Reads the trace until it is to stop.
fn read(request: &Request, tell: &Sender<Begun>, routes: &Routes) -> Result<()> {
    let opened = Live::open(request).and_then(|live| {
        let start = describe::start(&live, None)?;
        let wanted = live
            .wanted_namespaces()
            .context("the lab traces a set of namespaces")?;
        Ok((live, start, wanted))
    });
    let mut live = match opened {
        Ok((live, start, wanted)) => {
            let settings = Settings {
                stuck_after_ns: Some(STUCK_AFTER_NS),
                ..live.settings()
            };
            // Nobody waits for it only when the lab has gone.
            let _ = tell.send(Ok((start, settings, live.keeps_back(), wanted)));
            live
        }
        Err(failure) => {
            let _ = tell.send(Err(failure));
            return Ok(());
        }
    };
    let mut reader = Reader {
        routes,
        of_sockets: HashMap::new(),
    };
    let mut ticked = Instant::now();
    while !routes.stop.load(Ordering::Relaxed) {
        // Read first: when the buffer is empty, all that happened before this time has been handed on.
        let now_ns = clock::boottime_ns();
        reader.empty(&mut live)?;
        live.losses(now_ns, |input| reader.hand(&input))?;
        for trouble in live.unseen() {
            match trouble {
                Trouble::Ends(sentence) | Trouble::Functions(sentence) => routes.trouble(sentence),
                // The sockets of an experiment are younger than the trace.
                Trouble::Sockets(_) | Trouble::Owners(_) => {}
            }
        }
        if ticked.elapsed() >= TICK_EVERY {
            ticked = Instant::now();
            for observed in routes.to(None) {
                observed.step(&Step::Tick { now_ns });
            }
        }
        thread::sleep(READ_EVERY);
    }
    live.detach()?;
    reader.empty(&mut live)
}

/// Hands inputs on.
struct Reader<'a> {
    routes: &'a Routes,
    /// In which namespace a socket or minisocket is, by its address: some inputs tell only that.
    of_sockets: HashMap<u64, u32>,
}

impl Reader<'_> {
    fn empty(&mut self, live: &mut Live) -> Result<()> {
        while let Some(input) = live.next_input()? {
            self.hand(&input);
        }
        Ok(())
    }

    fn hand(&mut self, input: &Input) {
        let netns = match input {
            Input::Transition(transition) => {
                self.learn(transition.socket.sk, transition.socket.netns)
            }
            Input::MinisocketEntered(entered) => {
                self.learn(entered.minisocket.tw, entered.minisocket.netns)
            }
            Input::MinisocketRearmed(rearmed) => rearmed.minisocket.netns,
            Input::MinisocketEnded(ended) => ended.minisocket.netns,
            Input::Reset(reset) => self.of_sockets.get(&reset.sk).copied(),
            Input::Accepted(accepted) => self.of_sockets.get(&accepted.sk).copied(),
            Input::Holder(listed) => listed.netns,
            Input::Surroundings(surroundings) => Some(surroundings.netns),
            Input::Call(call) => call.netns,
            // Experiments begin with no sockets at all.
            Input::Snapshot(
                Snapshot::Begin { .. } | Snapshot::Socket(_) | Snapshot::End { .. },
            ) => return,
            Input::Gap { .. } | Input::Lost(_) => None,
        };
        let step = Step::Input(*input);
        for observed in self.routes.to(netns) {
            observed.step(&step);
        }
    }

    fn learn(&mut self, address: u64, netns: Option<u32>) -> Option<u32> {
        if let Some(netns) = netns {
            self.of_sockets.insert(address, netns);
        }
        netns
    }
}
