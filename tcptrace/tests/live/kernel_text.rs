//! The kernel's own text for its trace, as a second opinion on our reading of the binary pages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::event::{State, Step};

/// Reads the lines of a `trace` file that tell of TCP sockets.
///
/// The text has no address of the socket, so `skaddr` is 0.
pub(crate) fn parse(text: &str) -> Result<Vec<Step>> {
    text.lines()
        .filter(|line| line.contains(" inet_sock_set_state: ") && line.contains("IPPROTO_TCP"))
        .map(|line| step(line).with_context(|| format!("in the kernel's line {line:?}")))
        .collect()
}

fn step(line: &str) -> Result<Step> {
    let word = |name: &str| -> Result<&str> {
        line.split(' ')
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            .with_context(|| format!("no {name}"))
    };
    let state = |name: &str| -> Result<State> {
        let written = word(name)?;
        State::from_name(written.trim_start_matches("TCP_"))
            .with_context(|| format!("{written} is no state"))
    };
    let ipv6 = word("family")? == "AF_INET6";
    let address = |v4: &str, v6: &str| -> Result<IpAddr> {
        Ok(if ipv6 {
            word(v6)?.parse::<Ipv6Addr>()?.into()
        } else {
            word(v4)?.parse::<Ipv4Addr>()?.into()
        })
    };
    Ok(Step {
        skaddr: 0,
        ipv6,
        laddr: address("saddr", "saddrv6")?,
        lport: word("sport")?.parse()?,
        raddr: address("daddr", "daddrv6")?,
        rport: word("dport")?.parse()?,
        old: state("oldstate")?,
        new: state("newstate")?,
    })
}
