//! The ways in which an established connection can end, each with the transitions that prove it.

use std::io::ErrorKind;
use std::sync::Barrier;

use anyhow::{Context, Result, ensure};

use crate::event::State;
use crate::sockets::{Family, Pair, Socket};

/// A way to end a connection.
pub(crate) struct Ending {
    pub(crate) name: &'static str,
    pub(crate) run: fn(Pair) -> Result<()>,
    /// Transitions that the kernel must record, or the test did not do what its name says.
    pub(crate) shows: &'static [(State, State)],
}

/// All of them.
pub(crate) const ENDINGS: &[Ending] = &[
    Ending {
        name: "client closes first",
        run: |Pair { client, server }| close_in_order(client, &server),
        shows: ORDINARY,
    },
    Ending {
        name: "server closes first",
        run: |Pair { client, server }| close_in_order(server, &client),
        shows: ORDINARY,
    },
    Ending {
        name: "client resets",
        run: |Pair { client, server }| reset(client, &server),
        shows: ABORTED,
    },
    Ending {
        name: "server resets",
        run: |Pair { client, server }| reset(server, &client),
        shows: ABORTED,
    },
    Ending {
        name: "half close",
        run: half_close,
        shows: ORDINARY,
    },
    Ending {
        name: "shutdown, then close before the peer",
        run: shutdown_then_close,
        // close() after shutdown() sets the state that the socket is in already.
        shows: &[
            (State::FIN_WAIT2, State::FIN_WAIT2),
            (State::FIN_WAIT2, State::CLOSE),
        ],
    },
    Ending {
        name: "close with unread data",
        run: unread_data,
        shows: ABORTED,
    },
    Ending {
        name: "data after close",
        run: data_after_close,
        shows: &[
            (State::FIN_WAIT2, State::CLOSE),
            (State::CLOSE_WAIT, State::CLOSE),
        ],
    },
    Ending {
        name: "disconnect",
        run: disconnect,
        shows: ABORTED,
    },
    Ending {
        name: "both close at once",
        run: |pair| {
            both_at_once(pair);
            Ok(())
        },
        shows: &[(State::ESTABLISHED, State::FIN_WAIT1)],
    },
];

/// Two connections through a listener on the port; the client of each closes first.
pub(crate) fn connect_twice(family: Family, port: u16) -> Result<()> {
    let listener = family.listener(port)?;
    for _ in 0..2 {
        let Pair { client, server } = family.pair(&listener, port)?;
        close_in_order(client, &server)?;
    }
    Ok(())
}

/// Closes one end and waits until the other end has its FIN.
pub(crate) fn close_in_order(first: Socket, second: &Socket) -> Result<()> {
    drop(first);
    expect_fin(second)
}

/// One side closes, and the other one after it.
const ORDINARY: &[(State, State)] = &[
    (State::SYN_SENT, State::ESTABLISHED),
    (State::SYN_RECV, State::ESTABLISHED),
    (State::ESTABLISHED, State::FIN_WAIT1),
    (State::FIN_WAIT1, State::FIN_WAIT2),
    (State::ESTABLISHED, State::CLOSE_WAIT),
    (State::CLOSE_WAIT, State::LAST_ACK),
    (State::LAST_ACK, State::CLOSE),
    (State::FIN_WAIT2, State::CLOSE),
];

/// No FIN at all.
const ABORTED: &[(State, State)] = &[(State::ESTABLISHED, State::CLOSE)];

fn reset(first: Socket, second: &Socket) -> Result<()> {
    first.reset_on_close()?;
    drop(first);
    expect_reset(second)
}

fn half_close(Pair { client, server }: Pair) -> Result<()> {
    client.shutdown_write()?;
    expect_fin(&server)?;
    server
        .send(b"answer")
        .context("the other direction must still be open")?;
    ensure!(client.receive()? == 6, "the answer must arrive whole");
    drop(server);
    expect_fin(&client)
}

fn shutdown_then_close(Pair { client, server }: Pair) -> Result<()> {
    client.shutdown_write()?;
    expect_fin(&server)?;
    // The server has read our FIN, but its acknowledgement may still be on the way to us: a byte
    // from it carries one, so that the close below finds us in FIN_WAIT2.
    server.send(b"!")?;
    ensure!(client.receive()? == 1, "the server's byte must arrive");
    drop(client);
    drop(server);
    Ok(())
}

fn unread_data(Pair { client, server }: Pair) -> Result<()> {
    server.send(b"unread")?;
    // A busy CPU may deliver it only after send() has returned.
    client.peek()?;
    drop(client);
    expect_reset(&server)
}

fn data_after_close(Pair { client, server }: Pair) -> Result<()> {
    drop(client);
    expect_fin(&server)?;
    server.send(b"too late")?;
    // A busy CPU may deliver it, and the RST, only after send() has returned.
    server.wait_for_error()?;
    match server.send(b"refused") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => anyhow::bail!("the second send must fail with EPIPE, but: {other:?}"),
    }
}

fn disconnect(Pair { client, server }: Pair) -> Result<()> {
    client.disconnect()?;
    expect_reset(&server)
}

fn both_at_once(Pair { client, server }: Pair) {
    let together = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            together.wait();
            drop(server);
        });
        together.wait();
        drop(client);
    });
}

/// Waits for the peer's FIN.
pub(crate) fn expect_fin(socket: &Socket) -> Result<()> {
    let received = socket.receive().context("expected the peer's FIN")?;
    ensure!(
        received == 0,
        "expected the peer's FIN, but {received} bytes came"
    );
    Ok(())
}

/// Waits for the peer's RST.
pub(crate) fn expect_reset(socket: &Socket) -> Result<()> {
    match socket.receive() {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => anyhow::bail!("expected a reset from the peer, but: {other:?}"),
    }
}
