//! Each option of a socket, alone: it is seen, and nothing else is.

use std::io;

use anyhow::{Context, Result, ensure};
use tcptrace::host::interface;
use tcptrace_model::conflict::Asker;

use crate::ports;
use crate::sockets::{Family, Socket};
use crate::watch::{Watch, with_each_backend};

/// `IP_LOCAL_PORT_RANGE` of include/uapi/linux/in.h (v6.18).
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

type Setting = (&'static str, fn(&Socket) -> io::Result<()>, fn(&mut Asker));

const SETTINGS: [Setting; 9] = [
    ("none", |_| Ok(()), |_| {}),
    (
        "SO_REUSEADDR",
        |socket| socket.set_reuse_address(true),
        |asker| asker.reuseaddr = true,
    ),
    (
        "SO_REUSEPORT",
        |socket| socket.set_reuse_port(true),
        |asker| asker.reuseport = true,
    ),
    (
        "IP_FREEBIND",
        |socket| socket.set(libc::IPPROTO_IP, libc::IP_FREEBIND, &1_i32),
        |asker| asker.freebind = true,
    ),
    (
        "IP_TRANSPARENT",
        |socket| socket.set(libc::IPPROTO_IP, libc::IP_TRANSPARENT, &1_i32),
        |asker| asker.transparent = true,
    ),
    (
        "IP_BIND_ADDRESS_NO_PORT",
        |socket| socket.set(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1_i32),
        |asker| asker.bind_address_no_port = true,
    ),
    (
        "TCP_REPAIR",
        |socket| socket.set(libc::IPPROTO_TCP, libc::TCP_REPAIR, &1_i32),
        |asker| {
            asker.reuseaddr = true;
            asker.force_reuse = true;
        },
    ),
    (
        "SO_BINDTODEVICE",
        |socket| socket.set(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo\0"),
        |asker| asker.device = interface::index("lo").unwrap_or_default(),
    ),
    (
        "IP_LOCAL_PORT_RANGE",
        |socket| socket.set(libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, &[50_001_u16, 50_010]),
        |asker| asker.port_range = Some((50_001, 50_010)),
    ),
];

pub(super) fn each() -> Result<()> {
    with_each_backend(|backend| {
        let mut watch = Watch::here(backend, |_| {})?;
        for family in [Family::V4, Family::V6] {
            for (name, set, expect) in SETTINGS {
                one(&mut watch, family, set, expect)
                    .with_context(|| format!("{} {name}", family.name()))?;
            }
        }
        v6only(&mut watch)
    })
}

fn one(
    watch: &mut Watch,
    family: Family,
    set: fn(&Socket) -> io::Result<()>,
    expect: fn(&mut Asker),
) -> Result<()> {
    let at = family.listens_on(ports::next());
    let socket = Socket::new(at.is_ipv6())?;
    match set(&socket) {
        // Newer than this kernel.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => return Ok(()),
        outcome => outcome?,
    }
    socket.bind(at)?;
    // A socket is bound once: this fails, whatever its options are.
    ensure!(socket.bind(at).is_err(), "it is bound already");
    let calls = watch.calls(2)?;
    let mut expected = Asker {
        reuseaddr: false,
        force_reuse: false,
        reuseport: false,
        reuseport_group: false,
        // bind() to an address sets it.
        v6only: at.is_ipv6(),
        freebind: false,
        transparent: false,
        bind_address_no_port: false,
        device: 0,
        port_range: None,
        may_bind_privileged: Some(true),
        ..calls[1].asker
    };
    expect(&mut expected);
    ensure!(
        calls[1].asker == expected,
        "seen is {:?} where it is {expected:?}",
        calls[1].asker
    );
    ensure!(calls[1].asker.local == at, "{:?}", calls[1]);
    Ok(())
}

fn v6only(watch: &mut Watch) -> Result<()> {
    for on in [false, true] {
        let at = format!("[::]:{}", ports::next()).parse()?;
        let socket = Socket::new(true)?;
        socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &i32::from(on))?;
        socket.bind(at)?;
        let calls = watch.calls(1)?;
        ensure!(calls[0].asker.v6only == on, "{:?}", calls[0]);
    }
    Ok(())
}
