//! A process that ends with its sockets open.

use anyhow::Result;
use tcptrace_model::Connection;

use crate::lab::{
    actor::{Actor, Options, Received, Sock},
    experiment::Experiment,
    reading::Source,
    stage::Stage,
};

/// How a process ends.
#[derive(Clone, Copy)]
enum Way {
    /// _exit() with this status.
    Exit(u8),
    /// This signal.
    Signal(i32),
}

/// How a process ends, its name, and what the trace calls that.
const WAYS: &[(&str, &str, &str, Way)] = &[
    ("exit(0)", "exits_with_0", "exit, status 0", Way::Exit(0)),
    ("exit(7)", "exits_with_7", "exit, status 7", Way::Exit(7)),
    (
        "SIGTERM",
        "terminated",
        "signal 15",
        Way::Signal(libc::SIGTERM),
    ),
    ("SIGKILL", "killed", "signal 9", Way::Signal(libc::SIGKILL)),
];

pub(super) const A2: Experiment = Experiment {
    id: "A2",
    name: "process-ends",
    claims: &["A2"],
    title: "A process that ends, or is killed, closes its connections with a FIN",
    says: "A process that exits or is killed by a signal has all its descriptors closed, so a FIN is sent on \
           each of its connections.",
    why: "However a process ends, the kernel closes its descriptors in do_exit() (kernel/exit.c, v6.18), and \
          the last reference to a socket closes it as close() does: a FIN (RFC 9293 3.6), and this end has \
          closed first. So a program that crashes looks to its peer like one that is done: the end of the \
          stream, and no error. Not even SIGKILL prevents it, since no code of the program takes part.",
    condition: None,
    seconds: 3,
    play: |stage: &mut Stage| -> Result<()> {
        let peer = stage.actor("peer")?;
        let listener = peer.listening("127.0.0.1:8000", Options::NONE)?;
        for &(name, comm, cause, way) in WAYS {
            let ends = stage.actor(comm)?;
            ends_with_two(stage, &listener, &ends, name, cause, way)?;
        }
        Ok(())
    },
};

/// A process with two connections ends.
fn ends_with_two(
    stage: &mut Stage,
    listener: &Sock<'_>,
    ends: &Actor,
    name: &str,
    cause: &str,
    way: Way,
) -> Result<()> {
    let first = ends.connected("127.0.0.1:8000", Options::NONE)?;
    let at_peer = [listener.accept()?, {
        ends.connected("127.0.0.1:8000", Options::NONE)?;
        listener.accept()?
    }];
    match way {
        Way::Exit(status) => ends.exit(status.into())?,
        Way::Signal(signal) => ends.kill(signal)?,
    }
    let mut fins = 0;
    for socket in &at_peer {
        fins += u64::from(socket.read()? == Received::Fin);
        socket.close()?;
    }
    stage
        .reading(format!("{name}: connections, of 2, with a FIN"))
        .claim(2)
        .measured(fins, Source::Call);
    let ended = stage.connection(first.tuple()?)?;
    stage
        .reading(format!("{name}: how the connection ended"))
        .control("local_first")
        .measured(ended.close.name(), Source::Finding);
    stage
        .reading(format!("{name}: why"))
        .control(cause)
        .measured(why(&ended), Source::Finding);
    match way {
        // One of each kind is enough to be read.
        Way::Exit(7) | Way::Signal(libc::SIGKILL) => {
            stage.story(first.tuple()?)?;
        }
        Way::Exit(_) | Way::Signal(_) => {}
    }
    Ok(())
}

fn why(ended: &Connection) -> String {
    match (ended.exit_status, ended.signal) {
        (Some(status), None) => format!("{}, status {status}", ended.cause.name()),
        (None, Some(signal)) => format!("{} {signal}", ended.cause.name()),
        (None, None) | (Some(_), Some(_)) => ended.cause.name().to_owned(),
    }
}
