//! Owns the workload that no tracer of TCP has to do with: system calls that must not get slower.

use std::{
    fs::File,
    io::Read as _,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use crate::bench::sys;

/// Calls in one batch: some 20 us, less than a tick of the kernel.
const BATCH: u32 = 64;

/// One kind of call, `BATCH` times.
pub(super) type Batch = fn(&Sockets) -> Result<()>;

/// The calls, and what they do.
pub(super) const CALLS: [(&str, Batch); 4] = [
    ("getppid()", getppid),
    ("read() of 1 byte", read),
    ("sendto() of UDP", sendto),
    ("connect() of UDP", connect),
];

/// What the calls are made on.
pub(super) struct Sockets {
    zeros: File,
    sender: UdpSocket,
    /// Reads nothing: what does not fit is dropped.
    _receiver: UdpSocket,
    to: SocketAddrV4,
    connected: std::os::fd::OwnedFd,
}

/// ns of one call of each kind, in the fastest of so many batches. What else the machine does can only make
/// a batch slower.
pub(super) fn measure(batches: u32) -> Result<Vec<f64>> {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind a UDP socket")?;
    let sockets = Sockets {
        zeros: File::open("/dev/zero").context("cannot open /dev/zero")?,
        sender: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind a UDP socket")?,
        to: SocketAddrV4::new(Ipv4Addr::LOCALHOST, receiver.local_addr()?.port()),
        _receiver: receiver,
        connected: sys::socket(libc::SOCK_DGRAM)?,
    };
    let mut fastest = [f64::INFINITY; CALLS.len()];
    for _ in 0..batches {
        for ((_, batch), fastest) in CALLS.iter().zip(&mut fastest) {
            let begun = Instant::now();
            batch(&sockets)?;
            let ns = begun.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH);
            *fastest = fastest.min(ns);
        }
    }
    Ok(fastest.to_vec())
}

fn getppid(_: &Sockets) -> Result<()> {
    let mut parent = 0;
    for _ in 0..BATCH {
        // SAFETY: getppid(2) takes nothing and cannot fail.
        parent = unsafe { libc::getppid() };
    }
    ensure!(parent >= 0, "getppid() failed");
    Ok(())
}

fn read(sockets: &Sockets) -> Result<()> {
    let mut file = &sockets.zeros;
    for _ in 0..BATCH {
        file.read_exact(&mut [0]).context("cannot read /dev/zero")?;
    }
    Ok(())
}

fn sendto(sockets: &Sockets) -> Result<()> {
    for _ in 0..BATCH {
        sockets
            .sender
            .send_to(&[0], sockets.to)
            .context("cannot send a datagram")?;
    }
    Ok(())
}

fn connect(sockets: &Sockets) -> Result<()> {
    for _ in 0..BATCH {
        sys::connect(&sockets.connected, sockets.to).context("cannot connect a UDP socket")?;
    }
    Ok(())
}
