//! Owns the second part of the tracer's check of itself: two connections that this process makes with itself
//! over loopback, of which it knows every step, and what the records about them must say. They are made in a
//! network namespace of their own, which is gone afterwards: there the kernel does what it does by default,
//! whatever the settings, firewalls, limits and counters are where the tracer runs.
//!
//! The first one leaves a TIME_WAIT behind, by way of FIN_WAIT2: A, the accepted socket, closes first, then
//! C, which has connected. The second one takes that TIME_WAIT away: D connects from the port that C had, so
//! its SYN hits the minisocket, which the kernel gives up for it (RFC 9293, 3.10.7.4; net/ipv4/
//! tcp_minisocks.c `tcp_timewait_state_process`, TCP_TW_SYN). B, which is accepted now, has a negative
//! `TCP_LINGER2`, so that its close() ends both ends by a RST. Nothing stays behind.
//!
//! Everything is bounded in time. Where it cannot be played (no CAP_SYS_ADMIN for the namespace, no IPv6), the
//! check is made without it, and that is told.

mod sockets;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use socket2::Socket;
use tcptrace_model::{
    EndedBy, Evidence, Input, MinisocketEnded, MinisocketEntered, Phase, TcpState, Transition,
};

use self::sockets::{
    accept, bind_when_free, connect, has_timestamps, linger2, local, socket, wait, wait_for_state,
};
use super::is_up;
use crate::host::{
    interface,
    netns::{Namespace, NewNamespace},
};

/// `TCP_LINGER2` of A, in s: how long its minisocket would stay in FIN_WAIT2. No default of any kernel.
const FIN_WAIT2_S: i32 = 37;
/// `TCP_TIMEWAIT_LEN` of include/net/tcp.h (v6.18), in s.
const TIME_WAIT_S: u64 = 60;
/// Where C and D connect from over IPv4.
const OTHER_END: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// How far a timer may be from what it was set to: two ticks at 100 Hz, and a CPU that was taken away.
const TOLERANCE_NS: u64 = 1_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// One of the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Who {
    name: &'static str,
    cookie: u64,
}

/// What a closing transition must say.
#[derive(Clone, Debug)]
struct Step {
    who: Who,
    from: TcpState,
    to: TcpState,
    local: SocketAddr,
    remote: SocketAddr,
    evidence: Evidence,
    /// It happens in a system call of this process, not in an interrupt.
    own_task: bool,
    seen: bool,
}

/// What was played, and what of it was seen.
#[derive(Debug)]
pub struct Played {
    steps: Vec<Step>,
    known: Vec<u64>,
    netns: u32,
    /// The ends of the minisocket.
    local: SocketAddr,
    remote: SocketAddr,
    /// Cookie of A.
    cookie: u64,
    has_timestamps: bool,
    /// Address of A, once a record has told.
    sk: Option<u64>,
    entered: bool,
    ended: bool,
}

/// How this kernel is watched, as far as it matters for what must be seen.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// Minisockets are, by whichever backend.
    pub minisockets: bool,
    /// They are by functions: what came of a segment is known.
    pub verdicts: bool,
    /// The kernel stamps minisockets (6.14).
    pub stamps: bool,
}

/// Plays it at this loopback address of `stage`. `announce` is told the namespace's inode number and the port
/// before anything happens.
///
/// # Errors
/// Why it cannot be played, in words that go on after "because".
pub fn play(
    stage: &NewNamespace,
    address: IpAddr,
    announce: impl FnOnce(u32, u16) -> anyhow::Result<()> + Send,
) -> Result<Played, String> {
    let play = || {
        interface::bring_up("lo").map_err(|error| format!("lo cannot be brought up: {error}"))?;
        if !is_up(address) {
            return Err(format!(
                "{address} cannot be reached in a new network namespace"
            ));
        }
        let netns = Namespace::own()?.inode;
        perform(address, netns, announce)
            .map_err(|error| format!("a connection with oneself at {address} failed: {error}"))
    };
    stage.inside(play).unwrap_or_else(|error| {
        Err(format!(
            "the network namespace for it cannot be entered: {error}"
        ))
    })
}

#[expect(
    clippy::many_single_char_names,
    reason = "the sockets are called so above"
)]
fn perform(
    address: IpAddr,
    netns: u32,
    announce: impl FnOnce(u32, u16) -> anyhow::Result<()>,
) -> io::Result<Played> {
    let any_port = SocketAddr::new(address, 0);
    let listener = socket(address)?;
    listener.set_reuse_address(true)?;
    listener.bind(&any_port.into())?;
    let server = local(&listener)?;
    announce(netns, server.port()).map_err(io::Error::other)?;
    let who = |name, socket: &Socket| socket.cookie().map(|cookie| Who { name, cookie });
    let l = who("L", &listener)?;
    listener.listen(1)?;

    let connecting = socket(address)?;
    let c = who("C", &connecting)?;
    if address.is_ipv4() {
        // All of 127.0.0.0/8 is this host: with two addresses neither can be taken for the other. Where that
        // is not so, one will do.
        let _ = connecting.bind(&SocketAddr::from((OTHER_END, 0)).into());
    }
    connect(&connecting, server)?;
    let client = local(&connecting)?;
    let accepted = accept(&listener)?;
    let a = who("A", &accepted)?;
    let has_timestamps = has_timestamps(&accepted)?;
    linger2(&accepted, FIN_WAIT2_S)?;
    drop(accepted);
    wait(&connecting, libc::POLLRDHUP)?;
    // Else the ACK of the FIN would come some 40 ms later, and FIN_WAIT2 be passed over.
    connecting.set_tcp_quickack(true)?;
    drop(connecting);

    let again = socket(address)?;
    let d = who("D", &again)?;
    again.set_reuse_address(true)?;
    bind_when_free(&again, client)?;
    connect(&again, server)?;
    let accepted = accept(&listener)?;
    let b = who("B", &accepted)?;
    linger2(&accepted, -1)?;
    accepted.shutdown(std::net::Shutdown::Write)?;
    wait(&again, libc::POLLRDHUP)?;
    again.set_tcp_quickack(true)?;
    wait_for_state(&accepted, TcpState::FinWait2)?;
    drop(accepted);
    wait(&again, libc::POLLHUP)?;
    drop(again);
    listener.set_linger(Some(Duration::ZERO))?;
    drop(listener);
    Ok(Played {
        steps: steps([l, a, b, c, d], server, client),
        known: [l, a, b, c, d].map(|who| who.cookie).into(),
        netns,
        local: server,
        remote: client,
        cookie: a.cookie,
        has_timestamps,
        sk: None,
        entered: false,
        ended: false,
    })
}

/// The transitions that are looked at, with what the kernel's structures hold then: net/ipv4/tcp.c
/// `__tcp_close`, `tcp_shutdown`, net/ipv4/tcp_minisocks.c `tcp_time_wait`, net/ipv4/tcp_input.c `tcp_reset`
/// (v6.18).
#[expect(
    clippy::many_single_char_names,
    reason = "the sockets are called so above"
)]
fn steps([l, a, b, c, d]: [Who; 5], server: SocketAddr, client: SocketAddr) -> Vec<Step> {
    use TcpState::{Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen};
    let step = |who, from, to, evidence, own_task| {
        let (local, remote) = match who {
            who if who == c || who == d => (client, server),
            who if who == l => (server, SocketAddr::new(super::unspecified(server.ip()), 0)),
            _ => (server, client),
        };
        Step {
            who,
            from,
            to,
            local,
            remote,
            evidence,
            own_task,
            seen: false,
        }
    };
    vec![
        step(a, Established, FinWait1, Evidence::RELEASED, true),
        step(a, FinWait2, Close, Evidence::ORPHAN, false),
        step(c, CloseWait, LastAck, Evidence::RELEASED, true),
        step(
            b,
            Established,
            FinWait1,
            Evidence {
                send_shutdown: true,
                ..Evidence::OPEN
            },
            true,
        ),
        step(
            b,
            FinWait2,
            Close,
            Evidence {
                no_fin_wait2: true,
                ..Evidence::ORPHAN
            },
            true,
        ),
        step(
            d,
            CloseWait,
            Close,
            Evidence {
                // net/ipv4/tcp_input.c `tcp_reset` (v6.18), in CLOSE_WAIT.
                error: 32,
                receive_shutdown: true,
                ..Evidence::OPEN
            },
            false,
        ),
        step(
            l,
            Listen,
            Close,
            Evidence {
                linger_zero: true,
                ..Evidence::RELEASED
            },
            true,
        ),
    ]
}

impl Played {
    /// Compares a record that is marked as one of the check with what is known.
    ///
    /// # Errors
    /// The first thing that it says otherwise, with the field that says it.
    pub fn compare(&mut self, input: &Input, watched: Watched) -> Result<(), String> {
        match input {
            Input::Transition(transition) => self.transition(transition),
            Input::MinisocketEntered(entered) => self.entered(entered),
            Input::MinisocketEnded(ended) => self.ended(ended, watched),
            _ => Ok(()),
        }
    }

    /// What was not seen of it, where all must be.
    #[must_use]
    pub fn missing(&self, watched: Watched) -> Option<&'static str> {
        if self.steps.iter().any(|step| !step.seen) {
            return Some("transitions");
        }
        (watched.minisockets && !(self.entered && self.ended)).then_some("minisocket")
    }

    fn transition(&mut self, seen: &Transition) -> Result<(), String> {
        let cookie = seen.socket.cookie.map_or(0, std::num::NonZeroU64::get);
        // A child has none until somebody asks for it.
        let is_child =
            cookie == 0 && matches!(seen.newstate, TcpState::SynRecv | TcpState::Established);
        if !is_child && !self.known.contains(&cookie) {
            return Err(differ("the cookie (skc_cookie)", cookie, self.known[0]));
        }
        if cookie == self.cookie {
            self.sk = Some(seen.socket.sk);
        }
        let Some(step) = self.steps.iter_mut().find(|step| {
            step.who.cookie == cookie && (step.from, step.to) == (seen.oldstate, seen.newstate)
        }) else {
            return Ok(());
        };
        step.seen = true;
        let (local, remote) = (seen.socket.local, seen.socket.remote);
        same(
            "the local address (skc_rcv_saddr, skc_v6_rcv_saddr, skc_num)",
            local,
            step.local,
        )?;
        same(
            "the remote address (skc_daddr, skc_v6_daddr, skc_dport)",
            remote,
            step.remote,
        )?;
        let Some(evidence) = seen.evidence else {
            return Err(format!(
                "{} → {} comes without what the socket held",
                seen.oldstate.name(),
                seen.newstate.name()
            ));
        };
        let is = &step.evidence;
        same("sk_err", evidence.error, is.error)?;
        same(
            "sk_shutdown (receive)",
            evidence.receive_shutdown,
            is.receive_shutdown,
        )?;
        same(
            "sk_shutdown (send)",
            evidence.send_shutdown,
            is.send_shutdown,
        )?;
        same("SOCK_DEAD (skc_flags)", evidence.orphan, is.orphan)?;
        same(
            "the file (sk_socket, socket.file, file.f_ref or f_count)",
            evidence.file,
            is.file,
        )?;
        same(
            "SO_LINGER (skc_flags, sk_lingertime)",
            evidence.linger_zero,
            is.linger_zero,
        )?;
        same(
            "TCP_LINGER2 (linger2)",
            evidence.no_fin_wait2,
            is.no_fin_wait2,
        )?;
        if step.own_task {
            same("PF_EXITING (task_struct.flags)", evidence.exiting, false)?;
            same(
                "PF_KTHREAD (task_struct.flags)",
                evidence.kernel_thread,
                false,
            )?;
        }
        Ok(())
    }

    fn entered(&mut self, seen: &MinisocketEntered) -> Result<(), String> {
        self.minisocket(&seen.minisocket)?;
        self.entered = true;
        let seconds = match seen.phase {
            Phase::FinWait2 => FIN_WAIT2_S.unsigned_abs().into(),
            Phase::TimeWait => TIME_WAIT_S,
        };
        near(
            "the timer of a minisocket (tw_timer, timer_list.expires, tw_substate)",
            seen.timeout_ns,
            seconds * SECOND_NS,
        )?;
        match (seen.sk, self.sk) {
            (Some(seen), Some(is)) => same("the socket of a minisocket", seen, is),
            _ => Ok(()),
        }
    }

    fn ended(&mut self, seen: &MinisocketEnded, watched: Watched) -> Result<(), String> {
        self.minisocket(&seen.minisocket)?;
        self.ended = true;
        same("tw_substate", seen.phase, Phase::TimeWait)?;
        near(
            "the timer of a minisocket (tw_timer, timer_list.expires)",
            seen.expires_ns.saturating_sub(seen.ts_ns),
            TIME_WAIT_S * SECOND_NS,
        )?;
        if watched.verdicts && seen.by != EndedBy::Syn {
            return Err(
                "what tcp_timewait_state_process returns is not read as TCP_TW_SYN where it is that"
                    .to_owned(),
            );
        }
        if watched.stamps && self.has_timestamps {
            let age = seen
                .time_wait_since_ns
                .and_then(|since| seen.ts_ns.checked_sub(since));
            if age.is_none_or(|age| age > TOLERANCE_NS) {
                return Err(format!(
                    "the beginning of a TIME_WAIT (tw_entry_stamp, tw_ts_recent_stamp) is read as {} where it is a moment ago",
                    age.map_or_else(|| "none".to_owned(), |age| format!("{age} ns ago"))
                ));
            }
        }
        Ok(())
    }

    fn minisocket(&self, seen: &tcptrace_model::Minisocket) -> Result<(), String> {
        let cookie = seen.cookie.map_or(0, std::num::NonZeroU64::get);
        same(
            "the cookie of a minisocket (skc_cookie)",
            cookie,
            self.cookie,
        )?;
        same(
            "the network namespace (skc_net)",
            seen.netns,
            Some(self.netns),
        )?;
        same(
            "the local address of a minisocket (skc_rcv_saddr)",
            seen.local,
            self.local,
        )?;
        same(
            "the remote address of a minisocket (skc_daddr)",
            seen.remote,
            self.remote,
        )?;
        same(
            "SO_REUSEADDR of a minisocket (skc_reuse)",
            seen.reuseaddr,
            true,
        )?;
        same(
            "SO_REUSEPORT of a minisocket (skc_reuseport)",
            seen.reuseport,
            false,
        )
    }
}

fn differ<T: std::fmt::Debug>(what: &str, seen: T, is: T) -> String {
    format!("{what} is read as {seen:?} where it is {is:?}")
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: T, is: T) -> Result<(), String> {
    if seen == is {
        Ok(())
    } else {
        Err(differ(what, seen, is))
    }
}

fn near(what: &str, seen_ns: u64, is_ns: u64) -> Result<(), String> {
    if seen_ns.abs_diff(is_ns) <= TOLERANCE_NS {
        return Ok(());
    }
    let ms = |ns: u64| ns / 1_000_000;
    Err(format!(
        "{what} is read as {} ms where it is {} ms",
        ms(seen_ns),
        ms(is_ns)
    ))
}

#[cfg(test)]
mod tests;
