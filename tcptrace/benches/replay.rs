//! How fast recordings are written, read, and replayed through the model: a million inputs of short
//! connections. `cargo bench -p tcptrace --bench replay`

use std::{
    collections::BTreeMap,
    hint::black_box,
    io::{self, Write},
    time::Instant,
};

use tcptrace::{
    record::{Opening, Step, write::Recorder},
    render::Start,
    source::replay::Replay,
};
use tcptrace_model::{
    Comm, Evidence, File, Input, Settings, Socket, Task, TcpState, Tracker, Transition,
};

/// How many inputs.
const INPUTS: u64 = 1_000_000;
/// How often each is measured; the fastest counts, because other work only slows it down.
const ROUNDS: u32 = 5;
/// The states of a client that closes first.
const LIFE: [TcpState; 6] = [
    TcpState::Close,
    TcpState::SynSent,
    TcpState::Established,
    TcpState::FinWait1,
    TcpState::FinWait2,
    TcpState::Close,
];
/// Connections that are open at the same time.
const OPEN: u64 = 1000;

fn main() -> io::Result<()> {
    let steps: Vec<Step> = (0..INPUTS).map(step).collect();
    let mut file = Vec::new();
    let mut out = io::stdout().lock();

    let write = fastest(|| {
        file.clear();
        let mut recorder = Recorder::begin(&mut file, &opening())?;
        for step in &steps {
            recorder.step(step)?;
        }
        recorder.flush()
    })?;
    drop(steps);
    report(&mut out, "write", write)?;
    let read = fastest(|| {
        each(&file, |step| {
            black_box(step);
        })
    })?;
    report(&mut out, "read", read)?;
    let replay = fastest(|| {
        let mut tracker = Tracker::new(Settings::default());
        each(&file, |step| {
            match step {
                Step::Input(input) => tracker.handle(&input),
                Step::Tick { now_ns } => tracker.advance(now_ns),
                Step::End(ending) => tracker.finish(ending.ts_ns),
            }
            while let Some(finding) = tracker.poll() {
                black_box(&finding);
            }
        })
    })?;
    report(&mut out, "read, through the model", replay)?;
    writeln!(out, "{} bytes an input", file.len() as u64 / INPUTS)
}

/// Hands each step of a recording that has no end to `take`.
fn each(file: &[u8], mut take: impl FnMut(Step)) -> io::Result<()> {
    let mut replay = Replay::open(file).map_err(io::Error::other)?;
    loop {
        match replay.step_at_hand().map_err(io::Error::other)? {
            Some(step) => take(step),
            None => {
                if replay.fill().is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Seconds of the fastest of some rounds.
fn fastest(mut round: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let mut fastest = f64::INFINITY;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        round()?;
        fastest = fastest.min(begun.elapsed().as_secs_f64());
    }
    Ok(fastest)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a million has no more than 53 bits"
)]
fn report(out: &mut impl Write, what: &str, seconds: f64) -> io::Result<()> {
    writeln!(
        out,
        "{what}: {:.2} million inputs a second, {:.0} ns each",
        INPUTS as f64 / seconds / 1e6,
        seconds * 1e9 / INPUTS as f64
    )
}

/// Connections one after the other, each step of them among those of [`OPEN`] others.
fn step(index: u64) -> Step {
    let changes = LIFE.len() as u64 - 1;
    let generation = index / (OPEN * changes);
    let change = usize::try_from(index / OPEN % changes).unwrap_or(0);
    let connection = index % OPEN + generation * OPEN;
    let port = 1024 + u16::try_from(connection % 60_000).unwrap_or(0);
    let (oldstate, newstate) = (LIFE[change], LIFE[change + 1]);
    let evidence = matches!(newstate, TcpState::FinWait1 | TcpState::Close).then_some(Evidence {
        send_shutdown: true,
        orphan: true,
        file: File::Released,
        ..Evidence::OPEN
    });
    Step::Input(Input::Transition(Transition {
        ts_ns: 1_000_000_000_000 + index * 1000,
        socket: Socket {
            sk: 0xffff_8881_0000_0000 + index % OPEN * 2048,
            cookie: None,
            netns: Some(4_026_531_840),
            cgroup_id: Some(4242),
            uid: 1000,
            local: ([10, 0, 0, 1], port).into(),
            remote: ([10, 0, 0, 2], 443).into(),
            reuseaddr: false,
            reuseport: false,
        },
        oldstate,
        newstate,
        current: Task {
            pid: 2000,
            tid: 2001,
            comm: Comm(*b"bench-client\0\0\0\0"),
        },
        cpu: 1,
        evidence,
    }))
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
