//! Owns the workloads of connections: opened, accepted and closed at once.

use std::{
    io,
    mem::size_of,
    net::{SocketAddrV4, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};

use super::{FIRST_PORT, Load, PASSES, Ready, Work};
use crate::bench::stage::{Side, Stage};

/// Server ports of [`Work::Ports`], of all drivers.
const MANY_PORTS: u16 = 1_000;
/// Connections to one server port before the next one is taken: fewer than there are ephemeral ports, all of
/// which would be in TIME_WAIT (`ip_local_port_range`, by default 28,232).
const FOR_EACH_PORT: u32 = 20_000;
/// The most server ports of one driver.
const MOST_PORTS: u16 = 9_000;

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Close {
    /// By the client's RST.
    Reset,
    /// By the client's FIN, then the server's.
    Orderly,
}

/// Connections, and the listeners that take them.
pub(in crate::bench) struct Churn<'a> {
    stage: &'a Stage,
    close: Close,
    /// One connection each, over and over; else one after the other, each for as long as it has ports.
    in_turn: bool,
    /// Those of each driver.
    listeners: Vec<Vec<TcpListener>>,
    /// How many connections each driver has made so far, to whole numbers of ports.
    made: Vec<AtomicU32>,
}

impl<'a> Churn<'a> {
    /// Listens.
    pub(super) fn prepare(load: Load, stage: &'a Stage) -> Result<Self> {
        let in_turn = load.work == Work::Ports;
        let each = if in_turn {
            (MANY_PORTS / load.drivers).max(1)
        } else {
            let ports = load.times.div_ceil(FOR_EACH_PORT).saturating_mul(PASSES);
            u16::try_from(ports).unwrap_or(u16::MAX)
        };
        ensure!(
            u32::from(each) * u32::from(load.drivers) <= u32::from(MOST_PORTS),
            "there are not enough server ports for so many connections; type a smaller --connections"
        );
        let listeners = (0..load.drivers)
            .map(|driver| {
                let first = FIRST_PORT + driver * each;
                listen(stage, first..first + each)
            })
            .collect::<Result<_>>()?;
        let close = if load.work == Work::Reset {
            Close::Reset
        } else {
            Close::Orderly
        };
        Ok(Self {
            stage,
            close,
            in_turn,
            listeners,
            made: (0..load.drivers).map(|_| AtomicU32::new(0)).collect(),
        })
    }

    /// One driver's share.
    pub(super) fn drive(&self, driver: u16, times: u32, ready: Ready<'_>) -> Result<()> {
        let entered = self.stage.enter(Side::Client);
        let listeners = &self.listeners[usize::from(driver)];
        let addresses = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<io::Result<Vec<_>>>();
        ready();
        entered?;
        let addresses = addresses?;
        // Each pass goes to ports of its own: the TIME_WAITs of another one would be reused or in the way.
        let counted = times.next_multiple_of(FOR_EACH_PORT);
        let made = self.made[usize::from(driver)].fetch_add(counted, Ordering::Relaxed);
        for number in (0..times).map(|number| made.wrapping_add(number)) {
            let turn = if self.in_turn {
                number
            } else {
                number / FOR_EACH_PORT
            };
            let index = usize::try_from(turn)? % listeners.len();
            let client = TcpStream::connect(addresses[index]).context("cannot connect")?;
            let (server, _) = listeners[index].accept().context("cannot accept")?;
            close(client, server, self.close)?;
        }
        Ok(())
    }
}

/// Listens on these ports at the server.
pub(in crate::bench) fn listen(
    stage: &Stage,
    ports: std::ops::Range<u16>,
) -> Result<Vec<TcpListener>> {
    let address = stage.address();
    stage.within(Side::Server, || {
        ports
            .map(|port| {
                TcpListener::bind(SocketAddrV4::new(address, port)).context("cannot listen")
            })
            .collect()
    })
}

/// One connection to `port` at the server, reset at once.
pub(in crate::bench) fn knock(stage: &Stage, listener: &TcpListener) -> Result<()> {
    stage.within(Side::Client, || knock_here(listener))
}

/// The same, by a thread that is at the client already.
pub(in crate::bench) fn knock_here(listener: &TcpListener) -> Result<()> {
    let client = TcpStream::connect(listener.local_addr()?).context("cannot connect")?;
    let (server, _) = listener.accept().context("cannot accept")?;
    close(client, server, Close::Reset)
}

/// Closes both ends.
pub(in crate::bench) fn close(client: TcpStream, server: TcpStream, how: Close) -> Result<()> {
    match how {
        Close::Reset => reset_at_close(&client)?,
        Close::Orderly => {}
    }
    drop(client);
    drop(server);
    Ok(())
}

fn reset_at_close(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the kernel reads `linger`, of the size given.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            libc::socklen_t::try_from(size_of::<libc::linger>())?,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("cannot set SO_LINGER");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::Ipv4Addr};

    use super::*;

    #[test]
    fn a_reset_is_seen_as_one_and_an_orderly_close_as_an_end() {
        for (how, expected) in [
            (Close::Reset, Err(io::ErrorKind::ConnectionReset)),
            (Close::Orderly, Ok(0)),
        ] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            let mut reader = server.try_clone().unwrap();
            close(client, server, how).unwrap();
            let read = reader.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(read, expected);
        }
    }
}
