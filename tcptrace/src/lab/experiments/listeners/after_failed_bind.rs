//! What becomes of a socket whose bind() has failed.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use tcptrace_model::conflict::Call;

use super::{EADDRINUSE, EINVAL, SUCCEEDS};
use crate::lab::{
    actor::Options,
    experiment::Experiment,
    reading::Source,
    stage::Stage,
    value::{Called, Errno, Expected},
};

/// `net.ipv4.ip_local_port_range`
const RANGE: (u16, u16) = (40_000, 40_099);

pub(super) const D4: Experiment = Experiment {
    id: "D4",
    name: "failed-bind",
    claims: &["D4"],
    title: "A bind() that fails binds nothing; listen() does",
    says: "When bind() to a port fails, the socket is bound to some other port by itself.",
    why: "A bind() that fails leaves the socket as it was, without address and port: net/ipv4/af_inet.c \
          __inet_bind (v6.18), and bind() can be called again. But listen() on a socket without a port \
          chooses one: net/ipv4/inet_connection_sock.c inet_csk_listen_start. A program that does not look \
          at what bind() returned goes on to listen(), which succeeds, and is found on a random port. \
          It looks as if bind() had done it.",
    condition: Some("the program calls listen() all the same: it is listen() that binds it"),
    seconds: 2,
    play: |stage: &mut Stage| -> Result<()> {
        let (holder, careless) = (stage.actor("holder")?, stage.actor("careless")?);
        holder.listening("127.0.0.1:8000", Options::NONE)?;

        let (again, called) = careless.try_bind("127.0.0.1:8000", Options::NONE)?;
        stage
            .reading("bind() to a port that is held")
            .control(EADDRINUSE)
            .measured(called, Source::Call);
        again.look()?;
        stage
            .reading("port of the socket after it")
            .claim(Expected::AtLeast(1))
            .expect(0)
            .measured(u64::from(again.local().port()), Source::Call);
        // A socket that has a port cannot be bound: EINVAL.
        let called = again.bind("127.0.0.1:8001")?;
        stage
            .reading("bind() of that socket to a free port")
            .claim(EINVAL)
            .expect(SUCCEEDS)
            .measured(called, Source::Call);
        let called = again.bind("127.0.0.1:8002")?;
        stage
            .reading("and once more, now that it is bound")
            .expect(EINVAL)
            .measured(called, Source::Call);

        let (listens, _) = careless.try_bind("127.0.0.1:8000", Options::NONE)?;
        let called = listens.listen()?;
        stage
            .reading("listen() of another whose bind() failed")
            .expect(SUCCEEDS)
            .measured(called, Source::Call);
        listens.look()?;
        let port = listens.local().port();
        stage
            .reading("port of that socket after it")
            .claim(Expected::AtLeast(1))
            .measured(u64::from(port), Source::Call);
        stage.call_succeeded(Call::Listen, port)?;
        Ok(())
    },
};

pub(super) const K7: Experiment = Experiment {
    id: "K7",
    name: "listen-after-failed-bind",
    claims: &["K7"],
    title: "listen() after a failed bind() listens on all addresses and a random port",
    says: "After a bind() that failed, listen() succeeds: on 0.0.0.0 and a random port.",
    why: "listen() on a socket without a port asks for one as connect() and bind() to port 0 do, from \
          net.ipv4.ip_local_port_range: net/ipv4/inet_connection_sock.c inet_csk_listen_start calls \
          get_port() with port 0 (v6.18). The address was never set, so it is any. What was to listen on \
          one address of this host alone is open to all networks, and nobody knows on which port.",
    condition: None,
    seconds: 2,
    play: |stage: &mut Stage| -> Result<()> {
        let (low, high) = RANGE;
        stage.set_sysctl("net.ipv4.ip_local_port_range", format_args!("{low} {high}"))?;
        let (holder, careless) = (stage.actor("holder")?, stage.actor("careless")?);
        holder.listening("127.0.0.1:8000", Options::NONE)?;
        let (listens, called) = careless.try_bind("127.0.0.1:8000", Options::NONE)?;
        stage
            .reading("bind() to a port that is held")
            .control(EADDRINUSE)
            .measured(called, Source::Call);
        let called = listens.listen()?;
        stage
            .reading("listen() of that socket")
            .claim(SUCCEEDS)
            .measured(called, Source::Call);
        listens.look()?;
        let local = listens.local();
        stage
            .reading("its address")
            .claim("0.0.0.0")
            .measured(local.ip().to_string(), Source::Call);
        stage
            .reading("its port is from ip_local_port_range")
            .claim(true)
            .measured((low..=high).contains(&local.port()), Source::Call);

        let found = stage.call_succeeded(Call::Listen, local.port())?;
        stage
            .reading("the trace says that listen() chose it")
            .expect(true)
            .measured(found.autobound, Source::Finding);
        let before: Called = found
            .after_failed_bind
            .map_or(SUCCEEDS, |failed| Err(Errno(failed.error)));
        stage
            .reading("and what bind() had returned")
            .expect(EADDRINUSE)
            .measured(before, Source::Finding);

        let client = stage.actor("client")?;
        for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 9)] {
            let (_, called) =
                client.try_connect((IpAddr::from(address), local.port()), Options::NONE)?;
            stage
                .reading(format!("connect() to that port of {address}"))
                .expect(SUCCEEDS)
                .measured(called, Source::Call);
        }
        Ok(())
    },
};
