//! Owns `Traffic`: an ordinary host with as many sockets as asked, as its kernel reports it.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
};

use tcptrace_model::{
    Accepted, Comm, EndedBy, Evidence, Input, Minisocket, MinisocketEnded, MinisocketEntered,
    Phase, Settings, Socket, Task,
    TcpState::{
        self, Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
    },
    Tracker, Transition,
};

/// Between one input and the next, in ns.
const STEP_NS: u64 = 1000;

const MINUTE_NS: u64 = 60_000_000_000;

const APP: Task = Task {
    pid: 100,
    tid: 100,
    comm: Comm(*b"application\0\0\0\0\0"),
};

/// Connections that come and go, and a tracker that is told of them.
pub(crate) struct Traffic {
    pub(crate) tracker: Tracker,
    now_ns: u64,
    /// Connections so far.
    begun: u64,
    open: Vec<u64>,
    waiting: VecDeque<u64>,
    random: u64,
    /// The tracker is not told anything: what is left is what the traffic itself costs.
    pub(crate) untold: bool,
}

impl Traffic {
    /// One with so many ends of connections open and so many minisockets waiting.
    pub(crate) fn with(open_ends: usize, waiting: usize) -> Self {
        let mut traffic = Self {
            tracker: Tracker::new(Settings {
                max_connections: 1 << 22,
                max_minisockets: 1 << 22,
                ..Settings::default()
            }),
            now_ns: 1_000_000_000_000,
            begun: 0,
            open: Vec::with_capacity(open_ends),
            waiting: VecDeque::with_capacity(waiting),
            random: 0x2545_f491_4f6c_dd1d,
            untold: false,
        };
        for _ in 0..waiting {
            traffic.opens();
            traffic.closes();
        }
        for _ in 0..open_ends / 2 {
            traffic.opens();
        }
        traffic
    }

    /// One connection begins, another one ends, and the oldest TIME_WAIT is over.
    pub(crate) fn turns_over(&mut self) {
        self.opens();
        self.closes();
        self.expires();
    }

    fn opens(&mut self) {
        let life = self.begun;
        self.begun += 1;
        let (client, server) = ends(life);
        let mut unbound = client;
        unbound.local.set_port(0);
        self.goes(&unbound, Close, SynSent, None);
        self.goes(&server, Listen, SynRecv, None);
        self.goes(&client, SynSent, Established, None);
        self.goes(&server, SynRecv, Established, None);
        let ts_ns = self.step();
        self.tell(Input::Accepted(Accepted {
            ts_ns,
            sk: server.sk,
            task: APP,
        }));
        self.open.push(life);
    }

    /// Connections live for differently long: any of them may be the next to close.
    fn closes(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let chosen = usize::try_from(self.random % self.open.len() as u64).unwrap_or(0);
        let life = self.open.swap_remove(chosen);
        let (client, server) = ends(life);
        self.goes(&client, Established, FinWait1, Some(Evidence::RELEASED));
        self.goes(&server, Established, CloseWait, None);
        self.goes(&client, FinWait1, FinWait2, None);
        self.goes(&server, CloseWait, LastAck, Some(Evidence::RELEASED));
        let ts_ns = self.step();
        self.tell(Input::MinisocketEntered(MinisocketEntered {
            ts_ns,
            minisocket: minisocket(life),
            sk: Some(client.sk),
            phase: Phase::TimeWait,
            timeout_ns: MINUTE_NS,
        }));
        self.goes(&client, FinWait2, Close, Some(Evidence::ORPHAN));
        self.goes(&server, LastAck, Close, Some(Evidence::ORPHAN));
        self.waiting.push_back(life);
    }

    fn expires(&mut self) {
        let Some(life) = self.waiting.pop_front() else {
            return;
        };
        let ts_ns = self.step();
        self.tell(Input::MinisocketEnded(MinisocketEnded {
            ts_ns,
            minisocket: minisocket(life),
            phase: Phase::TimeWait,
            by: EndedBy::Expiry,
            current: APP,
            time_wait_since_ns: None,
            expires_ns: ts_ns,
        }));
    }

    fn goes(
        &mut self,
        socket: &Socket,
        oldstate: TcpState,
        newstate: TcpState,
        evidence: Option<Evidence>,
    ) {
        let ts_ns = self.step();
        self.tell(Input::Transition(Transition {
            ts_ns,
            socket: *socket,
            oldstate,
            newstate,
            current: APP,
            cpu: 0,
            evidence,
        }));
    }

    fn step(&mut self) -> u64 {
        self.now_ns += STEP_NS;
        if self.now_ns.is_multiple_of(1_000_000_000) {
            self.tracker.advance(self.now_ns);
        }
        self.now_ns
    }

    #[expect(
        clippy::large_types_passed_by_value,
        reason = "as the tracker takes it"
    )]
    fn tell(&mut self, input: Input) {
        let input = divan::black_box(input);
        if self.untold {
            return;
        }
        self.tracker.handle(&input);
        while let Some(finding) = self.tracker.poll() {
            drop(divan::black_box(finding));
        }
    }
}

/// Both ends of a connection.
fn ends(life: u64) -> (Socket, Socket) {
    // Like the kernel's slabs: addresses lie close together, and come back.
    let sk = 0xffff_8881_0000_0000 + (life % (1 << 22)) * 4096;
    let port = 10_000 + u16::try_from(life % 50_000).unwrap_or(0);
    let host = u32::try_from(life / 50_000 % (1 << 24)).unwrap_or(0);
    let client = Socket {
        sk,
        cookie: None,
        netns: Some(4_026_531_840),
        cgroup_id: Some(1),
        uid: 1000,
        local: SocketAddr::from((Ipv4Addr::from(0x7f00_0000 | host), port)),
        remote: SocketAddr::from((Ipv4Addr::LOCALHOST, 80)),
        reuseaddr: false,
        reuseport: false,
    };
    let server = Socket {
        sk: sk + 2048,
        local: client.remote,
        remote: client.local,
        ..client
    };
    (client, server)
}

fn minisocket(life: u64) -> Minisocket {
    let (client, _) = ends(life);
    Minisocket {
        tw: 0xffff_8882_0000_0000 + (life % (1 << 22)) * 256,
        cookie: None,
        netns: client.netns,
        local: client.local,
        remote: client.remote,
        reuseaddr: false,
        reuseport: false,
    }
}
