//! What user space finds out beside the calls: for one that found no port, and for very many.

use std::time::Instant;

use anyhow::{Result, ensure};
use tcptrace_model::conflict::Call;
use tcptrace_model::{Input, Surroundings};

use crate::sockets::{Family, Socket};
use crate::watch::{Watch, calls, with_each_backend};
use crate::{netns, ports};

/// Calls that fail, as fast as one thread can.
const MANY: usize = 10_000;

/// bind() and connect() without a port to choose.
pub(super) fn exhausted() -> Result<()> {
    with_each_backend(|backend| {
        let mut watch = Watch::here(backend, |_| {})?;
        let port = ports::next();
        let listener = Family::V4.listener(port)?;
        netns::set_sysctl("ipv4/ip_local_port_range", "40000 40003")?;
        netns::set_sysctl("ipv4/ip_local_reserved_ports", "40003")?;
        netns::set_sysctl("ipv4/tcp_tw_reuse", "0")?;
        let clients: Vec<Socket> = std::iter::from_fn(|| Family::V4.connect(port).ok())
            .take(4)
            .collect();
        ensure!(clients.len() == 3, "{} ports were free", clients.len());
        let any_port = Family::V4.connects_to(0);
        ensure!(Socket::new(false)?.bind(any_port).is_err(), "none is free");

        // One connect() has failed to find out, and the bind().
        let inputs = watch.until(|inputs| calls(inputs).len() >= 4)?;
        let found: Vec<(Surroundings, Call)> = inputs
            .windows(2)
            .filter_map(|pair| match pair {
                [Input::Surroundings(found), Input::Call(call)] if found.sk == call.sk => {
                    Some((*found, call.call))
                }
                _ => None,
            })
            .collect();
        ensure!(found.len() == 2, "{inputs:#?}");
        for (found, call) in found {
            ensure!(found.sysctls.port_range == (40_000, 40_003), "{found:?}");
            ensure!(found.sysctls.reserved_in_range == 1, "{found:?}");
            ensure!(found.sysctls.tcp_tw_reuse == 0, "{found:?}");
            let Some(ports) = found.ports else {
                anyhow::bail!("the ports were not counted: {found:?}");
            };
            ensure!(
                (ports.range, ports.held) == ((40_000, 40_003), 3),
                "{ports:?}"
            );
            ensure!(ports.reserved == 1 && ports.by_state[1] == 3, "{ports:?}");
            let (destination, count) = match call {
                Call::Connect => (Some(Family::V4.connects_to(port)), 3),
                Call::Bind | Call::Listen => (None, 0),
            };
            ensure!(ports.destination == destination, "{ports:?}");
            ensure!(ports.to_destination[1] == count, "{ports:?}");
        }
        drop((clients, listener));
        Ok(())
    })
}

/// None is missed, each has what belongs to it, and looking it up does not hold things up.
pub(super) fn thousands() -> Result<()> {
    with_each_backend(|backend| {
        let mut watch = Watch::here(backend, |_| {})?;
        let port = ports::next();
        let at = Family::V4.listens_on(port);
        let holder = Socket::new(false)?;
        holder.bind(at)?;
        let socket = Socket::new(false)?;
        for _ in 0..MANY {
            ensure!(socket.bind(at).is_err(), "it is held");
        }
        let began = Instant::now();
        let inputs = watch.until(|inputs| calls(inputs).len() > MANY)?;
        let took = began.elapsed();
        let failed = |input: &Input| matches!(input, Input::Call(call) if call.error != 0);
        let whole = inputs
            .windows(2)
            .filter(|pair| matches!(pair[0], Input::Surroundings(_)) && failed(&pair[1]))
            .count();
        let seen = inputs.iter().filter(|input| failed(input)).count();
        ensure!(
            seen == MANY && whole == MANY,
            "{seen} calls, {whole} of them whole"
        );
        ensure!(took < crate::PATIENCE / 2, "it took {took:?}");
        Ok(())
    })
}
