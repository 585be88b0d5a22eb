//! Scenes of several experiments: connections between an actor and the scripted peer, and how they close.

use std::time::Duration;

use anyhow::{Context, Result};
use tcptrace_model::TcpState;

use crate::lab::{
    actor::{Actor, Options, Sock},
    limits::PATIENCE,
    stage::Stage,
    tuple::Tuple,
    wire::{Device, Flags, Peer, Segment, Version},
};

/// Whether both ends use the timestamps option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timestamps {
    With,
    Without,
}

/// A connection between an actor, who has the kernel's end, and the scripted peer.
pub(super) struct Scripted<'a> {
    pub(super) peer: Peer,
    /// The actor's.
    pub(super) socket: Sock<'a>,
    /// The kernel's end.
    pub(super) tuple: Tuple,
}

impl<'a> Scripted<'a> {
    /// The peer at `port` is the client of this listener.
    pub(super) fn served(
        device: &Device,
        listener: &Sock<'a>,
        port: u16,
        timestamps: Timestamps,
    ) -> Result<Self> {
        let local = listener.local();
        let peer = Peer::client(device, Version::V4, local.port(), port)?;
        let mut peer = with(peer, timestamps);
        peer.connect()?;
        let socket = listener.accept()?;
        let tuple = socket.tuple()?;
        Ok(Self {
            peer,
            socket,
            tuple,
        })
    }

    /// The peer at `port` is the server of this actor.
    pub(super) fn connected(
        device: &Device,
        client: &'a Actor,
        port: u16,
        timestamps: Timestamps,
    ) -> Result<Self> {
        let socket = client.socket(false, Options::NONE)?;
        Self::connected_by(device, socket, port, timestamps)
    }

    /// The same with a socket that is there already.
    pub(super) fn connected_by(
        device: &Device,
        socket: Sock<'a>,
        port: u16,
        timestamps: Timestamps,
    ) -> Result<Self> {
        let mut peer = with(Peer::server(device, Version::V4, port)?, timestamps);
        let connecting = socket.connecting(Version::V4.remote(port))?;
        peer.accept()?;
        let socket = connecting.connected()?;
        let tuple = socket.tuple()?;
        Ok(Self {
            peer,
            socket,
            tuple,
        })
    }

    /// The actor closes, the peer acknowledges that and has not closed itself.
    pub(super) fn close_to_fin_wait2(&mut self, stage: &Stage) -> Result<()> {
        self.socket.close()?;
        self.peer.expect(fin())?;
        self.peer.send(Flags::ACK)?;
        stage.await_state(self.tuple, TcpState::FinWait2)
    }

    /// The actor closes, the peer answers with FIN and ACK in one segment. So the real TIME_WAIT begins at
    /// once, and every backend of the trace dates it exactly.
    pub(super) fn close_to_time_wait(&mut self, stage: &Stage) -> Result<()> {
        self.socket.close()?;
        self.peer.expect(fin())?;
        self.peer.send(fin())?;
        stage.await_state(self.tuple, TcpState::TimeWait)?;
        self.peer.expect(Flags::ACK).map(drop)
    }

    /// Both close before the other's FIN has come.
    pub(super) fn close_crossing(&mut self, stage: &Stage) -> Result<()> {
        self.socket.close()?;
        self.peer.send(fin())?;
        stage.await_state(self.tuple, TcpState::Closing)?;
        self.peer.expect(fin())?;
        self.peer.send(Flags::ACK)?;
        stage.await_state(self.tuple, TcpState::TimeWait)
    }

    /// Sends something, and returns what the kernel answers: the flags of the next segment.
    pub(super) fn answer_to(
        &mut self,
        send: impl FnOnce(&mut Peer) -> Result<()>,
    ) -> Result<String> {
        self.peer.drain()?;
        send(&mut self.peer)?;
        let answer = self.peer.next_segment(PATIENCE)?;
        let answer = answer.context("the kernel did not answer the scripted peer")?;
        Ok(answer.flags.to_string())
    }

    /// Sends a SYN for a new connection, as [`Peer::new_syn`] does, and returns what the kernel answers. A
    /// connection that begins with it ends at once.
    pub(super) fn answer_to_syn(&mut self, sequence: i32, timestamp: i32) -> Result<String> {
        let answer = self.answer_to(|peer| peer.new_syn(sequence, timestamp))?;
        if answer == syn_ack() {
            self.peer.send(Flags::RST | Flags::ACK)?;
        }
        Ok(answer)
    }

    /// How long until the timer of its minisocket runs out.
    pub(super) fn left(&self, stage: &Stage) -> Result<Duration> {
        let now = stage.state(self.tuple)?;
        let left = now.and_then(|now| now.minisocket_left);
        left.with_context(|| format!("{} has no minisocket", self.tuple))
    }

    /// The states of the kernel's end from ESTABLISHED on, with the one that its minisocket is in now.
    pub(super) fn states(&self, stage: &Stage) -> Result<Vec<TcpState>> {
        let connection = stage.connection(self.tuple)?;
        let mut states: Vec<TcpState> = connection
            .states
            .iter()
            .map(|span| span.state)
            .skip_while(|state| *state != TcpState::Established)
            .collect();
        if let Some(now) = stage.state(self.tuple)?
            && states.last() != Some(&now.state)
        {
            states.push(now.state);
        }
        Ok(states)
    }

    /// The segments that closed it: from the first FIN on.
    pub(super) fn closing_segments(&self, device: &Device) -> Result<Vec<Segment>> {
        let mine = self.peer.conversation();
        let log = device.log()?;
        Ok(log
            .entries
            .iter()
            .map(|logged| logged.segment)
            .filter(|segment| Some(segment.conversation) == mine)
            .skip_while(|segment| !segment.flags.intersects(Flags::FIN))
            .collect())
    }
}

/// The flags of a FIN, which has ACK, too (RFC 9293 3.1).
pub(super) fn fin() -> Flags {
    Flags::FIN | Flags::ACK
}

/// What the kernel answers to a SYN that it accepts.
pub(super) fn syn_ack() -> String {
    (Flags::SYN | Flags::ACK).to_string()
}

/// What TIME_WAIT answers to whatever it takes for an old duplicate.
pub(super) fn ack() -> String {
    Flags::ACK.to_string()
}

fn with(peer: Peer, timestamps: Timestamps) -> Peer {
    match timestamps {
        Timestamps::With => peer,
        Timestamps::Without => peer.without_timestamps(),
    }
}
