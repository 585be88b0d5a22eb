//! Owns JSON lines: one object a line, with the names that docs/events.md documents.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::IpAddr,
    num::NonZeroU64,
};

use serde::Serialize;
use tcptrace_model::{Finding, Loss, LossReason, Socket, Task, Transition};

use super::{End, Render, Start, escape::escaped, time::WallClock};

/// Writes JSON lines.
pub struct Json<W> {
    out: W,
    clock: WallClock,
}

/// What every line begins with.
#[derive(Serialize)]
struct Line<T> {
    kind: &'static str,
    ts_ns: u64,
    time: String,
    #[serde(flatten)]
    rest: T,
}

#[derive(Serialize)]
struct StartLine<'a> {
    version: &'static str,
    kernel: &'a str,
    hz: Option<u32>,
    backends: &'a BTreeMap<&'static str, &'static str>,
    degraded: &'a [&'static str],
    netns: Option<u32>,
    sysctls: &'a BTreeMap<String, String>,
    clock_offset_ns: i64,
}

#[derive(Serialize)]
struct TransitionLine {
    netns: Option<u32>,
    family: &'static str,
    laddr: IpAddr,
    lport: u16,
    raddr: IpAddr,
    rport: u16,
    skaddr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<NonZeroU64>,
    uid: u32,
    cgroup_id: Option<u64>,
    reuseaddr: bool,
    reuseport: bool,
    oldstate: &'static str,
    newstate: &'static str,
    in_state_ns: Option<u64>,
    cpu: u16,
    current: CurrentTask,
}

#[derive(Serialize)]
struct CurrentTask {
    pid: u32,
    tid: u32,
    comm: String,
}

#[derive(Serialize)]
struct LostLine {
    records: u64,
    record_kind: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<u32>,
}

#[derive(Serialize)]
struct SummaryLine {
    duration_ns: u64,
    transitions: u64,
    shown: u64,
    lost: u64,
    untracked: u64,
}

impl<W: Write> Json<W> {
    /// Writes to `out`. `clock_offset_ns` is what to add to CLOCK_BOOTTIME ns to get ns since 1970.
    pub fn new(out: W, clock_offset_ns: i64) -> Self {
        Self {
            out,
            clock: WallClock::new(clock_offset_ns),
        }
    }

    fn line<T: Serialize>(&mut self, kind: &'static str, ts_ns: u64, rest: T) -> io::Result<()> {
        let time = self.clock.rfc3339(ts_ns);
        serde_json::to_writer(
            &mut self.out,
            &Line {
                kind,
                ts_ns,
                time,
                rest,
            },
        )?;
        self.out.write_all(b"\n")
    }
}

impl<W: Write> Render for Json<W> {
    fn start(&mut self, start: &Start) -> io::Result<()> {
        let Start {
            ts_ns,
            kernel,
            hz,
            backends,
            degraded,
            netns,
            sysctls,
            clock_offset_ns,
        } = start;
        self.line(
            "start",
            *ts_ns,
            StartLine {
                version: env!("CARGO_PKG_VERSION"),
                kernel,
                hz: *hz,
                backends,
                degraded,
                netns: *netns,
                sysctls,
                clock_offset_ns: *clock_offset_ns,
            },
        )
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        match finding {
            Finding::Transition {
                transition,
                in_state_ns,
            } => self.line(
                "transition",
                transition.ts_ns,
                transition_line(transition, *in_state_ns),
            ),
            Finding::Lost(loss) => {
                let Loss {
                    ts_ns,
                    records,
                    kind,
                    cpu,
                    reason,
                } = *loss;
                let reason = match reason {
                    LossReason::BufferFull => "buffer_full",
                    LossReason::Recursion => "recursion",
                };
                self.line(
                    "lost",
                    ts_ns,
                    LostLine {
                        records,
                        record_kind: kind.name(),
                        reason,
                        cpu,
                    },
                )
            }
        }
    }

    fn end(&mut self, end: &End) -> io::Result<()> {
        let summary = end.summary;
        self.line(
            "summary",
            end.ts_ns,
            SummaryLine {
                duration_ns: end.duration_ns,
                transitions: summary.transitions,
                shown: end.shown,
                lost: summary.lost,
                untracked: summary.untracked,
            },
        )
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn transition_line(transition: &Transition, in_state_ns: Option<u64>) -> TransitionLine {
    let Transition {
        ts_ns: _,
        socket,
        oldstate,
        newstate,
        current,
        cpu,
    } = *transition;
    let Socket {
        sk,
        cookie,
        netns,
        cgroup_id,
        uid,
        local,
        remote,
        reuseaddr,
        reuseport,
    } = socket;
    let Task { pid, tid, comm } = current;
    TransitionLine {
        netns,
        family: if local.is_ipv4() { "ipv4" } else { "ipv6" },
        laddr: local.ip(),
        lport: local.port(),
        raddr: remote.ip(),
        rport: remote.port(),
        skaddr: format!("{sk:#x}"),
        cookie,
        uid,
        cgroup_id,
        reuseaddr,
        reuseport,
        oldstate: oldstate.name(),
        newstate: newstate.name(),
        in_state_ns,
        cpu,
        current: CurrentTask {
            pid,
            tid,
            comm: escaped(comm.as_bytes()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::text::samples;

    fn written(write: impl FnOnce(&mut Json<Vec<u8>>) -> io::Result<()>) -> String {
        let mut json = Json::new(Vec::new(), 1_000_000_000_000_000_000);
        write(&mut json).unwrap();
        String::from_utf8(json.out).unwrap()
    }

    #[test]
    fn a_transition_has_every_field_by_its_name() {
        let finding = samples::transition("127.0.0.1:8000", "127.0.0.1:40000", Some(1_500_000));
        assert_eq!(
            written(|json| json.finding(&finding)),
            concat!(
                r#"{"kind":"transition","ts_ns":5067000000,"time":"2001-09-09T01:46:45.067000000Z","#,
                r#""netns":4026531840,"family":"ipv4","laddr":"127.0.0.1","lport":8000,"#,
                r#""raddr":"127.0.0.1","rport":40000,"skaddr":"0xffff888100001000","cookie":77,"#,
                r#""uid":1000,"cgroup_id":4242,"reuseaddr":true,"reuseport":false,"#,
                r#""oldstate":"ESTABLISHED","newstate":"FIN_WAIT1","in_state_ns":1500000,"cpu":1,"#,
                r#""current":{"pid":200,"tid":201,"comm":"nginx"}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn what_is_unknown_is_null_never_zero() {
        let mut finding = samples::transition("[::1]:8000", "[::1]:40000", None);
        if let Finding::Transition { transition, .. } = &mut finding {
            transition.socket.cookie = None;
            transition.socket.netns = None;
            transition.socket.cgroup_id = None;
        }
        let line = written(|json| json.finding(&finding));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        for name in ["in_state_ns", "netns", "cgroup_id"] {
            assert!(value[name].is_null(), "{name}: {line}");
        }
        assert_eq!(value.get("cookie"), None);
        assert_eq!(value["family"], "ipv6");
    }

    #[test]
    fn losses_and_the_summary_name_their_counts() {
        let line = written(|json| json.finding(&samples::lost(7)));
        assert!(
            line.contains(
                r#""records":7,"record_kind":"transition","reason":"buffer_full","cpu":1}"#
            ),
            "{line}"
        );
        let line = written(|json| json.end(&samples::end()));
        assert!(line.starts_with(r#"{"kind":"summary","#), "{line}");
        assert!(
            line.contains(
                r#""duration_ns":10000000000,"transitions":12,"shown":10,"lost":7,"untracked":0}"#
            ),
            "{line}"
        );
    }
}
