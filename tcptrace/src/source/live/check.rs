//! Owns the tracer's check of itself at the start: what is provoked, which records are awaited of it, and
//! what becomes of those of others that come meanwhile.

use std::{
    collections::{HashSet, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use tcptrace_common::CheckedConnections;
use tcptrace_model::{EndedBy, Input, Reset, TcpState};

use super::{Live, decoded};
use crate::{
    bpf::{
        decode::{Decoded, Decoder},
        hooks::TimeWaitBackend,
        offsets::KernelTypes,
        self_check::{
            Expected, SelfCheck,
            scene::{self, Played, Watched},
        },
    },
    failure::Failure,
    host::netns::NewNamespace,
};

/// How long the records of the check may take: they are there when the system call returns, unless
/// another CPU is still writing an earlier one.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often connections are tried where records of them are missing, which an interrupt may have kept from
/// the programs.
const ATTEMPTS: usize = 2;

/// The RSTs of the scene: one end sends one, the other gets it.
const RESETS: usize = 2;

/// What came of the check of connections at one address.
enum Outcome {
    Agrees,
    /// Records of this are missing.
    Missing(&'static str),
    /// It could not be made.
    LeftOut(String),
}

impl Live {
    /// Compares what the programs say of sockets that are known with what is known of them. Records of
    /// others that come meanwhile are kept. Connections are made on `stage`, where there is one.
    pub(super) fn check_itself(
        &mut self,
        check: SelfCheck,
        stage: io::Result<NewNamespace>,
        types: &KernelTypes,
    ) -> Result<(), Failure> {
        let own_pid = self.check_listeners(check, types)?;
        let backend = self.attached.time_wait.as_ref().ok();
        let watched = Watched {
            minisockets: backend.is_some(),
            verdicts: backend == Some(&TimeWaitBackend::Fentry),
            stamps: self.attached.entry_stamp,
        };
        let stage = match stage {
            Ok(stage) => stage,
            Err(error) => {
                self.unchecked.push(format!(
                    "the check of connections and TIME_WAIT was left out, because it is made in a network namespace of its own, which takes CAP_SYS_ADMIN ({error})"
                ));
                return Ok(());
            }
        };
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ] {
            let mut outcome = Outcome::Agrees;
            for _ in 0..ATTEMPTS {
                outcome = self.check_connections(&stage, address, own_pid, watched, types)?;
                if !matches!(outcome, Outcome::Missing(_)) {
                    break;
                }
            }
            match outcome {
                Outcome::Agrees => {}
                Outcome::LeftOut(why) => self.unchecked.push(format!(
                    "the check of connections and TIME_WAIT was left out for {address}, because {why}"
                )),
                Outcome::Missing("minisocket") => self.degraded.push(format!(
                    "TIME_WAIT may not be seen on this kernel: nothing is reported of one that was made at {address} to check that (tw_timer, timer_list.function)"
                )),
                Outcome::Missing(what) => self.degraded.push(format!(
                    "something may be missing on this kernel: not all {what} are reported of a connection that was made at {address} to check that (skc_num, skc_dport, skc_net)"
                )),
            }
        }
        Ok(())
    }

    /// The sockets that listen for a moment. Returns this process's id, as the kernel reports it.
    fn check_listeners(&mut self, check: SelfCheck, types: &KernelTypes) -> Result<u32, Failure> {
        let mut expected: VecDeque<Expected> = check
            .provoke()
            .context("cannot listen on a loopback port for the self-check")?
            .into();
        let mut own_pid = 0;
        let deadline = Instant::now() + PATIENCE;
        while let Some(awaited) = expected.front() {
            let Some(bytes) = self.attached.ring.next() else {
                if Instant::now() > deadline {
                    return Err(Failure::Unsupported(
                        "the eBPF program is attached but reports nothing of a socket that was opened to check it (known by skc_cookie, skc_prot, sk_protocol); see what this kernel allows with: tcptrace doctor".to_owned(),
                    ));
                }
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            let decoded =
                (self.decoder.record(&bytes)).map_err(|error| failed(&error.to_string(), types))?;
            drop(bytes);
            match &decoded.input {
                Input::Transition(transition) if decoded.self_check => {
                    if !awaited.is_about(transition) {
                        continue;
                    }
                    if let Some(difference) = awaited.disagreement(transition) {
                        return Err(failed(&difference, types));
                    }
                    own_pid = transition.current.pid;
                    expected.pop_front();
                }
                _ => self.early.push_back(decoded),
            }
        }
        Ok(own_pid)
    }

    fn check_connections(
        &mut self,
        stage: &NewNamespace,
        address: IpAddr,
        own_pid: u32,
        watched: Watched,
        types: &KernelTypes,
    ) -> Result<Outcome, Failure> {
        let played = scene::play(stage, address, |netns, port| {
            self.attached.mark(CheckedConnections {
                netns,
                port,
                padding: 0,
            })
        });
        let judged = match played {
            Ok(played) => self.compare(Some(played), own_pid, watched, types),
            // What was recorded until then is nobody's business either.
            Err(why) => self
                .compare(None, own_pid, watched, types)
                .map(|_| Outcome::LeftOut(why)),
        };
        self.attached.mark(CheckedConnections::default())?;
        judged
    }

    /// Reads records until all of `played` have come.
    fn compare(
        &mut self,
        mut played: Option<Played>,
        own_pid: u32,
        watched: Watched,
        types: &KernelTypes,
    ) -> Result<Outcome, Failure> {
        // What the other one asks the kernel's symbols for takes longer than all of this.
        let decoder = Decoder {
            tick_ns: self.decoder.tick_ns,
            boot_offset_ns: self.decoder.boot_offset_ns,
            reset_reasons: Vec::new(),
            ended_by: Box::new(|_| EndedBy::SynOrData),
        };
        let mut own = HashSet::new();
        // A RST is known by the address of its socket alone, which another one may have by now: what counts
        // is whether both of the scene's are among them.
        let (mut fitting, mut odd) = (0, None::<String>);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(bytes) = self.attached.ring.next() else {
                let missing = (played.as_ref()).and_then(|played| played.missing(watched));
                match missing {
                    None => {
                        return match odd {
                            Some(difference) if fitting < RESETS => Err(failed(&difference, types)),
                            _ => Ok(Outcome::Agrees),
                        };
                    }
                    Some(what) if Instant::now() > deadline => return Ok(Outcome::Missing(what)),
                    Some(_) => thread::sleep(Duration::from_millis(1)),
                }
                continue;
            };
            let seen = decoder
                .record(&bytes)
                .map_err(|error| failed(&error.to_string(), types))?;
            let state = match &seen.input {
                Input::Reset(seen) if own.contains(&seen.sk) => Some(state_of(seen)),
                _ => None,
            };
            match state {
                Some(Ok(())) => {
                    fitting += 1;
                    continue;
                }
                Some(Err(difference)) => odd = odd.or(Some(difference)),
                None => {}
            }
            if is_own(&seen, own_pid, &mut own) {
                drop(bytes);
                if let Some(played) = &mut played {
                    played
                        .compare(&seen.input, watched)
                        .map_err(|difference| failed(&difference, types))?;
                }
                continue;
            }
            let seen = match seen.input {
                Input::MinisocketEnded(_) | Input::Reset(_) => decoded(&self.decoder, &bytes)?,
                _ => seen,
            };
            drop(bytes);
            self.early.push_back(seen);
        }
    }
}

/// One end closes by a RST, the other gets it.
fn state_of(reset: &Reset) -> Result<(), String> {
    match reset.state {
        TcpState::Close | TcpState::CloseWait => Ok(()),
        other => Err(format!(
            "the state of a socket (skc_state) is read as {} where it is CLOSE or CLOSE_WAIT",
            other.name()
        )),
    }
}

/// Whether a record is about the check. `own` are the sockets of it, as far as they are known by their
/// address.
fn is_own(seen: &Decoded, own_pid: u32, own: &mut HashSet<u64>) -> bool {
    match &seen.input {
        Input::Transition(transition) if seen.self_check => {
            own.insert(transition.socket.sk);
            true
        }
        Input::Accepted(accepted) => {
            own.contains(&accepted.sk) || (accepted.task.pid == own_pid && own_pid != 0)
        }
        Input::Call(call) => call.task.pid == own_pid,
        _ => seen.self_check,
    }
}

fn failed(difference: &str, types: &KernelTypes) -> Failure {
    Failure::Unsupported(format!(
        "the tracer's check of itself failed on this kernel: {difference}; {}",
        types.remedy()
    ))
}
