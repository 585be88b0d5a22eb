//! Makes the recordings in tests/recordings, each of one way to close: `live --make-recordings FOLDER`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::endings::{expect_fin, expect_reset};
use crate::event::State;
use crate::peer::{self, Flags, Odd, Wire};
use crate::puppet::Puppet;
use crate::sockets::{Family, Socket};
use crate::tracer::{self, Tracer};
use crate::{kernel_table, netns, ports, sys};

/// The argument that asks for it.
pub(crate) const ARGUMENT: &str = "--make-recordings";

/// Longer than two looks of the tracer at its buffer lie apart, and than a story waits for its end.
const A_MOMENT: Duration = Duration::from_millis(1_200);
/// How many connections overflow the smallest buffer.
const BURST: usize = 30;

type Scene = (
    &'static str,
    &'static [&'static str],
    fn(&Stage) -> Result<()>,
);

/// Name of the recording, flags of the tracer, and what happens in it.
const SCENES: &[Scene] = &[
    ("server_first", &[], server_first),
    ("client_first", &[], client_first),
    ("simultaneous", &[], simultaneous),
    ("linger_zero", &[], linger_zero),
    ("unread_data", &[], unread_data),
    ("killed", &[], killed),
    ("half_close", &[], half_close),
    ("refused", &[], refused),
    ("reused_by_connect", &[], reused_by_connect),
    ("orphan_expired", &[], orphan_expired),
    ("lost_records", &["--buffer-size", "4K"], lost_records),
    ("started_in_the_middle", &[], started_in_the_middle),
];

/// Makes all of them in the folder that the second argument names.
pub(crate) fn make() -> Result<()> {
    let folder = std::env::args().nth(2).context("into which folder?")?;
    // /proc shows the name of the first thread.
    sys::name_this_thread(c"main")?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder}"))?;
    let folder = fs::canonicalize(&folder)?;
    for (name, flags, play) in SCENES {
        netns::with_new(|_| {
            let stage = Stage {
                folder: &folder,
                name,
                flags,
                port: ports::next(),
            };
            play(&stage)
        })
        .with_context(|| (*name).to_owned())?;
    }
    Ok(())
}

/// Where one recording is made: a network namespace of its own.
struct Stage<'a> {
    folder: &'a Path,
    name: &'a str,
    flags: &'a [&'a str],
    port: u16,
}

impl Stage<'_> {
    fn record(&self, during: impl FnOnce() -> Result<()>) -> Result<()> {
        let file = PathBuf::from(self.name).with_extension("rec");
        let file = file.to_str().context("a name in UTF-8")?;
        let port = self.port.to_string();
        let mut command =
            tracer::command(&["--json", "--port", &port, "--record", file], self.flags);
        command.current_dir(self.folder);
        let tracer = Tracer::json_command(command)?;
        during()?;
        std::thread::sleep(A_MOMENT);
        tracer.stop().map(drop)
    }

    fn listen(&self) -> Result<Socket> {
        sys::name_this_thread(c"server")?;
        Ok(Family::V4.listener(self.port)?)
    }

    /// A connection of `client` to `server`, in this order.
    fn connect(&self, listener: &Socket) -> Result<[Socket; 2]> {
        sys::name_this_thread(c"client")?;
        let client = Family::V4.connect(self.port)?;
        sys::name_this_thread(c"server")?;
        Ok([client, listener.accept()?])
    }
}

fn close_client(client: Socket) -> Result<()> {
    sys::name_this_thread(c"client")?;
    drop(client);
    sys::name_this_thread(c"server")
}

fn wait_until_gone(local: u16) -> Result<()> {
    let gone = |rows: &[kernel_table::Row]| rows.iter().all(|row| row.lport != local);
    kernel_table::wait_for(&[local], gone, "the minisocket to be gone").map(drop)
}

/// And a TIME_WAIT until its end.
fn server_first(stage: &Stage) -> Result<()> {
    stage.record(|| {
        let listener = stage.listen()?;
        let [client, server] = stage.connect(&listener)?;
        drop(listener);
        drop(server);
        expect_fin(&client)?;
        close_client(client)?;
        wait_until_gone(stage.port)
    })
}

fn client_first(stage: &Stage) -> Result<()> {
    stage.record(|| {
        let [client, server] = stage.connect(&stage.listen()?)?;
        close_client(client)?;
        expect_fin(&server)
    })
}

fn simultaneous(stage: &Stage) -> Result<()> {
    stage.record(|| {
        let mut peer = Wire::default().server(stage.port)?;
        sys::name_this_thread(c"client")?;
        let client = Socket::new(false)?;
        client.set_nonblocking()?;
        match client.connect(peer::address(stage.port)) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            other => bail!("the connection must be under way, but: {other:?}"),
        }
        peer.accept()?;
        let local = client.local_port()?;
        kernel_table::wait_for_state(local, stage.port, State::ESTABLISHED)?;
        drop(client);
        kernel_table::wait_for_state(local, stage.port, State::FIN_WAIT1)?;
        peer.send(Flags::FIN | Flags::ACK)?;
        kernel_table::wait_for_state(local, stage.port, State::CLOSING)?;
        peer.expect(Flags::FIN | Flags::ACK)?;
        peer.send_odd(Flags::ACK, Odd::default(), b"")?;
        kernel_table::wait_for_state(local, stage.port, State::TIME_WAIT)
    })
}

fn linger_zero(stage: &Stage) -> Result<()> {
    stage.record(|| {
        let [client, server] = stage.connect(&stage.listen()?)?;
        client.reset_on_close()?;
        close_client(client)?;
        expect_reset(&server)
    })
}

fn unread_data(stage: &Stage) -> Result<()> {
    stage.record(|| {
        let [client, server] = stage.connect(&stage.listen()?)?;
        server.send(b"unread")?;
        client.peek()?;
        close_client(client)?;
        expect_reset(&server)
    })
}

fn killed(stage: &Stage) -> Result<()> {
    stage.record(|| {
        let listener = stage.listen()?;
        let mut victim = Puppet::start()?;
        victim.rename(b"victim")?;
        victim.connect(Family::V4.connects_to(stage.port))?;
        let server = listener.accept()?;
        victim.kill()?;
        expect_fin(&server)
    })
}

fn half_close(stage: &Stage) -> Result<()> {
    stage.record(|| {
        let [client, server] = stage.connect(&stage.listen()?)?;
        client.shutdown_write()?;
        expect_fin(&server)?;
        server.send(b"answer")?;
        client.receive()?;
        drop(server);
        expect_fin(&client)?;
        close_client(client)
    })
}

fn refused(stage: &Stage) -> Result<()> {
    stage.record(|| {
        sys::name_this_thread(c"client")?;
        let refused = Family::V4.connect(stage.port);
        ensure!(
            refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused),
            "nobody listens"
        );
        Ok(())
    })
}

fn reused_by_connect(stage: &Stage) -> Result<()> {
    stage.record(|| {
        let listener = stage.listen()?;
        let from = ports::next();
        for last in [false, true] {
            sys::name_this_thread(c"client")?;
            let client = Socket::new(false)?;
            client.set_reuse_address(true)?;
            client.bind(Family::V4.connects_to(from))?;
            client.connect(Family::V4.connects_to(stage.port))?;
            sys::name_this_thread(c"server")?;
            let server = listener.accept()?;
            if last {
                client.reset_on_close()?;
                close_client(client)?;
                expect_reset(&server)?;
            } else {
                close_client(client)?;
                expect_fin(&server)?;
            }
        }
        Ok(())
    })
}

fn orphan_expired(stage: &Stage) -> Result<()> {
    netns::set_sysctl("ipv4/tcp_fin_timeout", "1")?;
    stage.record(|| {
        let [client, server] = stage.connect(&stage.listen()?)?;
        let local = client.local_port()?;
        close_client(client)?;
        expect_fin(&server)?;
        wait_until_gone(local)
    })
}

/// One connection over the loss, and one after it.
fn lost_records(stage: &Stage) -> Result<()> {
    stage.record(|| {
        let listener = stage.listen()?;
        let [before, accepted] = stage.connect(&listener)?;
        std::thread::sleep(A_MOMENT);
        for _ in 0..BURST {
            let [client, server] = stage.connect(&listener)?;
            client.reset_on_close()?;
            drop(client);
            expect_reset(&server)?;
        }
        std::thread::sleep(A_MOMENT);
        close_client(before)?;
        expect_fin(&accepted)?;
        drop(accepted);
        std::thread::sleep(A_MOMENT);
        let [client, server] = stage.connect(&listener)?;
        drop(server);
        expect_fin(&client)?;
        close_client(client)
    })
}

/// A connection and a TIME_WAIT that are older than the trace.
fn started_in_the_middle(stage: &Stage) -> Result<()> {
    let listener = stage.listen()?;
    let [closed, server] = stage.connect(&listener)?;
    close_client(closed)?;
    expect_fin(&server)?;
    drop(server);
    let [client, server] = stage.connect(&listener)?;
    stage.record(|| {
        close_client(client)?;
        expect_fin(&server)?;
        drop(server);
        Ok(())
    })
}
