//! A fixed set of records on its way to the output, for whoever counts its instructions: `cargo xtask
//! bench cost`. By hand: `cargo bench -p tcptrace --bench cost -- json 1000`.

use std::{
    collections::BTreeMap,
    env,
    hint::black_box,
    io::{self, Write},
    mem::{offset_of, size_of},
};

use tcptrace::{
    bpf::decode::Decoder,
    record::{Opening, Step, write::Recorder},
    render::{
        Render, Start,
        json::Json,
        text::{Layout, Text},
    },
};
use tcptrace_common::{
    AF_INET, AcceptRecord, RecordHeader, RecordKind, ResetRecord, TimeWaitRecord, TransitionRecord,
    file, flag, time_wait,
};
use tcptrace_model::{
    EndedBy, Settings,
    TcpState::{
        self, Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
    },
    Tracker,
};

/// Between one record and the next, in ns.
const STEP_NS: u64 = 5_000;
/// CLOCK_BOOTTIME ns of the first one.
const BEGIN_NS: u64 = 1_000_000_000_000;
/// One tick of the kernel in ns, and a TIME_WAIT in ticks.
const TICK_NS: u64 = 4_000_000;
const TIME_WAIT_TICKS: i32 = 15_000;

/// How far the records go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nowhere: they are made only.
    Made,
    Decode,
    Model,
    Json,
    Text,
    Record,
}

fn main() -> io::Result<()> {
    // Cargo adds a flag of its own.
    let words: Vec<String> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let way = match words.first().map(String::as_str) {
        Some("made") => Way::Made,
        Some("decode") => Way::Decode,
        Some("model") => Way::Model,
        Some("json") | None => Way::Json,
        Some("text") => Way::Text,
        Some("record") => Way::Record,
        Some(other) => {
            return Err(io::Error::other(format!(
                "there is no way {other}; type one of: made, decode, model, json, text, record"
            )));
        }
    };
    let lives = match words.get(1).map(|word| word.parse()) {
        None => 1_000,
        Some(Ok(lives)) => lives,
        Some(Err(error)) => return Err(io::Error::other(error)),
    };
    let records = Records::of(lives);
    go(way, &records.0)?;
    writeln!(io::stdout(), "{} records", records.0.len())
}

/// Sends every record there. What comes out is dropped as late as possible.
fn go(way: Way, records: &[Vec<u8>]) -> io::Result<()> {
    let decoder = Decoder {
        tick_ns: TICK_NS,
        boot_offset_ns: 0,
        reset_reasons: Vec::new(),
        ended_by: Box::new(|_| EndedBy::Unknown),
    };
    let mut tracker = Tracker::new(Settings::default());
    let mut renderer: Option<Box<dyn Render>> = match way {
        Way::Json => Some(Box::new(Json::new(io::sink(), 0))),
        Way::Text => {
            let text = Text::new(io::sink(), io::sink(), Layout::default(), 0);
            Some(Box::new(text))
        }
        Way::Made | Way::Decode | Way::Model | Way::Record => None,
    };
    let mut recorder = match way {
        Way::Record => Some(Recorder::begin(io::sink(), &opening())?),
        Way::Made | Way::Decode | Way::Model | Way::Json | Way::Text => None,
    };
    for record in records {
        if way == Way::Made {
            black_box(record);
            continue;
        }
        let taken = decoder.record(record).map_err(io::Error::other)?;
        if way == Way::Decode {
            black_box(&taken);
            continue;
        }
        if let Some(recorder) = &mut recorder {
            recorder.step(&Step::Input(taken.input))?;
            continue;
        }
        tracker.handle(&taken.input);
        while let Some(finding) = tracker.poll() {
            match &mut renderer {
                Some(renderer) => renderer.finding(&finding)?,
                None => {
                    black_box(&finding);
                }
            }
        }
    }
    Ok(())
}

fn opening() -> Opening {
    Opening {
        start: Start {
            version: String::new(),
            ts_ns: 0,
            kernel: String::new(),
            hz: None,
            backends: BTreeMap::new(),
            degraded: Vec::new(),
            netns: None,
            sysctls: BTreeMap::new(),
            clock_offset_ns: 0,
        },
        settings: Settings::default(),
        arguments: Vec::new(),
    }
}

/// The bytes of records as the ring buffer holds them.
struct Records(Vec<Vec<u8>>);

/// One end of a connection over loopback.
#[derive(Clone, Copy)]
struct End {
    sk: u64,
    local: u16,
    remote: u16,
}

impl Records {
    /// Those of so many connections over loopback, both ends: by turns closed in order, the client first,
    /// until its TIME_WAIT is over, and reset by the client.
    fn of(lives: u16) -> Self {
        let mut records = Self(Vec::new());
        for life in 0..lives {
            let sk = 0xffff_8881_0000_0000 + u64::from(life % 64) * 4096;
            let port = 32_768 + life % 28_000;
            let client = End {
                sk,
                local: port,
                remote: 8_000,
            };
            let server = End {
                sk: sk + 2_048,
                local: 8_000,
                remote: port,
            };
            records.opens(client, server);
            if life % 2 == 0 {
                records.closes(client, server);
            } else {
                records.resets(client, server);
            }
        }
        records
    }

    fn opens(&mut self, client: End, server: End) {
        let unbound = End { local: 0, ..client };
        self.goes(unbound, Close, SynSent);
        self.goes(server, Listen, SynRecv);
        self.goes(client, SynSent, Established);
        self.goes(server, SynRecv, Established);
        let mut accept = self.record(RecordKind::Accept, size_of::<AcceptRecord>());
        put(
            &mut accept,
            offset_of!(AcceptRecord, sk),
            &server.sk.to_ne_bytes(),
        );
        put(
            &mut accept,
            offset_of!(AcceptRecord, pid),
            &200_u32.to_ne_bytes(),
        );
        put(
            &mut accept,
            offset_of!(AcceptRecord, tid),
            &200_u32.to_ne_bytes(),
        );
        put(&mut accept, offset_of!(AcceptRecord, comm), b"server");
        self.0.push(accept);
    }

    fn closes(&mut self, client: End, server: End) {
        self.goes(client, Established, FinWait1);
        self.goes(server, Established, CloseWait);
        self.goes(client, FinWait1, FinWait2);
        self.goes(server, CloseWait, LastAck);
        self.time_wait(client, time_wait::ENTERED, TIME_WAIT_TICKS);
        self.goes(client, FinWait2, Close);
        self.goes(server, LastAck, Close);
        self.time_wait(client, time_wait::EXPIRED, 0);
    }

    fn resets(&mut self, client: End, server: End) {
        self.reset(client, Established, false);
        self.goes(client, Established, Close);
        self.reset(server, Established, true);
        self.goes(server, Established, Close);
    }

    fn goes(&mut self, end: End, oldstate: TcpState, newstate: TcpState) {
        let mut record = self.record(RecordKind::Transition, size_of::<TransitionRecord>());
        let mut set = |at, value: &[u8]| put(&mut record, at, value);
        set(offset_of!(TransitionRecord, sk), &end.sk.to_ne_bytes());
        set(
            offset_of!(TransitionRecord, cgroup_id),
            &42_u64.to_ne_bytes(),
        );
        set(offset_of!(TransitionRecord, laddr), &[127, 0, 0, 1]);
        set(offset_of!(TransitionRecord, raddr), &[127, 0, 0, 1]);
        set(
            offset_of!(TransitionRecord, netns),
            &4_026_531_840_u32.to_ne_bytes(),
        );
        set(offset_of!(TransitionRecord, pid), &100_u32.to_ne_bytes());
        set(offset_of!(TransitionRecord, tid), &100_u32.to_ne_bytes());
        set(
            offset_of!(TransitionRecord, lport),
            &end.local.to_ne_bytes(),
        );
        set(
            offset_of!(TransitionRecord, rport),
            &end.remote.to_ne_bytes(),
        );
        set(offset_of!(TransitionRecord, family), &AF_INET.to_ne_bytes());
        set(offset_of!(TransitionRecord, oldstate), &[oldstate.number()]);
        set(offset_of!(TransitionRecord, newstate), &[newstate.number()]);
        set(offset_of!(TransitionRecord, comm), b"client");
        if matches!(newstate, FinWait1 | LastAck | Close) {
            let flags = flag::EVIDENCE | flag::ORPHAN;
            set(offset_of!(TransitionRecord, flags), &flags.to_ne_bytes());
            set(offset_of!(TransitionRecord, shutdown), &[2]);
            set(offset_of!(TransitionRecord, file), &[file::RELEASED]);
        }
        self.0.push(record);
    }

    fn reset(&mut self, end: End, state: TcpState, is_received: bool) {
        let mut record = self.record(RecordKind::Reset, size_of::<ResetRecord>());
        let reason = ResetRecord::NO_REASON.to_ne_bytes();
        put(
            &mut record,
            offset_of!(ResetRecord, sk),
            &end.sk.to_ne_bytes(),
        );
        put(&mut record, offset_of!(ResetRecord, reason), &reason);
        put(
            &mut record,
            offset_of!(ResetRecord, received),
            &[u8::from(is_received)],
        );
        put(
            &mut record,
            offset_of!(ResetRecord, state),
            &[state.number()],
        );
        self.0.push(record);
    }

    fn time_wait(&mut self, end: End, event: u8, expires_in: i32) {
        let mut record = self.record(RecordKind::TimeWait, size_of::<TimeWaitRecord>());
        let mut set = |at, value: &[u8]| put(&mut record, at, value);
        set(
            offset_of!(TimeWaitRecord, tw),
            &(end.sk + 1_024).to_ne_bytes(),
        );
        set(offset_of!(TimeWaitRecord, sk), &end.sk.to_ne_bytes());
        set(offset_of!(TimeWaitRecord, laddr), &[127, 0, 0, 1]);
        set(offset_of!(TimeWaitRecord, raddr), &[127, 0, 0, 1]);
        set(
            offset_of!(TimeWaitRecord, netns),
            &4_026_531_840_u32.to_ne_bytes(),
        );
        set(
            offset_of!(TimeWaitRecord, expires_in),
            &expires_in.to_ne_bytes(),
        );
        set(offset_of!(TimeWaitRecord, lport), &end.local.to_ne_bytes());
        set(offset_of!(TimeWaitRecord, rport), &end.remote.to_ne_bytes());
        set(offset_of!(TimeWaitRecord, family), &AF_INET.to_ne_bytes());
        set(offset_of!(TimeWaitRecord, event), &[event]);
        set(
            offset_of!(TimeWaitRecord, substate),
            &[TcpState::TimeWait.number()],
        );
        self.0.push(record);
    }

    /// A record with its header, the rest 0.
    fn record(&self, kind: RecordKind, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let ts_ns = BEGIN_NS + STEP_NS * self.0.len() as u64;
        put(
            &mut bytes,
            offset_of!(RecordHeader, ts_ns),
            &ts_ns.to_ne_bytes(),
        );
        put(
            &mut bytes,
            offset_of!(RecordHeader, kind),
            &kind.number().to_ne_bytes(),
        );
        bytes
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
