//! Owns what is found out about a call that has failed before it is handed on: the settings of its
//! namespace and, where it failed for want of a port, how the ports are used.
//!
//! Thousands of calls may fail in a second. So a namespace is looked into once a second at most, as long as
//! the process by which it was found is there: without it, the namespace may be another one with the same
//! number. The sockets of one are listed by a thread of its own, and calls wait for it, in their order, while
//! other inputs go on.

use std::{
    collections::{HashMap, VecDeque},
    panic,
    thread::{self, JoinHandle},
};

use tcptrace_model::{
    Input, SocketCall, Surroundings,
    conflict::{Call, PortUse},
};

use crate::host::{
    bind_sysctls::{self, Settings},
    clock,
    netns::Namespace,
    port_use::PortHolders,
};

/// For how long what was found holds, in ns.
const HOLDS_NS: u64 = 1_000_000_000;
/// How many namespaces are remembered.
const MOST_NAMESPACES: usize = 1024;
/// How many inputs wait for a list. More go on without one.
const MOST_WAITING: usize = 8192;

/// `EADDRINUSE` and `EADDRNOTAVAIL` of include/uapi/asm-generic/errno.h (v6.18).
const EADDRINUSE: u16 = 98;
const EADDRNOTAVAIL: u16 = 99;

/// What is known of the namespaces in which calls fail.
#[derive(Default)]
pub(super) struct Lookout {
    known: HashMap<u32, Known>,
    /// A list that is being made, of this namespace.
    listing: Option<(u32, JoinHandle<Result<PortHolders, String>>)>,
    /// What waits for it: a call, and all holders and calls after it.
    waiting: VecDeque<Input>,
    /// What can be handed on.
    ready: VecDeque<Input>,
}

/// What is known of a namespace.
struct Known {
    /// CLOCK_BOOTTIME ns at which the settings were read.
    read_ns: u64,
    /// `None` when the namespace could not be looked into.
    settings: Option<(Namespace, Settings)>,
    /// CLOCK_BOOTTIME ns at which the sockets were listed, and the list if there is one.
    listed: Option<(u64, Option<PortHolders>)>,
}

impl Known {
    /// Whether the namespace that was looked into is still the one with its number, as far as can be seen.
    fn is_still_there(&self) -> bool {
        let settings = self.settings.as_ref();
        settings.is_some_and(|(namespace, _)| namespace.is_still_there())
    }
}

/// A list of sockets is being made, which a call is to wait for.
struct Waits;

impl Lookout {
    /// Takes a call, or a holder of one, to be handed on by [`Self::next`].
    pub(super) fn take(&mut self, input: &Input) {
        if self.waiting.is_empty() {
            self.look(input);
        } else {
            self.waiting.push_back(*input);
        }
    }

    /// The next input that can be handed on.
    pub(super) fn next(&mut self) -> Option<Input> {
        if !self.waiting.is_empty() && self.ready.is_empty() {
            self.resume(false);
        }
        self.ready.pop_front()
    }

    /// Waits for whatever is under way: nothing new comes.
    pub(super) fn finish(&mut self) {
        while !self.waiting.is_empty() {
            self.resume(true);
        }
    }

    /// Goes on with what waits, if it need not any more.
    fn resume(&mut self, wait: bool) {
        let is_there = |thread: &JoinHandle<_>| wait || thread.is_finished();
        if let Some((_, thread)) = &self.listing {
            let too_many = self.waiting.len() > MOST_WAITING;
            if !is_there(thread) && !too_many {
                return;
            }
        }
        self.collect(wait);
        while let Some(input) = self.waiting.pop_front() {
            self.look(&input);
            // It waits again, in front.
            if self.listing.is_some() && self.waiting.len() <= MOST_WAITING {
                break;
            }
        }
    }

    /// Takes over a list that has been made.
    fn collect(&mut self, wait: bool) {
        let Some((netns, thread)) = self.listing.take() else {
            return;
        };
        if !wait && !thread.is_finished() {
            self.listing = Some((netns, thread));
            return;
        }
        let holders = thread
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic));
        if let Some(known) = self.known.get_mut(&netns) {
            known.listed = Some((clock::boottime_ns(), holders.ok()));
        }
    }

    /// Hands `input` on with its surroundings, or puts it in front of what waits.
    fn look(&mut self, input: &Input) {
        let Input::Call(call) = input else {
            self.ready.push_back(*input);
            return;
        };
        match self.find(call) {
            Err(Waits) => self.waiting.push_front(*input),
            Ok(found) => {
                self.ready.extend(found.map(Input::Surroundings));
                self.ready.push_back(*input);
            }
        }
    }

    /// What a call is to be handed on with, if there is anything to say.
    fn find(&mut self, call: &SocketCall) -> Result<Option<Surroundings>, Waits> {
        let (Some(netns), true) = (call.netns, is_explained(call)) else {
            return Ok(None);
        };
        let now_ns = clock::boottime_ns();
        if self.known.len() >= MOST_NAMESPACES {
            let listed = self.listing.as_ref().map(|(netns, _)| *netns);
            self.known.retain(|netns, known| {
                now_ns.saturating_sub(known.read_ns) < HOLDS_NS || Some(*netns) == listed
            });
        }
        let known = self.known.entry(netns).or_insert(Known {
            read_ns: 0,
            settings: None,
            listed: None,
        });
        if now_ns.saturating_sub(known.read_ns) >= HOLDS_NS || known.read_ns == 0 {
            known.settings = namespace_of(call.task.pid, netns)
                .or_else(|| elsewhere(netns))
                .and_then(read);
            known.read_ns = now_ns;
        } else if !known.is_still_there() {
            // The kernel gives the number of a namespace that is gone to a new one, and the process that failed
            // before this one may have ended before it was looked at.
            known.settings = namespace_of(call.task.pid, netns).and_then(read);
            known.listed = None;
            // Without it, all processes are looked at when the second is over.
            if known.settings.is_some() {
                known.read_ns = now_ns;
            }
        }
        let Some((namespace, settings)) = &known.settings else {
            return Ok(None);
        };
        let mut ports: Option<PortUse> = None;
        if wants_ports(call) {
            match &known.listed {
                Some((listed_ns, holders)) if now_ns.saturating_sub(*listed_ns) < HOLDS_NS => {
                    ports = holders.as_ref().map(|holders| {
                        holders.count(
                            &settings.sysctls,
                            &settings.reserved,
                            call.asker.port_range,
                            destination(call),
                        )
                    });
                }
                _ if self.listing.is_none() => {
                    let namespace = namespace.clone();
                    let thread =
                        thread::spawn(move || PortHolders::list(&namespace, &clock::boottime_ns));
                    self.listing = Some((netns, thread));
                    return Err(Waits);
                }
                _ if self.waiting.len() < MOST_WAITING => return Err(Waits),
                _ => {}
            }
        }
        Ok(Some(Surroundings {
            ts_ns: known.read_ns,
            netns,
            sk: call.sk,
            sysctls: settings.sysctls,
            ports,
        }))
    }
}

/// Whether the settings have a say in what it returned: not in what the network, or the peer, made of a
/// connect().
fn is_explained(call: &SocketCall) -> bool {
    match call.call {
        Call::Bind | Call::Listen => call.error != 0,
        Call::Connect => call.error == EADDRNOTAVAIL,
    }
}

/// Whether it failed because the kernel found no port to choose.
fn wants_ports(call: &SocketCall) -> bool {
    match call.call {
        Call::Bind => {
            call.error == EADDRINUSE && call.asked.is_some_and(|asked| asked.addr.port() == 0)
        }
        Call::Listen => call.error == EADDRINUSE && call.asker.local.port() == 0,
        Call::Connect => call.error == EADDRNOTAVAIL && call.asker.local.port() == 0,
    }
}

fn destination(call: &SocketCall) -> Option<std::net::SocketAddr> {
    match call.call {
        Call::Bind | Call::Listen => None,
        Call::Connect => call.asked.map(|asked| asked.addr),
    }
}

/// The namespace of a process, if that is the one with this inode number: nearly always it is that of the process
/// which called.
fn namespace_of(pid: u32, netns: u32) -> Option<Namespace> {
    Namespace::find(&format!("/proc/{pid}/ns/net"))
        .ok()
        .filter(|namespace| namespace.inode == netns)
}

/// The namespace with this inode number, by a look at all processes unless it is this one's own.
fn elsewhere(netns: u32) -> Option<Namespace> {
    Namespace::own()
        .ok()
        .filter(|own| own.inode == netns)
        .or_else(|| Namespace::find(&netns.to_string()).ok())
}

/// Reads its settings.
fn read(namespace: Namespace) -> Option<(Namespace, Settings)> {
    let settings = bind_sysctls::read(&namespace)?;
    Some((namespace, settings))
}
